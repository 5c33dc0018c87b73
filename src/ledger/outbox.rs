//! Outbox of events for merchants: each payment has a queue, and only its head is due.

mod redelivery;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use self::redelivery::Redelivery;
pub(super) use self::redelivery::redeliver;
use super::due_index::{LATEST_DUE, after, outbox_key};
use super::error::{Corruption, LedgerError};
use super::ids::{Id, millis, millis_at, time};
use super::names;
use super::records::{Delivery, Event, Record, RecordId};
use super::retention::Expired;
use super::rows::{PaymentRow, TrackedRow};
use super::schedule::Schedule;
use super::timeline::{self, TimelineEvent};
use super::transaction::{Pair, Read, Space, Transaction, report_unreadable};

/// Appends an event to its payment's queue. The caller saves the payment.
pub(super) fn publish(
    tx: &mut Transaction<'_>,
    payment: &mut TrackedRow<PaymentRow>,
    kind: &str,
    subject: RecordId,
    mut data: Record,
    now: Timestamp,
) -> Result<(), LedgerError> {
    if let Record::Payment(payment) = &mut data {
        // Removed because it may name the payer and is not meant for merchants.
        payment.create_request = None;
    }
    let before = payment.row.first_event.and(payment.row.last_event);
    let id = tx.new_id_after(payment.row.last_event, now);
    payment.row.last_event = Some(id);
    let what = TimelineEvent::Event { id: event_id(id), kind: kind.to_owned() };
    timeline::add(tx, payment.id, subject.refund_id.as_deref(), what, now)?;
    tx.put(Space::MerchantEvents, &names::event_entry(&subject.merchant, id), []);
    let event = Event { id: event_id(id), kind: kind.to_owned(), created_at: now, subject, data };
    let row = EventRow { payment: payment.id, next: None, event, redelivery: Redelivery::default() };
    tx.put_row(Space::Events, &id.0, &row)?;
    tx.queued(id);
    payment.row.waiting_events += 1;
    if let Some(before) = before {
        let row = EventRow { next: Some(id), ..EventRow::must(tx, before)? };
        return tx.put_row(Space::Events, &before.0, &row);
    }
    payment.row.first_event = Some(id);
    schedule(tx, payment, now, 0);
    tx.wake();
    Ok(())
}

/// Implements [`Ledger::delivered`](super::Ledger::delivered) and [`Ledger::dropped`](super::Ledger::dropped);
/// `dropped` is the reason of the latter.
pub(super) fn complete(
    tx: &mut Transaction<'_>,
    event_id: &str,
    dropped: Option<String>,
    now: Timestamp,
) -> Result<(), LedgerError> {
    let Some(Head { id, next, mut payment, refund_id }) = head_as(tx, event_id)? else {
        return redelivery::complete(tx, event_id, dropped, now);
    };
    let named = event_id.to_owned();
    let what = match dropped {
        Some(why) => TimelineEvent::DeliveryAbandoned { id: named, why },
        None => TimelineEvent::Delivered { id: named },
    };
    timeline::add(tx, payment.id, refund_id.as_deref(), what, now)?;
    tx.unqueued(id);
    unschedule(tx, &mut payment, id);
    payment.row.first_event = next;
    payment.row.waiting_events = payment.row.waiting_events.saturating_sub(1);
    if next.is_some() {
        schedule(tx, &mut payment, now, 0);
        tx.wake();
    }
    payment.save(tx)
}

/// Implements [`Ledger::postpone`](super::Ledger::postpone).
pub(super) fn postpone(
    tx: &mut Transaction<'_>,
    event_id: &str,
    due: Timestamp,
    tries: u32,
) -> Result<(), LedgerError> {
    // Of a queue only the head is ever sent.
    let Some(Head { id, mut payment, .. }) = head_as(tx, event_id)? else {
        return redelivery::postpone(tx, event_id, due, tries);
    };
    unschedule(tx, &mut payment, id);
    schedule(tx, &mut payment, due, tries);
    payment.save(tx)
}

