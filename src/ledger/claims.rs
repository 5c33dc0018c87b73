//! Claims: durable ownership of a request. Decides who may execute a request, records its result, and recovers after
//! a crash.

mod admit;
pub(super) mod jobs;
mod row;

use jiff::Timestamp;
use tollgate_plugins::payment::Status;

pub(super) use self::admit::Request;
pub(super) use self::jobs::{AsyncRequest, Attempt};
use self::row::{ClaimRow, KeyRow, State};
pub(super) use self::row::{expired, is_key_open};
use super::abandoned_attempts;
use super::apply::{apply_to_payment, apply_update};
use super::claim_guard::{Abandoned, ExecutionId};
use super::effects::{add_evidence, publish_mismatch};
use super::error::LedgerError;
use super::ids::Id;
use super::inquiries;
use super::names;
use super::records::{Answer, ClaimResult, Destination, Intent, MoneyState, Payment, Reason, Record, Update};
use super::refunds;
use super::rows::{PaymentRow, RefundRow, Target, TrackedRow};
use super::rules::{self, SuccessCheck};
use super::timeline::{self, IntentKind, LossCause, Origin, ProviderCall, TimelineEvent, UpdateWithEvidence};
use super::transaction::{Pair, Read, Space, Transaction};

/// Implements [`Ledger::claim`](super::Ledger::claim) and [`Ledger::enqueue`](super::Ledger::enqueue).
pub(super) fn claim(tx: &mut Transaction<'_>, request: Request) -> Result<ClaimResult, LedgerError> {
    let Request { request, intent } = request;
    if let Some(row) = KeyRow::load(tx, request.name)?
        && let Some(claim) = ClaimRow::load(tx, row.claim)?
    {
        return if row.fingerprint == request.fingerprint { claim.repeat(tx) } else { Ok(ClaimResult::KeyReused) };
    }
    match intent {
        Intent::Pay(payment) => request.pay(tx, payment),
        Intent::Refund(refund) => request.refund(tx, refund),
        Intent::Close(_) => request.close(tx),
    }
}

/// Implements [`Ledger::reroute`](super::Ledger::reroute).
pub(super) fn reroute(
    tx: &mut Transaction<'_>,
    execution: ExecutionId,
    to: Destination,
    evidence: Vec<ProviderCall>,
    now: Timestamp,
) -> Result<Payment, LedgerError> {
    let otherwise =
        || LedgerError::Superseded("the payment is no longer unsent, so it must not be sent on another channel");
    let claim =
        ClaimRow::running(tx, execution)?.filter(|claim| claim.action == IntentKind::Pay).ok_or_else(otherwise)?;
    let mut tracked = TrackedRow::<PaymentRow>::must(tx, claim.payment)?;
    let payment = &tracked.row.payment;
    if !is_unsent(payment.status, payment.money_state) {
        return Err(otherwise());
    }
    if evidence.iter().any(|call| call.was_tried()) {
        abandoned_attempts::record_abandoned(tx, &mut tracked, now)?;
    }
    let Destination { channel, account, expires_at, public_url } = to;
    let payment = &mut tracked.row.payment;
    let moved = (payment.channel != channel).then(|| TimelineEvent::Rerouted { channel: channel.clone() });
    (payment.channel, payment.account, payment.expires_at) = (channel, account, expires_at);
    if let Some(create) = &mut payment.create_request {
        create.public_url = public_url;
    }
    payment.version += 1;
    payment.updated_at = now;
    let events = evidence.into_iter().map(TimelineEvent::ProviderCall).chain(moved);
    events.into_iter().try_for_each(|what| timeline::add(tx, tracked.id, None, what, now))?;
    tracked.save(tx)?;
    Ok(tracked.row.payment)
}

