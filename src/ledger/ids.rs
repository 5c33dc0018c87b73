//! What rows are called: ids that only grow, times within keys, and the hashes by which indexes lead to ids.

use jiff::Timestamp;
use serde::ser::Error as _;
use serde::{Deserialize, Serialize, Serializer};
use sha2::{Digest, Sha256};

use super::embedded::View;
use super::records::LedgerError;
use super::transaction::Space;

/// Names a row: 8 bytes of milliseconds, 4 that count, 4 of chance or of its maker. Later ids are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Id(pub(super) [u8; 16]);

impl Id {
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, LedgerError> {
        bytes.try_into().map(Self).map_err(|_| LedgerError("an id has the wrong length".into()))
    }
}

impl From<Id> for String {
    fn from(id: Id) -> Self {
        hex::encode(id.0)
    }
}

/// As `String::from` has it.
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
        number.map(|number| Self(number.to_be_bytes())).ok_or_else(|| LedgerError(format!("`{text}` is no id")))
    }
}

/// Makes ids that only grow, whatever the clock does.
pub(super) struct Ids {
    millis: u64,
    count: u32,
    /// What tells them from those of other processes on the same ledger. Alone on it, chance does.
    owner: Option<u32>,
}

impl Ids {
    /// Goes on after the newest id on disk, should the clock have been set back since.
    pub(super) fn after(view: &View<'_>) -> Result<Self, LedgerError> {
        let mut millis = 0;
        for space in [Space::Payments, Space::Refunds, Space::Claims, Space::Events] {
            if let Some(key) = view.last_key(space)? {
                millis = millis.max(millis_at(&key) + 1);
            }
        }
        Ok(Self { millis, count: 0, owner: None })
    }

    /// Of one among several processes.
    pub(super) fn of(owner: u32) -> Self {
        Self { millis: 0, count: 0, owner: Some(owner) }
    }

    /// Greater than `last` as well, should another process's clock be ahead of ours.
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
        // A count that is used up borrows the next millisecond.
        let (millis, count) = match self.count.checked_add(1) {
            Some(count) if millis == self.millis => (millis, count),
            None if millis == self.millis => (millis + 1, 0),
            _ => (millis, 0),
        };
        (self.millis, self.count) = (millis, count);
        let mut id = [0; 16];
        id[..8].copy_from_slice(&millis.to_be_bytes());
        id[8..12].copy_from_slice(&count.to_be_bytes());
        // After a crash, an id that was lost with its row must not name another one.
        id[12..].copy_from_slice(&self.owner.unwrap_or_else(rand::random).to_be_bytes());
        Id(id)
    }
}

/// Milliseconds as keys hold them.
pub(super) fn millis(time: Timestamp) -> u64 {
    u64::try_from(time.as_millisecond()).unwrap_or(0)
}

/// The milliseconds that a key begins with.
pub(super) fn millis_at(key: &[u8]) -> u64 {
    key.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// Back from [`millis`].
pub(super) fn time(millis: u64) -> Timestamp {
    i64::try_from(millis).ok().and_then(|millis| Timestamp::from_millisecond(millis).ok()).unwrap_or(Timestamp::MAX)
}

/// A hash index's key. Each part's length goes before it, so that parts do not run together.
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
