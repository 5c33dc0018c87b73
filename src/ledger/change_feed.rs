//! Change feed (change data capture): reports every change of a record to caches and existence filters, on every
//! machine.
//!
//! Each change is reported before it is committed and again when it is visible. Between the two reports it may be
//! visible or not. A listener that tracks which records exist therefore never misses one. A listener that caches
//! records evicts a record before it can become stale, and caches it again only after the second report.

use std::time::Instant;

use super::ids::Id;
use super::records::{Payment, Record, RecordId, Refund};
use super::rows;
use super::transaction::{Space, Writes};

/// Key of a payment or refund in the index: a 16-byte hash of merchant, order id and refund id. Keys of different
/// merchants never collide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordKey(pub [u8; 16]);

impl RecordKey {
    /// Returns the key of a payment or refund.
    pub fn of(subject: &RecordId) -> Self {
        let RecordId { merchant, order_id, refund_id } = subject;
        Self(match refund_id {
            Some(refund_id) => rows::refund_entry(merchant, order_id, refund_id).0,
            None => rows::order_entry(merchant, order_id).0,
        })
    }
}

/// Version of a record; a greater one is newer. An order that was released and claimed again starts at version 1,
/// with a later creation time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Creation time of the record, in microseconds.
    pub created: u64,
    /// Version counter of the record.
    pub version: u64,
}

impl Version {
    /// Version of a deleted record: greater than any other.
    pub const DELETED: Self = Self { created: u64::MAX, version: u64::MAX };
}

impl Record {
    /// Returns the version of the record.
    pub fn version(&self) -> Version {
        match self {
            Self::Payment(payment) => payment.version(),
            Self::Refund(refund) => refund.version(),
        }
    }
}

impl Payment {
    pub(super) fn version(&self) -> Version {
        version(self.created_at, self.version)
    }
}

impl Refund {
    pub(super) fn version(&self) -> Version {
        version(self.created_at, self.version)
    }
}

fn version(created_at: jiff::Timestamp, version: u64) -> Version {
    Version { created: u64::try_from(created_at.as_microsecond()).unwrap_or(0), version }
}

/// Changes of a transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Inserted index entries: keys of records and of abandoned attempts.
    pub inserted: Vec<RecordKey>,
    /// Deleted index entries.
    pub deleted: Vec<RecordKey>,
    /// Inserted or updated records in the merchant's view, with their versions.
    pub updated: Vec<(RecordKey, Version)>,
}

impl Changes {
    pub(super) fn of(writes: &Writes) -> Self {
        let mut changes = Self { updated: writes.became.clone(), ..Self::default() };
        for (key, value) in writes.rows.of(Space::Index) {
            let Ok(Id(name)) = Id::from_bytes(key) else { continue };
            if value.is_some() { &mut changes.inserted } else { &mut changes.deleted }.push(RecordKey(name));
        }
        changes
    }

    /// Returns whether there are no changes.
    pub fn is_empty(&self) -> bool {
        self.inserted.is_empty() && self.deleted.is_empty() && self.updated.is_empty()
    }
}

/// Receives all changes. Called on the ledger's threads, so it must not block.
pub trait ChangeListener: Send + Sync {
    /// Called before the changes are committed: they may be visible from now on.
    fn before_commit(&self, changes: &Changes);
    /// Called after the commit: every later read sees the changes.
    fn after_commit(&self, changes: &Changes);
    /// Called when the subscription is confirmed: until then all changes arrive soon, including those of other
    /// machines. `None` if no other machine exists.
    fn subscribed(&self, until: Option<Instant>);
    /// Called when changes may have been missed.
    fn disconnected(&self);
}
