//! Archive of the generations that were in force, on disk: a start falls back to it if the files are broken, and a rollback
//! reads it.
//!
//! The archives lie beside the configuration directory, for example `conf.generations/00000007-4f1d….tar.lz4`. Each contains
//! every file of one generation, keys and certificates too, readable by the owner only. An archive is read in memory, so a full
//! disk does not prevent a start.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tollgate_config::{Archive, Diagnostic, LedgerConfig, Process};

use super::in_use::InUse;
use super::report::Report;
use crate::snapshot::{self, Snapshot};

/// Maximum number of archived generations.
pub(super) const MAX_STORED: usize = 20;
/// File with the hash of the configuration that was rolled back, so that a restart does not put it in force again.
const ROLLED_BACK_FILE: &str = "rolled-back";

/// Suffixes of an archive and of the reload report beside it.
const ARCHIVE_SUFFIX: &str = ".tar.lz4";
const REPORT_SUFFIX: &str = ".report.json";

/// Archive of the generations of one configuration directory.
#[derive(Clone, Debug)]
pub struct Generations {
    /// Configuration directory as the user named it.
    given: PathBuf,
    /// Absolute path of the configuration directory. A symbolic link is not resolved, because its target changes with each revision.
    conf: PathBuf,
    dir: PathBuf,
}

/// Archived generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredGeneration {
    /// Number of the generation.
    pub number: u64,
    /// First digits of its hash.
    pub hash: String,
    pub(super) path: PathBuf,
}

impl StoredGeneration {
    /// Returns the archive of a generation in this directory.
    fn new(dir: &Path, number: u64, hash: &str) -> Self {
        let path = dir.join(format!("{number:08}-{hash}{ARCHIVE_SUFFIX}"));
        Self { number, hash: hash.to_owned(), path }
    }

    fn report(&self) -> PathBuf {
        self.path.with_file_name(format!("{:08}-{}{REPORT_SUFFIX}", self.number, self.hash))
    }
}

impl Generations {
    /// Returns the archive of the configuration in this directory.
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

    /// Returns the directory of the nonce log, for a ledger without a directory on this machine.
    pub fn nonces(&self) -> PathBuf {
        self.dir.join("nonces")
    }

    /// Returns the file that records which ledger the last start used.
    pub fn in_use(&self) -> InUse {
        InUse::in_dir(&self.dir)
    }

