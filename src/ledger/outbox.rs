//! Outbox of events for merchants. Each payment has a queue for each sink, and only the heads of the queues are due.
//! Events of one payment therefore reach each sink in order, and a sink that fails delays no other.

mod redelivery;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use self::redelivery::Redelivery;
pub(super) use self::redelivery::redeliver;
use super::due_index::{LATEST_DUE, after, event_of_outbox, outbox_key, queued_key, subscription_of_outbox};
use super::error::{Corruption, LedgerError};
use super::ids::{Id, millis, millis_at, time};
use super::names;
use super::records::{Delivery, Event, Record, RecordId, SinkName};
use super::retention::Expired;
use super::rows::{EventQueue, PaymentRow, TrackedRow};
use super::schedule::Schedule;
use super::timeline::{self, TimelineEvent};
use super::transaction::{Pair, Read, Space, Transaction, report_unreadable};

/// Publishes an event: it joins the payment's queue of each sink that gets events of this type. The caller saves the
/// payment.
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
    let id = tx.new_id_after(payment.row.last_event, now);
    payment.row.last_event = Some(id);
    let what = TimelineEvent::Event { id: event_id(id), kind: kind.to_owned() };
    timeline::add(tx, payment.id, subject.refund_id.as_deref(), what, now)?;
    let sinks = tx.sinks(&subject.merchant, kind);
    // A commit that wakes is durable at once, and readers of events rely on that also for events without a sink.
    tx.wake();
    tx.put(Space::MerchantEvents, &names::event_entry(&subject.merchant, id), []);
    let event = Event { id: event_id(id), kind: kind.to_owned(), created_at: now, subject, data };
    let row = EventRow { payment: payment.id, next: BTreeMap::new(), event, redelivery: Redelivery::default() };
    tx.put_row(Space::Events, &id.0, &row)?;
    sinks.into_iter().try_for_each(|sink| enqueue(tx, payment, sink, id, now))
}

fn enqueue(
    tx: &mut Transaction<'_>,
    payment: &mut TrackedRow<PaymentRow>,
    sink: SinkName,
    id: Id,
    now: Timestamp,
) -> Result<(), LedgerError> {
    tx.queued(id, &sink);
    if let Some(queue) = payment.row.queues.iter_mut().find(|queue| queue.sink == sink) {
        let before = std::mem::replace(&mut queue.last, id);
        queue.waiting += 1;
        let mut row = EventRow::must(tx, before)?;
        row.next.insert(sink, id);
        return tx.put_row(Space::Events, &before.0, &row);
    }
    let queue = EventQueue { sink, first: id, last: id, waiting: 1, due: millis(now) };
    schedule(tx, payment, &queue, 0);
    payment.row.queues.push(queue);
    Ok(())
}

/// Identifies a delivery that was attempted.
pub(super) struct Attempted {
    pub(super) event_id: String,
    sink: SinkName,
    /// Due time at which the delivery was read, in milliseconds. Distinguishes redeliveries of one event.
    due: u64,
}

impl Attempted {
    pub(super) fn of(delivery: &Delivery) -> Self {
        Self { event_id: delivery.event.id.clone(), sink: delivery.sink.clone(), due: millis(delivery.due) }
    }

    /// Returns the delivery of an outbox row.
    pub(super) fn of_row(event_id: String, sink: SinkName, due: Timestamp) -> Self {
        Self { event_id, sink, due: millis(due) }
    }

    /// Returns the timeline entry of the end of the delivery. `dropped` is the reason of an abandoned one.
    fn end(&self, dropped: Option<String>) -> TimelineEvent {
        let (id, sink) = (self.event_id.clone(), self.sink.clone());
        match dropped {
            Some(why) => TimelineEvent::DeliveryAbandoned { id, why, sink },
            None => TimelineEvent::Delivered { id, sink },
        }
    }
}

