//! The resolver: queries providers until the outcome of every payment and refund is known.
//!
//! An unknown outcome is queried at once and then at growing intervals. A pending outcome is polled too, because its
//! notification may be lost. An order that should be closed is closed, and so is a till payment that stays open.
//!
//! A not-found answer proves nothing soon after the request, which may still be in transit. It counts only after the
//! channel's `not_found_grace`, and then twice. A till payment is reversed before it is reported as failed. An order
//! that the provider once confirmed may reappear when the payer scans it, so for such an order not-found proves
//! nothing before it expires.
//!
//! A lost response may have contained the payer's `action`. If the provider documents that an identical create
//! returns the same order, and reports that order as unpaid, the create is repeated.

mod elsewhere;
mod schedule;

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tollgate_ledger::{
    Inquiry, LedgerError, MAX_REPEATED_CREATES, Payment, ProviderCall, Record, RecordId, TimelineEvent, Update,
    UpdateWithEvidence, merchants_order_id,
};
use tollgate_plugins::error::Error;
use tollgate_plugins::filter::Clock;
use tollgate_plugins::payment::{Operation, Outcome, Status};

use self::elsewhere::{report_absent_refund, report_refund_elsewhere, settle_without_query};
use self::schedule::{
    Decision, ESCALATE_AFTER, MIN_INTERVAL, MIN_NOT_FOUND_ANSWERS, MIN_QUERIES_BEFORE_REVIEW, PollPolicy,
    ProviderResponses, backoff, decide, is_expired, must_be_reversed, not_found_count, status_of,
};
use crate::clock::{self, Reading};
use crate::operations::{Gateway, build_query, handle_duplicate, identical_create, order, repeats_create};
use crate::operator_events::manual_review;
use crate::snapshot::{Channel, Snapshot};
use crate::task_pool::KeyedTaskPool;

/// Maximum concurrent queries.
const MAX_CONCURRENT_QUERIES: usize = 32;
/// Maximum concurrent queries per channel. It protects a recovering provider from a burst, and leaves capacity to
/// other channels if one channel does not answer.
const MAX_QUERIES_PER_CHANNEL: usize = 12;
/// Maximum time for the payer to enter a password. A till payment that is open after this time is reversed.
const PAYER_ENTRY_TIMEOUT: SignedDuration = SignedDuration::from_secs(30);

const UNCONFIRMED: &str = "the payment succeeded and may have been reversed by its close, and the provider confirms \
                           neither: compare it with the provider's console";

/// Time during which completed tasks are collected before the ledger is read again. One read per task would cost
/// more than the tasks.
const COMPLETION_BATCH_TIME: Duration = Duration::from_millis(10);

/// Runs until shutdown.
pub async fn run(gateway: Arc<Gateway>, mut shutdown: watch::Receiver<bool>) {
    let mut wake = gateway.ledger.wake();
    let mut pool = KeyedTaskPool::new(MAX_CONCURRENT_QUERIES, MAX_QUERIES_PER_CHANNEL);
    loop {
        // Without a writable ledger the results could not be recorded, and the same queries would repeat endlessly.
        if gateway.ledger.may_work() && clock::is_trusted() && !pool.is_full() {
            let full_channels = pool.full_groups();
            // The result includes records being queried now. The limit still suffices to fill every free slot.
            let due = gateway.ledger.due_inquiries(clock::now(), MAX_CONCURRENT_QUERIES, &full_channels).await;
            for record in due {
                let (number, channel) = (task_key(&record), channel_of(&record).to_owned());
                let gateway = Arc::clone(&gateway);
                pool.start(&number, &channel, async move { resolve(&gateway, record).await });
            }
            // A channel that reached its limit only now may have hidden due records of other channels.
            if !pool.is_full() && pool.full_groups() != full_channels {
                continue;
            }
        }
        tokio::select! {
            () = wait_for_completions(&mut pool) => {}
            _ = wake.changed(), if !pool.is_full() => {}
            () = tokio::time::sleep(Duration::from_millis(250)) => {}
            _ = shutdown.wait_for(|stop| *stop) => break,
        }
    }
    pool.join_all().await;
}

/// Waits until a task completes, then collects the tasks that complete shortly after it.
async fn wait_for_completions(pool: &mut KeyedTaskPool) {
    pool.join_next().await;
    let end = tokio::time::Instant::now() + COMPLETION_BATCH_TIME;
    while tokio::time::timeout_at(end, pool.join_next()).await.is_ok() {}
}