    /// Lists the archived generations, the newest last.
    pub fn list(&self) -> Vec<StoredGeneration> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let stored = entries.filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let (number, hash) = name.strip_suffix(ARCHIVE_SUFFIX)?.split_once('-')?;
            Some(StoredGeneration::new(&self.dir, number.parse().ok()?, hash))
        });
        let mut stored: Vec<StoredGeneration> = stored.collect();
        stored.sort_by_key(|stored| stored.number);
        stored
    }

    /// Returns the newest archived generation.
    pub fn last(&self) -> Option<StoredGeneration> {
        self.list().pop()
    }

    /// Archives the generation in force, from its files or from an older archive. An error is reported, and prevents nothing.
    pub fn archive(
        &self,
        snapshot: &Snapshot,
        from: Option<&StoredGeneration>,
        report: Option<&Report>,
    ) -> Result<(), String> {
        let hash = short(&snapshot.config.hash);
        if self.last().is_some_and(|last| (last.number, last.hash.as_str()) == (snapshot.generation, hash)) {
            return Ok(());
        }
        let written = self.write(snapshot, from, hash, report).map_err(|error| {
            let (number, dir) = (snapshot.generation, self.dir.display());
            format!(
                "generation {number} cannot be archived in {dir}: {error}; a restart with broken files could not fall back to it"
            )
        });
        let mut old = self.list();
        old.truncate(old.len().saturating_sub(MAX_STORED));
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
        let stored = StoredGeneration::new(&self.dir, snapshot.generation, hash);
        let unfinished = self.dir.join(format!("unfinished{ARCHIVE_SUFFIX}"));
        let _ = fs::remove_file(&unfinished);
        let file = private_file(&unfinished)?;
        let written = match from {
            Some(from) => copy(&from.path, file),
            None => {
                let contents = snapshot.config.contents(&self.given);
                let files = contents.iter();
                let named = files.flat_map(|(file, digest)| self.names(file).map(move |name| (name, file, digest)));
                Archive::write(file, named)
            }
        };
        // The rename is atomic, so a partial archive is never found. A partial file is removed, to free its space.
        written
            .and_then(|()| fs::rename(&unfinished, &stored.path))
            .inspect_err(|_| drop(fs::remove_file(&unfinished)))?;
        fs::File::open(&self.dir)?.sync_all()?;
        let Some(report) = report else { return Ok(()) };
        let _ = fs::remove_file(stored.report());
        private_file(&stored.report())?.write_all(&serde_json::to_vec(report)?)
    }

    /// Returns the report of the reload that put the generation in force, if it is known.
    pub fn report(&self, stored: &StoredGeneration) -> Option<Report> {
        serde_json::from_slice(&fs::read(stored.report()).ok()?).ok()
    }

    /// Returns the names of a file in the archive, where symbolic links are not resolved. The directory may be given by a path with
    /// links, and one of its files may be named by the same path.
    fn names(&self, file: &Path) -> impl Iterator<Item = PathBuf> {
        let inside = file.strip_prefix(&self.given).ok().map(|rest| self.conf.join(rest));
        let literal = file.is_absolute() && inside.as_deref() != Some(file);
        inside.into_iter().chain(literal.then(|| file.to_owned()))
    }

    /// Loads an archived generation.
    pub fn load(&self, stored: &StoredGeneration, previous: Option<&Snapshot>) -> Result<Snapshot, Vec<Diagnostic>> {
        let error_in_archive = |message: &str| {
            let advice = "choose another one with `tollgate rollback --to`";
            vec![Diagnostic::in_file(&stored.path, message, Some(advice))]
        };
        let archive = Archive::open(&stored.path)
            .map_err(|error| error_in_archive(&format!("this archive is damaged: {error}")))?;
        let dir = stored.path.join(self.conf.strip_prefix("/").unwrap_or(&self.conf));
        if !archive.has_dir(&dir) {
            return Err(error_in_archive("this archive is of a configuration in another directory"));
        }
        let mut snapshot = snapshot::load_archived(&dir, archive, previous)?;
        // An environment variable changed since, or the fingerprint is computed differently.
        if !snapshot.config.hash.starts_with(&stored.hash) {
            return Err(error_in_archive("this archive does not have the hash of the generation that was in force"));
        }
        // Paths of data outside the configuration point to the original directory.
        let outside = |path: &Path| match path.strip_prefix(&dir) {
            Ok(rest) => self.given.join(rest),
            Err(_) => path.to_owned(),
        };
        if let LedgerConfig::Embedded(path) = &snapshot.process.ledger {
            let ledger = LedgerConfig::Embedded(outside(path));
            snapshot.process = Process { ledger, ..snapshot.process.as_ref().clone() }.into();
            snapshot.config.process = Arc::clone(&snapshot.process);
        }
        snapshot.config.sources.files = snapshot.config.sources.files.iter().map(|file| outside(file)).collect();
        Ok(snapshot)
    }

    /// Records the hash of the configuration that was rolled back; `None` removes the record.
    pub fn mark_rolled_back(&self, hash: Option<&str>) {
        let path = self.dir.join(ROLLED_BACK_FILE);
        let written = match hash {
            Some(hash) => fs::write(path, hash),
            None => fs::remove_file(path).or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            }),
        };
        if let Err(error) = written {
            tracing::warn!(%error, "the rollback cannot be recorded: a restart may put the rolled-back configuration in force again");
        }
    }

    /// Returns whether the configuration with this hash was rolled back.
    pub fn is_rolled_back(&self, hash: &str) -> bool {
        fs::read_to_string(self.dir.join(ROLLED_BACK_FILE)).is_ok_and(|refused| refused == hash)
    }
}

/// Returns the prefix of a hash that people read.
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

/// Returns the absolute path without resolving its last component, which may be a link.
fn absolute(file: &Path) -> io::Result<PathBuf> {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = file.file_name().ok_or_else(|| io::Error::other("a file without a name"))?;
    Ok(fs::canonicalize(parent)?.join(name))
}
