//! Redelivery of an event at its merchant's request, to every sink that gets events of its type. A redelivery is a row
//! of its own in the outbox, beside the payment's queues, so that it neither waits for the payment's other events nor
//! delays them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{EventRow, named, schedule};
use crate::due_index::outbox_key;
use crate::error::LedgerError;
use crate::ids::{Id, index, millis};
use crate::records::{Redelivered, SinkName};
use crate::rows::{PaymentRow, TrackedRow};
use crate::timeline::{self, TimelineEvent};
use crate::transaction::{Read, Space, Transaction};

/// Maximum number of idempotency keys that an event remembers. The oldest is forgotten first.
const MAX_KEYS: usize = 16;

/// Redeliveries of one event.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Redelivery {
    /// Due time of the present one to each sink, in milliseconds.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    due: BTreeMap<SinkName, u64>,
    /// Hashes of the idempotency keys of the requests, oldest first.
    #[serde(default)]
    keys: Vec<Id>,
}

impl Redelivery {
    /// Returns whether the event was never requested again.
    pub(super) fn is_empty(&self) -> bool {
        self.due.is_empty() && self.keys.is_empty()
    }

    /// Returns whether the event is in the outbox again.
    pub(super) fn is_due(&self) -> bool {
        !self.due.is_empty()
    }
}

/// Implements [`Ledger::redeliver`](crate::Ledger::redeliver).
pub(crate) fn redeliver(
    tx: &mut Transaction<'_>,
    merchant: &str,
    event_id: &str,
    idempotency_key: &str,
    now: Timestamp,
) -> Result<Redelivered, LedgerError> {
    let Some(id) = named(event_id) else { return Ok(Redelivered::NotFound) };
    let Some(mut row) = tx.row::<EventRow>(Space::Events, &id.0)? else { return Ok(Redelivered::NotFound) };
    if row.event.subject.merchant != merchant {
        return Ok(Redelivered::NotFound);
    }
    let key = index("redelivery", &[idempotency_key]);
    if row.redelivery.keys.contains(&key) {
        return Ok(Redelivered::Repeated);
    }
    if row.redelivery.keys.len() == MAX_KEYS {
        row.redelivery.keys.remove(0);
    }
    row.redelivery.keys.push(key);
    let requested = TimelineEvent::RedeliveryRequested { id: event_id.to_owned() };
    let mut payment = add_to_timeline(tx, &row, requested, now)?;
    for sink in tx.sinks(merchant, &row.event.kind) {
        // An event that a sink never received must follow the earlier ones of its payment: its queue is tried at once.
        let is_queued = payment.as_mut().is_some_and(|payment| try_queue(tx, payment, id, &sink, now));
        if !is_queued {
            put_in_outbox(tx, &mut row, id, &sink, now, 0);
        }
    }
    if let Some(payment) = &mut payment {
        payment.save(tx)?;
    }
    tx.wake();
    tx.put_row(Space::Events, &id.0, &row)?;
    Ok(Redelivered::Accepted)
}

/// Makes the head of a sink's queue due now. Returns false if the event is not in the queue.
fn try_queue(
    tx: &mut Transaction<'_>,
    payment: &mut TrackedRow<PaymentRow>,
    id: Id,
    sink: &SinkName,
    now: Timestamp,
) -> bool {
    // Ids grow, and only the head leaves a queue.
    let queue = payment.row.queues.iter_mut().find(|queue| queue.sink == *sink && id >= queue.first);
    let Some(queue) = queue else { return false };
    tx.remove(Space::Outbox, &outbox_key(queue.due, queue.first, sink));
    queue.due = millis(now);
    let queue = queue.clone();
    schedule(tx, payment, &queue, 0);
    true
}

/// Removes a redelivered event of a sink from the outbox. Does nothing for any other event.
pub(super) fn complete(
    tx: &mut Transaction<'_>,
    event_id: &str,
    sink: &SinkName,
    dropped: Option<String>,
    now: Timestamp,
) -> Result<(), LedgerError> {
    let Some((id, mut row)) = redelivered(tx, event_id, sink)? else { return Ok(()) };
    remove_from_outbox(tx, &mut row, id, sink);
    let (named, sink) = (event_id.to_owned(), sink.clone());
    let what = match dropped {
        Some(why) => TimelineEvent::DeliveryAbandoned { id: named, why, sink },
        None => TimelineEvent::Delivered { id: named, sink },
    };
    add_to_timeline(tx, &row, what, now)?;
    tx.put_row(Space::Events, &id.0, &row)
}

/// Postpones a redelivered event of a sink. Does nothing for any other event.
pub(super) fn postpone(
    tx: &mut Transaction<'_>,
    event_id: &str,
    sink: &SinkName,
    due: Timestamp,
    tries: u32,
) -> Result<(), LedgerError> {
    let Some((id, mut row)) = redelivered(tx, event_id, sink)? else { return Ok(()) };
    put_in_outbox(tx, &mut row, id, sink, due, tries);
    tx.put_row(Space::Events, &id.0, &row)
}

/// Returns an event that is being redelivered to a sink.
fn redelivered(tx: &Transaction<'_>, event_id: &str, sink: &SinkName) -> Result<Option<(Id, EventRow)>, LedgerError> {
    let Some(id) = named(event_id) else { return Ok(None) };
    let row = tx.row::<EventRow>(Space::Events, &id.0)?;
    Ok(row.filter(|row| row.redelivery.due.contains_key(sink)).map(|row| (id, row)))
}

/// Puts the event in the outbox, in the place of an earlier redelivery to the sink.
fn put_in_outbox(tx: &mut Transaction<'_>, row: &mut EventRow, id: Id, sink: &SinkName, due: Timestamp, tries: u32) {
    remove_from_outbox(tx, row, id, sink);
    let subscription = sink.subscription(&row.event.subject.merchant);
    let value = [&tries.to_be_bytes()[..], &row.payment.0, subscription.as_bytes()].concat();
    let due = millis(due);
    tx.put(Space::Outbox, &outbox_key(due, id, sink), value);
    row.redelivery.due.insert(sink.clone(), due);
}

fn remove_from_outbox(tx: &mut Transaction<'_>, row: &mut EventRow, id: Id, sink: &SinkName) {
    if let Some(due) = row.redelivery.due.remove(sink) {
        tx.remove(Space::Outbox, &outbox_key(due, id, sink));
    }
}

/// Appends to the timeline of the event's payment, and returns the payment. Both are missing after their retention.
fn add_to_timeline(
    tx: &mut Transaction<'_>,
    row: &EventRow,
    what: TimelineEvent,
    now: Timestamp,
) -> Result<Option<TrackedRow<PaymentRow>>, LedgerError> {
    let payment = TrackedRow::<PaymentRow>::load(tx, row.payment)?;
    if payment.is_some() {
        timeline::add(tx, row.payment, row.event.subject.refund_id.as_deref(), what, now)?;
    }
    Ok(payment)
}
