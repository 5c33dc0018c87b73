//! From a directory of TOML files to a linked [`Snapshot`], or to every mistake in them.
//!
//! ```text
//! DIR/tollgate.toml ─▶ process ─┐
//! DIR/merchants/*   ─▶ merchant ├─▶ routes ◀─ DIR/routes.toml
//! DIR/channels/*    ─▶ channel ─┘      └─▶ Snapshot, if nobody found a mistake
//! ```

mod notes;

use std::collections::{BTreeMap, HashMap};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::background::{self, yield_cpu};
use super::channel::{ChannelFile, Served};
use super::diagnostics::{Diagnostic, Summary};
use super::file_source::Origin;
use super::generations::Generations;
use super::identity::Now;
use super::key_cache::Known;
use super::merchant::Around;
use super::process::ProcessFile;
use super::routes::Names;
use super::toml_file::Source;
use super::{CertificateEnd, Channel, Merchant, Snapshot, Sources, channel, merchant, process, routes};
use crate::routing::Routes;

/// Reads the configuration in a directory. What did not change since `previous` is taken from there, with its
/// connections and memory.
pub fn load(dir: &Path, previous: Option<&Snapshot>) -> Result<Snapshot, Vec<Diagnostic>> {
    attempt(dir, Origin::default(), previous).result
}

/// Reads the configuration as a start would, and says what there is.
pub fn check(dir: &Path) -> Result<Summary, Vec<Diagnostic>> {
    let snapshot = load(dir, None)?;
    let mut notes = notes::of(dir, &snapshot);
    let (in_use, place) = (Generations::of(dir).in_use(), &snapshot.process.ledger);
    match in_use.unreadable(place) {
        Some(file) => {
            let message = "whether `[ledger]` names the ledger in use cannot be told, because this file cannot be read";
            notes.push(Diagnostic::in_file(file, message, Some("run `tollgate check` as the gateway's user")));
        }
        // A start would refuse it.
        None => {
            in_use.admit(place).map_err(|why| vec![Diagnostic::in_file(dir.join("tollgate.toml"), why, None)])?;
        }
    }
    Ok(Summary {
        dir: dir.to_owned(),
        merchants: snapshot.merchants.len(),
        channels: snapshot.channels.len(),
        routes: snapshot.routes.len(),
        notes,
    })
}

/// Of one kind; beyond this somebody named the wrong directory.
const MOST_FILES: usize = if cfg!(test) { 100 } else { 50_000 };

/// What came of reading a directory.
pub(super) struct Attempt {
    /// All or nothing.
    pub(super) result: Result<Snapshot, Vec<Diagnostic>>,
    /// Every file and directory that was looked at, or for: a change of one of them is worth another attempt.
    pub(super) files: Arc<[PathBuf]>,
}

/// Reads the configuration, and tells what to watch even when it is refused.
pub(super) fn attempt(dir: &Path, origin: Origin, previous: Option<&Snapshot>) -> Attempt {
    let mut loading = Loading {
        dir,
        origin: Arc::new(origin),
        previous,
        known: previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.known)),
        now: Now::read(),
        mistakes: Vec::new(),
        files: vec![dir.to_owned()],
        sources: Sources::default(),
    };
    let snapshot = loading.snapshot();
    let Loading { mut mistakes, mut files, sources, known, .. } = loading;
    known.tidy();
    // First what the others may follow from.
    let process = dir.join("tollgate.toml");
    mistakes.sort_by(|one, other| (one.file != process, one).cmp(&(other.file != process, other)));
    // By their bytes, as a whole: paths are compared part by part, and there may be fifty thousand.
    files.sort_unstable_by(|one, other| one.as_os_str().cmp(other.as_os_str()));
    files.dedup();
    let files: Arc<[PathBuf]> = files.into();
    let result = match snapshot {
        Some(snapshot) if mistakes.is_empty() => {
            Ok(Snapshot { sources: Sources { files: Arc::clone(&files), ..sources }, ..snapshot })
        }
        _ => Err(mistakes),
    };
    Attempt { result, files }
}

struct Loading<'a> {
    dir: &'a Path,
    origin: Arc<Origin>,
    previous: Option<&'a Snapshot>,
    known: Arc<Known>,
    now: Now,
    mistakes: Vec<Diagnostic>,
    /// As [`Sources::files`], in the order in which they were looked at, some more than once.
    files: Vec<PathBuf>,
    sources: Sources,
}

