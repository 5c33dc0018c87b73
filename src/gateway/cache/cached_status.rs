//! Cached statuses, and the tokens that prove them to be current.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tollgate_ledger::Version;

/// Time after reading in which a status may still be stored in Redis.
pub(super) const PROPAGATION_SLACK: Duration = Duration::from_secs(2);

/// Cached response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CachedStatus {
    pub(crate) body: Bytes,
    pub(crate) channel: String,
    pub(crate) age: Version,
    /// True if the provider was queried for this status, or does not know the record because it was never sent. False
    /// if only the ledger was read.
    pub(crate) is_from_provider: bool,
    /// True if the provider was to be queried, and its answer is missing.
    pub(crate) is_stale: bool,
}

/// Taken before a record is read whose status is to be cached.
#[derive(Clone, Copy)]
pub(crate) struct Token {
    pub(super) epoch: u64,
    pub(super) at: Instant,
}