async fn resolve(gateway: &Arc<Gateway>, record: Record) {
    let Some(mut inquiry) = inquiry_of(&record).cloned() else { return };
    let snapshot = gateway.current.load_full();
    if let Record::Payment(found) = &record
        && found.is_attempt()
        && found.status == Status::Succeeded
    {
        return refund_abandoned_attempt(gateway, &snapshot, found, inquiry).await;
    }
    if let Record::Refund(refund) = &record
        && refund.needs_no_query()
    {
        return settle_without_query(gateway, refund).await;
    }
    let mut evidence = Vec::new();
    let policy = PollPolicy::of(snapshot.channels.get(channel_of(&record)));
    let (subject, responses) = query_and_act(gateway, &snapshot, &record, &mut inquiry, policy, &mut evidence).await;
    let time = clock::reading();
    let now = time.now;
    let needs_review = responses.query.as_ref().ok().and_then(|outcome| outcome.needs_review.clone());
    let random = gateway.provider_client.clock().random();
    let next = decide(inquiry.clone(), &record, &responses, policy, time, random);
    if let Err(error) = record_result(gateway, &record, &subject, responses, evidence, (inquiry, next), now).await {
        tracing::error!(%error, order_id = subject.order_id, "the query's result could not be recorded; the record stays due");
        // The record is still due. Without a pause the provider would be queried again at once.
        return tokio::time::sleep(MIN_INTERVAL).await;
    }
    // No merchant queries an automatic refund, so its failure needs manual review.
    if let Record::Refund(refund) = &record
        && refund.order_id != merchants_order_id(&refund.order_id)
        && !refund.is_elsewhere()
        && matches!(gateway.ledger.refund(&refund.merchant, &refund.order_id, &refund.refund_id).await, Ok(Some(it)) if it.status == Status::Failed)
    {
        require_manual_review(gateway, &subject, &refund.channel, "the refund of a duplicate payment has failed").await;
    }
    if let Some(why) = needs_review {
        tracing::error!(order_id = subject.order_id, why, "manual review needed");
        manual_review(&subject, channel_of(&record), &why);
    }
}

/// Refunds money on an abandoned channel, and retries until this succeeds. After a day it also requests manual
/// review.
async fn refund_abandoned_attempt(gateway: &Gateway, snapshot: &Snapshot, found: &Payment, inquiry: Inquiry) {
    let subject = RecordId { merchant: found.merchant.clone(), order_id: found.order_id.clone(), refund_id: None };
    let handled = handle_duplicate(gateway, snapshot, found).await;
    let delay = backoff(inquiry.asked);
    let due = SignedDuration::try_from(delay).ok().and_then(|pause| clock::now().checked_add(pause).ok());
    let age = clock::now().duration_since(inquiry.since);
    let needs_review = age >= ESCALATE_AFTER && inquiry.asked >= MIN_QUERIES_BEFORE_REVIEW;
    let must_escalate = needs_review && !inquiry.needs_review && matches!(handled, Ok(false));
    let needs_review = inquiry.needs_review || must_escalate;
    let next_inquiry = Inquiry {
        asked: inquiry.asked.saturating_add(1),
        due: due.unwrap_or(inquiry.due),
        needs_review,
        ..inquiry.clone()
    };
    if must_escalate {
        require_manual_review(gateway, &subject, &found.channel, "a duplicate payment cannot be refunded").await;
    }
    let next = if matches!(handled, Ok(true)) { None } else { Some(next_inquiry) };
    if let Err(error) = handled.map(drop).and(gateway.ledger.save_inquiry(&subject, &inquiry, next).await) {
        tracing::error!(%error, order_id = subject.order_id, "a duplicate payment could not be handled; this is retried");
        tokio::time::sleep(MIN_INTERVAL).await;
    }
}

/// Records and logs that a person must review the order.
async fn require_manual_review(gateway: &Gateway, subject: &RecordId, channel: &str, why: &str) {
    tracing::error!(order_id = subject.order_id, why, "manual review needed");
    manual_review(subject, channel, why);
    let notes = vec![TimelineEvent::ManualReview { why: why.to_owned() }];
    if let Err(error) = gateway.ledger.append_timeline(subject, notes, clock::now()).await {
        tracing::error!(%error, order_id = subject.order_id, "the need for manual review could not be recorded");
    }
}

