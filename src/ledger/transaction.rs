//! What one transaction sees and writes: its own writes, over what the engine has.

use std::collections::BTreeMap;
use std::ops::Bound;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::feed::{Age, Name};
use super::records::LedgerError;
use super::rows::{Id, Ids};

/// The keyspaces. Records are keyed by time, because sorted writes are cheap; small hash indexes lead to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Space {
    /// Id → payment.
    Payments,
    /// Id → refund.
    Refunds,
    /// Id → claim.
    Claims,
    /// Ids of the claims that are running, so that they are found quickly after a crash.
    Running,
    /// Hash of an idempotency key → claim's id and the request's fingerprint.
    Keys,
    /// Hash of a number → id of the payment or refund.
    Index,
    /// Id → event.
    Events,
    /// When due, event's id → tries, payment's id. Only the first of each payment's queue is here.
    Outbox,
    /// When due, kind, id: what the provider must be asked about.
    Searches,
    /// Since when, kind, id: whose end is unknown.
    Unknown,
    /// Hash of channel and notification → what was done with it.
    Seen,
    /// Payment's id → what happened to it.
    Timeline,
    /// List, when, hash: keys and notifications by their age, where nothing else tells it.
    Ages,
    /// When due, claim: what was accepted to be made later.
    Errands,
}

impl Space {
    /// In the order of the declaration: the position is the number, also in the embedded ledger's journal, so that new ones
    /// come at the end.
    pub(super) const ALL: [Self; 14] = [
        Self::Payments,
        Self::Refunds,
        Self::Claims,
        Self::Running,
        Self::Keys,
        Self::Index,
        Self::Events,
        Self::Outbox,
        Self::Searches,
        Self::Unknown,
        Self::Seen,
        Self::Timeline,
        Self::Ages,
        Self::Errands,
    ];

    /// Its name on disk.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Payments => "payments",
            Self::Refunds => "refunds",
            Self::Claims => "claims",
            Self::Running => "running",
            Self::Keys => "keys",
            Self::Index => "index",
            Self::Events => "events",
            Self::Outbox => "outbox",
            Self::Searches => "searches",
            Self::Unknown => "unknown",
            Self::Seen => "seen",
            Self::Timeline => "timeline",
            Self::Ages => "ages",
            Self::Errands => "errands",
        }
    }
}

/// Where rows can be read: inside a transaction, or from outside.
pub(super) trait Read {
    /// The bytes under a key.
    fn bytes(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, LedgerError>;

    /// The row under a key.
    fn row<T: DeserializeOwned>(&self, space: Space, key: &[u8]) -> Result<Option<T>, LedgerError>
    where
        Self: Sized,
    {
        let Some(bytes) = self.bytes(space, key)? else { return Ok(None) };
        let row = serde_json::from_slice(&bytes);
        row.map(Some).map_err(|error| LedgerError(format!("a row in {} cannot be read: {error}", space.name())))
    }
}

impl<R: Read + ?Sized> Read for &R {
    fn bytes(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, LedgerError> {
        (**self).bytes(space, key)
    }
}

/// Where nothing is.
pub(super) struct Nothing;

impl Read for Nothing {
    fn bytes(&self, _: Space, _: &[u8]) -> Result<Option<Vec<u8>>, LedgerError> {
        Ok(None)
    }
}

/// A row as it lies on disk: key and value.
pub(super) type Pair = (Vec<u8>, Vec<u8>);

/// A key in memory. Ids lie in place, so that looking for one leads nowhere else.
pub(super) type Key = fjall::Slice;

/// Rows that are written or go, in the order of their spaces and keys.
#[derive(Default)]
pub(super) struct Rows([BTreeMap<Key, Option<Vec<u8>>>; Space::ALL.len()]);

impl Rows {
    /// The new value, or `None` within for a row that goes; `None` where nothing is written.
    pub(super) fn get(&self, space: Space, key: &[u8]) -> Option<&Option<Vec<u8>>> {
        self.0[space as usize].get(key)
    }

