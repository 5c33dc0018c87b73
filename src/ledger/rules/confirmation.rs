//! Confirmation of a success that a close may have undone, by later queries.

use jiff::{SignedDuration, Timestamp};
use tollgate_plugins::payment::Status;

use super::super::records::{Inquiry, Payment, RecordState, Update};

/// Delays before the queries that confirm a success during a close. Answers that arrive before the first may be to
/// queries that preceded the close. Some providers only accept a reversal and execute it later, hence the second.
const CONFIRMATION_DELAYS: [SignedDuration; 2] = [SignedDuration::from_secs(10), SignedDuration::from_mins(5)];

/// Returns the inquiry that confirms a success after a close that may have reversed the payment.
pub(crate) fn begin_confirmation(now: Timestamp) -> Inquiry {
    let [first, _] = CONFIRMATION_DELAYS;
    let due = now.saturating_add(first).unwrap_or(now);
    Inquiry { closing: true, confirmations: 2, due, ..Inquiry::new(now) }
}

/// Returns whether the provider reports that our own close reversed a payment. UnionPay reports a reversed order as
/// failed. A payment that was refunded in full is reported as closed by some providers.
pub(super) fn is_reversed(payment: &Payment, update: &Update) -> bool {
    let is_ended =
        matches!(update, Update::Outcome(outcome) if matches!(outcome.status, Status::Closed | Status::Failed));
    is_ended && payment.refunded < payment.amount.value
}

/// Meaning of a provider's answer about a payment that has succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SuccessCheck {
    /// The answer agrees with the success, or with its full refund.
    Agrees,
    /// The answer names an ended order while a refund of the rest is under way: it may be that refund or a reversal.
    Undecided,
    /// A close has reversed the payment: the payer has the money back.
    Reversed,
}

/// Compares a provider's answer with a success. `reserved` is the sum of all refunds that have not failed.
pub(crate) fn check_success(payment: &Payment, reserved: u64, update: &Update) -> SuccessCheck {
    match payment.status == Status::Succeeded && is_reversed(payment, update) {
        false => SuccessCheck::Agrees,
        true if reserved >= payment.amount.value => SuccessCheck::Undecided,
        true => SuccessCheck::Reversed,
    }
}

/// Postpones the query that confirms a success, because its answer cannot be told from a refund that is under way.
pub(crate) fn postpone_confirmation(payment: &mut Payment, now: Timestamp) {
    let [_, delay] = CONFIRMATION_DELAYS;
    if let Some(inquiry) = &mut payment.inquiry {
        inquiry.due = now.saturating_add(delay).unwrap_or(now);
    }
}

/// Continues or ends the inquiry of a final record after an answer. A success that a close may have undone is first
/// confirmed: by a success after each delay. A pending answer proves nothing.
pub(super) fn continue_or_end(state: &mut RecordState, answer: Status, now: Timestamp) {
    let [_, delay] = CONFIRMATION_DELAYS;
    let is_success = state.status == Status::Succeeded;
    let Some(inquiry) = state.inquiry.as_mut().filter(|inquiry| is_success && inquiry.confirmations > 0) else {
        state.inquiry = None;
        return;
    };
    // A due time beyond the delay was written by a wrong clock.
    let is_early = now < inquiry.due && inquiry.due.duration_since(now) <= delay;
    match answer {
        Status::Succeeded if is_early => {}
        Status::Succeeded if inquiry.confirmations > 1 => {
            inquiry.confirmations -= 1;
            inquiry.due = now.saturating_add(delay).unwrap_or(now);
        }
        answer if !answer.is_final() => {}
        _ => state.inquiry = None,
    }
}