/// Queries the status. Closes an open order that should be closed; repeats the create of an open order without an
/// `action`.
async fn query_and_act(
    gateway: &Gateway,
    snapshot: &Snapshot,
    record: &Record,
    inquiry: &mut Inquiry,
    policy: PollPolicy,
    evidence: &mut Vec<ProviderCall>,
) -> (RecordId, ProviderResponses) {
    let (subject, query) = build_query(gateway, snapshot, record).await;
    let (channel, operation) = match query {
        Ok(query) => query,
        Err(error) => return (subject, ProviderResponses::of_query(Err(error))),
    };
    let query_result = call_provider(gateway, channel, &operation, evidence).await;
    // The intention is durable before the close is sent, so that the next start knows it. If nothing was saved, the
    // record may have ended, or been released and executed again: then nothing is sent.
    if let Some(close) = close_operation(record, inquiry, &query_result, policy, clock::reading()) {
        let loaded = inquiry.clone();
        inquiry.closing = true;
        if !matches!(gateway.ledger.save_inquiry(&subject, &loaded, Some(inquiry.clone())).await, Ok(true)) {
            return (subject, ProviderResponses::of_query(query_result));
        }
        let close_result = call_provider(gateway, channel, &close, evidence).await;
        return (subject, ProviderResponses { query: query_result, close: Some(close_result) });
    }
    if let Some(create) = repeatable_create(channel, record, inquiry, &query_result) {
        let loaded = inquiry.clone();
        inquiry.repeated_creates = inquiry.repeated_creates.saturating_add(1);
        if matches!(gateway.ledger.save_inquiry(&subject, &loaded, Some(inquiry.clone())).await, Ok(true)) {
            // Only the `action` is used from this response. The status comes from the query.
            match call_provider(gateway, channel, &create, evidence).await {
                Ok(Outcome { status: Status::Pending, action: Some(action), .. }) => {
                    let with_action = query_result.map(|outcome| Outcome { action: Some(action), ..outcome });
                    return (subject, ProviderResponses::of_query(with_action));
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::info!(order_id = subject.order_id, %error, "the repeated create returned no action");
                    if error.provably_not_executed() {
                        inquiry.repeated_creates = inquiry.repeated_creates.saturating_sub(1);
                    }
                }
            }
        }
    }
    (subject, ProviderResponses::of_query(query_result))
}

async fn call_provider(
    gateway: &Gateway,
    channel: &Arc<Channel>,
    operation: &Operation,
    evidence: &mut Vec<ProviderCall>,
) -> Result<Outcome, Error> {
    gateway.provider_client.call(channel, operation, channel.upstream.timeouts().total, evidence).await
}

/// Returns the close of an open payment that should be closed. A till payment that the provider does not know is
/// closed too, because its request may still be in transit.
fn close_operation(
    record: &Record,
    inquiry: &Inquiry,
    query_result: &Result<Outcome, Error>,
    policy: PollPolicy,
    time: Reading,
) -> Option<Operation> {
    let Record::Payment(payment) = record else { return None };
    if payment.status.is_final() {
        return None;
    }
    let is_wanted = match query_result {
        Ok(outcome) if outcome.status == Status::Pending => {
            let is_over = payment.method.is_scanned() && time.certain_age(inquiry.since) >= PAYER_ENTRY_TIMEOUT;
            inquiry.closing || is_over || outcome.needs_reversal || is_expired(record, policy, time)
        }
        Err(Error::NotFound(_)) => {
            let is_believed = not_found_count(inquiry, record, query_result, policy, time) >= MIN_NOT_FOUND_ANSWERS;
            must_be_reversed(record) && !inquiry.reversed && is_believed
        }
        _ => false,
    };
    is_wanted.then(|| Operation::Close(order(payment)))
}

/// Returns the identical create for an unpaid order whose `action` was lost with the first response.
fn repeatable_create(
    channel: &Channel,
    record: &Record,
    inquiry: &Inquiry,
    query_result: &Result<Outcome, Error>,
) -> Option<Operation> {
    let Record::Payment(payment) = record else { return None };
    let is_open = matches!(query_result, Ok(outcome) if outcome.status == Status::Pending && outcome.action.is_none());
    let is_lost = payment.action.is_none() && !payment.status.is_final();
    let may_repeat = inquiry.repeated_creates < MAX_REPEATED_CREATES && !inquiry.closing;
    let is_wanted = is_open && is_lost && may_repeat && repeats_create(channel, payment.method);
    if is_wanted { identical_create(payment) } else { None }
}

