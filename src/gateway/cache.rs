//! Disposable state: nonces, cached statuses, and the filter of existing orders.
//!
//! With `memory`, the state is this machine's own. Gateways that serve the same merchants must share nonces through Redis, or a
//! signed request could be replayed once on each. While Redis is unavailable no signed request is accepted, because nobody could
//! tell whether its nonce was used elsewhere. Everything else then works per machine.

mod bloom;
mod cached_status;
mod counters;
mod existence_filter;
mod memory;
mod nonce_log;
mod nonce_mark;
mod nonces;
mod redis;
mod redis_health;
mod redis_statuses;
pub(crate) mod single_flight;
mod statuses;
#[cfg(test)]
mod testing;
pub mod watch;

use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

pub(crate) use self::cached_status::{CachedStatus, Token};
pub(crate) use self::counters::Counters;
pub(crate) use self::memory::{Capacity, Remembered};
pub(crate) use self::nonces::RateCheck;
pub use self::redis::{Redis, check_redis_url};
pub(crate) use self::redis_statuses::ClusterLookup;
pub(crate) use self::statuses::StatusCache;

/// Nonces in use. Each is accepted once while its signature could still be valid.
pub(crate) enum Nonces {
    Memory(Box<memory::Nonces>),
    Redis(Box<nonces::Nonces>),
}

/// The nonce of a signed request.
#[derive(Clone, Copy)]
pub(crate) struct Nonce<'a> {
    pub(crate) merchant: &'a str,
    pub(crate) key_id: &'a str,
    pub(crate) nonce: &'a str,
    /// Last second, by the wall clock, in which its signature can be valid.
    pub(crate) end: u64,
}

/// Result of the admission of a request with a valid signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Admitted {
    /// True if the nonce is new. It is stored then, unless the rate limit rejected the request.
    pub(crate) first_time: bool,
    /// Verdict of the shared rate limit, if one was counted; the error is the seconds until a retry is worthwhile.
    pub(crate) counted: Option<Result<(), u64>>,
}

/// Reason why a nonce is rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotAdmitted {
    /// The nonce was used before.
    Seen,
    /// The merchant is over its rate limit. Nothing was stored; a retry is worthwhile after so many seconds.
    OverRate(u64),
    /// The nonce may have been used before this process started, or before the clock was set back.
    Forgotten,
    /// There is no room for the nonce.
    Full,
    /// The cache is unavailable, so it is unknown whether the nonce was used.
    NoCache(CacheError),
}

/// Error of an unavailable cache, with the reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cache does not answer: {0}")]
pub struct CacheError(String);

impl Nonces {
    /// Opens the nonces: in Redis, or in memory with a log in `directory` if one is given. Signatures are valid for `window` seconds
    /// before and after their time.
    pub(crate) fn new(redis: Option<Arc<Redis>>, directory: Option<&Path>, now: u64, window: u64) -> Self {
        if let Some(redis) = redis {
            return Self::Redis(Box::new(nonces::Nonces::new(redis)));
        }
        let Some(directory) = directory else { return Self::Memory(Box::default()) };
        let opened = memory::Nonces::open(directory, now, window).unwrap_or_else(|error| {
            let directory = directory.display().to_string();
            tracing::error!(
                %error,
                directory,
                "nonces cannot be logged in this directory: after each start, requests signed before it are answered 503; make the directory writable"
            );
            memory::Nonces::without_log(now, window)
        });
        Self::Memory(Box::new(opened))
    }

    /// Returns whether this machine has seen the nonce. A cheap check that neither counts nor stores anything.
    pub(crate) fn is_seen(&self, nonce: Nonce<'_>) -> bool {
        match self {
            Self::Memory(nonces) => nonces.is_seen(&nonce.mark()),
            Self::Redis(nonces) => nonces.is_seen(&nonce.mark()),
        }
    }

    /// Stores a new nonce, unless its merchant is over its rate limit. `take` takes a token of the local limiter where no shared one
    /// counts. `now` is in Unix seconds; other machines' clocks may be off by `window` seconds.
    pub(crate) async fn admit(
        &self,
        nonce: Nonce<'_>,
        capacity: Capacity,
        (now, window): (u64, u64),
        rate_check: Option<RateCheck<'_>>,
        take: impl FnOnce() -> Result<(), u64>,
    ) -> Result<(), NotAdmitted> {
        let mark = nonce.mark();
        match self {
            Self::Memory(nonces) => {
                // The limiter comes first, so that a rejected request stores nothing.
                take().map_err(NotAdmitted::OverRate)?;
                match nonces.remember(mark, nonce.merchant, capacity, now) {
                    Remembered::First => Ok(()),
                    Remembered::Seen => Err(NotAdmitted::Seen),
                    Remembered::Forgotten => Err(NotAdmitted::Forgotten),
                    Remembered::Full => Err(NotAdmitted::Full),
                }
            }
            Self::Redis(nonces) => {
                let end = mark.end.max(now + window) + window;
                let admitted = nonces.admit((nonce.merchant, mark.hash), (end, now), rate_check).await;
                let admitted = admitted.map_err(NotAdmitted::NoCache)?;
                // Checked after the reply, because a loss of data is detected by the reply.
                if nonces.has_forgotten(nonce.end.saturating_sub(window)) {
                    return Err(NotAdmitted::Forgotten);
                }
                match admitted {
                    Admitted { first_time: false, .. } => Err(NotAdmitted::Seen),
                    Admitted { counted: Some(Err(seconds)), .. } => Err(NotAdmitted::OverRate(seconds)),
                    Admitted { counted: Some(Ok(())), .. } => Ok(()),
                    Admitted { counted: None, .. } => take().map_err(NotAdmitted::OverRate),
                }
            }
        }
    }
}

impl Nonces {
    /// Takes a token of a merchant's rate without a nonce. `take` takes one of the local limiter where no shared one counts.
    pub(crate) async fn take_token(
        &self,
        rate_check: Option<RateCheck<'_>>,
        take: impl FnOnce() -> Result<(), u64>,
    ) -> Result<(), u64> {
        let shared = match (self, rate_check) {
            (Self::Redis(nonces), Some(rate_check)) => nonces.take_token(rate_check).await,
            _ => None,
        };
        shared.unwrap_or_else(take)
    }
}

impl Nonce<'_> {
    fn mark(&self) -> nonce_mark::NonceMark {
        nonce_mark::NonceMark { hash: mark(self.key_id, self.nonce), end: self.end }
    }
}

/// Hashes key id and nonce, so that every entry has a fixed size.
fn mark(key_id: &str, nonce: &str) -> [u8; 16] {
    let mut hash = Sha256::new();
    hash.update((key_id.len() as u64).to_be_bytes());
    hash.update(key_id);
    hash.update(nonce);
    let digest = hash.finalize();
    let mut mark = [0; 16];
    mark.copy_from_slice(&digest[..16]);
    mark
}
