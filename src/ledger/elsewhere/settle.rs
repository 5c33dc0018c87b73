//! Results of refunds made elsewhere, and their effect on the payment.

use jiff::{SignedDuration, Timestamp};
use tollgate_plugins::payment::{Money, Status};

use super::super::error::LedgerError;
use super::super::records::{Inquiry, MoneyState, Update};
use super::super::rows::{self, PaymentRow, RefundRow, TrackedRow};
use super::super::rules::Change;
use super::super::timeline::{self, TimelineEvent};
use super::super::transaction::Transaction;
use super::row::{Settled, Standing, credit, end, find, note, postpone, release, reserve, standing, state};
use super::sums::{evaluate_sum, expect_missing, refresh_sum, store_sum};

const ABSENT: &str = "the provider notified of a refund that was not made here, but its query does not find the refund: \
                      look it up in the provider's console";
const IMPOSSIBLE: &str =
    "a refund that was not made here exceeds what was left of the payment: compare it with the provider's console";
const NOT_PAID: &str = "a payment that is not known to be paid was refunded: compare it with the provider's console";
const MADE_HERE: &str = "it was made through this gateway";
const REVERSAL: &str = "it belongs to the reversal of the payment";
/// Delay before the first query about a refund that the provider has not finished.
const UNFINISHED_WAIT: SignedDuration = SignedDuration::from_mins(5);
/// Age at which a result that cannot be applied goes to manual review.
const REVIEW_AGE: SignedDuration = SignedDuration::from_hours(24);

/// Applies the provider's answer to a query. [`Update::NotFoundAtProvider`] also means that no provider can be
/// queried, for a record without a number.
pub(in super::super) fn apply(
    tx: &mut Transaction<'_>,
    refund: &mut TrackedRow<RefundRow>,
    update: &Update,
    now: Timestamp,
) -> Result<Change, LedgerError> {
    // The record may have been settled by a notification while the provider was queried.
    if refund.row.refund.inquiry.is_none() {
        return Ok(Change::default());
    }
    let mut payment = TrackedRow::<PaymentRow>::must(tx, refund.row.payment)?;
    if is_made_here(tx, refund)? {
        // The notification came before the claim, as after the restore of an older ledger. Our own record counts.
        release(&mut payment, refund);
        refund.row.refund.status_reason = Some(MADE_HERE.to_owned());
        end(refund, Status::Closed, MoneyState::NotMoved, now);
        refund.save(tx)?;
        payment.save(tx)?;
        return Ok(Change::default());
    }
    let (version, known) = (refund.row.refund.version, refund.row.refund.amount);
    let settled = match update {
        Update::Outcome(outcome) => match (outcome.status, outcome.amount) {
            (Status::Succeeded, Some(amount)) => succeed(tx, &mut payment, refund, amount, now)?,
            (Status::Failed | Status::Closed, _) => fail(tx, &mut payment, refund, now)?,
            (Status::Succeeded | Status::Pending | Status::Unknown, _) => {
                remain_open(tx, &payment, refund, outcome.needs_review.as_deref(), now)?
            }
        },
        Update::NotFoundAtProvider if refund.row.refund.is_known_by_sum() => {
            evaluate_sum(tx, &mut payment, refund, now)?
        }
        // A notification proved the amount; only the payment's own result was missing.
        Update::NotFoundAtProvider if known.value > 0 => succeed(tx, &mut payment, refund, known, now)?,
        Update::NotFoundAtProvider => {
            let settled = remain_open(tx, &payment, refund, Some(ABSENT), now)?;
            let total = state(refund).total;
            if total > 0 {
                // From here on the sum proves the amount and reserves it.
                release(&mut payment, refund);
                refund.save(tx)?;
                store_sum(tx, &mut payment, total, now, now)?.save(tx)?;
            }
            settled
        }
        Update::Declined(_) | Update::Unknown(_) | Update::Expired | Update::NotSent(..) => Settled::Waiting,
    };
    refund.save(tx)?;
    payment.save(tx)?;
    let is_changed = refund.row.refund.version != version;
    let became = is_changed.then_some(refund.row.refund.status);
    Ok(Change { changed: is_changed, became, mismatch: settled == Settled::Impossible })
}

/// Returns whether this gateway has a refund of its own with this number.
fn is_made_here(tx: &Transaction<'_>, refund: &TrackedRow<RefundRow>) -> Result<bool, LedgerError> {
    let number = &refund.row.refund.provider_refund_no;
    Ok(!number.is_empty() && rows::refund_by_number(tx, number)?.is_some())
}

/// Makes the query of the refund due.
pub(super) fn ask(
    tx: &mut Transaction<'_>,
    payment: &TrackedRow<PaymentRow>,
    refund: &mut TrackedRow<RefundRow>,
    now: Timestamp,
) -> Result<(), LedgerError> {
    let record = &mut refund.row.refund;
    if record.status.is_final() {
        (record.status, record.money_state) = (Status::Unknown, MoneyState::Unknown);
        record.version += 1;
        record.updated_at = now;
    }
    let is_open = record.status == Status::Pending;
    let inquiry = record.inquiry.get_or_insert_with(|| Inquiry::new(now));
    inquiry.due = inquiry.due.min(now);
    // An open refund was named before, so "not found" never ends it.
    inquiry.confirmed |= is_open;
    note(tx, payment, refund, now)
}

