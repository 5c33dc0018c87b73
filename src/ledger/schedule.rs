//! What is waiting, kept in memory beside the disk.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::embedded::View;
use super::jobs;
use super::limits::{QueueFull, QueueLimit};
use super::outbox;
use super::records::LedgerError;
use super::transaction::{Space, Writes};

const LISTS: [Space; 5] = [Space::Outbox, Space::Inquiries, Space::Unknown, Space::Jobs, Space::Running];

/// What is waiting, held in memory as well, sorted as on disk: looking there for what is due would wade through the
/// tombstones of all that was done since the last compaction.
#[derive(Default)]
pub(super) struct Schedule {
    /// Heads of the payments' queues by when they are due, a lane for each merchant.
    pub(super) outbox: BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>,
    /// In whose lane each of them is.
    lanes: HashMap<Vec<u8>, String>,
    /// Searches by when they are due, a lane for each [priority and channel](super::searches::priority).
    pub(super) searches: Searches,
    /// What was accepted to be made later, by when it is due; and whose it is.
    pub(super) jobs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Jobs that are being executed, by their claims; and whose they are.
    executing: HashMap<Vec<u8>, Vec<u8>>,
    /// Both kinds, counted.
    job_counts: JobCounts,
    /// Those of the batch that is being made, which are among the others once it is committed.
    accepted: JobCounts,
    /// What is unknown by since when.
    pub(super) unknown: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Events that no merchant has yet.
    pub(super) queued: i64,
}

impl Schedule {
    pub(super) fn read(view: &View<'_>) -> Result<Self, LedgerError> {
        let mut schedule = Self::default();
        for space in LISTS {
            for (key, value) in view.all(space)? {
                schedule.put(space, &key, Some(value.as_slice()));
            }
        }
        schedule.queued = outbox::queued(view, &schedule)?;
        Ok(schedule)
    }

    pub(super) fn follow(&mut self, writes: &Writes) {
        for space in LISTS {
            for (key, value) in writes.rows.of(space) {
                self.put(space, key, value.map(|value| &**value));
            }
        }
        self.accepted = JobCounts::default();
        self.queued += writes.queued.iter().map(|(_, joined)| if *joined { 1 } else { -1 }).sum::<i64>();
    }

    fn put(&mut self, space: Space, key: &[u8], value: Option<&[u8]>) {
        let rows = match space {
            Space::Inquiries => return self.searches.put(key, value),
            Space::Unknown => &mut self.unknown,
            Space::Jobs => {
                let before = match value {
                    Some(merchant) => self.jobs.insert(key.to_vec(), merchant.to_vec()),
                    None => self.jobs.remove(key),
                };
                return self.job_counts.change(before.as_deref(), value);
            }
            Space::Running => {
                let merchant = value.and_then(jobs::merchant_of_running);
                let before = match merchant {
                    Some(merchant) => self.executing.insert(key.to_vec(), merchant.to_vec()),
                    None => self.executing.remove(key),
                };
                return self.job_counts.change(before.as_deref(), merchant);
            }
            Space::Outbox => return self.put_in_lane(key, value),
            _ => return,
        };
        match value {
            Some(value) => drop(rows.insert(key.to_vec(), value.to_vec())),
            None => drop(rows.remove(key)),
        }
    }

    /// Which limit of the queue is reached for a merchant.
    pub(super) fn queue_is(&self, merchant: &str, limit: QueueLimit) -> Option<QueueFull> {
        let own = [&self.job_counts, &self.accepted].map(|job_counts| job_counts.of(merchant.as_bytes()));
        limit.reached(self.job_counts.total + self.accepted.total, own.iter().sum())
    }

    /// Counts a job that was accepted and is not committed yet.
    pub(super) fn accepted(&mut self, merchant: &str) {
        self.accepted.change(None, Some(merchant.as_bytes()));
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

/// Keys of searches, which begin with when they are due, by lane.
#[derive(Default)]
pub(super) struct Searches {
    lanes: BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>>,
    /// The lane of each key.
    lane_of: HashMap<Vec<u8>, Vec<u8>>,
}

impl Searches {
    /// Returns every lane that has searches.
    pub(super) fn lanes(&self) -> impl Iterator<Item = (&Vec<u8>, &BTreeSet<Vec<u8>>)> {
        self.lanes.iter()
    }

    fn put(&mut self, key: &[u8], lane: Option<&[u8]>) {
        let before = match lane {
            Some(lane) => self.lane_of.insert(key.to_vec(), lane.to_vec()),
            None => self.lane_of.remove(key),
        };
        if let Some(before) = before.filter(|before| lane != Some(before.as_slice()))
            && let Some(keys) = self.lanes.get_mut(&before)
        {
            keys.remove(key);
            if keys.is_empty() {
                self.lanes.remove(&before);
            }
        }
        if let Some(lane) = lane {
            self.lanes.entry(lane.to_vec()).or_default().insert(key.to_vec());
        }
    }
}

/// Jobs in all, and by merchant.
#[derive(Default)]
struct JobCounts {
    total: u64,
    each: HashMap<Vec<u8>, u64>,
}

impl JobCounts {
    fn of(&self, merchant: &[u8]) -> u64 {
        self.each.get(merchant).copied().unwrap_or(0)
    }

    /// A row is another merchant's, or comes, or goes.
    fn change(&mut self, before: Option<&[u8]>, after: Option<&[u8]>) {
        if let Some(merchant) = after {
            self.total += 1;
            *self.each.entry(merchant.to_vec()).or_default() += 1;
        }
        if let Some(merchant) = before {
            self.total = self.total.saturating_sub(1);
            if let Some(count) = self.each.get_mut(merchant) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.each.remove(merchant);
                }
            }
        }
    }
}
