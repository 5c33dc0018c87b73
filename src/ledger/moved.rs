//! Mark file in the directory of an embedded ledger that was migrated to PostgreSQL.
//!
//! `migrate` writes it before the rows in PostgreSQL become visible. After a crash in between, the old ledger stays
//! closed and the new one is empty. No payment can be made twice, and running `migrate` again completes the
//! migration.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::error::{Corruption, LedgerError};

/// Name of the file in the ledger's directory.
pub const MARK: &str = "MOVED";

/// Content of the mark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Id of the migration. A ledger in PostgreSQL has the same id once the migration is complete.
    pub id: String,
    /// Host and database of the PostgreSQL.
    pub to: String,
    /// Start of the migration.
    pub at: Timestamp,
    /// True if PostgreSQL has confirmed the commit.
    pub complete: bool,
}

impl Mark {
    /// Returns the mark of a migration that starts now.
    pub(super) fn begin(to: String) -> Self {
        Self { id: hex::encode(rand::random::<[u8; 16]>()), to, at: Timestamp::now(), complete: false }
    }

    /// Reads the mark in a ledger's directory; `None` if the ledger was never migrated. Fails if the mark cannot be
    /// read, because the ledger may have been migrated.
    pub fn read(directory: &Path) -> Result<Option<Self>, LedgerError> {
        let path = directory.join(MARK);
        let damaged = |error| Corruption::File(format!("{} cannot be read: {error}", path.display()));
        match fs::read(&path) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).map(Some).map_err(damaged)?),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(LedgerError::CannotOpen { path, source: Arc::new(error) }),
        }
    }

    /// Writes the mark durably and atomically.
    pub(super) fn write(&self, directory: &Path) -> Result<(), LedgerError> {
        let cannot = |error| {
            let why = format!("the mark {MARK} cannot be written to {}: {error}", directory.display());
            LedgerError::MoveFailed(why)
        };
        let unfinished = directory.join(format!("{MARK}.unfinished"));
        let write = || {
            let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&unfinished)?;
            let mut text = serde_json::to_vec_pretty(self)?;
            text.push(b'\n');
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&unfinished, directory.join(MARK))?;
            File::open(directory)?.sync_all()
        };
        write().map_err(cannot)
    }
}

/// Fails if the ledger in this directory was migrated to PostgreSQL, or may have been.
pub fn refuse_moved(directory: &Path) -> Result<(), LedgerError> {
    let Some(Mark { to, at, complete, .. }) = Mark::read(directory)? else { return Ok(()) };
    let directory = directory.to_owned();
    Err(match complete {
        true => LedgerError::Moved { directory, to, at },
        false => LedgerError::MoveUnfinished { directory, to, at, mark: MARK },
    })
}
