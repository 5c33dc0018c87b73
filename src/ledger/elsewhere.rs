//! Refunds made outside this gateway: in the provider's console, or after the payer's complaint.
//!
//! A refund with a number of its own is a record of its own, keyed by payment and number. It is written in the
//! transaction of the notification that names it. A notification that proves amount and success settles the record at
//! once. For any other, the resolver queries the provider by that number until the refund has ended. Its success is
//! added to the payment's sum once, publishes one event and asks for a manual review. A refund that failed is only an
//! entry in the timeline. A refund that the provider's query does not know, or never ends, goes to manual review: the
//! notification was signed, so its absence proves nothing.
//!
//! **Sums.** Alipay's notifications name the sum of all refunds, and some name no refund, or a refund of ours. Such a
//! sum proves that `sum - refunded` was refunded elsewhere, under two conditions. The results of all our own refunds
//! and of all numbered refunds must be known, because the sum may include them. The difference must not belong to a
//! refund whose notification is still on its way. So the highest sum is stored in one record without a number:
//! - A notification without a number is evaluated as soon as every result is known.
//! - A higher sum in a notification about a known refund waits for the missing refund's own notification, until the
//!   provider has stopped repeating notifications. Then it is evaluated.
//! - The difference is counted and published. A numbered refund that succeeds later was part of that difference: only
//!   what exceeds the difference is counted.
//!
//! The payment's sum is therefore the higher one of "ours and all numbered refunds" and "the highest sum named", and no
//! order of notifications, answers and restarts counts money twice.

mod row;
mod settle;
mod sums;

use jiff::Timestamp;
use tollgate_plugins::payment::{Money, Refunded, Status};

use self::row::{Settled, Standing, standing};
pub(super) use self::settle::apply;
use super::effects::{self, BELIEVED, MISMATCHED};
use super::error::LedgerError;
use super::ids::{Id, index};
use super::records::Recorded;
use super::retention::{self, Kind};
use super::rows::{self, PaymentRow, Target, TrackedRow};
use super::timeline::{self, Notification, NotificationVerdict, TimelineEvent};
use super::transaction::{Read, Space, Transaction};

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
    let find = effects::find_payment_by_number;
    let Some(mut payment) = find(tx, channel, &event.order_number)? else { return Ok(None) };
    if payment.row.payment.channel != channel {
        return Ok(None);
    }
    if let Some(ours) = number.map(|number| rows::refund_by_number(tx, number)).transpose()?.flatten() {
        if let (Refunded::Total(total), true) = (refunded, ours.row.payment == payment.id)
            && is_possible(&payment.row, total)
        {
            sums::expect_missing(tx, &mut payment, total.value, now)?;
            payment.save(tx)?;
        }
        return Ok(None);
    }
    let key = seen_key(channel, notification, refunded);
    // Checked before the sums are compared, because a known refund would not fit in a second time.
    if tx.bytes(Space::Notifications, &key.0)?.as_deref() == Some(BELIEVED) {
        return Ok(Some(Recorded::Duplicate));
    }
    let recorded = match (number, refunded) {
        _ if standing(&payment.row.payment) == Standing::Reversed => reversed(tx, notification, payment, now)?,
        (_, Refunded::Part(sum) | Refunded::Total(sum)) if !is_possible(&payment.row, sum) => {
            mismatch(tx, notification, payment, refunded, now)?
        }
        (Some(number), _) => numbered(tx, notification, payment, (number, refunded), now)?,
        (None, Refunded::Total(total)) => by_sum(tx, notification, payment, total.value, now)?,
        (None, Refunded::Part(part)) => {
            let total = payment.row.payment.refunded.saturating_add(part.value);
            by_sum(tx, notification, payment, total, now)?
        }
        (None, Refunded::Failed | Refunded::Abnormal | Refunded::Open) => {
            add(tx, payment.id, received(notification, channel, NotificationVerdict::NoChange), now)?;
            Recorded::RefundElsewhere(rows::payment_subject(&payment.row.payment), None)
        }
    };
    if !matches!(recorded, Recorded::Mismatch(_)) {
        mark(tx, key, BELIEVED, now)?;
    }
    Ok(Some(recorded))
}

