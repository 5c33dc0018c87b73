//! How the questions about a payment or refund stand.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// How the search for the truth stands: about an unknown outcome at once, about a pending one after a while, because a
/// notification may never come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inquiry {
    /// When it came to its status.
    pub since: Timestamp,
    /// When the provider is asked next.
    pub due: Timestamp,
    /// How often it was asked.
    pub asked: u32,
    /// How often, since the settle window ended, it said that it does not know the order.
    pub absent: u32,
    /// Given up to a person; asked still, but seldom.
    pub needs_person: bool,
    /// It is to be closed (or reversed) as long as it is open.
    pub closing: bool,
    /// The provider has confirmed that it has it, so "not known" proves nothing any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub confirmed: bool,
    /// The provider has accepted a reversal of a scanned payment that it did not know.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reversed: bool,
    /// How often the identical create was sent again. Counted before each is sent.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub repeated_creates: u32,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

impl Inquiry {
    /// A search that starts now and is due at once.
    pub fn new(now: Timestamp) -> Self {
        Self {
            since: now,
            due: now,
            asked: 0,
            absent: 0,
            needs_person: false,
            closing: false,
            confirmed: false,
            reversed: false,
            repeated_creates: 0,
        }
    }
}