/// Returns due rows of the outbox. For a merchant with a backlog at most as many rows are read as are free and under
/// way, because the committing thread waits for this.
pub(super) fn due(
    schedule: &Schedule,
    now: Timestamp,
    limit: usize,
    free: impl Fn(&str) -> usize,
    under_way: impl Fn(&str, &str) -> bool,
) -> Vec<Pair> {
    let misdated = after(now, LATEST_DUE);
    let now = millis(now);
    let of_merchant = |(merchant, events): (&String, &BTreeMap<Vec<u8>, Vec<u8>>)| {
        let due = events.iter().take_while(|(key, _)| millis_at(key) <= now);
        // Due times that a wrong clock wrote.
        let due = due.chain(events.range(misdated.clone()..));
        let waiting = due.filter(|(key, _)| waits(merchant, key, &under_way)).take(free(merchant));
        waiting.map(|(key, value)| (key.clone(), value.clone())).collect::<Vec<_>>()
    };
    let mut due: Vec<Pair> = schedule.outbox.iter().flat_map(of_merchant).collect();
    due.sort();
    due.truncate(limit);
    due
}

/// Returns whether the event of an outbox row is not under way.
pub(super) fn waits(merchant: &str, key: &[u8], under_way: impl Fn(&str, &str) -> bool) -> bool {
    let event = Id::from_bytes(key.get(8..).unwrap_or_default()).map(event_id);
    event.is_ok_and(|event| !under_way(merchant, &event))
}

/// Returns the deliveries of outbox rows. A row that cannot be read does not block the others.
pub(super) fn deliveries(from: &impl Read, due: Vec<Pair>) -> Vec<Delivery> {
    let delivery = |(key, value): (Vec<u8>, Vec<u8>)| {
        let tries = value.first_chunk().map_or(0, |tries| u32::from_be_bytes(*tries));
        match from.row::<EventRow>(Space::Events, key.get(8..).unwrap_or_default()) {
            Ok(Some(row)) => Some(Delivery { event: row.event, due: time(millis_at(&key)), tries }),
            Ok(None) => None,
            Err(error) => {
                report_unreadable(&error, "an event");
                None
            }
        }
    };
    due.into_iter().filter_map(delivery).collect()
}

/// Returns the number of events in the queues whose heads are in the outbox.
pub(super) fn queued(from: &impl Read, schedule: &Schedule) -> Result<i64, LedgerError> {
    let mut queued = 0;
    for (key, value) in schedule.outbox.values().flatten() {
        let event = Id::from_bytes(key.get(8..).unwrap_or_default())?;
        let payment = Id::from_bytes(value.get(4..20).unwrap_or_default())?;
        // A redelivery is no head of a queue, and its payment may be purged.
        let payment = TrackedRow::<PaymentRow>::load(from, payment)?;
        let head = payment.filter(|payment| payment.row.first_event == Some(event));
        queued += head.map_or(0, |payment| payment.row.waiting_events as i64);
    }
    Ok(queued)
}

/// Returns the lock of an event's order. The event may be retained longer than its payment.
pub(super) fn lock_of(from: &impl Read, event_id: &str) -> Result<Option<Id>, LedgerError> {
    let Some(id) = named(event_id) else { return Ok(None) };
    let row = from.row::<EventRow>(Space::Events, &id.0)?;
    Ok(row.map(|row| names::order_lock(&row.event.subject.merchant, &row.event.subject.order_id)))
}

/// Returns the row of an event that has left its queue and whose retention has expired.
pub(super) fn expired(
    from: &impl Read,
    id: Id,
    is_over: impl Fn(Timestamp) -> bool,
) -> Result<Option<Expired>, LedgerError> {
    let Some(EventRow { payment, event, redelivery, .. }) = from.row(Space::Events, &id.0)? else { return Ok(None) };
    let payment = TrackedRow::<PaymentRow>::load(from, payment)?;
    let is_waiting = redelivery.is_due() || payment.is_some_and(|payment| is_waiting(&payment.row, id));
    if !is_over(event.created_at) || is_waiting {
        return Ok(None);
    }
    let names = vec![names::order_lock(&event.subject.merchant, &event.subject.order_id)];
    let entry = names::event_entry(&event.subject.merchant, id);
    Ok(Some(Expired { names, rows: vec![(Space::Events, id.0.to_vec()), (Space::MerchantEvents, entry)] }))
}

