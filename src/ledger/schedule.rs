//! In-memory index of due deliveries, inquiries and jobs, beside the rows on disk.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;

use super::due_index::{claim_of, event_of_outbox, merchant_of_running, sink_of_queued, subscription_of_outbox};
use super::error::LedgerError;
use super::ids::{millis_at, time};
use super::limits::{QueueFull, QueueLimit};
use super::records::{Backlog, SinkName};
use super::transaction::{Pair, Space, Writes};

const LISTS: [Space; 5] = [Space::Outbox, Space::Inquiries, Space::Unknown, Space::Jobs, Space::Running];

/// Due index in the order of the keys on disk. A scan on disk would read the tombstones of all work done since the
/// last compaction.
#[derive(Default)]
pub(super) struct Schedule {
    /// Heads of the payments' event queues by due time, for each subscription: merchant and sink.
    pub(super) outbox: BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>,
    /// Subscription of each head.
    subscription_of: HashMap<Vec<u8>, String>,
    /// Inquiries by due time, for each [priority and channel](super::due_index::priority).
    pub(super) inquiries: InquiryIndex,
    /// Queued jobs by due time, with their merchants.
    pub(super) jobs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Executing jobs by claim, with their merchants.
    executing: HashMap<Vec<u8>, Vec<u8>>,
    /// Numbers of queued and executing jobs.
    job_counts: JobCounts,
    /// Jobs accepted in the present batch, which is not committed yet.
    accepted: JobCounts,
    /// Unknown records by the time when they became unknown.
    pub(super) unknown: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Number of undelivered events by sink.
    pub(super) queued: BTreeMap<SinkName, i64>,
}

impl Schedule {
    /// Reads the index with `rows`, which returns every row of a space. Leaves [`queued`](Self::queued) empty.
    pub(super) fn read(rows: impl Fn(Space) -> Result<Vec<Pair>, LedgerError>) -> Result<Self, LedgerError> {
        let mut schedule = Self::default();
        for space in LISTS {
            for (key, value) in rows(space)? {
                schedule.put(space, &key, Some(value.as_slice()));
            }
        }
        Ok(schedule)
    }

    /// Implements [`Ledger::waiting`](super::Ledger::waiting).
    pub(super) fn backlog(&self) -> Backlog {
        let claims = self.jobs.keys().filter_map(|key| claim_of(key));
        let queued = self.queued.iter().map(|(sink, count)| (sink.clone(), u64::try_from(*count).unwrap_or(0)));
        let deliveries_by_sink: BTreeMap<_, _> = queued.filter(|(_, count)| *count > 0).collect();
        Backlog {
            deliveries: deliveries_by_sink.values().sum(),
            deliveries_by_sink,
            oldest_by_sink: self.oldest_by_sink(),
            unknown: self.unknown.len() as u64,
            oldest_unknown: self.unknown.keys().next().map(|key| time(millis_at(key))),
            jobs: self.jobs.len() as u64,
            // The id of a claim begins with its creation time.
            oldest_job: claims.map(|claim| time(millis_at(&claim.0))).min(),
        }
    }

    /// Returns the creation time of the oldest event that waits for the sinks of each name. The oldest one of a queue is its
    /// head, and its id begins with its creation time.
    fn oldest_by_sink(&self) -> BTreeMap<SinkName, Timestamp> {
        let mut oldest = BTreeMap::new();
        for (subscription, heads) in &self.outbox {
            let first = heads.keys().filter_map(|key| event_of_outbox(key)).map(|event| millis_at(&event.0)).min();
            if let Some(first) = first {
                let of_sink = oldest.entry(SinkName::of_subscription(subscription)).or_insert(u64::MAX);
                *of_sink = first.min(*of_sink);
            }
        }
        oldest.into_iter().map(|(sink, first)| (sink, time(first))).collect()
    }