/// Implements [`Ledger::release`](super::Ledger::release). If an update arrived meanwhile, the claim ends as
/// [interrupted](mark_interrupted) instead. A job is requeued.
pub(super) fn release(
    tx: &mut Transaction<'_>,
    execution: ExecutionId,
    attempt: Attempt,
    evidence: Vec<ProviderCall>,
    now: Timestamp,
) -> Result<(), LedgerError> {
    let Some(mut claim) = ClaimRow::running(tx, execution)? else { return Ok(()) };
    let target = claim.target(tx)?;
    let may_be_known = evidence.iter().any(ProviderCall::may_have_reached);
    let last_error = evidence.last().map(|call| match &call.why {
        Some(why) => format!("{} ({why})", call.result),
        None => call.result.clone(),
    });
    add_evidence(tx, &target, evidence, now)?;
    if claim.action != IntentKind::Close && !is_untouched(&target) {
        return mark_interrupted(tx, execution, LossCause::KnownToProvider, now);
    }
    if let Some(job) = &mut claim.job {
        job.may_be_known |= may_be_known;
        return jobs::requeue(tx, execution.claim, claim, target, (attempt, last_error), now);
    }
    let released = TimelineEvent::Released { action: claim.action };
    match target {
        Target::Payment(mut tracked) if claim.action == IntentKind::Close => {
            tracked.row.close = None;
            tracked.save(tx)?;
            timeline::add(tx, tracked.id, None, released, now)?;
        }
        Target::Payment(tracked) => {
            abandoned_attempts::discard(tx, &tracked.row)?;
            tx.remove(Space::Index, &names::entry_of_payment(&tracked.row.payment).0);
            timeline::remove(tx, tracked.id);
            tracked.remove(tx);
        }
        Target::Refund(tracked) => {
            let refund = &tracked.row.refund;
            let mut payment = TrackedRow::<PaymentRow>::must(tx, claim.payment)?;
            payment.row.refunding = payment.row.refunding.saturating_sub(refund.amount.value);
            timeline::add(tx, payment.id, Some(&refund.refund_id), released, now)?;
            tx.remove(Space::Index, &names::entry_of_refund(refund).0);
            refunds::remove(tx, tracked, &mut payment)?;
            payment.save(tx)?;
        }
    }
    for name in &claim.names {
        tx.remove(Space::Keys, &name.0);
    }
    tx.remove(Space::Running, &execution.claim.0);
    tx.remove(Space::Claims, &execution.claim.0);
    Ok(())
}

/// Implements [`Ledger::settle`](super::Ledger::settle).
pub(super) fn settle(
    tx: &mut Transaction<'_>,
    execution: ExecutionId,
    update: UpdateWithEvidence,
    now: Timestamp,
    answer: impl FnOnce(&Record) -> Answer,
) -> Result<(Record, Answer), LedgerError> {
    let claim = ClaimRow::must(tx, execution.claim)?;
    let is_late = !claim.runs(execution);
    let mut target = claim.target(tx)?;
    let UpdateWithEvidence { update, evidence } = update;
    add_evidence(tx, &target, evidence, now)?;
    let (is_mismatch, is_unclear) = match &mut target {
        target if is_late => {
            let is_mismatch = apply_from_stale_holder(tx, target, &update, now)?;
            let is_reversed = claim.action == IntentKind::Close
                && matches!(target, Target::Payment(payment) if has_reversed_success(payment, &update));
            (is_mismatch || is_reversed, true)
        }
        Target::Payment(payment) if claim.action == IntentKind::Close => settle_close(tx, payment, &update, now)?,
        _ => (apply_update(tx, &mut target, &update, Origin::Request, now)?.mismatch, false),
    };
    if is_mismatch {
        publish_mismatch(tx, &mut target, now)?;
    }
    if matches!(update, Update::NotSent(..)) {
        target.add(tx, TimelineEvent::Released { action: claim.action }, now)?;
    }
    let is_unclear = is_unclear || target.status() == Status::Unknown;
    let is_job = claim.job.is_some();
    if is_job && !is_unclear {
        let refused_close = refusal(&update).filter(|_| claim.action == IntentKind::Close);
        jobs::publish_result(tx, &mut target, refused_close, now)?;
    }
    let record = target.record();
    let answer = answer(&record);
    let state = if is_unclear || is_job { State::Unknown } else { State::Done(answer.clone()) };
    if !is_late {
        claim.end(tx, execution.claim, state)?;
    }
    Ok((record, answer))
}

/// Applies the update of a holder whose execution was fenced off: its lease had expired, and an inquiry was started
/// without it. A provider's outcome is applied like a late notification. Every other update is ignored. Returns
/// whether the update names another amount.
fn apply_from_stale_holder(
    tx: &mut Transaction<'_>,
    target: &mut Target,
    update: &Update,
    now: Timestamp,
) -> Result<bool, LedgerError> {
    match update {
        Update::Outcome(_) => Ok(apply_update(tx, target, update, Origin::Notification, now)?.mismatch),
        Update::Declined(_)
        | Update::Unknown(_)
        | Update::NotFoundAtProvider
        | Update::Expired
        | Update::NotSent(..) => Ok(false),
    }
}

/// Applies the result of a close. A refused close does not fail the payment. Returns whether the result names another
/// amount, and whether the result of the close is unclear.
fn settle_close(
    tx: &mut Transaction<'_>,
    payment: &mut TrackedRow<PaymentRow>,
    update: &Update,
    now: Timestamp,
) -> Result<(bool, bool), LedgerError> {
    let is_mismatch = match update {
        Update::Outcome(_) => {
            let is_mismatch = apply_to_payment(tx, payment, update, Origin::Query, now)?.mismatch;
            is_mismatch || has_reversed_success(payment, update)
        }
        Update::Unknown(_) => false,
        Update::Declined(_) | Update::NotFoundAtProvider | Update::Expired | Update::NotSent(..) => {
            return Ok((false, false));
        }
    };
    let is_unclear = is_mismatch || matches!(update, Update::Unknown(_));
    // The query after the close may have preceded the reversal that the provider accepted.
    let is_success = payment.row.payment.status == Status::Succeeded && !is_mismatch;
    // The event reports the mismatch of a final payment. No further inquiry is needed.
    if is_success || is_unclear && !(is_mismatch && payment.row.payment.status.is_final()) {
        inquiries::after_close(tx, payment, now)?;
    }
    Ok((is_mismatch, is_unclear))
}

