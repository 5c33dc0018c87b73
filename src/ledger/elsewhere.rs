//! Refunds made outside this gateway, for example in the provider's console. A successful one is added to the
//! payment's sum, an event tells the merchant, and the payment is marked for manual review. One that returned no
//! money is only an entry in the timeline.

use jiff::Timestamp;
use tollgate_plugins::payment::{Money, Refunded, Status};

use super::apply::{self, BELIEVED};
use super::ids::{Id, index};
use super::outbox;
use super::records::{LedgerError, Record, Recorded};
use super::retention::{self, Kind};
use super::rows::{self, PaymentRow, Target, TrackedRow};
use super::timeline::{self, Notification, NotificationVerdict, TimelineEvent};
use super::transaction::{Read, Space, Transaction};

/// Type of the event.
const KIND: &str = "payment.refunded_elsewhere";
const WHY: &str = "money went back to the payer by a refund that was not made here";
const ABNORMAL: &str =
    "a refund that was not made here cannot be finished by the provider: finish it in the provider's console";

/// Records a refund made outside this gateway. `None` if the notification is about something else.
pub(super) fn record(
    tx: &mut Transaction<'_>,
    channel: &str,
    notification: &Notification,
    now: Timestamp,
) -> Result<Option<Recorded>, LedgerError> {
    let event = &notification.event;
    let number = event.refund_number.as_deref();
    // A notification that names a refund without a result means that the result is open.
    let Some(refunded) = event.refunded.or(number.map(|_| Refunded::Open)) else { return Ok(None) };
    let Some(mut payment) = apply::find_payment_by_number(tx, channel, &event.order_number)? else { return Ok(None) };
    if payment.row.payment.channel != channel || is_ours(tx, number)? {
        return Ok(None);
    }
    let key = seen_key(channel, notification, refunded);
    // Checked before the sums are compared, because a known refund would not fit in a second time.
    if tx.bytes(Space::Notifications, &key.0)?.is_some() {
        return Ok(Some(Recorded::Duplicate));
    }
    if let Refunded::Failed | Refunded::Abnormal | Refunded::Open = refunded {
        mark(tx, key, now);
        return note(tx, channel, notification, payment, refunded, now).map(Some);
    }
    let subject = rows::payment_subject(&payment.row.payment);
    let moved = moved(&payment.row, refunded);
    if is_undecided(&payment.row, refunded) {
        return Ok(Some(Recorded::TooEarly(subject)));
    }
    let notified = |verdict| {
        let (channel, id) = (channel.to_owned(), event.id.clone());
        TimelineEvent::NotificationReceived { channel, id, verdict, seen: notification.seen.clone() }
    };
    if payment.row.payment.status != Status::Succeeded {
        let is_taken_back = payment.row.payment.method.is_scanned() && payment.row.payment.status.is_final();
        let mut target = Target::Payment(payment);
        target.add(tx, notified(NotificationVerdict::Verify), now)?;
        apply::schedule_query(tx, &mut target, now)?;
        // A cancelled payment of a scanned code was refunded by its cancellation.
        return Ok(Some(if is_taken_back { Recorded::Applied(subject) } else { Recorded::TooEarly(subject) }));
    }
    let Some(moved) = moved else {
        let mut target = Target::Payment(payment);
        apply::publish_mismatch(tx, &mut target, now)?;
        return Ok(Some(Recorded::Mismatch(subject)));
    };
    if moved.value == 0 {
        // The whole sum is known: it consists of our refunds, or the notification is older.
        return Ok(Some(Recorded::Duplicate));
    }
    mark(tx, key, now);
    payment.row.refunding = payment.row.refunding.saturating_add(moved.value);
    let paid = &mut payment.row.payment;
    paid.refunded = paid.refunded.saturating_add(moved.value);
    paid.refunded_elsewhere = paid.refunded_elsewhere.saturating_add(moved.value);
    paid.version += 1;
    paid.updated_at = now;
    for what in [notified(NotificationVerdict::Applied), TimelineEvent::ManualReview { why: WHY.to_owned() }] {
        timeline::add(tx, payment.id, None, what, now)?;
    }
    // Merchants do not know abandoned attempts.
    if payment.row.attempt_of.is_none() {
        let data = Record::Payment(payment.row.payment.clone());
        outbox::publish(tx, &mut payment, KIND, subject.clone(), data, now)?;
    }
    payment.save(tx)?;
    Ok(Some(Recorded::RefundedElsewhere(subject, moved)))
}

