//! What may be forgotten: the nonces that were seen, how payments stand, which orders there are.
//!
//! In memory it is this machine's own. Where several machines serve the same merchants they must share the nonces, or a
//! signed request could be repeated once on each: then it is Redis. While Redis does not answer, no request is let in: nobody
//! could say whether it was seen elsewhere. All else goes on, each machine for itself.

mod bloom;
mod counters;
pub(crate) mod flights;
mod memory;
mod nonces;
mod orders;
mod redis;
mod shared;
mod statuses;
#[cfg(test)]
mod testing;
pub(crate) mod watch;

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
pub(crate) use self::nonces::Toll;
pub use self::redis::{Redis, RedisUrl};
pub(crate) use self::shared::Elsewhere;
pub use self::statuses::LONGEST;
pub(crate) use self::statuses::{Status, Statuses, Token};

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
    Memory(memory::Nonces),
    Redis(Box<nonces::Nonces>),
}

/// What is known of a request whose signature is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Admitted {
    /// Whether its nonce was never seen before; from now on it was.
    pub(crate) first_time: bool,
    /// What its merchant's rate says, counted for all machines; or the seconds after which it is worth another try.
    pub(crate) counted: Option<Result<(), u64>>,
}

/// The cache does not answer; says why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cache does not answer: {0}")]
pub struct CacheError(String);

impl Nonces {
    pub(crate) fn new(redis: Option<Arc<Redis>>) -> Self {
        match redis {
            None => Self::Memory(memory::Nonces::default()),
            Some(redis) => Self::Redis(Box::new(nonces::Nonces::new(redis))),
        }
    }

    /// Says why a signature of that unix second is refused although its nonce is new: the cache lost what it knew since.
    pub(crate) fn forgotten(&self, created: u64) -> Option<CacheError> {
        let is_forgotten = match self {
            Self::Memory(_) => false,
            Self::Redis(nonces) => nonces.has_forgotten(created),
        };
        is_forgotten.then(|| CacheError("it lost its memory after this request was signed".to_owned()))
    }

    /// Whether this is the first time; from now on it is not. Remembered until `end`; both in unix seconds.
    pub(crate) async fn admit(
        &self,
        (merchant, key_id, nonce): (&str, &str, &str),
        (end, now): (u64, u64),
        toll: Option<Toll<'_>>,
    ) -> Result<Admitted, CacheError> {
        let mark = mark(key_id, nonce);
        match self {
            Self::Memory(nonces) => Ok(Admitted { first_time: nonces.first_time(mark, end, now), counted: None }),
            Self::Redis(nonces) => nonces.admit((merchant, mark), (end, now), toll).await,
        }
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
