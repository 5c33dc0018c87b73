//! Timeline of a payment: its history with evidence. Each entry is written in the transaction of the change it
//! describes, and is never altered.
//!
//! All entries of a payment are one row, so that they are read consistently. The row is bounded: the first and the
//! last entries are retained, and repetitions are counted in one entry. A payment that was queried for weeks has a
//! timeline of the same size as one that was queried for an hour. Older ledgers have no such rows.

pub(crate) mod event;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tollgate_plugins::payment::Event as ProviderEvent;

pub use self::event::*;
use super::error::LedgerError;
use super::ids::Id;
use super::records::Update;
use super::transaction::{Read, Space, Transaction};

/// Number of entries retained from the start, and again from the end.
const MAX_HEAD_ENTRIES: usize = 100;

/// History of a payment and its refunds, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeline {
    /// Entries, oldest first.
    pub entries: Vec<Entry>,
    /// Number of entries removed after the first hundred.
    #[serde(default)]
    pub left_out: u64,
}

/// One entry of a timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Time at which the entry was written.
    pub at: Timestamp,
    /// Refund that the entry is about; `None` for the payment itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refund_id: Option<String>,
    /// The event. For a repeated event: its last occurrence.
    #[serde(flatten)]
    pub what: TimelineEvent,
    /// Time of the last occurrence, if the event was repeated in a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Number of occurrences in a row.
    #[serde(default = "once", skip_serializing_if = "is_once")]
    pub times: u32,
}

/// Update from a provider with its evidence.
#[derive(Clone, Debug)]
pub struct UpdateWithEvidence {
    /// The update.
    pub update: Update,
    /// Provider calls that led to the update.
    pub evidence: Vec<ProviderCall>,
}

impl From<Update> for UpdateWithEvidence {
    fn from(update: Update) -> Self {
        Self { update, evidence: Vec::new() }
    }
}

/// Notification with the digest of its body.
#[derive(Clone, Debug)]
pub struct Notification {
    /// Decoded notification.
    pub event: ProviderEvent,
    /// Digest of its body.
    pub seen: Option<BodyDigest>,
}

impl From<ProviderEvent> for Notification {
    fn from(event: ProviderEvent) -> Self {
        Self { event, seen: None }
    }
}

/// Creates the timeline of a new payment with its first entry.
pub(super) fn begin(
    tx: &mut Transaction<'_>,
    payment: Id,
    what: TimelineEvent,
    now: Timestamp,
) -> Result<(), LedgerError> {
    let mut timeline = Timeline::default();
    timeline.add(Entry { at: now, refund_id: None, what, until: None, times: 1 });
    tx.put_row(Space::Timeline, &payment.0, &timeline)
}

/// Appends an event to the timeline of a payment.
pub(super) fn add(
    tx: &mut Transaction<'_>,
    payment: Id,
    refund_id: Option<&str>,
    what: TimelineEvent,
    now: Timestamp,
) -> Result<(), LedgerError> {
    let mut timeline = read(tx, payment)?;
    timeline.add(Entry { at: now, refund_id: refund_id.map(str::to_owned), what, until: None, times: 1 });
    tx.put_row(Space::Timeline, &payment.0, &timeline)
}

/// Reads a payment's timeline. Empty if the payment is older than timelines.
pub(super) fn read(from: &impl Read, payment: Id) -> Result<Timeline, LedgerError> {
    Ok(from.row(Space::Timeline, &payment.0)?.unwrap_or_default())
}

/// Deletes the timeline of a payment.
pub(super) fn remove(tx: &mut Transaction<'_>, payment: Id) {
    tx.remove(Space::Timeline, &payment.0);
}

impl Timeline {
    fn add(&mut self, mut entry: Entry) {
        entry.what.shorten();
        if let Some(last) = self.entries.last_mut()
            && last.refund_id == entry.refund_id
            && entry.what.repeats(&last.what)
        {
            (last.what, last.until) = (entry.what, Some(entry.at));
            last.times = last.times.saturating_add(1);
            return;
        }
        self.entries.push(entry);
        if self.entries.len() > 2 * MAX_HEAD_ENTRIES {
            self.entries.remove(MAX_HEAD_ENTRIES);
            self.left_out += 1;
        }
    }
}

fn once() -> u32 {
    1
}

fn is_once(times: &u32) -> bool {
    *times == 1
}