/// Records a refund that returned no money: it failed, or its result is open.
fn note(
    tx: &mut Transaction<'_>,
    channel: &str,
    notification: &Notification,
    payment: TrackedRow<PaymentRow>,
    refunded: Refunded,
    now: Timestamp,
) -> Result<Recorded, LedgerError> {
    let event = &notification.event;
    let is_paid = payment.row.payment.status == Status::Succeeded;
    let verdict = if is_paid { NotificationVerdict::Applied } else { NotificationVerdict::Verify };
    let status = if refunded == Refunded::Failed { Status::Failed } else { Status::Pending };
    let why = (refunded == Refunded::Abnormal).then_some(ABNORMAL);
    let seen = notification.seen.clone();
    let notified =
        TimelineEvent::NotificationReceived { channel: channel.to_owned(), id: event.id.clone(), verdict, seen };
    let number = event.refund_number.clone().unwrap_or_default();
    let needs_person = why.map(|why| TimelineEvent::ManualReview { why: why.to_owned() });
    let mut target = Target::Payment(payment);
    for what in [notified, TimelineEvent::RefundElsewhere { number, status }].into_iter().chain(needs_person) {
        target.add(tx, what, now)?;
    }
    // Only a paid order can be refunded, so the payment's status must be queried.
    if !is_paid {
        apply::schedule_query(tx, &mut target, now)?;
    }
    Ok(Recorded::RefundElsewhere(target.subject(), why))
}

/// Returns the key of this state of the refund. Other fields of the notification may change.
fn seen_key(channel: &str, notification: &Notification, refunded: Refunded) -> Id {
    let number = notification.event.refund_number.as_deref().unwrap_or_default();
    index("seen", &[channel, "refunded_elsewhere", &notification.event.order_number, number, &refunded.to_string()])
}

fn mark(tx: &mut Transaction<'_>, key: Id, now: Timestamp) {
    retention::age(tx, Kind::Notifications, key, now);
    tx.put(Space::Notifications, &key.0, BELIEVED);
}

/// Returns whether this gateway made a refund with this number, of any payment.
fn is_ours(tx: &Transaction<'_>, number: Option<&str>) -> Result<bool, LedgerError> {
    let Some(number) = number else { return Ok(false) };
    Ok(rows::refund_by_number(tx, number)?.is_some())
}

/// Returns whether the sum may include our refunds whose result is open. The part refunded elsewhere is known when
/// they have ended, and the notification is repeated.
fn is_undecided(row: &PaymentRow, refunded: Refunded) -> bool {
    let is_open = row.refunding > row.payment.refunded;
    matches!(refunded, Refunded::Total(sum) if is_open && sum.value > row.payment.refunded)
}

/// Returns the amount refunded elsewhere; `None` if the sum is impossible. Our open refunds count as known, so the
/// remainder is certain.
fn moved(row: &PaymentRow, refunded: Refunded) -> Option<Money> {
    let (money, value) = match refunded {
        Refunded::Part(part) => (part, part.value),
        Refunded::Total(total) => (total, total.value.saturating_sub(row.refunding)),
        Refunded::Failed | Refunded::Abnormal | Refunded::Open => return None,
    };
    let amount = row.payment.amount;
    let is_possible = money.currency == amount.currency
        && money.value <= amount.value
        && row.payment.refunded.checked_add(value).is_some_and(|sum| sum <= amount.value);
    is_possible.then_some(Money { value, ..amount })
}
