//! Every change of a record passes here, on its way to the disk and behind it: who keeps copies of records, or knows which
//! there are, hears of all of them, whoever made them and on whichever machine.
//!
//! What is about to be written is told before it is durable, and again once everybody can see it. In between it may be there
//! or not. So whoever remembers what exists never misses anything, and whoever keeps copies lets go of one before it
//! is wrong, and keeps no new one until it is known to be right again.

use std::time::Instant;

use super::ids::Id;
use super::records::{Payment, Record, RecordId, Refund};
use super::rows;
use super::transaction::{Space, Writes};

/// Names a payment or a refund as the ledger's index does: a hash that follows from merchant, order and refund. Two merchants' orders never
/// have one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordKey(pub(crate) [u8; 16]);

impl RecordKey {
    /// Of a payment or refund.
    pub fn of(subject: &RecordId) -> Self {
        let RecordId { merchant, order_id, refund_id } = subject;
        Self(match refund_id {
            Some(refund_id) => rows::refund_entry(merchant, order_id, refund_id).0,
            None => rows::order_entry(merchant, order_id).0,
        })
    }
}

/// How far a record has come; the greater is the newer. An order that was given back and claimed anew starts at version 1
/// again, but later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// When it was claimed, in microseconds.
    pub created: u64,
    /// Its version.
    pub version: u64,
}

impl Version {
    /// Of what is gone: greater than any.
    pub const DELETED: Self = Self { created: u64::MAX, version: u64::MAX };
}

impl Record {
    /// How far it has come.
    pub fn age(&self) -> Version {
        match self {
            Self::Payment(payment) => payment.age(),
            Self::Refund(refund) => refund.age(),
        }
    }
}

impl Payment {
    pub(super) fn age(&self) -> Version {
        age(self.created_at, self.version)
    }
}

impl Refund {
    pub(super) fn age(&self) -> Version {
        age(self.created_at, self.version)
    }
}

fn age(created_at: jiff::Timestamp, version: u64) -> Version {
    Version { created: u64::try_from(created_at.as_microsecond()).unwrap_or(0), version }
}

/// What a transaction does to records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Every entry of the index that is new: the names of records, and of what is left of payments on other channels.
    pub inserted: Vec<RecordKey>,
    /// Entries of the index that go.
    pub deleted: Vec<RecordKey>,
    /// Records that are new or other than before, as a merchant sees them.
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

    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.inserted.is_empty() && self.deleted.is_empty() && self.updated.is_empty()
    }
}

/// Hears of all changes. Called on the ledger's threads: it must not wait for anything.
pub trait ChangeListener: Send + Sync {
    /// This is about to be written: it may be visible from now on.
    fn before_commit(&self, changes: &Changes);
    /// It is written, and everybody who reads from now on sees it.
    fn after_commit(&self, changes: &Changes);
    /// Until then every change is heard of before long, also of those on other machines; without an end where there are no
    /// others.
    fn subscribed(&self, until: Option<Instant>);
    /// Something may have gone unheard.
    fn disconnected(&self);
}
