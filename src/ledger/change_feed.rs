//! Change feed (change data capture): reports every change of a record to caches and existence filters, on every
//! machine.
//!
//! Each change is reported before it is committed and again when it is visible. Between the two reports it may be
//! visible or not. A listener that tracks which records exist therefore never misses one. A listener that caches
//! records evicts a record before it can become stale, and caches it again only after the second report.

use std::time::Instant;

use super::ids::Id;
use super::record_key::{MerchantKey, RecordKey, Version};
use super::transaction::{Space, Writes};

/// Changes of a transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Inserted index entries: keys of records and of abandoned attempts.
    pub inserted: Vec<RecordKey>,
    /// Deleted index entries.
    pub deleted: Vec<RecordKey>,
    /// Inserted or updated records in the merchant's view, with their versions.
    pub updated: Vec<(RecordKey, Version)>,
    /// Merchants for whom an event was published. Other machines get them after the commit only.
    pub published: Vec<MerchantKey>,
}

impl Changes {
    pub(super) fn of(writes: &Writes) -> Self {
        let mut changes = Self { updated: writes.became.clone(), ..Self::default() };
        for (key, value) in writes.rows.of(Space::Index) {
            let Ok(Id(name)) = Id::from_bytes(key) else { continue };
            if value.is_some() { &mut changes.inserted } else { &mut changes.deleted }.push(RecordKey(name));
        }
        for (key, value) in writes.rows.of(Space::MerchantEvents) {
            if let Some(merchant) = key.first_chunk().filter(|_| value.is_some()) {
                changes.published.push(MerchantKey(*merchant));
            }
        }
        changes
    }

    /// Returns whether there are no changes.
    pub fn is_empty(&self) -> bool {
        self.inserted.is_empty() && self.deleted.is_empty() && self.updated.is_empty() && self.published.is_empty()
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
