//! Loads a directory of TOML files into a typed [`Config`], or returns every error in them.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::archive::Archive;
use super::channel::{ChannelConfig, ChannelFile, ServedMethods};
use super::config_name::is_name;
use super::cpu::{self, yield_cpu};
use super::diagnostics::Diagnostic;
use super::file_source::FileSource;
use super::key_cache::KeyCache;
use super::merchant::{Merchant, MerchantContext};
use super::model::{Config, Sources};
use super::now::Now;
use super::pair::CertificateEnd;
use super::routes::{KnownNames, RouteRules};
use super::tollgate_toml::{self, ProcessFile};
use super::toml_file::TomlFile;
use super::value_checks::ValueChecks;
use super::{channel, merchant, routes};

/// Maximum number of files of one kind. A directory with more is taken for a wrong directory.
const MAX_FILES: usize = if cfg!(test) { 100 } else { 50_000 };

/// Result of loading a directory.
pub struct Loaded {
    /// Configuration, or every error.
    pub config: Result<Config, Vec<Diagnostic>>,
    /// Every file and directory that was read or looked for. A change of any of them triggers another load.
    pub files: Arc<[PathBuf]>,
}

/// Loads the configuration in a directory. Parts that did not change since `previous` are shared with it. Returns which files
/// to watch even if the configuration has errors.
pub fn load(dir: &Path, checks: &ValueChecks, previous: Option<&Config>) -> Loaded {
    load_from(dir, FileSource::default(), checks, previous)
}

/// Loads the configuration of a directory inside an archive.
pub fn load_archived(
    dir: &Path,
    archive: Archive,
    checks: &ValueChecks,
    previous: Option<&Config>,
) -> Result<Config, Vec<Diagnostic>> {
    load_from(dir, FileSource::archived(archive), checks, previous).config
}

fn load_from(dir: &Path, origin: FileSource, checks: &ValueChecks, previous: Option<&Config>) -> Loaded {
    let mut loading = Loading {
        dir,
        origin: Arc::new(origin),
        checks,
        previous,
        known: previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.known)),
        now: Now::read(),
        diagnostics: Vec::new(),
        files: vec![dir.to_owned()],
        sources: Sources::default(),
    };
    let config = loading.config();
    let Loading { mut diagnostics, mut files, sources, known, .. } = loading;
    known.evict_unused();
    // Errors in tollgate.toml come first, because others may follow from them.
    let process = dir.join("tollgate.toml");
    diagnostics.sort_by(|one, other| (one.file != process, one).cmp(&(other.file != process, other)));
    // Compared as bytes: comparing by path components is slow for fifty thousand paths.
    files.sort_unstable_by(|one, other| one.as_os_str().cmp(other.as_os_str()));
    files.dedup();
    let files: Arc<[PathBuf]> = files.into();
    let config = match config {
        Some(config) if diagnostics.is_empty() => {
            Ok(Config { sources: Sources { files: Arc::clone(&files), ..sources }, ..config })
        }
        _ => Err(diagnostics),
    };
    Loaded { config, files }
}

struct Loading<'a> {
    dir: &'a Path,
    origin: Arc<FileSource>,
    checks: &'a ValueChecks,
    previous: Option<&'a Config>,
    known: Arc<KeyCache>,
    now: Now,
    diagnostics: Vec<Diagnostic>,
    /// Files in the order in which they were read, with duplicates; see [`Sources::files`].
    files: Vec<PathBuf>,
    sources: Sources,
}