/// Implements [`Ledger::delivered`](super::Ledger::delivered) and [`Ledger::dropped`](super::Ledger::dropped);
/// `dropped` is the reason of the latter.
pub(super) fn complete(
    tx: &mut Transaction<'_>,
    attempted: &Attempted,
    dropped: Option<String>,
    now: Timestamp,
) -> Result<(), LedgerError> {
    let Some(Head { mut queue, next, mut payment, refund_id }) = take_head(tx, attempted)? else {
        return redelivery::complete(tx, attempted, dropped, now);
    };
    timeline::add(tx, payment.id, refund_id.as_deref(), attempted.end(dropped), now)?;
    tx.unqueued(queue.first, &queue.sink);
    if let Some(next) = next {
        (queue.first, queue.due, queue.waiting) = (next, millis(now), queue.waiting.saturating_sub(1));
        schedule(tx, &payment, &queue, 0);
        payment.row.queues.push(queue);
        tx.wake();
    }
    payment.save(tx)
}

/// Implements [`Ledger::postpone`](super::Ledger::postpone).
pub(super) fn postpone(
    tx: &mut Transaction<'_>,
    attempted: &Attempted,
    due: Timestamp,
    tries: u32,
) -> Result<(), LedgerError> {
    // Of a queue only the head is ever sent.
    let Some(Head { mut queue, mut payment, .. }) = take_head(tx, attempted)? else {
        return redelivery::postpone(tx, attempted, due, tries);
    };
    queue.due = millis(due);
    schedule(tx, &payment, &queue, tries);
    payment.row.queues.push(queue);
    payment.save(tx)
}

/// Returns due rows of the outbox. For a subscription with a backlog at most as many rows are read as are free and
/// under way, because the committing thread waits for this.
pub(super) fn due(
    schedule: &Schedule,
    now: Timestamp,
    limit: usize,
    free: impl Fn(&str) -> usize,
    under_way: impl Fn(&str, &str) -> bool,
) -> Vec<Pair> {
    let misdated = after(now, LATEST_DUE);
    let now = millis(now);
    let of_subscription = |(subscription, events): (&String, &BTreeMap<Vec<u8>, Vec<u8>>)| {
        let due = events.iter().take_while(|(key, _)| millis_at(key) <= now);
        // Due times that a wrong clock wrote.
        let due = due.chain(events.range(misdated.clone()..));
        let waiting = due.filter(|(key, _)| waits(subscription, key, &under_way)).take(free(subscription));
        waiting.map(|(key, value)| (key.clone(), value.clone())).collect::<Vec<_>>()
    };
    let mut due: Vec<Pair> = schedule.outbox.iter().flat_map(of_subscription).collect();
    due.sort();
    due.truncate(limit);
    due
}

/// Returns whether the event of an outbox row is not under way.
pub(super) fn waits(subscription: &str, key: &[u8], under_way: impl Fn(&str, &str) -> bool) -> bool {
    event_of_outbox(key).is_some_and(|event| !under_way(subscription, &event_id(event)))
}

/// Returns the deliveries of outbox rows. A row that cannot be read does not block the others.
pub(super) fn deliveries(from: &impl Read, due: Vec<Pair>) -> Vec<Delivery> {
    let delivery = |(key, value): Pair| {
        delivery(from, &key, &value).unwrap_or_else(|error| {
            report_unreadable(&error, "an event");
            None
        })
    };
    due.into_iter().filter_map(delivery).collect()
}

fn delivery(from: &impl Read, key: &[u8], value: &[u8]) -> Result<Option<Delivery>, LedgerError> {
    let Some(id) = event_of_outbox(key) else { return Ok(None) };
    let Some(EventRow { payment, event, .. }) = from.row(Space::Events, &id.0)? else { return Ok(None) };
    let sink = SinkName::of_subscription(subscription_of_outbox(value));
    let method = match &event.data {
        _ if sink.is_webhook() => None,
        Record::Payment(payment) => Some(payment.method),
        // A redelivered event may have outlived its payment.
        Record::Refund(_) => TrackedRow::<PaymentRow>::load(from, payment)?.map(|payment| payment.row.payment.method),
    };
    let tries = value.first_chunk().map_or(0, |tries| u32::from_be_bytes(*tries));
    Ok(Some(Delivery { event, sink, method, due: time(millis_at(key)), tries }))
}

