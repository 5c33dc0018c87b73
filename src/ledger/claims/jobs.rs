//! Asynchronous jobs: enqueued, then dequeued and executed like any other claim.
//!
//! A job is dequeued in one transaction, so that only one process gets it, with an execution id of its own. Only the
//! holder of that execution may requeue it, with the proof that nothing was sent. Every other end of an execution
//! makes the claim unknown.

use jiff::{SignedDuration, Timestamp};
use tollgate_plugins::payment::Status;

use super::row::{ClaimRow, State, schedule_job, unschedule_job};
use super::{end_as_interrupted, is_untouched};
use crate::abandoned_attempts;
use crate::apply::apply_to_payment;
use crate::claim_guard::ExecutionId;
use crate::due_index::{LATEST_DUE_JOB, after, claim_of};
use crate::error::LedgerError;
use crate::ids::{Id, millis, millis_at};
use crate::inquiries;
use crate::limits::{DueLimit, QueueFull};
use crate::outbox;
use crate::records::{ClaimResult, ExecutionPermit, Job, Reason, Record, Update};
use crate::rows::{self, PaymentRow, Target, TrackedRow};
use crate::schedule::Schedule;
use crate::timeline::{IntentKind, LossCause, Origin, TimelineEvent};
use crate::transaction::{Pair, Space, Transaction};

/// Type of the event about a job whose payment is still pending: the payer can pay now, or a close failed.
const PAYMENT_PENDING: &str = "payment.pending";
/// Longest retry delay. The first is 1 s, and each is twice the previous one.
const MAX_RETRY_DELAY: SignedDuration = SignedDuration::from_secs(30);

/// Asynchronous part of a claim request.
#[derive(Clone)]
pub(crate) struct AsyncRequest {
    /// See [`Job::body`].
    pub(crate) body: String,
    /// Limit of the queue that is reached, if any.
    pub(crate) full: Option<QueueFull>,
}

impl AsyncRequest {
    pub(super) fn job(self, action: IntentKind, now: Timestamp) -> Job {
        Job { action, body: self.body, since: now, tries: 0, due: now, last_error: None, may_be_known: false }
    }
}

/// Result of an execution that sent nothing: an attempt of its job, or none. A job expires only after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// A channel was tried, or the configuration names none.
    Made,
    /// This gateway was not allowed to send, or the permit never reached its caller.
    None,
}

/// Implements [`Ledger::dequeue`](crate::Ledger::dequeue).
pub(crate) fn take(
    tx: &mut Transaction<'_>,
    id: Id,
    by: &str,
    now: Timestamp,
) -> Result<Option<ExecutionPermit>, LedgerError> {
    let Some(mut claim) = ClaimRow::load(tx, id)?.filter(|claim| claim.state == State::Queued) else { return Ok(None) };
    let Some(job) = claim.job.clone() else { return Ok(None) };
    unschedule_job(tx, id, &job);
    let mut target = claim.target(tx)?;
    match &mut target {
        Target::Payment(payment)
            if claim.action == IntentKind::Close && payment.row.payment.status == Status::Pending => {}
        // The payment has ended and nothing was sent, or the close is scheduled until the payment is known to be open.
        Target::Payment(payment) if claim.action == IntentKind::Close => {
            if !payment.row.payment.status.is_final() {
                inquiries::after_close(tx, payment, now)?;
            }
            return claim.end(tx, id, State::Unknown).map(|()| None);
        }
        // An update arrived about a request that was never sent: the provider must be asked, and nothing may be sent.
        target if !is_untouched(target) => {
            return end_as_interrupted(tx, id, claim, LossCause::KnownToProvider, now).map(|()| None);
        }
        _ => {}
    }
    let execution = ExecutionId { claim: id, number: Some(tx.new_id(now)) };
    claim.execution = execution.number;
    claim.state = State::Running;
    claim.save(tx, id)?;
    // The merchant is part of the value, because an executing job still counts for its queue limit.
    let listed = execution.number.map(|number| [&number.0[..], merchant_of(&target).as_bytes()].concat());
    tx.put(Space::Running, &id.0, listed.unwrap_or_default());
    target.add(tx, TimelineEvent::Dequeued { by: by.to_owned() }, now)?;
    if claim.action != IntentKind::Close && !job.may_be_known {
        set_sending_time(tx, &mut target, now)?;
    }
    let (payment, refund) = match target {
        Target::Payment(tracked) => (tracked.row.payment, None),
        Target::Refund(tracked) => {
            (TrackedRow::<PaymentRow>::must(tx, claim.payment)?.row.payment, Some(tracked.row.refund))
        }
    };
    Ok(Some(ExecutionPermit { job: Some(job), ..ExecutionPermit::new(execution, payment, refund) }))
}

/// Records the time of sending, durable before anything is sent, because a query after a crash names this time.
fn set_sending_time(tx: &mut Transaction<'_>, target: &mut Target, now: Timestamp) -> Result<(), LedgerError> {
    let sent_at = match target {
        Target::Payment(tracked) => &mut tracked.row.payment.sent_at,
        Target::Refund(tracked) => &mut tracked.row.refund.sent_at,
    };
    *sent_at = Some(now);
    target.save(tx)
}

