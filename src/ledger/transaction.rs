//! One transaction: reads from the engine and its own writes, and collects the writes.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use foldhash::fast::RandomState;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::abandoned_attempts::DoublePayment;
use super::change_feed::{RecordKey, Version};
use super::ids::{Id, Ids};
use super::records::LedgerError;

/// Key spaces. Records are keyed by time, because sorted writes are cheap; small hash indexes lead to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Space {
    /// Id → payment.
    Payments,
    /// Id → refund.
    Refunds,
    /// Id → claim.
    Claims,
    /// Ids of running claims, for recovery after a crash.
    Running,
    /// Hash of an idempotency key → claim's id and the request's fingerprint.
    Keys,
    /// Hash of a number → id of the payment or refund.
    Index,
    /// Id → event.
    Events,
    /// Due time, id of the event → attempts, id of the payment. Contains only the head of each payment's queue.
    Outbox,
    /// Due time, tag, id: pending inquiries.
    Inquiries,
    /// Time, tag, id: records with an unknown result.
    Unknown,
    /// Hash of channel and notification → what was done with it.
    Notifications,
    /// Id of the payment → its timeline.
    Timeline,
    /// List, time, hash: keys and notifications by age, and the ledger's own clock.
    Expiry,
    /// Due time, claim: queued jobs.
    Jobs,
}

impl Space {
    /// All spaces in the order of declaration. The position is the number in the embedded ledger's log, so new ones
    /// are appended.
    pub(super) const ALL: [Self; 14] = [
        Self::Payments,
        Self::Refunds,
        Self::Claims,
        Self::Running,
        Self::Keys,
        Self::Index,
        Self::Events,
        Self::Outbox,
        Self::Inquiries,
        Self::Unknown,
        Self::Notifications,
        Self::Timeline,
        Self::Expiry,
        Self::Jobs,
    ];

    /// Returns whether the keys are unordered hashes.
    pub(super) fn is_hashed(self) -> bool {
        matches!(self, Self::Keys | Self::Index | Self::Notifications)
    }

    /// Returns the name on disk.
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
            Self::Inquiries => "searches",
            Self::Unknown => "unknown",
            Self::Notifications => "seen",
            Self::Timeline => "timeline",
            Self::Expiry => "ages",
            Self::Jobs => "errands",
        }
    }
}

/// Source of rows: a transaction, or an engine outside a transaction.
pub(super) trait Read {
    /// Reads the value of a key.
    fn bytes(&self, space: Space, key: &[u8]) -> Result<Option<Value>, LedgerError>;

    /// Reads and decodes the row of a key.
    fn row<T: DeserializeOwned>(&self, space: Space, key: &[u8]) -> Result<Option<T>, LedgerError>
    where
        Self: Sized,
    {
        let Some(bytes) = self.bytes(space, key)? else { return Ok(None) };
        let row = serde_json::from_slice(&bytes);
        row.map(Some).map_err(|error| LedgerError(format!("a row in {} cannot be read: {error}", space.name())))
    }
}

/// Reader that distinguishes a failed read from a row that cannot be decoded. The first is temporary; the second
/// needs manual review.
pub(super) struct Watched<'a, R: ?Sized> {
    from: &'a R,
    has_failed: Cell<bool>,
}

impl<'a, R: Read + ?Sized> Watched<'a, R> {
    pub(super) fn new(from: &'a R) -> Self {
        Self { from, has_failed: Cell::new(false) }
    }

    /// Logs why a row could not be read.
    pub(super) fn report(&self, error: &LedgerError, what: &str) {
        match self.has_failed.replace(false) {
            true => tracing::warn!(%error, "{what} could not be read from the ledger; it is read again"),
            false => tracing::error!(%error, "{what} cannot be read; a person must review it"),
        }
    }
}

impl<R: Read + ?Sized> Read for Watched<'_, R> {
    fn bytes(&self, space: Space, key: &[u8]) -> Result<Option<Value>, LedgerError> {
        self.from.bytes(space, key).inspect_err(|_| self.has_failed.set(true))
    }
}

impl<R: Read + ?Sized> Read for &R {
    fn bytes(&self, space: Space, key: &[u8]) -> Result<Option<Value>, LedgerError> {
        (**self).bytes(space, key)
    }
}

/// Reader without any rows.
pub(super) struct Nothing;

