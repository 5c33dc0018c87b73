//! Applies updates: changes the record, its timeline and dependent rows, and publishes the event, in one transaction.

use jiff::Timestamp;
use tollgate_plugins::payment::Status;

use super::abandoned_attempts;
use super::effects::{add_evidence, publish_mismatch};
use super::elsewhere;
use super::error::LedgerError;
use super::ids::Id;
use super::outbox;
use super::records::{Inquiry, Record, RecordId, RecordState, Refund, Update};
use super::rows::{self, PaymentRow, RefundRow, Target, TrackedRow};
use super::rules::{self, Change, SuccessCheck};
use super::timeline::{self, Origin, TimelineEvent, UpdateWithEvidence};
use super::transaction::Transaction;

/// Implements [`Ledger::apply`](super::Ledger::apply).
pub(super) fn apply(
    tx: &mut Transaction<'_>,
    subject: &RecordId,
    update: UpdateWithEvidence,
    now: Timestamp,
) -> Result<Option<Record>, LedgerError> {
    let Some(mut target) = Target::find(tx, subject)? else { return Ok(None) };
    add_evidence(tx, &target, update.evidence, now)?;
    if apply_update(tx, &mut target, &update.update, Origin::Query, now)?.mismatch {
        publish_mismatch(tx, &mut target, now)?;
    }
    Ok(Some(target.record()))
}

/// Implements [`Ledger::append_timeline`](super::Ledger::append_timeline).
pub(super) fn append_timeline(
    tx: &mut Transaction<'_>,
    subject: &RecordId,
    notes: Vec<TimelineEvent>,
    now: Timestamp,
) -> Result<(), LedgerError> {
    let Some(target) = Target::find(tx, subject)? else { return Ok(()) };
    notes.into_iter().try_for_each(|what| target.add(tx, what, now))
}

/// Implements [`Ledger::escalate`](super::Ledger::escalate).
pub(super) fn escalate(
    tx: &mut Transaction<'_>,
    subject: &RecordId,
    why: String,
    now: Timestamp,
) -> Result<bool, LedgerError> {
    let Some(mut target) = Target::find(tx, subject)? else { return Ok(false) };
    // The result may have become known meanwhile. A success that still has to be confirmed is open, too.
    let is_final = target.status().is_final();
    let is_open = |inquiry: &Inquiry| !is_final || inquiry.confirmations > 0;
    let Some(inquiry) = target.inquiry().as_mut().filter(|inquiry| is_open(inquiry) && !inquiry.needs_review) else {
        return Ok(false);
    };
    inquiry.needs_review = true;
    target.add(tx, TimelineEvent::ManualReview { why }, now)?;
    if let Target::Payment(tracked) = &mut target
        && tracked.row.payment.status == Status::Unknown
        && tracked.row.attempt_of.is_none()
    {
        let data = Record::Payment(tracked.row.payment.clone());
        outbox::publish(tx, tracked, "payment.unknown", subject.clone(), data, now)?;
    }
    target.save(tx)?;
    Ok(true)
}

/// Implements [`Ledger::mismatch`](super::Ledger::mismatch).
pub(super) fn mismatch(tx: &mut Transaction<'_>, subject: &RecordId, now: Timestamp) -> Result<(), LedgerError> {
    match Target::find(tx, subject)? {
        Some(mut target) => publish_mismatch(tx, &mut target, now),
        None => Ok(()),
    }
}

/// Applies an update to a record, saves it, and publishes an event if its status changed. The caller handles a
/// mismatch.
pub(super) fn apply_update(
    tx: &mut Transaction<'_>,
    target: &mut Target,
    update: &Update,
    origin: Origin,
    now: Timestamp,
) -> Result<Change, LedgerError> {
    match target {
        Target::Payment(tracked) => apply_to_payment(tx, tracked, update, origin, now),
        Target::Refund(tracked) => apply_to_refund(tx, tracked, update, origin, now),
    }
}

