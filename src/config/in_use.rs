//! Which ledger the last start used. A start on another one would know of no payment of the first and could make them twice.
//!
//! It lies beside the kept generations, as in `conf.generations/ledger.json`. It is written once a ledger is open, and each
//! start is held against it: what the files say may be a typing error, and what a kept generation says may be old.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::LedgerPlace;
use crate::ledger::{Ledger, Mark, refuse_moved};

/// Name of the file.
const FILE: &str = "ledger.json";

/// A ledger, as it is known again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Known {
    /// By its directory.
    Embedded { path: PathBuf },
    /// By the name that it gave itself; the place may change.
    Postgres { name: String, place: String },
}

impl Known {
    fn embedded(path: &Path) -> Self {
        let path = fs::canonicalize(path).or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.to_owned());
        Self::Embedded { path }
    }

    /// Whether a configuration names this ledger, as far as can be told without opening it.
    pub(super) fn is_named_by(&self, place: &LedgerPlace) -> bool {
        match (self, place) {
            (Self::Embedded { .. }, LedgerPlace::Embedded(path)) => *self == Self::embedded(path),
            (Self::Postgres { place, .. }, LedgerPlace::Postgres(address)) => *place == address.to_string(),
            _ => false,
        }
    }
}

impl std::fmt::Display for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Embedded { path } => write!(f, "the embedded ledger in {}", path.display()),
            Self::Postgres { place, .. } => write!(f, "the ledger in {place}"),
        }
    }
}

/// The file that says which ledger is in use.
pub(crate) struct InUse(PathBuf);

impl InUse {
    /// In the directory of the kept generations.
    pub(super) fn in_dir(generations: &Path) -> Self {
        Self(generations.join(FILE))
    }

    /// Reads it; `None` before the first start.
    pub(super) fn read(&self) -> Result<Option<Known>, String> {
        let cannot = |why: String| {
            let file = self.0.display();
            format!(
                "{file}, which says what ledger was used last, cannot be read: {why}; bring it back, or delete it if `[ledger]` is right"
            )
        };
        match fs::read(&self.0) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| cannot(error.to_string())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(cannot(error.to_string())),
        }
    }

    /// Refuses to open an embedded ledger that was moved, or while another ledger is in use. Called before it is opened, because opening would
    /// make an empty one.
    pub(crate) fn admit(&self, place: &LedgerPlace) -> Result<(), String> {
        let LedgerPlace::Embedded(path) = place else { return Ok(()) };
        refuse_moved(path).map_err(|error| error.0)?;
        match self.read()? {
            None => Ok(()),
            Some(known) if known.is_named_by(place) => Ok(()),
            // A directory that was moved or restored has a ledger in it; an empty one is a typing error.
            Some(Known::Embedded { path: before }) if has_ledger(path) || !has_ledger(&before) => Ok(()),
            Some(known) => Err(self.refusal(&known, &Known::embedded(path).to_string(), "")),
        }
    }

    /// Refuses a PostgreSQL that is not the ledger in use and was not filled from it; else writes down that the opened ledger is in
    /// use.
    pub(crate) fn confirm(&self, place: &LedgerPlace, ledger: &Ledger) -> Result<(), String> {
        let opened = match (place, ledger.origin()) {
            (LedgerPlace::Postgres(address), Some((name, moves))) => {
                let opened = Known::Postgres { name: name.to_owned(), place: address.to_string() };
                self.follows(&opened, name, moves)?;
                opened
            }
            (LedgerPlace::Embedded(path), _) => Known::embedded(path),
            (LedgerPlace::Postgres(_), None) => return Ok(()),
        };
        if let Err(error) = self.write(&opened) {
            // As with the kept generations: a directory that is read-only stops nothing.
            let file = self.0.display().to_string();
            tracing::warn!(%error, file, "which ledger is in use cannot be written down: no later start is held against it");
        }
        Ok(())
    }

    fn follows(&self, opened: &Known, name: &str, moves: &[String]) -> Result<(), String> {
        let path = match self.read()? {
            None => return Ok(()),
            Some(Known::Postgres { name: before, .. }) if before == name => return Ok(()),
            Some(known @ Known::Postgres { .. }) => {
                let why = " (another database, or one that was made anew)";
                return Err(self.refusal(&known, &opened.to_string(), why));
            }
            Some(Known::Embedded { path }) => path,
        };
        let known = Known::Embedded { path: path.clone() };
        match Mark::read(&path).map_err(|error| error.0)? {
            Some(mark) if moves.contains(&mark.id) => Ok(()),
            Some(mark) => Err(self.refusal(&known, &opened.to_string(), &format!(", and was moved to {}", mark.to))),
            None if !has_ledger(&path) => Ok(()),
            None => Err(self.refusal(
                &known,
                &opened.to_string(),
                &format!(", and was not moved: stop every gateway and run `tollgate migrate {}`", path.display()),
            )),
        }
    }

    fn refusal(&self, known: &Known, named: &str, why: &str) -> String {
        format!(
            "[ledger] of tollgate.toml names {named}, but {known} is in use{why}: payments of one are unknown in the other and could be \
             made twice. Correct [ledger]. Only if the payments of the ledger in use do not count any more, delete {} and start again",
            self.0.display()
        )
    }

    fn write(&self, known: &Known) -> std::io::Result<()> {
        // An unchanged file needs no room on a full disk.
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

fn has_ledger(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some())
}