impl Read for Nothing {
    fn bytes(&self, _: Space, _: &[u8]) -> Result<Option<Value>, LedgerError> {
        Ok(None)
    }
}

/// Key and value of a row on disk.
pub(super) type Pair = (Vec<u8>, Vec<u8>);

/// Key in memory. Short keys are stored inline, so that a lookup follows no pointer.
pub(super) type Key = fjall::Slice;

/// Value in memory, shared by its readers.
pub(super) type Value = fjall::Slice;

/// Written and deleted rows, each key once. A few are searched linearly; many get a hash index.
#[derive(Default)]
pub(super) struct Rows {
    rows: Vec<Row>,
    places: Option<Box<Places>>,
}

/// A write; the value is `None` for a deletion.
struct Row {
    space: Space,
    key: Key,
    value: Option<Value>,
}

type Places = [HashMap<Key, usize, RandomState>; Space::ALL.len()];

/// Number of rows above which a hash index is used.
const FEW: usize = 16;

impl Rows {
    /// Returns the write of a key: `Some(None)` for a deletion, `None` if the key is not written.
    pub(super) fn get(&self, space: Space, key: &[u8]) -> Option<&Option<Value>> {
        self.rows.get(self.place(space, key)?).map(|row| &row.value)
    }

    fn place(&self, space: Space, key: &[u8]) -> Option<usize> {
        match &self.places {
            Some(places) => places[space as usize].get(key).copied(),
            None => self.rows.iter().position(|row| row.space == space && *row.key == *key),
        }
    }

    pub(super) fn insert(&mut self, space: Space, key: impl Into<Key>, value: Option<Value>) {
        let key = key.into();
        if let Some(place) = self.place(space, &key) {
            self.rows[place].value = value;
            return;
        }
        if let Some(places) = &mut self.places {
            places[space as usize].insert(key.clone(), self.rows.len());
        }
        self.rows.push(Row { space, key, value });
        if self.places.is_none() && self.rows.len() > FEW {
            let mut places = Box::<Places>::default();
            for (place, row) in self.rows.iter().enumerate() {
                places[row.space as usize].insert(row.key.clone(), place);
            }
            self.places = Some(places);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Space, &Key, Option<&Value>)> {
        self.rows.iter().map(|row| (row.space, &row.key, row.value.as_ref()))
    }

    /// Returns the writes of one space.
    pub(super) fn of(&self, space: Space) -> impl Iterator<Item = (&Key, Option<&Value>)> {
        self.iter().filter(move |(of, ..)| *of == space).map(|(_, key, value)| (key, value))
    }

    /// Removes all writes. The capacity stays.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = (Space, Key, Option<Value>)> {
        self.places.iter_mut().flat_map(|places| places.iter_mut()).for_each(HashMap::clear);
        self.rows.drain(..).map(|row| (row.space, row.key, row.value))
    }

