//! What is waiting, kept in memory beside the disk.

use std::collections::BTreeMap;

use super::outbox;
use super::records::LedgerError;
use super::transaction::{Space, View, Writes};

/// What is waiting, held in memory as well, sorted as on disk: looking there for what is due would wade through the
/// tombstones of all that was done since the last compaction.
#[derive(Default)]
pub(super) struct Agenda {
    /// Heads of the payments' queues by when they are due.
    pub(super) outbox: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Searches by when they are due.
    pub(super) searches: BTreeMap<Vec<u8>, Vec<u8>>,
    /// What is unknown by since when.
    pub(super) unknown: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Events that no merchant has yet.
    pub(super) queued: i64,
}

impl Agenda {
    pub(super) fn read(view: &View) -> Result<Self, LedgerError> {
        let mut agenda = Self::default();
        for space in [Space::Outbox, Space::Searches, Space::Unknown] {
            if let Some(rows) = agenda.mirror(space) {
                rows.extend(view.all(space)?);
            }
        }
        agenda.queued = outbox::queued(view, &agenda.outbox)?;
        Ok(agenda)
    }

    pub(super) fn follow(&mut self, writes: &Writes) {
        for ((space, key), value) in &writes.rows {
            match (self.mirror(*space), value) {
                (Some(rows), Some(value)) => drop(rows.insert(key.clone(), value.clone())),
                (Some(rows), None) => drop(rows.remove(key)),
                (None, _) => {}
            }
        }
        self.queued += writes.queued;
    }

    fn mirror(&mut self, space: Space) -> Option<&mut BTreeMap<Vec<u8>, Vec<u8>>> {
        match space {
            Space::Outbox => Some(&mut self.outbox),
            Space::Searches => Some(&mut self.searches),
            Space::Unknown => Some(&mut self.unknown),
            _ => None,
        }
    }
}
