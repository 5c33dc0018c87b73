//! Redelivery of an event at its merchant's request, to every sink that gets events of its type. A redelivery is a row
//! of its own in the outbox, beside the payment's queues, so that it neither waits for the payment's other events nor
//! delays them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Attempted, EventRow, named, schedule};
use crate::due_index::{outbox_key, redelivery_tries};
use crate::error::LedgerError;
use crate::ids::{Id, index, millis};
use crate::records::{Redelivered, SinkName};
use crate::retention::RetentionPolicy;
use crate::rows::{EventQueue, PaymentRow, TrackedRow};
use crate::timeline::{self, TimelineEvent};
use crate::transaction::{Read, Space, Transaction};

/// Time for which an event remembers the idempotency keys of its redeliveries, in milliseconds.
const KEY_RETENTION: u64 = RetentionPolicy::CLAIMS_AT_LEAST.as_secs() * 1000;
/// Maximum number of redeliveries of one event within [`KEY_RETENTION`], which bounds the size of its row.
const MAX_REQUESTS: usize = 100;
/// Time within which the due times of requests of one millisecond lie, in milliseconds. There are at most [`MAX_REQUESTS`].
const MAX_SAME_MILLISECOND: u64 = 200;

/// Redeliveries of one event.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Redelivery {
    /// Due time of the present one to each sink, in milliseconds.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    due: BTreeMap<SinkName, u64>,
    /// Requests within [`KEY_RETENTION`] before the last one, oldest first.
    #[serde(default)]
    requests: Vec<Request>,
}

/// Request of the merchant.
#[derive(Serialize, Deserialize)]
struct Request {
    /// Hash of the idempotency key.
    key: Id,
    /// Time in milliseconds.
    at: u64,
}

impl Redelivery {
    /// Returns whether the event was never requested again.
    pub(super) fn is_empty(&self) -> bool {
        self.due.is_empty() && self.requests.is_empty()
    }

    /// Returns whether the event is in the outbox again.
    pub(super) fn is_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Forgets the requests before [`KEY_RETENTION`].
    fn forget_old(&mut self, now: u64) {
        self.requests.retain(|request| now.saturating_sub(request.at) < KEY_RETENTION);
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
    let (key, at) = (index("redelivery", &[idempotency_key]), millis(now));
    row.redelivery.forget_old(at);
    if row.redelivery.requests.iter().any(|request| request.key == key) {
        return Ok(Redelivered::Repeated);
    }
    let sinks = tx.sinks(merchant, &row.event.kind);
    if sinks.is_empty() {
        return Ok(Redelivered::NoSink);
    }
    if let Some(oldest) = row.redelivery.requests.first().filter(|_| row.redelivery.requests.len() >= MAX_REQUESTS) {
        let free_at = oldest.at.saturating_add(KEY_RETENTION);
        return Ok(Redelivered::TooOften { retry_after: free_at.saturating_sub(at).div_ceil(1000) });
    }
    row.redelivery.requests.push(Request { key, at });
    let requested = TimelineEvent::RedeliveryRequested { id: event_id.to_owned() };
    let mut payment = add_to_timeline(tx, &row, requested, now)?;
    for sink in sinks {
        // An event that a sink never received must follow the earlier ones of its payment: its queue is tried at once.
        let is_queued = match &mut payment {
            Some(payment) => try_queue(tx, payment, id, &sink, now)?,
            None => false,
        };
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
) -> Result<bool, LedgerError> {
    let Some(queue) = payment.row.queues.iter_mut().find(|queue| queue.sink == *sink) else { return Ok(false) };
    if !contains(tx, queue, id)? {
        return Ok(false);
    }
    // A due head may be under way. Under a new key another gateway would send it as well, and then its successor,
    // which could arrive before the first gateway's attempt.
    if queue.due > millis(now) {
        tx.remove(Space::Outbox, &outbox_key(queue.due, queue.first, sink));
        queue.due = millis(now);
        let queue = queue.clone();
        schedule(tx, payment, &queue, 0);
    }
    Ok(true)
}

/// Returns whether an event is in a queue. The sink may not have subscribed to the event's type when it was published.
fn contains(from: &impl Read, queue: &EventQueue, id: Id) -> Result<bool, LedgerError> {
    // Ids grow along the queue.
    let mut next = (id <= queue.last).then_some(queue.first);
    while let Some(event) = next.filter(|event| *event < id) {
        next = EventRow::must(from, event)?.next.remove(&queue.sink);
    }
    Ok(next == Some(id))
}

/// Removes a redelivered event of a sink from the outbox. Does nothing for any other event.
pub(super) fn complete(
    tx: &mut Transaction<'_>,
    attempted: &Attempted,
    dropped: Option<String>,
    now: Timestamp,
) -> Result<(), LedgerError> {
    let Some((id, mut row)) = redelivered(tx, attempted)? else { return Ok(()) };
    remove_from_outbox(tx, &mut row, id, &attempted.sink);
    add_to_timeline(tx, &row, attempted.end(dropped), now)?;
    tx.put_row(Space::Events, &id.0, &row)
}

/// Postpones a redelivered event of a sink. Does nothing for any other event.
pub(super) fn postpone(
    tx: &mut Transaction<'_>,
    attempted: &Attempted,
    due: Timestamp,
    tries: u32,
) -> Result<(), LedgerError> {
    let Some((id, mut row)) = redelivered(tx, attempted)? else { return Ok(()) };
    put_in_outbox(tx, &mut row, id, &attempted.sink, due, tries);
    tx.put_row(Space::Events, &id.0, &row)
}

/// Returns the event of a redelivery, unless a later request replaced the redelivery while it was under way.
fn redelivered(tx: &Transaction<'_>, attempted: &Attempted) -> Result<Option<(Id, EventRow)>, LedgerError> {
    let Some(id) = named(&attempted.event_id) else { return Ok(None) };
    let row = tx.row::<EventRow>(Space::Events, &id.0)?;
    let is_present = |row: &EventRow| row.redelivery.due.get(&attempted.sink) == Some(&attempted.due);
    Ok(row.filter(is_present).map(|row| (id, row)))
}

/// Puts the event in the outbox, in the place of an earlier redelivery to the sink.
fn put_in_outbox(tx: &mut Transaction<'_>, row: &mut EventRow, id: Id, sink: &SinkName, due: Timestamp, tries: u32) {
    let (earlier, due) = (remove_from_outbox(tx, row, id, sink), millis(due));
    let subscription = sink.subscription(&row.event.subject.merchant);
    let value = [&redelivery_tries(tries).to_be_bytes()[..], &row.payment.0, subscription.as_bytes()].concat();
    // The earlier ones may be under way, and their ends must not be taken for the end of this one. Those requested within one
    // millisecond got the next ones. A postponed one is due much later.
    let due = match earlier {
        Some(earlier) if (due..due + MAX_SAME_MILLISECOND).contains(&earlier) => earlier + 1,
        _ => due,
    };
    tx.put(Space::Outbox, &outbox_key(due, id, sink), value);
    row.redelivery.due.insert(sink.clone(), due);
}

/// Removes the redelivery to a sink, and returns its due time.
fn remove_from_outbox(tx: &mut Transaction<'_>, row: &mut EventRow, id: Id, sink: &SinkName) -> Option<u64> {
    let due = row.redelivery.due.remove(sink)?;
    tx.remove(Space::Outbox, &outbox_key(due, id, sink));
    Some(due)
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