/// Applies an update to a payment; see [`apply_update`].
pub(super) fn apply_to_payment(
    tx: &mut Transaction<'_>,
    tracked: &mut TrackedRow<PaymentRow>,
    update: &Update,
    origin: Origin,
    now: Timestamp,
) -> Result<Change, LedgerError> {
    if origin == Origin::Query
        && rules::check_success(&tracked.row.payment, tracked.row.refunding, update) == SuccessCheck::Undecided
    {
        rules::postpone_confirmation(&mut tracked.row.payment, now);
        tracked.save(tx)?;
        return Ok(Change::default());
    }
    let lacked_action = tracked.row.payment.action.is_none();
    let change = rules::payment(&mut tracked.row.payment, update, origin, now);
    let RecordState { status, money_state, version, .. } = tracked.row.payment.state;
    // A merchant that received an unknown result gets an event that the payer can pay now.
    let is_payable = status == Status::Pending && lacked_action && tracked.row.payment.action.is_some();
    let payable = (is_payable && origin == Origin::Query).then_some("payment.pending");
    let became = TimelineEvent::StatusChanged { status, money_state, version, by: origin };
    append_status_change(tx, tracked.id, None, update, change.changed.then_some(became), now)?;
    if tracked.row.attempt_of.is_some() {
        if change.became == Some(Status::Succeeded) {
            abandoned_attempts::paid(tx, tracked, now)?;
        }
    } else if let Some(kind) = change.became.and_then(rules::payment_event).or(payable) {
        let data = Record::Payment(tracked.row.payment.clone());
        outbox::publish(tx, tracked, kind, rows::payment_subject(&tracked.row.payment), data, now)?;
    }
    tracked.save(tx)?;
    Ok(change)
}

/// Applies an update to a refund; see [`apply_update`].
pub(super) fn apply_to_refund(
    tx: &mut Transaction<'_>,
    tracked: &mut TrackedRow<RefundRow>,
    update: &Update,
    origin: Origin,
    now: Timestamp,
) -> Result<Change, LedgerError> {
    if tracked.row.refund.is_elsewhere() {
        return elsewhere::apply(tx, tracked, update, now);
    }
    let had_failed = tracked.row.refund.status == Status::Failed;
    let change = rules::refund(&mut tracked.row.refund, update, origin, now);
    let Refund { state: RecordState { status, money_state, version, .. }, ref refund_id, .. } = tracked.row.refund;
    let became = TimelineEvent::StatusChanged { status, money_state, version, by: origin };
    append_status_change(tx, tracked.row.payment, Some(refund_id), update, change.changed.then_some(became), now)?;
    tracked.save(tx)?;
    let Some(status) = change.became else { return Ok(change) };
    let Some(kind) = rules::refund_event(status) else { return Ok(change) };
    let refund = &tracked.row.refund;
    let mut payment = TrackedRow::<PaymentRow>::must(tx, tracked.row.payment)?;
    if status == Status::Succeeded {
        let paid = &mut payment.row.payment;
        paid.refunded = paid.refunded.saturating_add(refund.amount.value);
        paid.version += 1;
        paid.updated_at = now;
    }
    let (refunding, has_failed) = (&mut payment.row.refunding, status == Status::Failed);
    match (had_failed, has_failed) {
        (false, true) => *refunding = refunding.saturating_sub(refund.amount.value),
        (true, false) => *refunding = refunding.saturating_add(refund.amount.value),
        _ => {}
    }
    let data = Record::Refund(refund.clone());
    outbox::publish(tx, &mut payment, kind, rows::refund_subject(refund), data, now)?;
    payment.save(tx)?;
    Ok(change)
}

/// Appends the status change to the timeline, and a manual review if the update asks for one.
fn append_status_change(
    tx: &mut Transaction<'_>,
    payment: Id,
    refund_id: Option<&str>,
    update: &Update,
    became: Option<TimelineEvent>,
    now: Timestamp,
) -> Result<(), LedgerError> {
    let why = match update {
        Update::Outcome(outcome) => outcome.needs_review.clone(),
        _ => None,
    };
    let needs_review = why.map(|why| TimelineEvent::ManualReview { why });
    became.into_iter().chain(needs_review).try_for_each(|what| timeline::add(tx, payment, refund_id, what, now))
}
