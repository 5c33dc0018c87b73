//! Cached statuses, and the tokens that prove them to be current.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::ledger::Version;

/// Time after reading in which a status may still be stored in Redis.
pub(super) const PROPAGATION_SLACK: Duration = Duration::from_secs(2);

/// Cached response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CachedStatus {
    pub(crate) body: Bytes,
    pub(crate) channel: String,
    pub(crate) age: Version,
    /// Whether the provider was queried for it, not only the ledger.
    pub(crate) is_from_provider: bool,
    /// Whether the provider could not be queried.
    pub(crate) is_stale: bool,
}

/// Taken before a record is read whose status is to be cached.
#[derive(Clone, Copy)]
pub(crate) struct Token {
    pub(super) epoch: u64,
    pub(super) at: Instant,
}
