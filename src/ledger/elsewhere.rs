//! Refunds that were not made here, as in the provider's console. The money is gone, so the payment's sum says so, the merchant is
//! told, and a person is asked to compare.

use jiff::Timestamp;
use tollgate_plugins::payment::{Money, Refunded, Status};

use super::changes::{self, BELIEVED};
use super::ids::index;
use super::outbox;
use super::records::{LedgerError, Record, Recorded};
use super::retention::{self, Kind};
use super::rows::{self, Kept, PaymentRow, Target};
use super::timeline::{self, Told, Verdict, What};
use super::transaction::{Read, Space, Transaction};

/// The event's type.
const KIND: &str = "payment.refunded_elsewhere";
const WHY: &str = "money went back to the payer by a refund that was not made here";

/// Records a refund that was not made here. `None`: the notification is about something else.
pub(super) fn record(
    tx: &mut Transaction<'_>,
    channel: &str,
    told: &Told,
    now: Timestamp,
) -> Result<Option<Recorded>, LedgerError> {
    let event = &told.event;
    let Some(refunded) = event.refunded else { return Ok(None) };
    let Some(mut payment) = changes::payment_named(tx, channel, &event.order_number)? else { return Ok(None) };
    if payment.row.payment.channel != channel || is_ours(tx, &payment, event.refund_number.as_deref())? {
        return Ok(None);
    }
    // The provider's own status beside it may change, and it is the same refund. Once it is counted, its amount may be more than
    // what is left, so this comes before the sums are compared.
    let number = event.refund_number.as_deref().unwrap_or_default();
    let key = index("seen", &[channel, "refunded_elsewhere", &event.order_number, number, &refunded.to_string()]);
    if tx.bytes(Space::Seen, &key.0)?.is_some() {
        return Ok(Some(Recorded::Duplicate));
    }
    let subject = rows::payment_subject(&payment.row.payment);
    let moved = moved(&payment.row, refunded);
    if is_undecided(&payment.row, refunded) {
        return Ok(Some(Recorded::TooEarly(subject)));
    }
    let notified = |verdict| {
        let (channel, id) = (channel.to_owned(), event.id.clone());
        What::Notified { channel, id, verdict, seen: told.seen.clone() }
    };
    if payment.row.payment.status != Status::Succeeded {
        let is_taken_back = payment.row.payment.method.is_scanned() && payment.row.payment.status.is_final();
        let mut target = Target::Payment(payment);
        target.add(tx, notified(Verdict::Ask), now)?;
        changes::ask(tx, &mut target, now)?;
        // A till's payment that was cancelled was given back by the cancellation.
        return Ok(Some(if is_taken_back { Recorded::Applied(subject) } else { Recorded::TooEarly(subject) }));
    }
    let Some(moved) = moved else {
        let mut target = Target::Payment(payment);
        changes::tell_mismatch(tx, &mut target, now)?;
        return Ok(Some(Recorded::Mismatch(subject)));
    };
    if moved.value == 0 {
        // All of the sum is known: refunds of ours, or an older sum that comes late.
        return Ok(Some(Recorded::Duplicate));
    }
    retention::age(tx, Kind::Notifications, key, now);
    tx.put(Space::Seen, &key.0, BELIEVED);
    payment.row.refunding = payment.row.refunding.saturating_add(moved.value);
    let paid = &mut payment.row.payment;
    paid.refunded = paid.refunded.saturating_add(moved.value);
    paid.refunded_elsewhere = paid.refunded_elsewhere.saturating_add(moved.value);
    paid.version += 1;
    paid.updated_at = now;
    for what in [notified(Verdict::Believed), What::NeedsPerson { why: WHY.to_owned() }] {
        timeline::add(tx, payment.id, None, what, now)?;
    }
    // No merchant knows of what was left behind on another channel.
    if payment.row.attempt_of.is_none() {
        let data = Record::Payment(payment.row.payment.clone());
        outbox::tell(tx, &mut payment, KIND, subject.clone(), data, now)?;
    }
    payment.save(tx)?;
    Ok(Some(Recorded::RefundedElsewhere(subject, moved)))
}

fn is_ours(tx: &Transaction<'_>, payment: &Kept<PaymentRow>, number: Option<&str>) -> Result<bool, LedgerError> {
    let Some(number) = number else { return Ok(false) };
    Ok(rows::refund_by_number(tx, number)?.is_some_and(|refund| refund.row.payment == payment.id))
}

/// Whether a sum may hold refunds of ours whose end is open: how much of it went back elsewhere is known when they have ended, and
/// the notification comes again.
fn is_undecided(row: &PaymentRow, refunded: Refunded) -> bool {
    let is_open = row.refunding > row.payment.refunded;
    matches!(refunded, Refunded::Total(sum) if is_open && sum.value > row.payment.refunded)
}

/// How much went back that is not known here; `None` where it cannot be true. Refunds of ours whose end is open count as known:
/// what is left over is certain.
fn moved(row: &PaymentRow, refunded: Refunded) -> Option<Money> {
    let (Refunded::Part(money) | Refunded::Total(money)) = refunded;
    let value = match refunded {
        Refunded::Part(part) => part.value,
        Refunded::Total(total) => total.value.saturating_sub(row.refunding),
    };
    let amount = row.payment.amount;
    let is_possible = money.currency == amount.currency
        && money.value <= amount.value
        && row.payment.refunded.checked_add(value).is_some_and(|sum| sum <= amount.value);
    is_possible.then_some(Money { value, ..amount })
}
