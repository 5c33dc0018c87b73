//! Sums of refunds: the record that keeps the highest one, and what it proves.

use jiff::{SignedDuration, Timestamp};
use tollgate_plugins::payment::{Money, Status};

use super::super::error::LedgerError;
use super::super::records::{Inquiry, MoneyState};
use super::super::refunds;
use super::super::rows::{PaymentRow, RefundRow, TrackedRow};
use super::super::transaction::Transaction;
use super::row::{
    Settled, Standing, create, credit, end, find, note_total, postpone, release, reserve, standing, state,
};

/// Time for which the missing refund's own notification may still come. Alipay repeats for 24 hours and 22 minutes.
const MISSING_NOTIFICATION_WAIT: SignedDuration = SignedDuration::from_hours(25);

/// Keeps a sum in a notification about a known refund, if it exceeds all that is known: the notification of the
/// missing refund may still come. Until then only the certain part of the difference is reserved, because sums are
/// often early, and the provider itself refuses a refund of more than is left.
pub(super) fn expect_missing(
    tx: &mut Transaction<'_>,
    payment: &mut TrackedRow<PaymentRow>,
    total: u64,
    now: Timestamp,
) -> Result<(), LedgerError> {
    if total > known(tx, &payment.row)? {
        let due = now.saturating_add(MISSING_NOTIFICATION_WAIT).unwrap_or(now);
        store_sum(tx, payment, total, due, now)?.save(tx)?;
    }
    Ok(())
}

/// Keeps the highest sum in the record of the sums, to be evaluated when `due`. The caller saves both.
pub(super) fn store_sum(
    tx: &mut Transaction<'_>,
    payment: &mut TrackedRow<PaymentRow>,
    total: u64,
    due: Timestamp,
    now: Timestamp,
) -> Result<TrackedRow<RefundRow>, LedgerError> {
    let mut sum = match find(tx, &payment.row.payment, "")? {
        Some(sum) => sum,
        None => create(tx, payment, "", now)?,
    };
    note_total(&mut sum, total);
    let record = &mut sum.row.refund;
    (record.status, record.money_state) = (Status::Pending, MoneyState::NotMoved);
    let is_asked = record.inquiry.as_ref().is_some_and(|inquiry| inquiry.confirmed);
    let inquiry = record.inquiry.get_or_insert_with(|| Inquiry::new(now));
    inquiry.due = if is_asked { inquiry.due.min(due) } else { due };
    inquiry.confirmed = true;
    reserve_missing(tx, payment, &mut sum)?;
    Ok(sum)
}

/// Counts what a sum proves, if every result is known.
pub(super) fn evaluate_sum(
    tx: &mut Transaction<'_>,
    payment: &mut TrackedRow<PaymentRow>,
    sum: &mut TrackedRow<RefundRow>,
    now: Timestamp,
) -> Result<Settled, LedgerError> {
    match standing(&payment.row.payment) {
        Standing::Paid if !survey(tx, &payment.row)?.is_undecided => {}
        Standing::Paid | Standing::NotPaid => {
            postpone(sum, now);
            return Ok(Settled::Waiting);
        }
        Standing::Reversed => {
            release(payment, sum);
            end(sum, Status::Closed, MoneyState::Moved, now);
            return Ok(Settled::Counted(0));
        }
    }
    release(payment, sum);
    let missing = state(sum).total.saturating_sub(payment.row.payment.refunded);
    let counted = sum.row.refund.amount.value.saturating_add(missing);
    sum.row.refund.amount.value = counted;
    let status = if counted > 0 { Status::Succeeded } else { Status::Closed };
    end(sum, status, MoneyState::Moved, now);
    credit(tx, payment, missing, now)?;
    Ok(Settled::Counted(missing))
}

/// Adjusts the stored sum to a refund that has become known. The sum ends if it is explained.
pub(super) fn refresh_sum(
    tx: &mut Transaction<'_>,
    payment: &mut TrackedRow<PaymentRow>,
    now: Timestamp,
) -> Result<(), LedgerError> {
    let sum = find(tx, &payment.row.payment, "")?.filter(|sum| sum.row.refund.inquiry.is_some());
    let Some(mut sum) = sum else { return Ok(()) };
    if state(&mut sum).total <= payment.row.payment.refunded {
        evaluate_sum(tx, payment, &mut sum, now)?;
    } else {
        reserve_missing(tx, payment, &mut sum)?;
    }
    sum.save(tx)
}

/// Reserves what a stored sum certainly exceeds all known refunds by.
pub(super) fn reserve_missing(
    tx: &Transaction<'_>,
    payment: &mut TrackedRow<PaymentRow>,
    sum: &mut TrackedRow<RefundRow>,
) -> Result<(), LedgerError> {
    let known = known(tx, &payment.row)?;
    let missing = Money { value: state(sum).total.saturating_sub(known), ..payment.row.payment.amount };
    reserve(payment, sum, Some(missing));
    Ok(())
}

/// State of all refunds of a payment.
pub(super) struct Survey {
    /// A refund of ours or a numbered one has no result, so a sum may or may not include it.
    pub(super) is_undecided: bool,
    /// Sum that refunds made elsewhere reserve, in minor units.
    reserved: u64,
}

pub(super) fn survey(tx: &Transaction<'_>, row: &PaymentRow) -> Result<Survey, LedgerError> {
    let mut survey = Survey { is_undecided: false, reserved: 0 };
    for refund in refunds::of(tx, row) {
        let RefundRow { refund, released, elsewhere, .. } = refund?.row;
        survey.reserved = survey.reserved.saturating_add(elsewhere.unwrap_or_default().reserved);
        survey.is_undecided |= match refund.is_elsewhere() {
            // A refund that remains open does not block: if it succeeds later, the sum included it.
            true => refund.status == Status::Unknown && !refund.is_known_by_sum(),
            false => !released && !refund.status.is_final(),
        };
    }
    Ok(survey)
}

/// Returns the sum of all refunds of ours that have not failed, and of all counted refunds made elsewhere.
pub(super) fn known(tx: &Transaction<'_>, row: &PaymentRow) -> Result<u64, LedgerError> {
    Ok(row.refunding.saturating_sub(survey(tx, row)?.reserved))
}
