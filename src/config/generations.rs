//! Generations that were in force, kept on disk: to start on when the files are broken, and to go back to.
//!
//! They lie beside the configuration's directory, as in `conf.generations/00000007-4f1d….tar.lz4`: every file that went into
//! one, keys and certificates too, readable by the owner only. It is read in memory, so that a disk that is full stops no
//! start.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::archive::Archive;
use super::background::yield_cpu;
use super::diagnostics::Diagnostic;
use super::file;
use super::file_source::Origin;
use super::in_use::InUse;
use super::reload::Report;
use super::{LedgerConfig, Process, Snapshot};

/// How many are kept.
pub(super) const MOST: usize = 20;
/// Names the configuration that was taken back, by its hash, so that no restart puts it in force again.
const REFUSED: &str = "taken-back";

/// What follows a generation's name in the name of its archive, and of the report beside it.
const ARCHIVE: &str = ".tar.lz4";
const REPORT: &str = ".report.json";

/// Where they are kept.
#[derive(Clone, Debug)]
pub struct Generations {
    /// As it was named.
    given: PathBuf,
    /// The same, absolute. A directory that is a link is known by the link's name: where it leads changes with each revision.
    conf: PathBuf,
    dir: PathBuf,
}

/// One that was in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredGeneration {
    /// Its number.
    pub number: u64,
    /// The first digits of its hash.
    pub hash: String,
    pub(super) path: PathBuf,
}

impl StoredGeneration {
    /// In this directory.
    fn new(dir: &Path, number: u64, hash: &str) -> Self {
        let path = dir.join(format!("{number:08}-{hash}{ARCHIVE}"));
        Self { number, hash: hash.to_owned(), path }
    }

    fn report(&self) -> PathBuf {
        self.path.with_file_name(format!("{:08}-{}{REPORT}", self.number, self.hash))
    }
}

impl Generations {
    /// Of the configuration in this directory.
    pub fn of(conf: &Path) -> Self {
        let given = conf.to_owned();
        let conf = match conf.file_name() {
            Some(_) => absolute(conf),
            None => fs::canonicalize(conf),
        };
        let conf = conf.unwrap_or_else(|_| given.clone());
        let name = conf.file_name().map_or_else(|| "conf".into(), |name| name.to_string_lossy().into_owned());
        let dir = conf.with_file_name(format!("{name}.generations"));
        Self { given, conf, dir }
    }

    /// Where nonces of signed requests are kept when the ledger has no directory on this machine.
    pub fn nonces(&self) -> PathBuf {
        self.dir.join("nonces")
    }

    /// What says which ledger the last start used.
    pub(crate) fn in_use(&self) -> InUse {
        InUse::in_dir(&self.dir)
    }