/// Records a refund with a number of its own.
fn numbered(
    tx: &mut Transaction<'_>,
    notification: &Notification,
    mut payment: TrackedRow<PaymentRow>,
    (number, refunded): (&str, Refunded),
    now: Timestamp,
) -> Result<Recorded, LedgerError> {
    let subject = rows::payment_subject(&payment.row.payment);
    let found = row::find(tx, &payment.row.payment, number)?;
    // A late notification about a refund that is settled.
    if found.as_ref().is_some_and(|known| matches!(known.row.refund.status, Status::Succeeded | Status::Closed)) {
        return Ok(Recorded::Duplicate);
    }
    let is_paid = standing(&payment.row.payment) == Standing::Paid;
    if let Refunded::Part(amount) = refunded
        && is_paid
        && !settle::fits(tx, &payment.row, amount)?
    {
        return mismatch(tx, notification, payment, refunded, now);
    }
    let is_proof = is_paid && !matches!(refunded, Refunded::Total(_) | Refunded::Open);
    let verdict = if is_proof { NotificationVerdict::Applied } else { NotificationVerdict::Verify };
    let channel = payment.row.payment.channel.clone();
    add(tx, payment.id, received(notification, &channel, verdict), now)?;
    let mut refund = match found {
        Some(known) => known,
        None => row::create(tx, &mut payment, number, now)?,
    };
    if !is_paid {
        settle::query_payment(&mut payment, now);
    }
    let recorded = match refunded {
        Refunded::Part(amount) => match settle::succeed(tx, &mut payment, &mut refund, amount, now)? {
            Settled::Counted(value) if value > 0 => {
                Recorded::RefundedElsewhere(subject, Money { value, ..payment.row.payment.amount })
            }
            Settled::Counted(_) | Settled::Impossible => Recorded::Duplicate,
            Settled::Waiting => Recorded::RefundElsewhere(subject, None),
        },
        Refunded::Failed => {
            settle::fail(tx, &mut payment, &mut refund, now)?;
            Recorded::RefundElsewhere(subject, None)
        }
        Refunded::Abnormal => {
            settle::remain_open(tx, &payment, &mut refund, Some(ABNORMAL), now)?;
            row::reserve(&mut payment, &mut refund, notification.event.amount);
            Recorded::RefundElsewhere(subject, Some(ABNORMAL))
        }
        Refunded::Total(total) => {
            settle::ask(tx, &payment, &mut refund, now)?;
            row::note_total(&mut refund, total.value);
            row::reserve(&mut payment, &mut refund, Some(total));
            Recorded::RefundElsewhere(subject, None)
        }
        Refunded::Open => {
            settle::ask(tx, &payment, &mut refund, now)?;
            row::reserve(&mut payment, &mut refund, notification.event.amount);
            Recorded::RefundElsewhere(subject, None)
        }
    };
    refund.save(tx)?;
    payment.save(tx)?;
    Ok(recorded)
}

