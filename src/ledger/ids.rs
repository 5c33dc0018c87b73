//! Row ids that only grow, timestamps within keys, and the hashes of index keys.

use jiff::Timestamp;
use serde::ser::Error as _;
use serde::{Deserialize, Serialize, Serializer};
use sha2::{Digest, Sha256};

use super::error::{Corruption, LedgerError};

/// Row id: 8 bytes of milliseconds, a 4-byte counter, 4 bytes that are random or the owner's number. Later ids are
/// greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Id(pub(super) [u8; 16]);

impl Id {
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, LedgerError> {
        bytes.try_into().map(Self).map_err(|_| Corruption::Form("an id has the wrong length".to_owned()).into())
    }
}

impl From<Id> for String {
    fn from(id: Id) -> Self {
        hex::encode(id.0)
    }
}

/// Serializes like `String::from`, without allocating.
impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut digits = [0; 32];
        hex::encode_to_slice(self.0, &mut digits).map_err(S::Error::custom)?;
        serializer.serialize_str(std::str::from_utf8(&digits).map_err(S::Error::custom)?)
    }
}

impl TryFrom<String> for Id {
    type Error = LedgerError;

    fn try_from(text: String) -> Result<Self, LedgerError> {
        let number = u128::from_str_radix(&text, 16).ok().filter(|_| text.len() == 32);
        number
            .map(|number| Self(number.to_be_bytes()))
            .ok_or_else(|| Corruption::Form(format!("`{text}` is no id")).into())
    }
}

/// Generator of ids that only grow, even if the clock is set back.
pub(super) struct Ids {
    millis: u64,
    count: u32,
    /// Number of this process, which distinguishes its ids from those of other processes. Random where the ledger has
    /// one process.
    owner: Option<u32>,
}

impl Ids {
    /// Returns a generator that starts at `millis` at the earliest, in case the clock was set back.
    pub(super) fn starting_at(millis: u64) -> Self {
        Self { millis, count: 0, owner: None }
    }

    /// Returns a generator for one of several processes.
    pub(super) fn of(owner: u32) -> Self {
        Self { millis: 0, count: 0, owner: Some(owner) }
    }

    /// Returns an id that is greater than `last` as well, in case the clock of another process is ahead.
    pub(super) fn next_after(&mut self, last: Option<Id>, now: Timestamp) -> Id {
        let id = self.next(now);
        match last {
            Some(last) if id <= last => {
                (self.millis, self.count) = (millis_at(&last.0) + 1, 0);
                self.next(now)
            }
            _ => id,
        }
    }

    pub(super) fn next(&mut self, now: Timestamp) -> Id {
        let millis = millis(now).max(self.millis);
        // A counter that overflows borrows the next millisecond.
        let (millis, count) = match self.count.checked_add(1) {
            Some(count) if millis == self.millis => (millis, count),
            None if millis == self.millis => (millis + 1, 0),
            _ => (millis, 0),
        };
        (self.millis, self.count) = (millis, count);
        let mut id = [0; 16];
        id[..8].copy_from_slice(&millis.to_be_bytes());
        id[8..12].copy_from_slice(&count.to_be_bytes());
        // Random after a crash: an id whose row was lost must not be reused for another row.
        id[12..].copy_from_slice(&self.owner.unwrap_or_else(rand::random).to_be_bytes());
        Id(id)
    }
}

/// Returns the milliseconds of a timestamp as used in keys.
pub(super) fn millis(time: Timestamp) -> u64 {
    u64::try_from(time.as_millisecond()).unwrap_or(0)
}

/// Returns the milliseconds at the start of a key.
pub(super) fn millis_at(key: &[u8]) -> u64 {
    key.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// Returns the timestamp of [`millis`].
pub(super) fn time(millis: u64) -> Timestamp {
    i64::try_from(millis).ok().and_then(|millis| Timestamp::from_millisecond(millis).ok()).unwrap_or(Timestamp::MAX)
}

/// Returns the key of a hash index. The length of each part precedes it, so that parts cannot run together.
pub(super) fn index(kind: &str, parts: &[&str]) -> Id {
    let mut hash = Sha256::new();
    for part in std::iter::once(&kind).chain(parts) {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let digest = hash.finalize();
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    Id(id)
}