impl Loading<'_> {
    fn snapshot(&mut self) -> Option<Snapshot> {
        if !self.origin.is_dir(self.dir) {
            let advice = "name the right one with --conf DIR, or see what is in the example `conf`";
            self.mistakes.push(Diagnostic::in_file(self.dir, "there is no such directory", Some(advice)));
            return None;
        }
        let process = self.process();
        let sandbox = process.as_ref().and_then(|file| file.is_sandbox);
        let allowed = process.as_ref().and_then(|file| file.process.as_ref()).map(|it| it.webhook_allow.clone());
        self.look_beside();
        let merchant_files = self.list("merchants");
        let channel_files = self.list("channels");
        let around = Around { sandbox, allowed: allowed.as_deref(), channels: &channel_files };
        let merchants = self.merchants(&merchant_files, &around);
        let (channels, methods) = self.channels(&channel_files);
        let names = Names { merchants: &merchant_files.into_keys().collect(), channels: &methods };
        let routes = self.routes(&names);
        let keys = |merchant: &Arc<Merchant>| {
            let keys: Vec<_> =
                merchant.keys.iter().cloned().map(|(id, key)| (id, (Arc::clone(merchant), key))).collect();
            keys
        };
        Some(Snapshot {
            generation: self.previous.map_or(1, |previous| previous.generation + 1),
            hash: self.hash(&merchants, &channels),
            process: Arc::new(process?.process?),
            merchant_keys: merchants.values().flat_map(keys).collect(),
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
            let advice = "make one with `public_url = \"https://…\"` in it: what providers call back";
            self.mistakes.push(Diagnostic::in_file(&path, "this file is missing", Some(advice)));
            self.files.push(path);
            return None;
        }
        let source = self.open(&path)?;
        let (file, mistakes) = source.read(|root| process::read(&source, root, self.now));
        self.sources.notes.extend(source.take_notes());
        self.close(&source, mistakes);
        let mut file = file?;
        self.sources.process = source.fingerprint();
        self.sources.trace = source.trace();
        self.sources.certificates.append(&mut file.certificates);
        Some(file)
    }

    fn merchants(&mut self, files: &BTreeMap<String, PathBuf>, around: &Around<'_>) -> BTreeMap<String, Arc<Merchant>> {
        let mut merchants = BTreeMap::new();
        let mut owners: HashMap<String, &Path> = HashMap::new();
        for (name, path) in files {
            let Some(source) = self.open(path) else { continue };
            let previous = self.previous.and_then(|previous| previous.merchants.get(name));
            let (file, mistakes) = source.read(|root| merchant::read(&source, root, name, around, previous));
            self.close(&source, mistakes);
            let Some(file) = file else { continue };
            for (place, id) in file.key_ids {
                if let Some(owner) = owners.get(&id) {
                    let message = format!("the key id `{id}` is used already in {}", owner.display());
                    self.mistakes.push(source.mistake_at(&place, message, None));
                }
                owners.insert(id, path);
            }
            merchants.insert(name.clone(), file.merchant);
        }
        merchants
    }

    /// The channels, and for each file what its provider serves.
    fn channels(
        &mut self,
        files: &BTreeMap<String, PathBuf>,
    ) -> (BTreeMap<String, Arc<Channel>>, BTreeMap<String, Served>) {
        let mut channels = BTreeMap::new();
        let mut methods = BTreeMap::new();
        let mut known: HashMap<&str, Vec<&CertificateEnd>> = HashMap::new();
        for end in self.previous.iter().flat_map(|previous| &previous.sources.certificates) {
            known.entry(&end.channel).or_default().push(end);
        }
        let read = |(name, path): (&String, &PathBuf)| {
            let source = match Source::open(path, &self.origin, &self.known) {
                Ok(source) => source,
                Err(mistake) => return Err((path.clone(), mistake)),
            };
            let previous = self.previous.and_then(|previous| previous.channels.get(name));
            // Nothing about it changed: it goes on, with its connections and the keys that its provider published.
            if let Some(kept) = previous.filter(|kept| source.is_as_before(&kept.trace, &kept.fingerprint)) {
                let certificates = known.get(name.as_str()).into_iter().flatten().copied().cloned().collect();
                let (channel, methods) = (Some(Arc::clone(kept)), Some(kept.methods));
                return Ok((
                    source.files(),
                    Vec::new(),
                    Vec::new(),
                    Some(ChannelFile { channel, methods, certificates }),
                ));
            }
            let (file, mistakes) = source.read(|root| channel::read(&source, root, name, self.now, previous));
            Ok((source.files(), mistakes, source.take_notes(), file))
        };
        // While nothing is served yet every core helps; later, one at a time leaves the others to the requests.
        let threads = match self.previous {
            None => std::thread::available_parallelism().map_or(1, NonZero::get),
            Some(_) => 1,
        };
        for ((name, _), read) in files.iter().zip(background::map(files.iter().collect(), threads, read)) {
            yield_cpu();
            methods.insert(name.clone(), None);
            match read {
                Err((path, mistake)) => {
                    self.files.push(path);
                    self.mistakes.push(mistake);
                }
                Ok((named, mistakes, notes, file)) => {
                    self.sources.notes.extend(notes);
                    self.files.extend(named);
                    self.mistakes.extend(mistakes);
                    let Some(file) = file else { continue };
                    methods.insert(name.clone(), file.methods);
                    self.sources.certificates.extend(file.certificates);
                    channels.extend(file.channel.map(|channel| (name.clone(), channel)));
                }
            }
        }
        (channels, methods)
    }

    /// Without the file there are no routes, and no payment can be made: where money goes is the operator's word.
    fn routes(&mut self, names: &Names<'_>) -> Arc<Routes> {
        let path = self.dir.join("routes.toml");
        if self.origin.is_missing(&path) {
            self.files.push(path);
            return Arc::default();
        }
        let Some(source) = self.open(&path) else { return Arc::default() };
        self.sources.routes = source.fingerprint();
        self.sources.routes_digest = Some(source.digest());
        let previous = self.previous.filter(|previous| {
            let methods = |channel: &Arc<Channel>| Some(channel.methods);
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
        let (routes, mistakes) = source.read(|root| routes::read(root, names));
        self.close(&source, mistakes);
        Arc::new(routes.unwrap_or_default())
    }

    /// The files of one kind, by their names. What editors leave behind is none of them.
    fn list(&mut self, kind: &str) -> BTreeMap<String, PathBuf> {
        let dir = self.dir.join(kind);
        self.files.push(dir.clone());
        let paths = self.origin.files_in(&dir).unwrap_or_else(|error| {
            self.mistakes.push(Diagnostic::in_file(&dir, format!("this directory cannot be read: {error}"), None));
            Vec::new()
        });
        let mut files = BTreeMap::new();
        for path in paths {
            yield_cpu();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Some(stem) = name.strip_suffix(".toml") else {
                self.misnamed(&path, name);
                continue;
            };
            if stem.is_empty() || stem.starts_with('.') {
                continue;
            }
            if is_name(stem) {
                files.insert(stem.to_owned(), path);
            } else {
                let advice = "use small letters, digits and hyphens, at most 63, as in wechat-main.toml";
                let message = "the file's name is the name of what is in it, and this is not one";
                self.mistakes.push(Diagnostic::in_file(&path, message, Some(advice)));
            }
        }
        if files.len() > MOST_FILES {
            let message =
                format!("there are {} files in this directory, and at most {MOST_FILES} are read", files.len());
            self.mistakes.push(Diagnostic::in_file(&dir, message, Some("is this the right one?")));
            files.clear();
        }
        files
    }

    /// A file that is not read although somebody may think so.
    fn misnamed(&mut self, path: &Path, name: &str) {
        let Some((stem, extension)) = name.rsplit_once('.') else { return };
        if stem.is_empty() {
            return;
        }
        let right = format!("{stem}.toml");
        if extension.eq_ignore_ascii_case("toml") {
            let advice = format!("call it {right}");
            let message = "this file is not read: its name must end in `.toml`, in small letters";
            self.mistakes.push(Diagnostic::in_file(path, message, Some(&advice)));
        } else if !extension.ends_with('~') && strsim::osa_distance(extension, "toml") <= 1
            || ["conf", "yaml", "yml", "json"].contains(&extension)
        {
            let message = "this file is not read: its name does not end in `.toml`";
            let advice = format!("call it {right}, or take it away");
            self.sources.notes.push(Diagnostic::in_file(path, message, Some(&advice)));
        }
    }

    /// Looks at the names beside `tollgate.toml`: one that is nearly right would be missed in silence.
    fn look_beside(&mut self) {
        for path in self.origin.files_in(self.dir).unwrap_or_default() {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if ["tollgate.toml", "routes.toml"].contains(&name) || name.starts_with('.') {
                continue;
            }
            let right = ["tollgate.toml", "routes.toml"].into_iter().find(|right| right.eq_ignore_ascii_case(name));
            if let Some(right) = right {
                let advice = format!("call it {right}");
                let message = "this file is not read: its name must be in small letters";
                self.mistakes.push(Diagnostic::in_file(&path, message, Some(&advice)));
            } else if name.ends_with(".toml") {
                let message = "this file is not read: only tollgate.toml and routes.toml are read here";
                let advice = "merchants have their files in merchants/, channels in channels/";
                self.sources.notes.push(Diagnostic::in_file(&path, message, Some(advice)));
            }
        }
    }

    fn open(&mut self, path: &Path) -> Option<Source> {
        self.files.push(path.to_owned());
        Source::open(path, &self.origin, &self.known).map_err(|mistake| self.mistakes.push(mistake)).ok()
    }

    fn close(&mut self, source: &Source, mistakes: Vec<Diagnostic>) {
        self.files.extend(source.files());
        self.mistakes.extend(mistakes);
    }

    fn hash(&self, merchants: &BTreeMap<String, Arc<Merchant>>, channels: &BTreeMap<String, Arc<Channel>>) -> String {
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

/// Whether a file in `channels/` or `merchants/` may be called so.
pub(crate) fn is_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=63).contains(&text.len())
        && text.bytes().next().is_some_and(fits)
        && text.bytes().all(|byte| fits(byte) || byte == b'-')
}

#[cfg(test)]
pub(crate) mod tests;