    /// Those that are kept, the newest last.
    pub fn list(&self) -> Vec<StoredGeneration> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let kept = entries.filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let (number, hash) = name.strip_suffix(ARCHIVE)?.split_once('-')?;
            Some(StoredGeneration::new(&self.dir, number.parse().ok()?, hash))
        });
        let mut kept: Vec<StoredGeneration> = kept.collect();
        kept.sort_by_key(|kept| kept.number);
        kept
    }

    /// The newest.
    pub fn last(&self) -> Option<StoredGeneration> {
        self.list().pop()
    }

    /// Keeps a generation that is in force, made from its files or from an older copy. What cannot be written is said, and
    /// stops nothing.
    pub fn keep(
        &self,
        snapshot: &Snapshot,
        from: Option<&StoredGeneration>,
        report: Option<&Report>,
    ) -> Result<(), String> {
        let hash = short(&snapshot.hash);
        if self.last().is_some_and(|last| (last.number, last.hash.as_str()) == (snapshot.generation, hash)) {
            return Ok(());
        }
        let written = self.write(snapshot, from, hash, report).map_err(|error| {
            let (number, dir) = (snapshot.generation, self.dir.display());
            format!(
                "generation {number} cannot be kept in {dir}: {error}; a restart with broken files would not start on it"
            )
        });
        let mut old = self.list();
        old.truncate(old.len().saturating_sub(MOST));
        for old in old {
            let _ = fs::remove_file(&old.path);
            let _ = fs::remove_file(old.report());
        }
        written
    }

    fn write(
        &self,
        snapshot: &Snapshot,
        from: Option<&StoredGeneration>,
        hash: &str,
        report: Option<&Report>,
    ) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        let kept = StoredGeneration::new(&self.dir, snapshot.generation, hash);
        let unfinished = self.dir.join(format!("unfinished{ARCHIVE}"));
        let _ = fs::remove_file(&unfinished);
        let file = private_file(&unfinished)?;
        let written = match from {
            Some(from) => copy(&from.path, file),
            None => {
                let contents = self.contents(snapshot);
                let files = contents.iter();
                let named = files.flat_map(|(file, digest)| self.names(file).map(move |name| (name, file, digest)));
                Archive::write(file, named)
            }
        };
        // In one step: half a generation is never found. Half of one would only fill the disk further.
        written
            .and_then(|()| fs::rename(&unfinished, &kept.path))
            .inspect_err(|_| drop(fs::remove_file(&unfinished)))?;
        fs::File::open(&self.dir)?.sync_all()?;
        let Some(report) = report else { return Ok(()) };
        let _ = fs::remove_file(kept.report());
        private_file(&kept.report())?.write_all(&serde_json::to_vec(report)?)
    }

    /// What each file held when the generation was read: whoever saves it again meanwhile must not be kept under its name.
    fn contents(&self, snapshot: &Snapshot) -> Vec<(PathBuf, [u8; 32])> {
        let file = |kind: &str, name: &str| self.given.join(kind).join(format!("{name}.toml"));
        let mut contents: Vec<_> = snapshot.sources.trace.contents(&self.given.join("tollgate.toml")).collect();
        contents.extend(snapshot.sources.routes_digest.map(|digest| (self.given.join("routes.toml"), digest)));
        for merchant in snapshot.merchants.values() {
            yield_cpu();
            contents.extend(merchant.trace.contents(&file("merchants", &merchant.name)));
        }
        for channel in snapshot.channels.values() {
            yield_cpu();
            contents.extend(channel.trace.contents(&file("channels", &channel.name)));
        }
        contents.sort_unstable_by(|(one, _), (other, _)| one.as_os_str().cmp(other.as_os_str()));
        contents.dedup();
        contents
    }

    /// What the reload did that put it in force; nothing when that is not known.
    pub fn report(&self, kept: &StoredGeneration) -> Option<Report> {
        serde_json::from_slice(&fs::read(kept.report()).ok()?).ok()
    }

    /// How a file is called in what is kept, in the words of the configuration: a copy has no links. The directory may have
    /// been given by a path with links in it, and one of its files be named by the same path.
    fn names(&self, file: &Path) -> impl Iterator<Item = PathBuf> {
        let inside = file.strip_prefix(&self.given).ok().map(|rest| self.conf.join(rest));
        let literal = file.is_absolute() && inside.as_deref() != Some(file);
        inside.into_iter().chain(literal.then(|| file.to_owned()))
    }

    /// Reads one that was kept.
    pub fn load(&self, kept: &StoredGeneration, previous: Option<&Snapshot>) -> Result<Snapshot, Vec<Diagnostic>> {
        let mistaken = |message: &str| {
            let advice = "choose another one with `tollgate rollback --to`";
            vec![Diagnostic::in_file(&kept.path, message, Some(advice))]
        };
        let archive = Archive::open(&kept.path).map_err(|error| mistaken(&format!("this is damaged: {error}")))?;
        let dir = kept.path.join(self.conf.strip_prefix("/").unwrap_or(&self.conf));
        if !archive.has_dir(&dir) {
            return Err(mistaken("this was kept of a configuration in another directory"));
        }
        let mut snapshot = file::attempt(&dir, Origin::kept(archive), previous).result?;
        // A variable changed since, or how a fingerprint is made.
        if !snapshot.hash.starts_with(&kept.hash) {
            return Err(mistaken("this is not what was in force"));
        }
        // What is no part of the configuration stays where it is.
        let outside = |path: &Path| match path.strip_prefix(&dir) {
            Ok(rest) => self.given.join(rest),
            Err(_) => path.to_owned(),
        };
        if let LedgerConfig::Embedded(path) = &snapshot.process.ledger {
            let ledger = LedgerConfig::Embedded(outside(path));
            snapshot.process = Process { ledger, ..snapshot.process.as_ref().clone() }.into();
        }
        snapshot.sources.files = snapshot.sources.files.iter().map(|file| outside(file)).collect();
        Ok(snapshot)
    }

    /// Remembers the configuration that was taken back, or that none is.
    pub fn mark_rolled_back(&self, hash: Option<&str>) {
        let path = self.dir.join(REFUSED);
        let written = match hash {
            Some(hash) => fs::write(path, hash),
            None => fs::remove_file(path).or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            }),
        };
        if let Err(error) = written {
            tracing::warn!(%error, "what was taken back cannot be written down: a restart may put it in force again");
        }
    }

    /// Whether the configuration of this hash was taken back.
    pub fn is_rolled_back(&self, hash: &str) -> bool {
        fs::read_to_string(self.dir.join(REFUSED)).is_ok_and(|refused| refused == hash)
    }
}

/// As much of a hash as people read.
fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

fn private_file(path: &Path) -> io::Result<fs::File> {
    fs::File::options().create_new(true).write(true).mode(0o600).open(path)
}

fn copy(from: &Path, mut to: fs::File) -> io::Result<()> {
    io::copy(&mut fs::File::open(from)?, &mut to)?;
    to.sync_all()
}

/// Without following the last link: a file that is one is found under its own name.
fn absolute(file: &Path) -> io::Result<PathBuf> {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = file.file_name().ok_or_else(|| io::Error::other("a file without a name"))?;
    Ok(fs::canonicalize(parent)?.join(name))
}