/// Returns whether the close has reversed a payment that had succeeded, as the merchant knows.
fn has_reversed_success(payment: &TrackedRow<PaymentRow>, update: &Update) -> bool {
    rules::check_success(&payment.row.payment, payment.row.refunding, update) == SuccessCheck::Reversed
}

/// Returns why a queued close was not executed. No caller waits for its response, so the event about the payment's
/// status carries the reason. The payment keeps its own reason.
fn refusal(update: &Update) -> Option<String> {
    match update {
        Update::Declined(provider_error) => Some(format!("the provider refused to close it ({provider_error})")),
        Update::NotSent(_, Reason { provider_error, sentence }) => {
            let provider_error =
                provider_error.as_ref().map(|provider_error| format!(" ({provider_error})")).unwrap_or_default();
            let why = sentence.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            Some(format!("the close was given up{provider_error}{why}"))
        }
        _ => None,
    }
}

/// Returns whether this execution of a claim is running.
pub(super) fn is_running(from: &impl Read, execution: ExecutionId) -> Result<bool, LedgerError> {
    Ok(ClaimRow::running(from, execution)?.is_some())
}

/// Ends a running claim of which it is unknown whether anything was sent. The provider is queried from then on.
pub(super) fn mark_interrupted(
    tx: &mut Transaction<'_>,
    execution: ExecutionId,
    cause: LossCause,
    now: Timestamp,
) -> Result<(), LedgerError> {
    match ClaimRow::running(tx, execution)? {
        Some(claim) => end_as_interrupted(tx, execution.claim, claim, cause, now),
        None => Ok(()),
    }
}

fn end_as_interrupted(
    tx: &mut Transaction<'_>,
    id: Id,
    claim: ClaimRow,
    cause: LossCause,
    now: Timestamp,
) -> Result<(), LedgerError> {
    let target = claim.target(tx)?;
    target.add(tx, TimelineEvent::Interrupted { action: claim.action, cause }, now)?;
    match target {
        Target::Payment(mut payment) if claim.action == IntentKind::Close => {
            inquiries::after_close(tx, &mut payment, now)?
        }
        mut target => {
            let reason = Reason::sentence(cause.sentence());
            apply_update(tx, &mut target, &Update::Unknown(reason), Origin::Request, now)?;
        }
    }
    claim.end(tx, id, State::Unknown)
}

impl Abandoned {
    /// Ends an abandoned claim this way.
    pub(super) fn of(
        self,
        tx: &mut Transaction<'_>,
        execution: ExecutionId,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        match self {
            Self::NotSent => release(tx, execution, Attempt::None, Vec::new(), now),
            Self::Interrupted => mark_interrupted(tx, execution, LossCause::Abandoned, now),
            Self::MaybeSent => mark_interrupted(tx, execution, LossCause::NoResult, now),
        }
    }
}

/// Ends every claim that was running when the last process ended.
pub(super) fn recover(tx: &mut Transaction<'_>, running: Vec<Pair>, now: Timestamp) -> Result<(), LedgerError> {
    for (claim, number) in running {
        let execution = ExecutionId::listed(&claim, &number)?;
        // A claim that cannot be read must not prevent the start.
        if let Err(error) = mark_interrupted(tx, execution, LossCause::Abandoned, now) {
            let claim = String::from(execution.claim);
            tracing::error!(%error, claim, "a claim of the last run cannot be ended; a person must review it");
        }
    }
    Ok(())
}

/// Returns the payment of a claim, and its refund if the claim is for one.
pub(super) fn records_of(from: &impl Read, id: Id) -> Result<Option<(Id, Option<Id>)>, LedgerError> {
    Ok(ClaimRow::load(from, id)?.map(|claim| (claim.payment, claim.refund)))
}

/// Returns the payment of a claim.
pub(super) fn payment_of(from: &impl Read, id: Id) -> Result<Option<Id>, LedgerError> {
    Ok(ClaimRow::load(from, id)?.map(|claim| claim.payment))
}

/// Returns whether nothing is known of the record except its claim, so that the claim can be deleted.
fn is_untouched(target: &Target) -> bool {
    match target {
        Target::Payment(TrackedRow { row: PaymentRow { payment, queues, mismatch, .. }, .. }) => {
            is_unsent(payment.status, payment.money_state) && queues.is_empty() && mismatch.is_none()
        }
        Target::Refund(TrackedRow { row: RefundRow { refund, mismatch, .. }, .. }) => {
            is_unsent(refund.status, refund.money_state) && mismatch.is_none()
        }
    }
}

fn is_unsent(status: Status, money_state: MoneyState) -> bool {
    status == Status::Pending && money_state == MoneyState::NotSent
}