    /// Merges later writes.
    fn merge(&mut self, mut later: Self) {
        later.drain().for_each(|(space, key, value)| self.insert(space, key, value));
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

/// Writes of a transaction or a batch.
#[derive(Default)]
pub(super) struct Writes {
    pub(super) rows: Rows,
    /// Events that joined (`true`) or left the queues.
    pub(super) queued: Vec<(Id, bool)>,
    /// Records that changed in the merchant's view.
    pub(super) became: Vec<(RecordKey, Version)>,
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

/// A running transaction.
pub(super) struct Transaction<'a> {
    base: &'a dyn Read,
    own: Writes,
    double_payments: Vec<DoublePayment>,
    ids: &'a Mutex<Ids>,
}

impl<'a> Transaction<'a> {
    pub(super) fn new(base: &'a dyn Read, ids: &'a Mutex<Ids>) -> Self {
        let rows = Rows { rows: Vec::with_capacity(FEW), places: None };
        Self { base, own: Writes { rows, ..Writes::default() }, double_payments: Vec::new(), ids }
    }

    pub(super) fn into_writes(self) -> Writes {
        self.own
    }

    /// Returns a new id, greater than every earlier id of this process.
    pub(super) fn new_id(&mut self, now: Timestamp) -> Id {
        self.ids.lock().next(now)
    }

    /// Returns a new id that is also greater than `last`, which another process may have created.
    pub(super) fn new_id_after(&mut self, last: Option<Id>, now: Timestamp) -> Id {
        self.ids.lock().next_after(last, now)
    }

    pub(super) fn put(&mut self, space: Space, key: &[u8], value: impl Into<Value>) {
        self.own.rows.insert(space, key, Some(value.into()));
    }

    pub(super) fn put_row<T: Serialize>(&mut self, space: Space, key: &[u8], row: &T) -> Result<(), LedgerError> {
        // Reused buffer: the value is then copied once at its final length.
        thread_local!(static WRITTEN: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });
        let bytes = WRITTEN.with_borrow_mut(|written| {
            written.clear();
            serde_json::to_writer(&mut *written, row).map(|()| Value::from(written.as_slice()))
        });
        self.put(space, key, bytes.map_err(|error| LedgerError(error.to_string()))?);
        Ok(())
    }

    pub(super) fn remove(&mut self, space: Space, key: &[u8]) {
        self.own.rows.insert(space, key, None);
    }

    /// Counts an event that joins a queue.
    pub(super) fn queued(&mut self, event: Id) {
        self.own.queued.push((event, true));
    }

    /// Counts an event that leaves a queue.
    pub(super) fn unqueued(&mut self, event: Id) {
        self.own.queued.push((event, false));
    }

    /// Registers a duplicate payment, to be reported after the commit.
    pub(super) fn found_double_payment(&mut self, found: DoublePayment) {
        self.double_payments.push(found);
    }

    /// Returns the duplicate payments to report after the commit.
    pub(super) fn take_double_payments(&mut self) -> Vec<DoublePayment> {
        std::mem::take(&mut self.double_payments)
    }

    /// Registers a changed record.
    pub(super) fn became(&mut self, name: RecordKey, age: Version) {
        self.own.became.push((name, age));
    }

    /// Registers that something became due sooner.
    pub(super) fn wake(&mut self) {
        self.own.wakes = true;
    }
}

impl Read for Transaction<'_> {
    fn bytes(&self, space: Space, key: &[u8]) -> Result<Option<Value>, LedgerError> {
        match self.own.rows.get(space, key) {
            Some(own) => Ok(own.clone()),
            None => self.base.bytes(space, key),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    struct Gone;

    impl Read for Gone {
        fn bytes(&self, _: Space, _: &[u8]) -> Result<Option<Value>, LedgerError> {
            Err(LedgerError("gone".to_owned()))
        }
    }

    struct Garbage;

    impl Read for Garbage {
        fn bytes(&self, _: Space, _: &[u8]) -> Result<Option<Value>, LedgerError> {
            Ok(Some(Value::from("{".as_bytes())))
        }
    }

    #[test]
    fn failed_read_is_distinguished_from_undecodable_row() {
        let (gone, garbage) = (Watched::new(&Gone), Watched::new(&Garbage));
        assert!(gone.row::<String>(Space::Events, &[]).is_err() && gone.has_failed.get());
        assert!(garbage.row::<String>(Space::Events, &[]).is_err() && !garbage.has_failed.get());
        gone.report(&LedgerError("gone".to_owned()), "a row");
        assert!(!gone.has_failed.get(), "each failure is told once");
    }

    #[test]
    fn rows_below_and_above_the_index_threshold_keep_the_last_write_of_each_key() {
        for count in [1, FEW as u8, FEW as u8 + 1, 200] {
            let mut rows = Rows::default();
            for round in [0, 1] {
                for number in 0..count {
                    rows.insert(Space::Keys, [number], Some([round].into()));
                    rows.insert(Space::Index, [number], None);
                }
            }
            assert_eq!((rows.len(), rows.get(Space::Claims, &[0])), (2 * usize::from(count), None));
            assert_eq!(rows.get(Space::Keys, &[count - 1]), Some(&Some([1].into())));
            assert_eq!(rows.get(Space::Index, &[count - 1]), Some(&None));
            assert!(rows.of(Space::Keys).all(|(_, value)| value == Some(&Value::from([1]))));
            assert_eq!(rows.of(Space::Keys).count(), usize::from(count));
            assert_eq!(rows.drain().count(), 2 * usize::from(count));
            assert!(rows.is_empty() && rows.get(Space::Keys, &[0]).is_none());
            rows.insert(Space::Keys, [0], None);
            assert_eq!(rows.get(Space::Keys, &[0]), Some(&None));
        }
    }
}
