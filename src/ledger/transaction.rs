//! One transaction: reads from the engine and its own writes, and collects the writes.

mod read;
mod space;
mod writes;

use std::cell::RefCell;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::Serialize;

pub(crate) use self::read::{Nothing, Read, report_unreadable};
pub(crate) use self::space::Space;
pub(crate) use self::writes::{Key, Pair, Rows, Value, Writes};
use super::double_payment::DoublePayment;
use super::due_index::queued_key;
use super::environment::Subscriptions;
use super::error::LedgerError;
use super::ids::{Id, Ids};
use super::record_key::{RecordKey, Version};
use super::records::SinkName;

/// Moment at which the result of a transaction is returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// After the sync: the transaction survives a power cut.
    Durable,
    /// After the commit, before the sync: the transaction is visible and survives the end of the process. Used where
    /// the result can be obtained again after a power cut. The sync follows within milliseconds.
    Applied,
}

/// A running transaction.
pub(super) struct Transaction<'a> {
    base: &'a dyn Read,
    own: Writes,
    double_payments: Vec<DoublePayment>,
    ids: &'a Mutex<Ids>,
    subscriptions: &'a dyn Subscriptions,
}

impl<'a> Transaction<'a> {
    pub(super) fn new(base: &'a dyn Read, ids: &'a Mutex<Ids>, subscriptions: &'a dyn Subscriptions) -> Self {
        let own = Writes { rows: Rows::for_one_transaction(), ..Writes::default() };
        Self { base, own, double_payments: Vec::new(), ids, subscriptions }
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
        self.put(
            space,
            key,
            bytes.map_err(|error| LedgerError::Internal(format!("a row cannot be encoded: {error}")))?,
        );
        Ok(())
    }

    pub(super) fn remove(&mut self, space: Space, key: &[u8]) {
        self.own.rows.insert(space, key, None);
    }

    /// Returns the sinks that get an event of this type.
    pub(super) fn sinks(&self, merchant: &str, event_type: &str) -> Vec<SinkName> {
        self.subscriptions.sinks(merchant, event_type)
    }

    /// Counts an event that joins the queue of a sink.
    pub(super) fn queued(&mut self, event: Id, sink: &SinkName) {
        self.own.queued.push((queued_key(event, sink).into(), true));
    }

    /// Counts an event that leaves the queue of a sink.
    pub(super) fn unqueued(&mut self, event: Id, sink: &SinkName) {
        self.own.queued.push((queued_key(event, sink).into(), false));
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