/// Records the sum of all refunds, of which no number is known.
fn by_sum(
    tx: &mut Transaction<'_>,
    notification: &Notification,
    mut payment: TrackedRow<PaymentRow>,
    total: u64,
    now: Timestamp,
) -> Result<Recorded, LedgerError> {
    let subject = rows::payment_subject(&payment.row.payment);
    if total <= payment.row.payment.refunded {
        // The whole sum is known: it consists of our refunds, or the notification is older.
        return Ok(Recorded::Duplicate);
    }
    let is_certain = standing(&payment.row.payment) == Standing::Paid && !sums::survey(tx, &payment.row)?.is_undecided;
    let verdict = if is_certain { NotificationVerdict::Applied } else { NotificationVerdict::Verify };
    let channel = payment.row.payment.channel.clone();
    add(tx, payment.id, received(notification, &channel, verdict), now)?;
    if standing(&payment.row.payment) == Standing::NotPaid {
        settle::query_payment(&mut payment, now);
    }
    let mut sum = sums::store_sum(tx, &mut payment, total, now, now)?;
    let settled = sums::evaluate_sum(tx, &mut payment, &mut sum, now)?;
    sum.save(tx)?;
    payment.save(tx)?;
    Ok(match settled {
        Settled::Counted(value) if value > 0 => {
            Recorded::RefundedElsewhere(subject, Money { value, ..payment.row.payment.amount })
        }
        _ => Recorded::Applied(subject),
    })
}

/// Records the refund of a scanned payment that its own reversal returned.
fn reversed(
    tx: &mut Transaction<'_>,
    notification: &Notification,
    mut payment: TrackedRow<PaymentRow>,
    now: Timestamp,
) -> Result<Recorded, LedgerError> {
    let channel = payment.row.payment.channel.clone();
    add(tx, payment.id, received(notification, &channel, NotificationVerdict::Verify), now)?;
    settle::query_payment(&mut payment, now);
    payment.save(tx)?;
    Ok(Recorded::Applied(rows::payment_subject(&payment.row.payment)))
}

/// Rejects a notification. It stays open, because the same one may come again and fit then. Its timeline entry and its
/// event are written only once.
fn mismatch(
    tx: &mut Transaction<'_>,
    notification: &Notification,
    payment: TrackedRow<PaymentRow>,
    refunded: Refunded,
    now: Timestamp,
) -> Result<Recorded, LedgerError> {
    let subject = rows::payment_subject(&payment.row.payment);
    let channel = payment.row.payment.channel.clone();
    let key = seen_key(&channel, notification, refunded);
    if tx.bytes(Space::Notifications, &key.0)?.is_none() {
        mark(tx, key, MISMATCHED, now)?;
        // Added first, so that the timeline shows the event after the notification.
        add(tx, payment.id, received(notification, &channel, NotificationVerdict::Mismatch), now)?;
        effects::publish_mismatch(tx, &mut Target::Payment(payment), now)?;
    }
    Ok(Recorded::Mismatch(subject))
}

/// Returns whether a payment of this amount can have had this refund.
fn is_possible(row: &PaymentRow, refunded: Money) -> bool {
    let amount = row.payment.amount;
    refunded.currency == amount.currency && refunded.value <= amount.value
}

fn received(notification: &Notification, channel: &str, verdict: NotificationVerdict) -> TimelineEvent {
    let (channel, id) = (channel.to_owned(), notification.event.id.clone());
    TimelineEvent::NotificationReceived { channel, id, verdict, seen: notification.seen.clone() }
}

fn add(tx: &mut Transaction<'_>, payment: Id, what: TimelineEvent, now: Timestamp) -> Result<(), LedgerError> {
    timeline::add(tx, payment, None, what, now)
}

/// Returns the key of this state of the refund. Other fields of the notification may change.
fn seen_key(channel: &str, notification: &Notification, refunded: Refunded) -> Id {
    let number = notification.event.refund_number.as_deref().unwrap_or_default();
    index("seen", &[channel, "refunded_elsewhere", &notification.event.order_number, number, &refunded.to_string()])
}

/// Stores whether the notification was applied, or rejected as a mismatch.
fn mark(tx: &mut Transaction<'_>, key: Id, result: &'static [u8], now: Timestamp) -> Result<(), LedgerError> {
    if tx.bytes(Space::Notifications, &key.0)?.is_none() {
        retention::index_for_expiry(tx, Kind::Notifications, key, now);
    }
    tx.put(Space::Notifications, &key.0, result);
    Ok(())
}