/// Returns the number of events by sink in the queues whose heads are in the outbox.
pub(super) fn queued(from: &impl Read, schedule: &Schedule) -> Result<BTreeMap<SinkName, i64>, LedgerError> {
    let mut queued = BTreeMap::new();
    for (key, value) in schedule.outbox.values().flatten() {
        let payment = Id::from_bytes(value.get(4..20).unwrap_or_default())?;
        let sink = SinkName::of_subscription(subscription_of_outbox(value));
        // A redelivery is no head of a queue, and its payment may be purged.
        let payment = TrackedRow::<PaymentRow>::load(from, payment)?;
        let queues = payment.map(|payment| payment.row.queues).unwrap_or_default();
        let is_head = |queue: &&EventQueue| queue.sink == sink && Some(queue.first) == event_of_outbox(key);
        let waiting = queues.iter().find(is_head).map_or(0, |queue| queue.waiting as i64);
        *queued.entry(sink).or_default() += waiting;
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

/// Returns whether an event of this payment may still be queued for some sink. Ids grow, and only heads leave a queue.
fn is_waiting(payment: &PaymentRow, event: Id) -> bool {
    payment.queues.iter().any(|queue| event.0 >= queue.first.0)
}

/// Decodes the event of a row.
pub(super) fn event_of(row: &[u8]) -> Result<Event, LedgerError> {
    let row: Result<EventRow, _> = serde_json::from_slice(row);
    let damaged = |error| Corruption::Row { space: Space::Events.name(), source: Arc::new(error) };
    Ok(row.map_err(damaged)?.event)
}

/// Returns the keys under which the undelivered events of a payment are counted. Reads each row.
pub(super) fn waiting(from: &impl Read, payment: &PaymentRow) -> Result<Vec<Vec<u8>>, LedgerError> {
    let mut keys = Vec::new();
    for queue in &payment.queues {
        let mut next = Some(queue.first);
        while let Some(event) = next {
            keys.push(queued_key(event, &queue.sink));
            next = EventRow::must(from, event)?.next.remove(&queue.sink);
        }
    }
    Ok(keys)
}

#[derive(Serialize, Deserialize)]
struct EventRow {
    /// Payment in whose queues the event is or was.
    payment: Id,
    /// Next event in the queue of each sink.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    next: BTreeMap<SinkName, Id>,
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

/// Queue that was taken out of its payment, with its head.
struct Head {
    queue: EventQueue,
    /// Event behind the head.
    next: Option<Id>,
    payment: TrackedRow<PaymentRow>,
    /// Refund that the event is about.
    refund_id: Option<String>,
}

/// Takes the queue of a sink whose head is this event out of its payment and out of the outbox. Returns `None` if the
/// event is no head, because only heads are returned for delivery.
fn take_head(
    tx: &mut Transaction<'_>,
    Attempted { event_id, sink, .. }: &Attempted,
) -> Result<Option<Head>, LedgerError> {
    let Some(id) = named(event_id) else { return Ok(None) };
    let Some(mut row) = tx.row::<EventRow>(Space::Events, &id.0)? else { return Ok(None) };
    // An event may be retained longer than its payment.
    let Some(mut payment) = TrackedRow::<PaymentRow>::load(tx, row.payment)? else { return Ok(None) };
    let is_head = |queue: &EventQueue| queue.sink == *sink && queue.first == id;
    let Some(position) = payment.row.queues.iter().position(is_head) else { return Ok(None) };
    let queue = payment.row.queues.swap_remove(position);
    tx.remove(Space::Outbox, &outbox_key(queue.due, id, sink));
    Ok(Some(Head { queue, next: row.next.remove(sink), payment, refund_id: row.event.subject.refund_id }))
}

/// Adds the head of a queue to the outbox.
fn schedule(tx: &mut Transaction<'_>, payment: &TrackedRow<PaymentRow>, queue: &EventQueue, tries: u32) {
    // The value holds attempts (4 bytes), payment id (16) and subscription, so that due rows are chosen without
    // reading the event.
    let subscription = queue.sink.subscription(&payment.row.payment.merchant);
    let value = [&tries.to_be_bytes()[..], &payment.id.0, subscription.as_bytes()].concat();
    tx.put(Space::Outbox, &outbox_key(queue.due, queue.first, &queue.sink), value);
}

pub(super) fn event_id(id: Id) -> String {
    format!("evt_{}", String::from(id))
}

/// Parses the result of [`event_id`].
pub(super) fn named(event_id: &str) -> Option<Id> {
    event_id.strip_prefix("evt_").and_then(|id| Id::try_from(id.to_owned()).ok())
}
