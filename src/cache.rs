//! What may be forgotten when nobody needs it any more: so far the nonces that were seen.
//!
//! In memory it is this machine's own. Where several machines serve the same merchants they must share it, or a signed
//! request could be repeated once on each: then it is Redis. While Redis does not answer, no request is let in.

mod memory;
mod redis;

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

pub use self::redis::RedisUrl;

/// Nonces seen: each is good once while its signature could still be accepted.
pub(crate) enum Nonces {
    Memory(memory::Nonces),
    Redis(Box<redis::Nonces>),
}

/// The cache does not answer; says why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cache does not answer: {0}")]
pub struct CacheError(String);

impl Nonces {
    /// Opens no connection yet.
    pub(crate) fn new(kind: &CacheKind) -> Self {
        match kind {
            CacheKind::Memory => Self::Memory(memory::Nonces::default()),
            CacheKind::Redis(url) => Self::Redis(Box::new(redis::Nonces::new(url))),
        }
    }

    /// Whether this is the first time; from now on it is not. Remembered until `end`; both in unix seconds.
    pub(crate) async fn first_time(&self, key_id: &str, nonce: &str, end: u64, now: u64) -> Result<bool, CacheError> {
        let mark = mark(key_id, nonce);
        match self {
            Self::Memory(nonces) => Ok(nonces.first_time(mark, end, now)),
            Self::Redis(nonces) => nonces.first_time(mark, end, now).await,
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
