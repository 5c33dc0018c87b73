//! Row of a refund made elsewhere, and what it reserves of its payment or adds to it.

use jiff::{SignedDuration, Timestamp};
use tollgate_plugins::payment::{Money, Status};

use super::super::error::LedgerError;
use super::super::names::entry_of_refund;
use super::super::outbox;
use super::super::records::{
    ELSEWHERE_PREFIX, ElsewhereState, Inquiry, MoneyState, Payment, Record, RecordState, Refund,
};
use super::super::rows::{self, PaymentRow, RefundRow, TrackedRow};
use super::super::timeline::{self, TimelineEvent};
use super::super::transaction::{Space, Transaction};

/// Type of the event.
const REFUNDED_ELSEWHERE_EVENT: &str = "payment.refunded_elsewhere";
const WHY: &str = "money went back to the payer by a refund that was not made here";
/// Bounds of the delay before a result that cannot be applied yet is tried again. Between them: the record's age.
const RETRY_DELAY: [SignedDuration; 2] = [SignedDuration::from_secs(2), SignedDuration::from_hours(1)];

/// State of a payment that decides whether it can have been refunded elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// The payment succeeded.
    Paid,
    /// A scanned payment that was reversed. The reversal refunded it.
    Reversed,
    /// The payment is not known to be paid.
    NotPaid,
}

pub(super) fn standing(payment: &Payment) -> Standing {
    match payment.status {
        Status::Succeeded => Standing::Paid,
        status if payment.method.is_scanned() && status.is_final() => Standing::Reversed,
        _ => Standing::NotPaid,
    }
}

/// Effect of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// The record has ended. Carries what it added to the payment's refunds, in minor units.
    Counted(u64),
    /// The result exceeds what was paid.
    Impossible,
    /// The result cannot be applied yet.
    Waiting,
}

/// Returns the record of a refund made elsewhere. The number is empty for the record of the sums.
pub(super) fn find(
    tx: &Transaction<'_>,
    payment: &Payment,
    number: &str,
) -> Result<Option<TrackedRow<RefundRow>>, LedgerError> {
    rows::find_refund(tx, &payment.merchant, &payment.order_id, &format!("{ELSEWHERE_PREFIX}{number}"))
}

/// Creates a record whose result is unknown and whose query is due. The caller saves the payment.
pub(super) fn create(
    tx: &mut Transaction<'_>,
    payment: &mut TrackedRow<PaymentRow>,
    number: &str,
    now: Timestamp,
) -> Result<TrackedRow<RefundRow>, LedgerError> {
    let paid = &payment.row.payment;
    let refund = Refund {
        merchant: paid.merchant.clone(),
        order_id: paid.order_id.clone(),
        refund_id: format!("{ELSEWHERE_PREFIX}{number}"),
        provider_refund_no: number.to_owned(),
        content: String::new(),
        amount: Money { value: 0, ..paid.amount },
        reason: None,
        channel: paid.channel.clone(),
        provider_refund_id: None,
        refunded_at: None,
        state: RecordState {
            status: Status::Unknown,
            money_state: MoneyState::Unknown,
            inquiry: Some(Inquiry::new(now)),
            ..RecordState::new(now)
        },
    };
    let id = tx.new_id(now);
    tx.put(Space::Index, &entry_of_refund(&refund).0, id.0);
    let row = RefundRow {
        refund,
        payment: payment.id,
        claim: payment.row.claim,
        previous: payment.row.last_refund.replace(id),
        released: false,
        mismatch: None,
        elsewhere: Some(ElsewhereState::default()),
    };
    let mut tracked = TrackedRow::new(id, row);
    tracked.save(tx)?;
    Ok(tracked)
}

pub(super) fn state(refund: &mut TrackedRow<RefundRow>) -> &mut ElsewhereState {
    refund.row.elsewhere.get_or_insert_default()
}

/// Notes the sum of all refunds that a notification about this refund named.
pub(super) fn note_total(refund: &mut TrackedRow<RefundRow>, total: u64) {
    let state = state(refund);
    state.total = state.total.max(total);
}

/// Reserves the most that the refund may have returned, so that no refund of ours is sent for money that the payer
/// already has. Without a limit all that is left is reserved. Refusing a refund for some seconds costs the merchant a
/// repetition; paying twice costs money. A refund that never ends keeps its reservation, as an unknown refund of ours
/// does. `refunded` never includes it.
pub(super) fn reserve(payment: &mut TrackedRow<PaymentRow>, refund: &mut TrackedRow<RefundRow>, limit: Option<Money>) {
    release(payment, refund);
    let left = payment.row.payment.amount.value.saturating_sub(payment.row.refunding);
    let reserved = limit.map_or(left, |limit| limit.value.min(left));
    payment.row.refunding = payment.row.refunding.saturating_add(reserved);
    state(refund).reserved = reserved;
}

pub(super) fn release(payment: &mut TrackedRow<PaymentRow>, refund: &mut TrackedRow<RefundRow>) {
    let reserved = std::mem::take(&mut state(refund).reserved);
    payment.row.refunding = payment.row.refunding.saturating_sub(reserved);
}

/// Adds an amount to the payment's refunds, and publishes the event. The caller saves the payment.
pub(super) fn credit(
    tx: &mut Transaction<'_>,
    payment: &mut TrackedRow<PaymentRow>,
    value: u64,
    now: Timestamp,
) -> Result<(), LedgerError> {
    if value == 0 {
        return Ok(());
    }
    payment.row.refunding = payment.row.refunding.saturating_add(value);
    let paid = &mut payment.row.payment;
    paid.refunded = paid.refunded.saturating_add(value);
    paid.refunded_elsewhere = paid.refunded_elsewhere.saturating_add(value);
    paid.version += 1;
    paid.updated_at = now;
    timeline::add(tx, payment.id, None, TimelineEvent::ManualReview { why: WHY.to_owned() }, now)?;
    // Merchants do not know abandoned attempts.
    if payment.row.attempt_of.is_none() {
        let (subject, data) =
            (rows::payment_subject(&payment.row.payment), Record::Payment(payment.row.payment.clone()));
        outbox::publish(tx, payment, REFUNDED_ELSEWHERE_EVENT, subject, data, now)?;
    }
    Ok(())
}

pub(super) fn end(refund: &mut TrackedRow<RefundRow>, status: Status, money_state: MoneyState, now: Timestamp) {
    let record = &mut refund.row.refund;
    (record.status, record.money_state, record.inquiry) = (status, money_state, None);
    record.version += 1;
    record.updated_at = now;
}

/// Adds the state of the refund to the timeline of its payment.
pub(super) fn note(
    tx: &mut Transaction<'_>,
    payment: &TrackedRow<PaymentRow>,
    refund: &TrackedRow<RefundRow>,
    now: Timestamp,
) -> Result<(), LedgerError> {
    let refund = &refund.row.refund;
    let what = TimelineEvent::RefundElsewhere { number: refund.provider_refund_no.clone(), status: refund.status };
    timeline::add(tx, payment.id, None, what, now)
}

pub(super) fn postpone(refund: &mut TrackedRow<RefundRow>, now: Timestamp) {
    let inquiry = refund.row.refund.inquiry.get_or_insert_with(|| Inquiry::new(now));
    let [least, most] = RETRY_DELAY;
    let delay = now.duration_since(inquiry.since).clamp(least, most);
    inquiry.asked = inquiry.asked.saturating_add(1);
    inquiry.due = now.saturating_add(delay).unwrap_or(now);
}