    pub(super) fn insert(&mut self, space: Space, key: impl Into<Key>, value: Option<Vec<u8>>) {
        self.0[space as usize].insert(key.into(), value);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Space, &Key, Option<&Vec<u8>>)> {
        let space = |space: Space| self.of(space).iter().map(move |(key, value)| (space, key, value.as_ref()));
        Space::ALL.into_iter().flat_map(space)
    }

    /// Those of one space.
    pub(super) fn of(&self, space: Space) -> &BTreeMap<Key, Option<Vec<u8>>> {
        &self.0[space as usize]
    }

    /// Those of a part of a space.
    pub(super) fn range(
        &self,
        space: Space,
        bounds: (Bound<&[u8]>, Bound<&[u8]>),
    ) -> impl Iterator<Item = (&Key, &Option<Vec<u8>>)> {
        self.of(space).range::<[u8], _>(bounds)
    }

    /// Takes in what was written later.
    pub(super) fn merge(&mut self, later: Self) {
        for (own, later) in self.0.iter_mut().zip(later.0) {
            own.extend(later);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.iter().map(BTreeMap::len).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(BTreeMap::is_empty)
    }
}

/// What a transaction or a batch wants to write.
#[derive(Default)]
pub(super) struct Writes {
    pub(super) rows: Rows,
    /// Events that joined the queues (`true`) or left them.
    pub(super) queued: Vec<(Id, bool)>,
    /// Records that a merchant sees otherwise than before.
    pub(super) became: Vec<(Name, Age)>,
    /// Whether something became due sooner.
    pub(super) wakes: bool,
}

impl Writes {
    pub(super) fn merge(&mut self, later: Self) {
        self.rows.merge(later.rows);
        self.queued.extend(later.queued);
        self.became.extend(later.became);
        self.wakes |= later.wakes;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

/// One transaction while it runs.
pub(super) struct Transaction<'a> {
    base: &'a dyn Read,
    own: Writes,
    ids: &'a Mutex<Ids>,
}

impl<'a> Transaction<'a> {
    pub(super) fn new(base: &'a dyn Read, ids: &'a Mutex<Ids>) -> Self {
        Self { base, own: Writes::default(), ids }
    }

    pub(super) fn into_writes(self) -> Writes {
        self.own
    }

    /// A new id, greater than every one that this process made before.
    pub(super) fn new_id(&mut self, now: Timestamp) -> Id {
        self.ids.lock().next(now)
    }

    /// A new id that is greater than another process's too.
    pub(super) fn new_id_after(&mut self, last: Option<Id>, now: Timestamp) -> Id {
        self.ids.lock().next_after(last, now)
    }

    pub(super) fn put(&mut self, space: Space, key: &[u8], value: impl Into<Vec<u8>>) {
        self.own.rows.insert(space, key, Some(value.into()));
    }

    pub(super) fn put_row<T: Serialize>(&mut self, space: Space, key: &[u8], row: &T) -> Result<(), LedgerError> {
        let bytes = serde_json::to_vec(row).map_err(|error| LedgerError(error.to_string()))?;
        self.put(space, key, bytes);
        Ok(())
    }

    pub(super) fn remove(&mut self, space: Space, key: &[u8]) {
        self.own.rows.insert(space, key, None);
    }

    /// Counts an event that joins the queues.
    pub(super) fn queued(&mut self, event: Id) {
        self.own.queued.push((event, true));
    }

    /// Counts an event that leaves the queues.
    pub(super) fn unqueued(&mut self, event: Id) {
        self.own.queued.push((event, false));
    }

    /// A record is other than it was.
    pub(super) fn became(&mut self, name: Name, age: Age) {
        self.own.became.push((name, age));
    }

    /// Something became due sooner.
    pub(super) fn wake(&mut self) {
        self.own.wakes = true;
    }
}

impl Read for Transaction<'_> {
    fn bytes(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, LedgerError> {
        match self.own.rows.get(space, key) {
            Some(own) => Ok(own.clone()),
            None => self.base.bytes(space, key),
        }
    }
}
