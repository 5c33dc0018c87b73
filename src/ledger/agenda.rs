//! What is waiting, kept in memory beside the disk.

use std::collections::{BTreeMap, HashMap};

use super::embedded::View;
use super::outbox;
use super::records::LedgerError;
use super::transaction::{Space, Writes};

const LISTS: [Space; 4] = [Space::Outbox, Space::Searches, Space::Unknown, Space::Errands];

/// What is waiting, held in memory as well, sorted as on disk: looking there for what is due would wade through the
/// tombstones of all that was done since the last compaction.
#[derive(Default)]
pub(super) struct Agenda {
    /// Heads of the payments' queues by when they are due, a lane for each merchant.
    pub(super) outbox: BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>,
    /// In whose lane each of them is.
    lanes: HashMap<Vec<u8>, String>,
    /// Searches by when they are due.
    pub(super) searches: BTreeMap<Vec<u8>, Vec<u8>>,
    /// What was accepted to be made later, by when it is due.
    pub(super) errands: BTreeMap<Vec<u8>, Vec<u8>>,
    /// What is unknown by since when.
    pub(super) unknown: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Events that no merchant has yet.
    pub(super) queued: i64,
}

impl Agenda {
    pub(super) fn read(view: &View<'_>) -> Result<Self, LedgerError> {
        let mut agenda = Self::default();
        for space in LISTS {
            for (key, value) in view.all(space)? {
                agenda.put(space, &key, Some(value.as_slice()));
            }
        }
        agenda.queued = outbox::queued(view, &agenda)?;
        Ok(agenda)
    }

    pub(super) fn follow(&mut self, writes: &Writes) {
        for space in LISTS {
            for (key, value) in writes.rows.of(space) {
                self.put(space, key, value.map(|value| &**value));
            }
        }
        self.queued += writes.queued.iter().map(|(_, joined)| if *joined { 1 } else { -1 }).sum::<i64>();
    }

    fn put(&mut self, space: Space, key: &[u8], value: Option<&[u8]>) {
        let rows = match space {
            Space::Searches => &mut self.searches,
            Space::Unknown => &mut self.unknown,
            Space::Errands => &mut self.errands,
            Space::Outbox => return self.put_in_lane(key, value),
            _ => return,
        };
        match value {
            Some(value) => drop(rows.insert(key.to_vec(), value.to_vec())),
            None => drop(rows.remove(key)),
        }
    }

    fn put_in_lane(&mut self, key: &[u8], value: Option<&[u8]>) {
        if let Some(value) = value {
            let merchant = outbox::merchant(value).to_owned();
            self.outbox.entry(merchant.clone()).or_default().insert(key.to_vec(), value.to_vec());
            self.lanes.insert(key.to_vec(), merchant);
        } else if let Some(merchant) = self.lanes.remove(key)
            && let Some(lane) = self.outbox.get_mut(&merchant)
        {
            lane.remove(key);
            if lane.is_empty() {
                self.outbox.remove(&merchant);
            }
        }
    }
}