/// Requeues a job of which nothing was sent in this execution.
pub(super) fn requeue(
    tx: &mut Transaction<'_>,
    id: Id,
    mut claim: ClaimRow,
    mut target: Target,
    (attempt, last_error): (Attempt, Option<String>),
    now: Timestamp,
) -> Result<(), LedgerError> {
    let Some(job) = &mut claim.job else { return Ok(()) };
    job.last_error = last_error.or(job.last_error.take());
    // A wrong clock may have written a time in the future.
    job.since = job.since.min(now);
    job.due = now.saturating_add(retry_delay(job.tries, claim.execution)).unwrap_or(now);
    job.tries = job.tries.saturating_add(u32::from(attempt == Attempt::Made));
    tx.remove(Space::Running, &id.0);
    schedule_job(tx, id, job, merchant_of(&target));
    let due = job.due;
    (claim.state, claim.execution) = (State::Queued, None);
    if let Target::Payment(payment) = &mut target
        && claim.action == IntentKind::Pay
    {
        abandoned_attempts::discard(tx, &payment.row)?;
        payment.row.attempts.clear();
        payment.save(tx)?;
    }
    claim.save(tx, id)?;
    target.add(tx, TimelineEvent::Requeued { due }, now)
}

/// Cancels a queued payment that a close request names.
pub(super) fn cancel_queued(
    tx: &mut Transaction<'_>,
    id: Id,
    claim: ClaimRow,
    mut payment: TrackedRow<PaymentRow>,
    now: Timestamp,
) -> Result<ClaimResult, LedgerError> {
    if !payment.row.payment.status.is_final() {
        apply_to_payment(tx, &mut payment, &Update::NotSent(Status::Closed, Reason::default()), Origin::Request, now)?;
    }
    claim.end(tx, id, State::Unknown)?;
    Ok(ClaimResult::AlreadyExists(Record::Payment(payment.row.payment)))
}

/// Publishes the status of a payment that is still pending after its job or close. Final statuses publish an event
/// anyway. The event carries the reason of a refused close; the payment does not.
pub(super) fn publish_result(
    tx: &mut Transaction<'_>,
    target: &mut Target,
    refused_close: Option<String>,
    now: Timestamp,
) -> Result<(), LedgerError> {
    let Target::Payment(tracked) = target else { return Ok(()) };
    if tracked.row.payment.status != Status::Pending {
        return Ok(());
    }
    let mut event_data = tracked.row.payment.clone();
    if let Some(why) = refused_close {
        (event_data.provider_error, event_data.status_reason) = (None, Reason::sentence(why).sentence);
    }
    outbox::publish(
        tx,
        tracked,
        PAYMENT_PENDING,
        rows::payment_subject(&tracked.row.payment),
        Record::Payment(event_data),
        now,
    )?;
    tracked.save(tx)
}

fn merchant_of(target: &Target) -> &str {
    match target {
        Target::Payment(tracked) => &tracked.row.payment.merchant,
        Target::Refund(tracked) => &tracked.row.refund.merchant,
    }
}

/// Implements [`Ledger::due_jobs`](crate::Ledger::due_jobs).
pub(crate) fn due(schedule: &Schedule, now: Timestamp, limit: &DueLimit) -> Vec<(Id, String)> {
    let due = schedule.jobs.iter().take_while(|(key, _)| millis_at(key) <= millis(now));
    // Due times that a wrong clock wrote.
    let misdated = schedule.jobs.range(after(now, LATEST_DUE_JOB)..);
    let mut taken = limit.under_way.clone();
    let within_share = due.chain(misdated).filter_map(|(key, merchant)| {
        let merchant = String::from_utf8_lossy(merchant);
        let of_merchant = match taken.get_mut(&*merchant) {
            Some(known) => known,
            None => taken.entry(merchant.clone().into_owned()).or_default(),
        };
        if *of_merchant >= limit.each {
            return None;
        }
        *of_merchant += 1;
        Some((claim_of(key)?, merchant.into_owned()))
    });
    within_share.take(limit.total).collect()
}

/// Returns the claims in rows of the due index, with their merchants.
pub(crate) fn jobs(rows: &[Pair]) -> Vec<(Id, String)> {
    let job = |(key, merchant): &Pair| Some((claim_of(key)?, String::from_utf8_lossy(merchant).into_owned()));
    rows.iter().filter_map(job).collect()
}

/// Returns the claims in keys of the due index.
#[cfg(test)]
pub(crate) fn ids(keys: &[Vec<u8>]) -> Vec<Id> {
    keys.iter().filter_map(|key| claim_of(key)).collect()
}

/// Returns the retry delay with jitter: 75 % to 125 %, so that jobs requeued together are not sent together.
fn retry_delay(tries: u32, execution: Option<Id>) -> SignedDuration {
    let wanted = SignedDuration::from_secs(1 << tries.min(10)).min(MAX_RETRY_DELAY);
    let chance = execution
        .map_or(0, |execution| execution.0.iter().fold(0u32, |sum, byte| sum * 31 % 251 + u32::from(*byte)))
        % 256;
    wanted * 3 / 4 + wanted / 2 * i32::try_from(chance).unwrap_or(0) / 256
}
