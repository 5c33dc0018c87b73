//! State of the status inquiry of a payment or refund.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Pending status inquiry of a record. It is due at once for an unknown result. For a pending one it is due after a
/// delay, because a notification may never come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inquiry {
    /// Time at which the record reached its present status.
    pub since: Timestamp,
    /// Due time of the next query to the provider.
    pub due: Timestamp,
    /// Number of queries so far.
    pub asked: u32,
    /// Number of "not found" answers since the grace period (`not_found_grace`) ended.
    pub absent: u32,
    /// Marked for manual review. Queries continue at long intervals.
    pub needs_review: bool,
    /// The order is to be closed (or reversed) as soon as it is known to be open.
    pub closing: bool,
    /// The provider has confirmed the record, so "not found" proves nothing any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub confirmed: bool,
    /// The provider has accepted a reversal of a scanned payment that it did not know.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reversed: bool,
    /// Number of repetitions of the identical create, counted before each is sent.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub repeated_creates: u32,
    /// Number of answers that still have to confirm a success, because a close may have reversed the payment.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub confirmations: u32,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

impl Inquiry {
    /// Returns an inquiry that starts now and is due at once.
    pub fn new(now: Timestamp) -> Self {
        Self {
            since: now,
            due: now,
            asked: 0,
            absent: 0,
            needs_review: false,
            closing: false,
            confirmed: false,
            reversed: false,
            repeated_creates: 0,
            confirmations: 0,
        }
    }
}
