//! What may be forgotten: the nonces that were seen, how payments stand, which orders there are.
//!
//! In memory it is this machine's own. Where several machines serve the same merchants they must share the nonces, or a
//! signed request could be repeated once on each: then it is Redis. While Redis does not answer, no request is let in: nobody
//! could say whether it was seen elsewhere. All else goes on, each machine for itself.

mod bloom;
mod counters;
mod existence_filter;
mod memory;
mod nonce_log;
mod nonces;
mod redis;
mod redis_statuses;
pub(crate) mod single_flight;
mod statuses;
#[cfg(test)]
mod testing;
pub(crate) mod watch;

use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

/// Which one `[cache]` names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CacheKind {
    /// This machine's memory.
    #[default]
    Memory,
    /// A Redis server that several machines share, by its address with user and password.
    Redis(RedisUrl),
}

pub(crate) use self::counters::Counters;
pub(crate) use self::memory::{Capacity, Remembered};
pub(crate) use self::nonces::RateCheck;
pub use self::redis::{Redis, RedisUrl};
pub(crate) use self::redis_statuses::ClusterLookup;
pub use self::statuses::LONGEST;
pub(crate) use self::statuses::{CachedStatus, StatusCache, Token};

impl CacheKind {
    /// The server, if there is one. Opens no connection yet.
    pub(crate) fn redis(&self) -> Option<Arc<Redis>> {
        match self {
            Self::Memory => None,
            Self::Redis(url) => Some(Arc::new(Redis::new(url))),
        }
    }
}

/// Nonces seen: each is good once while its signature could still be accepted.
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
    /// The last second in which its signature can be accepted, by the wall clock.
    pub(crate) end: u64,
}

/// What is known of a request whose signature is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Admitted {
    /// Whether its nonce was never seen before; from now on it was, unless the rate turns the request away.
    pub(crate) first_time: bool,
    /// What its merchant's rate says, counted for all machines; or the seconds after which it is worth another try.
    pub(crate) counted: Option<Result<(), u64>>,
}

/// Why a nonce is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotAdmitted {
    /// It was seen before.
    Seen,
    /// Its merchant is over its rate. Nothing was remembered; it is worth another try after so many seconds.
    OverRate(u64),
    /// It may have been seen before this process started, or before the clock was set back.
    Forgotten,
    /// There is no room to remember it.
    Full,
    /// Whether it was seen cannot be found out now.
    NoCache(CacheError),
}

/// The cache does not answer; says why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cache does not answer: {0}")]
pub struct CacheError(String);

impl Nonces {
    /// In Redis; or in memory, with a log in `directory` if one is given. Signatures are good for `window` seconds before and
    /// after their time.
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
                "no nonces can be kept there for the next start: requests signed before each start are answered 503; make the directory writable"
            );
            memory::Nonces::without_log(now, window)
        });
        Self::Memory(Box::new(opened))
    }

    /// Whether this machine has seen it. Cheap: for what need not be counted or remembered.
    pub(crate) fn is_seen(&self, nonce: Nonce<'_>) -> bool {
        match self {
            Self::Memory(nonces) => nonces.is_seen(&nonce.mark()),
            Self::Redis(nonces) => nonces.is_seen(&nonce.mark()),
        }
    }

    /// Remembers a nonce that was never seen, unless its merchant is over its rate: `take` takes a token where no other
    /// machine counts. `now` is unix seconds; another machine's clock may be off by `window` seconds.
    pub(crate) async fn admit(
        &self,
        nonce: Nonce<'_>,
        capacity: Capacity,
        (now, window): (u64, u64),
        toll: Option<RateCheck<'_>>,
        take: impl FnOnce() -> Result<(), u64>,
    ) -> Result<(), NotAdmitted> {
        let mark = nonce.mark();
        match self {
            Self::Memory(nonces) => {
                // First: what is over the rate leaves nothing behind.
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
                let admitted = nonces.admit((nonce.merchant, mark.hash), (end, now), toll).await;
                let admitted = admitted.map_err(NotAdmitted::NoCache)?;
                // After the answer, because that is where a loss is noticed.
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

impl Nonce<'_> {
    fn mark(&self) -> memory::Mark {
        memory::Mark { hash: mark(self.key_id, self.nonce), end: self.end }
    }
}

/// A hash of key id and nonce, so that their length costs nothing.
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