/// Makes the query of the payment due: only a paid order can be refunded.
pub(super) fn query_payment(payment: &mut TrackedRow<PaymentRow>, now: Timestamp) {
    let inquiry = payment.row.payment.inquiry.get_or_insert_with(|| Inquiry::new(now));
    inquiry.due = inquiry.due.min(now);
}

/// Returns whether the refund fits into what is left of the payment.
pub(super) fn fits(tx: &Transaction<'_>, row: &PaymentRow, amount: Money) -> Result<bool, LedgerError> {
    let covered = find(tx, &row.payment, "")?.map_or(0, |sum| sum.row.refund.amount.value);
    let sum = row.payment.refunded.checked_add(amount.value.saturating_sub(covered));
    Ok(amount.currency == row.payment.amount.currency && sum.is_some_and(|sum| sum <= row.payment.amount.value))
}

/// Applies the verified success of a refund, once.
pub(super) fn succeed(
    tx: &mut Transaction<'_>,
    payment: &mut TrackedRow<PaymentRow>,
    refund: &mut TrackedRow<RefundRow>,
    amount: Money,
    now: Timestamp,
) -> Result<Settled, LedgerError> {
    match standing(&payment.row.payment) {
        Standing::Paid => {}
        Standing::Reversed => {
            release(payment, refund);
            refund.row.refund.status_reason = Some(REVERSAL.to_owned());
            end(refund, Status::Closed, MoneyState::Moved, now);
            return note(tx, payment, refund, now).map(|()| Settled::Counted(0));
        }
        Standing::NotPaid => {
            refund.row.refund.amount = amount;
            reserve(payment, refund, Some(amount));
            query_payment(payment, now);
            return retry_later(tx, payment, refund, NOT_PAID, now).map(|()| Settled::Waiting);
        }
    }
    if !fits(tx, &payment.row, amount)? {
        retry_later(tx, payment, refund, IMPOSSIBLE, now)?;
        return Ok(Settled::Impossible);
    }
    release(payment, refund);
    refund.row.refund.amount = amount;
    refund.row.refund.refunded_at = Some(now);
    end(refund, Status::Succeeded, MoneyState::Moved, now);
    note(tx, payment, refund, now)?;
    refund.save(tx)?;
    let mut counted = amount.value;
    if let Some(mut sum) = find(tx, &payment.row.payment, "")? {
        let covered = counted.min(sum.row.refund.amount.value);
        counted -= covered;
        sum.row.refund.amount.value -= covered;
        sum.save(tx)?;
    }
    credit(tx, payment, counted, now)?;
    let total = state(refund).total;
    expect_missing(tx, payment, total, now)?;
    refresh_sum(tx, payment, now)?;
    Ok(Settled::Counted(counted))
}

/// Ends a refund that returned no money.
pub(super) fn fail(
    tx: &mut Transaction<'_>,
    payment: &mut TrackedRow<PaymentRow>,
    refund: &mut TrackedRow<RefundRow>,
    now: Timestamp,
) -> Result<Settled, LedgerError> {
    release(payment, refund);
    end(refund, Status::Failed, MoneyState::NotMoved, now);
    note(tx, payment, refund, now)?;
    Ok(Settled::Counted(0))
}

/// Keeps a refund whose result the provider does not give. It is queried at growing intervals. The resolver ends the
/// queries if the provider does not find the refund for a month.
pub(super) fn remain_open(
    tx: &mut Transaction<'_>,
    payment: &TrackedRow<PaymentRow>,
    refund: &mut TrackedRow<RefundRow>,
    why: Option<&str>,
    now: Timestamp,
) -> Result<Settled, LedgerError> {
    let record = &mut refund.row.refund;
    if record.status != Status::Pending {
        (record.status, record.money_state) = (Status::Pending, MoneyState::NotMoved);
        record.version += 1;
        record.updated_at = now;
        let due = now.saturating_add(UNFINISHED_WAIT).unwrap_or(now);
        // A verified notification named the refund, so "not found" never ends it.
        record.inquiry = Some(Inquiry { due, confirmed: true, ..Inquiry::new(now) });
        note(tx, payment, refund, now)?;
    }
    if let Some(why) = why {
        timeline::add(tx, payment.id, None, TimelineEvent::ManualReview { why: why.to_owned() }, now)?;
    }
    Ok(Settled::Waiting)
}

/// Postpones a result that cannot be applied. After a day it goes to manual review, and is tried on.
fn retry_later(
    tx: &mut Transaction<'_>,
    payment: &TrackedRow<PaymentRow>,
    refund: &mut TrackedRow<RefundRow>,
    why: &str,
    now: Timestamp,
) -> Result<(), LedgerError> {
    postpone(refund, now);
    let Some(inquiry) = &mut refund.row.refund.inquiry else { return Ok(()) };
    if now.duration_since(inquiry.since) < REVIEW_AGE || std::mem::replace(&mut inquiry.needs_review, true) {
        return Ok(());
    }
    timeline::add(tx, payment.id, None, TimelineEvent::ManualReview { why: why.to_owned() }, now)
}
