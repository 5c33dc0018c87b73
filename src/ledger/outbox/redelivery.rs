//! Redelivery of an event at its merchant's request. A redelivery is a row of its own in the outbox, beside the
//! payment's queue, so that it neither waits for the payment's other events nor delays them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{EventRow, is_waiting, named, schedule, unschedule};
use crate::due_index::outbox_key;
use crate::error::LedgerError;
use crate::ids::{Id, index, millis};
use crate::records::Redelivered;
use crate::rows::{PaymentRow, TrackedRow};
use crate::timeline::{self, TimelineEvent};
use crate::transaction::{Read, Space, Transaction};

/// Maximum number of idempotency keys that an event remembers. The oldest is forgotten first.
const MAX_KEYS: usize = 16;

/// Redeliveries of one event.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Redelivery {
    /// Due time of the present one, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    due: Option<u64>,
    /// Hashes of the idempotency keys of the requests, oldest first.
    #[serde(default)]
    keys: Vec<Id>,
}

impl Redelivery {
    /// Returns whether the event was never requested again.
    pub(super) fn is_empty(&self) -> bool {
        self.due.is_none() && self.keys.is_empty()
    }

    /// Returns whether the event is in the outbox again.
    pub(super) fn is_due(&self) -> bool {
        self.due.is_some()
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
    let payment = add_to_timeline(tx, &row, requested, now)?;
    match payment.filter(|payment| is_waiting(&payment.row, id)) {
        // The event was never delivered, and must follow the earlier ones of its payment: the queue is tried at once.
        Some(mut payment) => {
            if let Some(head) = payment.row.first_event {
                unschedule(tx, &mut payment, head);
                schedule(tx, &mut payment, now, 0);
                payment.save(tx)?;
            }
        }
        None => put_in_outbox(tx, &mut row, id, now, 0),
    }
    tx.wake();
    tx.put_row(Space::Events, &id.0, &row)?;
    Ok(Redelivered::Accepted)
}

/// Removes a redelivered event from the outbox. Does nothing for any other event.
pub(super) fn complete(
    tx: &mut Transaction<'_>,
    event_id: &str,
    dropped: Option<String>,
    now: Timestamp,
) -> Result<(), LedgerError> {
    let Some((id, mut row)) = redelivered(tx, event_id)? else { return Ok(()) };
    remove_from_outbox(tx, &mut row, id);
    let named = event_id.to_owned();
    let what = match dropped {
        Some(why) => TimelineEvent::DeliveryAbandoned { id: named, why },
        None => TimelineEvent::Delivered { id: named },
    };
    add_to_timeline(tx, &row, what, now)?;
    tx.put_row(Space::Events, &id.0, &row)
}

/// Postpones a redelivered event. Does nothing for any other event.
pub(super) fn postpone(
    tx: &mut Transaction<'_>,
    event_id: &str,
    due: Timestamp,
    tries: u32,
) -> Result<(), LedgerError> {
    let Some((id, mut row)) = redelivered(tx, event_id)? else { return Ok(()) };
    put_in_outbox(tx, &mut row, id, due, tries);
    tx.put_row(Space::Events, &id.0, &row)
}

/// Returns an event that is being redelivered.
fn redelivered(tx: &Transaction<'_>, event_id: &str) -> Result<Option<(Id, EventRow)>, LedgerError> {
    let Some(id) = named(event_id) else { return Ok(None) };
    let row = tx.row::<EventRow>(Space::Events, &id.0)?;
    Ok(row.filter(|row| row.redelivery.is_due()).map(|row| (id, row)))
}

/// Puts the event in the outbox, in the place of an earlier redelivery.
fn put_in_outbox(tx: &mut Transaction<'_>, row: &mut EventRow, id: Id, due: Timestamp, tries: u32) {
    remove_from_outbox(tx, row, id);
    let value = [&tries.to_be_bytes()[..], &row.payment.0, row.event.subject.merchant.as_bytes()].concat();
    let due = millis(due);
    tx.put(Space::Outbox, &outbox_key(due, id), value);
    row.redelivery.due = Some(due);
}

fn remove_from_outbox(tx: &mut Transaction<'_>, row: &mut EventRow, id: Id) {
    if let Some(due) = row.redelivery.due.take() {
        tx.remove(Space::Outbox, &outbox_key(due, id));
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