impl Loading<'_> {
    fn config(&mut self) -> Option<Config> {
        if !self.origin.is_dir(self.dir) {
            let advice = "name the right one with --conf DIR, or see what is in the example `conf`";
            self.diagnostics.push(Diagnostic::in_file(self.dir, "there is no such directory", Some(advice)));
            return None;
        }
        let process = self.process();
        let sandbox = process.as_ref().and_then(|file| file.is_sandbox);
        let allowed = process.as_ref().and_then(|file| file.process.as_ref()).map(|it| it.webhook_allow.clone());
        self.check_siblings();
        let merchant_files = self.list("merchants");
        let channel_files = self.list("channels");
        let context = MerchantContext { sandbox, allowed: allowed.as_deref(), channels: &channel_files };
        let merchants = self.merchants(&merchant_files, &context);
        let (channels, methods) = self.channels(&channel_files);
        let names = KnownNames { merchants: &merchant_files.into_keys().collect(), channels: &methods };
        let routes = self.routes(&names);
        Some(Config {
            hash: self.hash(&merchants, &channels),
            process: Arc::new(process?.process?),
            merchants,
            channels,
            routes,
            sources: Sources::default(),
            known: Arc::clone(&self.known),
        })
    }

    fn process(&mut self) -> Option<ProcessFile> {
        let path = self.dir.join("tollgate.toml");
        if self.origin.is_missing(&path) {
            let advice = "create it with `public_url = \"https://…\"`, the base URL that providers call";
            self.diagnostics.push(Diagnostic::in_file(&path, "this file is missing", Some(advice)));
            self.files.push(path);
            return None;
        }
        let source = self.open(&path)?;
        let (file, diagnostics) = source.read(|root| tollgate_toml::read(&source, root, self.now, self.checks));
        self.sources.notes.extend(source.take_notes());
        self.close(&source, diagnostics);
        let mut file = file?;
        self.sources.process = source.fingerprint();
        self.sources.dependencies = source.dependencies();
        self.sources.certificates.append(&mut file.certificates);
        Some(file)
    }

    fn merchants(
        &mut self,
        files: &BTreeMap<String, PathBuf>,
        context: &MerchantContext<'_>,
    ) -> BTreeMap<String, Arc<Merchant>> {
        let mut merchants = BTreeMap::new();
        let mut owners: HashMap<String, &Path> = HashMap::new();
        for (name, path) in files {
            let Some(source) = self.open(path) else { continue };
            let previous = self.previous.and_then(|previous| previous.merchants.get(name));
            let (file, diagnostics) = source.read(|root| merchant::read(&source, root, name, context, previous));
            self.sources.notes.extend(source.take_notes());
            self.close(&source, diagnostics);
            let Some(file) = file else { continue };
            for (place, id) in file.key_ids {
                if let Some(owner) = owners.get(&id) {
                    let message = format!("the key id `{id}` is used already in {}", owner.display());
                    self.diagnostics.push(source.diagnostic_at(&place, message, None));
                }
                owners.insert(id, path);
            }
            merchants.insert(name.clone(), file.merchant);
        }
        merchants
    }

    /// Returns the channels, and for each file the methods that its provider serves.
    fn channels(
        &mut self,
        files: &BTreeMap<String, PathBuf>,
    ) -> (BTreeMap<String, Arc<ChannelConfig>>, BTreeMap<String, ServedMethods>) {
        let mut channels = BTreeMap::new();
        let mut methods = BTreeMap::new();
        let mut known: HashMap<&str, Vec<&CertificateEnd>> = HashMap::new();
        for end in self.previous.iter().flat_map(|previous| &previous.sources.certificates) {
            known.entry(&end.channel).or_default().push(end);
        }
        let read = |(name, path): (&String, &PathBuf)| {
            let source = match TomlFile::open(path, &self.origin, &self.known) {
                Ok(source) => source,
                Err(diagnostic) => return Err((path.clone(), diagnostic)),
            };
            let previous = self.previous.and_then(|previous| previous.channels.get(name));
            // An unchanged channel is reused, with its connections and published keys.
            if let Some(unchanged) =
                previous.filter(|unchanged| source.is_as_before(&unchanged.dependencies, &unchanged.fingerprint))
            {
                let certificates = known.get(name.as_str()).into_iter().flatten().copied().cloned().collect();
                let (channel, methods) = (Some(Arc::clone(unchanged)), Some(unchanged.methods));
                return Ok((
                    source.files(),
                    Vec::new(),
                    Vec::new(),
                    Some(ChannelFile { channel, methods, certificates }),
                ));
            }
            let (file, diagnostics) = source.read(|root| channel::read(&source, root, name, self.now, previous));
            Ok((source.files(), diagnostics, source.take_notes(), file))
        };
        // At start all cores parse; during a reload one thread leaves the other cores to requests.
        let threads = match self.previous {
            None => std::thread::available_parallelism().map_or(1, NonZero::get),
            Some(_) => 1,
        };
        for ((name, _), read) in files.iter().zip(cpu::map(files.iter().collect(), threads, read)) {
            yield_cpu();
            methods.insert(name.clone(), None);
            match read {
                Err((path, diagnostic)) => {
                    self.files.push(path);
                    self.diagnostics.push(diagnostic);
                }
                Ok((named, diagnostics, notes, file)) => {
                    self.sources.notes.extend(notes);
                    self.files.extend(named);
                    self.diagnostics.extend(diagnostics);
                    let Some(file) = file else { continue };
                    methods.insert(name.clone(), file.methods);
                    self.sources.certificates.extend(file.certificates);
                    channels.extend(file.channel.map(|channel| (name.clone(), channel)));
                }
            }
        }
        (channels, methods)
    }

    /// Reads the routes. Without the file there are none, and no payment is possible: only the operator decides which account is paid.
    fn routes(&mut self, names: &KnownNames<'_>) -> Arc<RouteRules> {
        let path = self.dir.join("routes.toml");
        if self.origin.is_missing(&path) {
            self.files.push(path);
            return Arc::default();
        }
        let Some(source) = self.open(&path) else { return Arc::default() };
        self.sources.routes = source.fingerprint();
        self.sources.routes_digest = Some(source.digest());
        let previous = self.previous.filter(|previous| {
            let methods = |channel: &Arc<ChannelConfig>| Some(channel.methods);
            previous.sources.routes == self.sources.routes
                && previous.merchants.keys().eq(names.merchants)
                && previous
                    .channels
                    .iter()
                    .map(|(name, channel)| (name, methods(channel)))
                    .eq(names.channels.iter().map(|(name, methods)| (name, *methods)))
        });
        if let Some(previous) = previous {
            self.close(&source, Vec::new());
            return Arc::clone(&previous.routes);
        }
        let (routes, diagnostics) = source.read(|root| routes::read(root, names));
        self.close(&source, diagnostics);
        Arc::new(routes.unwrap_or_default())
    }

    /// Lists the files of one kind by name. Backup files of editors are skipped.
    fn list(&mut self, kind: &str) -> BTreeMap<String, PathBuf> {
        let dir = self.dir.join(kind);
        self.files.push(dir.clone());
        let paths = self.origin.files_in(&dir).unwrap_or_else(|error| {
            self.diagnostics.push(Diagnostic::in_file(&dir, format!("this directory cannot be read: {error}"), None));
            Vec::new()
        });
        let mut files = BTreeMap::new();
        for path in paths {
            yield_cpu();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Some(stem) = name.strip_suffix(".toml") else {
                self.report_misnamed(&path, name);
                continue;
            };
            if stem.is_empty() || stem.starts_with('.') {
                continue;
            }
            if is_name(stem) {
                files.insert(stem.to_owned(), path);
            } else {
                let advice = "use small letters, digits and hyphens, at most 63 characters, as in wechat-main.toml";
                let message = "this file name is not a valid name of a merchant or channel";
                self.diagnostics.push(Diagnostic::in_file(&path, message, Some(advice)));
            }
        }
        if files.len() > MAX_FILES {
            let message =
                format!("there are {} files in this directory, and at most {MAX_FILES} are read", files.len());
            self.diagnostics.push(Diagnostic::in_file(&dir, message, Some("is this the right one?")));
            files.clear();
        }
        files
    }

    /// Reports a file that is not read although its name suggests it should be.
    fn report_misnamed(&mut self, path: &Path, name: &str) {
        let Some((stem, extension)) = name.rsplit_once('.') else { return };
        if stem.is_empty() {
            return;
        }
        let right = format!("{stem}.toml");
        if extension.eq_ignore_ascii_case("toml") {
            let advice = format!("call it {right}");
            let message = "this file is not read: its name must end in `.toml`, in small letters";
            self.diagnostics.push(Diagnostic::in_file(path, message, Some(&advice)));
        } else if !extension.ends_with('~') && strsim::osa_distance(extension, "toml") <= 1
            || ["conf", "yaml", "yml", "json"].contains(&extension)
        {
            let message = "this file is not read: its name does not end in `.toml`";
            let advice = format!("call it {right}, or remove it");
            self.sources.notes.push(Diagnostic::in_file(path, message, Some(&advice)));
        }
    }

    /// Reports misnamed files beside `tollgate.toml`, which would otherwise be ignored silently.
    fn check_siblings(&mut self) {
        for path in self.origin.files_in(self.dir).unwrap_or_default() {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if ["tollgate.toml", "routes.toml"].contains(&name) || name.starts_with('.') {
                continue;
            }
            let right = ["tollgate.toml", "routes.toml"].into_iter().find(|right| right.eq_ignore_ascii_case(name));
            if let Some(right) = right {
                let advice = format!("call it {right}");
                let message = "this file is not read: its name must be in small letters";
                self.diagnostics.push(Diagnostic::in_file(&path, message, Some(&advice)));
            } else if name.ends_with(".toml") {
                let message = "this file is not read: only tollgate.toml and routes.toml are read here";
                let advice = "merchants have their files in merchants/, channels in channels/";
                self.sources.notes.push(Diagnostic::in_file(&path, message, Some(advice)));
            }
        }
    }

    fn open(&mut self, path: &Path) -> Option<TomlFile> {
        self.files.push(path.to_owned());
        TomlFile::open(path, &self.origin, &self.known).map_err(|diagnostic| self.diagnostics.push(diagnostic)).ok()
    }

    fn close(&mut self, source: &TomlFile, diagnostics: Vec<Diagnostic>) {
        self.files.extend(source.files());
        self.diagnostics.extend(diagnostics);
    }

    fn hash(
        &self,
        merchants: &BTreeMap<String, Arc<Merchant>>,
        channels: &BTreeMap<String, Arc<ChannelConfig>>,
    ) -> String {
        let mut hasher = Sha256::new();
        let mut feed =
            |kind: &str, name: &str, fingerprint: &str| hasher.update(format!("{kind} {name} {fingerprint}\n"));
        feed("process", "", &self.sources.process);
        feed("routes", "", &self.sources.routes);
        merchants.values().for_each(|merchant| feed("merchant", &merchant.name, &merchant.fingerprint));
        channels.values().for_each(|channel| feed("channel", &channel.name, &channel.fingerprint));
        hex::encode(hasher.finalize())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