/// Records the answers, then continues or ends the inquiry that was loaded.
async fn record_result(
    gateway: &Gateway,
    record: &Record,
    subject: &RecordId,
    responses: ProviderResponses,
    evidence: Vec<ProviderCall>,
    (mut loaded, next): (Inquiry, Decision),
    now: Timestamp,
) -> Result<(), LedgerError> {
    let ledger = &gateway.ledger;
    let order_id = &subject.order_id;
    if let Some(Err(error)) = &responses.close {
        tracing::info!(order_id, %error, "the payment could not be closed");
        if let Error::Mismatch(_) = error {
            ledger.mismatch(subject, now).await?;
        }
    }
    let result = match responses {
        ProviderResponses { close: Some(Ok(outcome)), .. } => Ok(outcome),
        ProviderResponses { query, .. } => query,
    };
    match result {
        Ok(outcome) => {
            let is_reversed = matches!(outcome.status, Status::Closed | Status::Failed);
            let updated =
                ledger.apply(subject, UpdateWithEvidence { update: Update::Outcome(outcome), evidence }, now).await?;
            report_refund_elsewhere(record, updated.as_ref());
            // A new status has begun an inquiry of its own.
            if let Some(updated) = updated.as_ref().filter(|updated| status_of(updated) != status_of(record)) {
                loaded = inquiry_of(updated).cloned().unwrap_or(loaded);
            }
            // The ledger publishes the mismatch.
            if is_reversed && matches!(updated, Some(Record::Payment(payment)) if payment.status == Status::Succeeded) {
                tracing::error!(
                    order_id,
                    "the payment succeeded and was reversed at the same time; compare it with the provider's console"
                );
            }
        }
        Err(error) => {
            tracing::info!(order_id, %error, "the outcome is still unknown; the query is repeated");
            // The next ledger write waits for the fsync and includes this one.
            ledger.append_timeline(subject, TimelineEvent::exchanges(evidence), now).await?;
            if let Error::Mismatch(_) = error {
                ledger.mismatch(subject, now).await?;
            }
        }
    }
    match next {
        Decision::Known => tracing::info!(order_id, "the outcome is known"),
        Decision::NeverHappened => {
            let after = ledger.apply(subject, Update::NotFoundAtProvider, now).await?;
            report_refund_elsewhere(record, after.as_ref());
            report_absent_refund(after.as_ref());
        }
        Decision::Expired => drop(ledger.apply(subject, Update::Expired, now).await?),
        Decision::Enough => drop(ledger.save_inquiry(subject, &loaded, None).await?),
        Decision::Unconfirmed => {
            escalate(gateway, record, subject, UNCONFIRMED, now).await?;
            ledger.save_inquiry(subject, &loaded, None).await?;
        }
        Decision::Again(inquiry) => {
            let why = match status_of(record) {
                Status::Succeeded => UNCONFIRMED,
                Status::Pending => "the payment stays pending for too long: clarify it with the provider",
                _ => "the outcome stays unknown: manual review is needed",
            };
            if inquiry.needs_review {
                escalate(gateway, record, subject, why, now).await?;
            }
            ledger.save_inquiry(subject, &loaded, Some(inquiry)).await?;
        }
    }
    Ok(())
}

/// Marks an open inquiry for manual review, and logs and counts this once.
async fn escalate(
    gateway: &Gateway,
    record: &Record,
    subject: &RecordId,
    why: &str,
    now: Timestamp,
) -> Result<(), LedgerError> {
    if gateway.ledger.escalate(subject, why, now).await? {
        manual_review(subject, channel_of(record), why);
        tracing::error!(order_id = subject.order_id, why);
    }
    Ok(())
}

fn inquiry_of(record: &Record) -> Option<&Inquiry> {
    match record {
        Record::Payment(payment) => payment.inquiry.as_ref(),
        Record::Refund(refund) => refund.inquiry.as_ref(),
    }
}

/// Returns what identifies the record among running queries: its number at the provider. The number of a refund made
/// elsewhere is unique only within its payment.
fn task_key(record: &Record) -> String {
    match record {
        Record::Payment(payment) => payment.provider_order_no.clone(),
        Record::Refund(refund) if refund.is_elsewhere() => {
            [refund.merchant.as_str(), &refund.order_id, &refund.refund_id].join("/")
        }
        Record::Refund(refund) => refund.provider_refund_no.clone(),
    }
}

fn channel_of(record: &Record) -> &str {
    match record {
        Record::Payment(payment) => &payment.channel,
        Record::Refund(refund) => &refund.channel,
    }
}

#[cfg(test)]
mod tests;