    pub(super) fn follow(&mut self, writes: &Writes) {
        for space in LISTS {
            for (key, value) in writes.rows.of(space) {
                self.put(space, key, value.map(|value| &**value));
            }
        }
        self.accepted = JobCounts::default();
        for (key, joined) in &writes.queued {
            *self.queued.entry(sink_of_queued(key)).or_default() += if *joined { 1 } else { -1 };
        }
        self.queued.retain(|_, count| *count != 0);
    }

    fn put(&mut self, space: Space, key: &[u8], value: Option<&[u8]>) {
        let rows = match space {
            Space::Inquiries => return self.inquiries.put(key, value),
            Space::Unknown => &mut self.unknown,
            Space::Jobs => {
                let before = match value {
                    Some(merchant) => self.jobs.insert(key.to_vec(), merchant.to_vec()),
                    None => self.jobs.remove(key),
                };
                return self.job_counts.change(before.as_deref(), value);
            }
            Space::Running => {
                let merchant = value.and_then(merchant_of_running);
                let before = match merchant {
                    Some(merchant) => self.executing.insert(key.to_vec(), merchant.to_vec()),
                    None => self.executing.remove(key),
                };
                return self.job_counts.change(before.as_deref(), merchant);
            }
            Space::Outbox => return self.put_outbox_head(key, value),
            _ => return,
        };
        match value {
            Some(value) => drop(rows.insert(key.to_vec(), value.to_vec())),
            None => drop(rows.remove(key)),
        }
    }

    /// Returns the limit of the queue that is reached for a merchant.
    pub(super) fn reached_limit(&self, merchant: &str, limit: QueueLimit) -> Option<QueueFull> {
        let own = [&self.job_counts, &self.accepted].map(|job_counts| job_counts.of(merchant.as_bytes()));
        limit.reached(self.job_counts.total + self.accepted.total, own.iter().sum())
    }

    /// Counts a job that was accepted and is not committed yet.
    pub(super) fn accepted(&mut self, merchant: &str) {
        self.accepted.change(None, Some(merchant.as_bytes()));
    }

    fn put_outbox_head(&mut self, key: &[u8], value: Option<&[u8]>) {
        if let Some(value) = value {
            let subscription = subscription_of_outbox(value).to_owned();
            self.outbox.entry(subscription.clone()).or_default().insert(key.to_vec(), value.to_vec());
            self.subscription_of.insert(key.to_vec(), subscription);
        } else if let Some(subscription) = self.subscription_of.remove(key)
            && let Some(heads) = self.outbox.get_mut(&subscription)
        {
            heads.remove(key);
            if heads.is_empty() {
                self.outbox.remove(&subscription);
            }
        }
    }
}

/// Inquiry keys by group. The group is priority and channel; each key begins with its due time.
#[derive(Default)]
pub(super) struct InquiryIndex {
    groups: BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>>,
    /// Group of each key.
    group_of: HashMap<Vec<u8>, Vec<u8>>,
}

impl InquiryIndex {
    /// Returns every group that has inquiries.
    pub(super) fn groups(&self) -> impl Iterator<Item = (&Vec<u8>, &BTreeSet<Vec<u8>>)> {
        self.groups.iter()
    }

    fn put(&mut self, key: &[u8], group: Option<&[u8]>) {
        let before = match group {
            Some(group) => self.group_of.insert(key.to_vec(), group.to_vec()),
            None => self.group_of.remove(key),
        };
        if let Some(before) = before.filter(|before| group != Some(before.as_slice()))
            && let Some(keys) = self.groups.get_mut(&before)
        {
            keys.remove(key);
            if keys.is_empty() {
                self.groups.remove(&before);
            }
        }
        if let Some(group) = group {
            self.groups.entry(group.to_vec()).or_default().insert(key.to_vec());
        }
    }
}

/// Number of jobs in total and by merchant.
#[derive(Default)]
struct JobCounts {
    total: u64,
    each: HashMap<Vec<u8>, u64>,
}

impl JobCounts {
    fn of(&self, merchant: &[u8]) -> u64 {
        self.each.get(merchant).copied().unwrap_or(0)
    }

    /// Counts a row that was inserted, deleted, or moved to another merchant.
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
