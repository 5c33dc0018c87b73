//! Tables on disk.

use std::path::Path;
use std::sync::Arc;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::memtable::Memtable;
use crate::error::LedgerError;
use crate::transaction::{Read, Space, Value};

/// The tables, one keyspace for each space.
pub(super) struct Store {
    database: Database,
    spaces: Vec<Keyspace>,
}

impl Store {
    pub(super) fn open(path: &Path) -> Result<Self, LedgerError> {
        let cannot = |error| LedgerError::CannotOpen { path: path.to_owned(), source: Arc::new(error) };
        // One worker thread: of several, the first would hand over all compaction and do nothing else while it lasts.
        let database = Database::builder(path).worker_threads(1).open().map_err(cannot)?;
        let spaces = Space::ALL.iter().map(|space| database.keyspace(space.name(), KeyspaceCreateOptions::default));
        let spaces = spaces.collect::<Result<Vec<_>, _>>().map_err(cannot)?;
        Ok(Self { database, spaces })
    }

    pub(super) fn space(&self, space: Space) -> &Keyspace {
        &self.spaces[space as usize]
    }

    /// Ingests the rows of each space as a sorted table, bypassing fjall's own journal. Our WAL has them until they
    /// are synced here.
    pub(super) fn ingest(&self, rows: &Memtable) -> fjall::Result<()> {
        // Fails if a background thread of fjall has failed.
        self.database.persist(PersistMode::Buffer)?;
        for space in Space::ALL {
            let keyspace = self.space(space);
            let mut table = None;
            for (key, value) in rows.of(space) {
                // A row inserted and deleted since the last checkpoint leaves no tombstone.
                if value.is_none() && !keyspace.contains_key(key)? {
                    continue;
                }
                let table = match &mut table {
                    Some(table) => table,
                    none => none.insert(keyspace.start_ingestion()?),
                };
                match value {
                    Some(value) => table.write(key.clone(), value.clone())?,
                    None => table.write_tombstone(key.clone())?,
                }
            }
            table.map_or(Ok(()), |table| table.finish())?;
        }
        self.database.persist(PersistMode::Buffer)
    }
}

impl Read for Store {
    fn bytes(&self, space: Space, key: &[u8]) -> Result<Option<Value>, LedgerError> {
        let found = self.space(space).get(key);
        found.map_err(read_failed)
    }
}

/// Returns the error of a failed read.
pub(super) fn read_failed(error: fjall::Error) -> LedgerError {
    LedgerError::ReadFailed { source: Arc::new(error) }
}