/// Returns whether an event of this payment is still queued. Ids grow, and only the head leaves the queue.
fn is_waiting(payment: &PaymentRow, event: Id) -> bool {
    payment.first_event.is_some_and(|first| event.0 >= first.0)
}

/// Decodes the event of a row.
pub(super) fn event_of(row: &[u8]) -> Result<Event, LedgerError> {
    let row: Result<EventRow, _> = serde_json::from_slice(row);
    let damaged = |error| Corruption::Row { space: Space::Events.name(), source: std::sync::Arc::new(error) };
    Ok(row.map_err(damaged)?.event)
}

/// Returns the undelivered events of a payment, oldest first. Reads each row.
pub(super) fn waiting(from: &impl Read, payment: &PaymentRow) -> Result<Vec<Id>, LedgerError> {
    let (mut events, mut next) = (Vec::new(), payment.first_event);
    while let Some(event) = next {
        events.push(event);
        next = EventRow::must(from, event)?.next;
    }
    Ok(events)
}

#[derive(Serialize, Deserialize)]
struct EventRow {
    /// Payment in whose queue the event is.
    payment: Id,
    /// Next event in the queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Id>,
    event: Event,
    /// Redeliveries that the merchant requested.
    #[serde(default, skip_serializing_if = "Redelivery::is_empty")]
    redelivery: Redelivery,
}

impl EventRow {
    fn must(from: &impl Read, id: Id) -> Result<Self, LedgerError> {
        let row = from.row(Space::Events, &id.0)?;
        row.ok_or_else(|| Corruption::MissingRow(Space::Events.name()).into())
    }
}

/// Head of a payment's queue.
struct Head {
    id: Id,
    next: Option<Id>,
    payment: TrackedRow<PaymentRow>,
    /// Refund that the event is about.
    refund_id: Option<String>,
}

/// Returns the event with this id if it is the head of its queue. Only heads are returned for delivery.
fn head_as(tx: &Transaction<'_>, event_id: &str) -> Result<Option<Head>, LedgerError> {
    let Some(id) = named(event_id) else { return Ok(None) };
    let Some(row) = tx.row::<EventRow>(Space::Events, &id.0)? else { return Ok(None) };
    // An event may be retained longer than its payment.
    let Some(payment) = TrackedRow::<PaymentRow>::load(tx, row.payment)? else { return Ok(None) };
    let is_first = payment.row.first_event == Some(id);
    let refund_id = row.event.subject.refund_id;
    Ok(is_first.then_some(Head { id, next: row.next, payment, refund_id }))
}

fn schedule(tx: &mut Transaction<'_>, payment: &mut TrackedRow<PaymentRow>, due: Timestamp, tries: u32) {
    let Some(head) = payment.row.first_event else { return };
    let due = millis(due);
    // The value holds attempts (4 bytes), payment id (16) and merchant, so that due rows are chosen without reading
    // the event.
    let value = [&tries.to_be_bytes()[..], &payment.id.0, payment.row.payment.merchant.as_bytes()].concat();
    tx.put(Space::Outbox, &outbox_key(due, head), value);
    payment.row.due = Some(due);
}

fn unschedule(tx: &mut Transaction<'_>, payment: &mut TrackedRow<PaymentRow>, id: Id) {
    if let Some(due) = payment.row.due.take() {
        tx.remove(Space::Outbox, &outbox_key(due, id));
    }
}

pub(super) fn event_id(id: Id) -> String {
    format!("evt_{}", String::from(id))
}

/// Parses the result of [`event_id`].
pub(super) fn named(event_id: &str) -> Option<Id> {
    event_id.strip_prefix("evt_").and_then(|id| Id::try_from(id.to_owned()).ok())
}
