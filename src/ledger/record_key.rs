//! Key and version of a payment or refund, as caches know it.

use crate::names;
use crate::records::{Record, RecordId, RecordState};

/// Key of a payment or refund in the index: a 16-byte hash of merchant, order id and refund id. Keys of different
/// merchants never collide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordKey(pub [u8; 16]);

impl RecordKey {
    /// Returns the key of a payment or refund.
    pub fn of(subject: &RecordId) -> Self {
        let RecordId { merchant, order_id, refund_id } = subject;
        Self(match refund_id {
            Some(refund_id) => names::refund_entry(merchant, order_id, refund_id).0,
            None => names::order_entry(merchant, order_id).0,
        })
    }
}

/// Key of a merchant in the change feed: a 16-byte hash of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MerchantKey(pub [u8; 16]);

impl MerchantKey {
    /// Returns the key of a merchant.
    pub fn of(merchant: &str) -> Self {
        Self(names::events_of(merchant).0)
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
        self.state().version()
    }
}

impl RecordState {
    /// Returns the version of the record.
    pub(crate) fn version(&self) -> Version {
        Version { created: u64::try_from(self.created_at.as_microsecond()).unwrap_or(0), version: self.version }
    }
}
