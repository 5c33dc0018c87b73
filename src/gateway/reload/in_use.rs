//! Record of the ledger that the last start used. Starting on another ledger, which does not know the payments of the first,
//! could execute them twice.
//!
//! The record lies beside the archived generations, for example `conf.generations/ledger.json`. It is written once a ledger is
//! open, and every start is checked against it: the files may contain a typing error, and an archived generation may be old.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tollgate_config::LedgerConfig;
use tollgate_ledger::{Ledger, MARK, Mark, refuse_moved};

/// Name of the file.
const FILE_NAME: &str = "ledger.json";

/// Identity of a ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum LedgerIdentity {
    /// Embedded ledger: identity of its manifest. Its directory may change.
    Embedded { path: PathBuf, identity: String },
    /// PostgreSQL ledger: name that it gave itself. Its address may change.
    Postgres { name: String, place: String },
}

impl LedgerIdentity {
    /// Returns whether a configuration names this ledger, as far as that is known without opening it.
    pub(super) fn is_named_by(&self, place: &LedgerConfig) -> bool {
        match (self, place) {
            (Self::Embedded { path, .. }, LedgerConfig::Embedded(named)) => *path == absolute(named),
            (Self::Postgres { place, .. }, LedgerConfig::Postgres(address)) => *place == address.to_string(),
            _ => false,
        }
    }
}

fn absolute(path: &Path) -> PathBuf {
    fs::canonicalize(path).or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.to_owned())
}

impl std::fmt::Display for LedgerIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Embedded { path, .. } => write!(f, "the embedded ledger in {}", path.display()),
            Self::Postgres { place, .. } => write!(f, "the ledger in {place}"),
        }
    }
}

/// File that records the ledger in use.
pub struct InUse(PathBuf);

impl InUse {
    /// Returns the record in the directory of the archived generations.
    pub(super) fn in_dir(generations: &Path) -> Self {
        Self(generations.join(FILE_NAME))
    }

    /// Reads the record; `None` before the first start.
    pub(super) fn read(&self) -> Result<Option<LedgerIdentity>, String> {
        let unreadable =
            |why: String| format!("{}, which records the ledger in use, cannot be read: {why}", self.0.display());
        match fs::read(&self.0) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| unreadable(format!("{error}; restore it, or delete it if `[ledger]` is right"))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unreadable(format!("{error}; make it readable for the gateway's user"))),
        }
    }

    /// Returns a file of the ledger in use that this user may not read. Only the gateway's user may read all of them.
    pub(super) fn unreadable(&self, place: &LedgerConfig) -> Option<PathBuf> {
        let marks = match place {
            LedgerConfig::Embedded(path) => vec![self.0.clone(), path.join(MARK)],
            LedgerConfig::Postgres(_) => vec![self.0.clone()],
        };
        let is_denied = |error: std::io::Error| error.kind() == ErrorKind::PermissionDenied;
        marks.into_iter().find(|file| File::open(file).is_err_and(is_denied))
    }

    /// Rejects an embedded ledger that was moved, and a directory without the ledger in use: a missing volume must not be mistaken for
    /// a new ledger. Called before the ledger is opened, because opening would create an empty one.
    pub fn admit(&self, place: &LedgerConfig) -> Result<(), String> {
        let LedgerConfig::Embedded(path) = place else { return Ok(()) };
        refuse_moved(path).map_err(|error| error.to_string())?;
        let Some(known) = self.read()? else { return Ok(()) };
        let found = Ledger::identity_in(path).map_err(|error| error.to_string())?;
        match &known {
            LedgerIdentity::Embedded { identity, .. } if found.as_ref() == Some(identity) => Ok(()),
            LedgerIdentity::Embedded { path: before, .. } => {
                let found = if found.is_some() { "holds another ledger" } else { "holds no ledger" };
                Err(format!(
                    "{} {found}, but a ledger in {} is in use, which contains payments. Nothing was started. Mount its volume, restore it \
                     from a backup, or set `ledger.path` in tollgate.toml to its directory. To begin with another ledger, in which \
                     payments so far are unknown and can be made a second time, delete {}",
                    path.display(),
                    before.display(),
                    self.0.display()
                ))
            }
            LedgerIdentity::Postgres { .. } => {
                Err(self.refusal(&known, &format!("the embedded ledger in {}", absolute(path).display()), ""))
            }
        }
    }

    /// Rejects a PostgreSQL database that is neither the ledger in use nor migrated from it; otherwise records the opened ledger.
    pub fn confirm(&self, place: &LedgerConfig, ledger: &Ledger) -> Result<(), String> {
        let opened = match (place, ledger.origin()) {
            (LedgerConfig::Postgres(address), Some((name, moves))) => {
                let opened = LedgerIdentity::Postgres { name: name.to_owned(), place: address.to_string() };
                self.follows(&opened, name, moves)?;
                opened
            }
            (LedgerConfig::Embedded(path), _) => match Ledger::identity_in(path).map_err(|error| error.to_string())? {
                Some(identity) => LedgerIdentity::Embedded { path: absolute(path), identity },
                None => return Err(format!("the ledger in {} was removed while it was opened", path.display())),
            },
            (LedgerConfig::Postgres(_), None) => return Ok(()),
        };
        if let Err(error) = self.write(&opened) {
            // As with the archived generations, a read-only directory prevents nothing.
            let file = self.0.display().to_string();
            tracing::warn!(%error, file, "the ledger in use cannot be recorded: later starts are not checked against it");
        }
        Ok(())
    }

    fn follows(&self, opened: &LedgerIdentity, name: &str, moves: &[String]) -> Result<(), String> {
        let Some(known) = self.read()? else { return Ok(()) };
        let why = match &known {
            LedgerIdentity::Postgres { name: before, .. } if before == name => return Ok(()),
            LedgerIdentity::Postgres { .. } => " (another database, or one that was made anew)".to_owned(),
            LedgerIdentity::Embedded { path, .. } => match Mark::read(path).map_err(|error| error.to_string())? {
                Some(mark) if moves.contains(&mark.id) => return Ok(()),
                Some(mark) => format!(", and was moved to {}", mark.to),
                // Also if its volume is not mounted: nothing else proves that its payments are known here.
                None => format!(
                    ", and {0} has no mark of a move: mount it if it was moved, else stop every gateway and run `tollgate migrate {0}`",
                    path.display()
                ),
            },
        };
        Err(self.refusal(&known, &opened.to_string(), &why))
    }

    fn refusal(&self, known: &LedgerIdentity, named: &str, why: &str) -> String {
        format!(
            "[ledger] of tollgate.toml names {named}, but {known} is in use{why}: payments of one are unknown in the other and could be \
             made twice. Correct [ledger]. Only if the payments of the ledger in use do not count any more, delete {} and start again",
            self.0.display()
        )
    }

    fn write(&self, known: &LedgerIdentity) -> std::io::Result<()> {
        // Writing nothing needs no space on a full disk.
        if self.read().is_ok_and(|before| before.as_ref() == Some(known)) {
            return Ok(());
        }
        let dir = self.0.parent().unwrap_or(Path::new("."));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let unfinished = self.0.with_extension("unfinished");
        let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&unfinished)?;
        file.write_all(&serde_json::to_vec_pretty(known)?)?;
        file.sync_all()?;
        fs::rename(&unfinished, &self.0)?;
        File::open(dir)?.sync_all()
    }
}
