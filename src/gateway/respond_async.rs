//! Handles `Prefer: respond-async`: the request is enqueued, executed by any gateway, and its result is published as
//! an event.

use http::HeaderMap;
use jiff::Timestamp;
use tollgate_plugins::error::Error;
use tollgate_plugins::payment::Status;

use super::responses::{RESPOND_ASYNC, body_of};
use super::{Gateway, RequestContext};
use crate::clock;
use crate::config::Snapshot;
use crate::ledger::{
    Answer, ClaimKey, ClaimResult, ExecutionPermit, Intent, IntentKind, LedgerError, QueueFull, QueueLimit, Reason,
    Record, Update,
};
use crate::telemetry::METRICS;

/// Claims the request for execution now, or enqueues it if the caller prefers an asynchronous response.
pub(super) async fn claim(
    gateway: &Gateway,
    request: &RequestContext,
    key: ClaimKey,
    intent: Intent,
    now: Timestamp,
) -> Result<ClaimResult, LedgerError> {
    if !is_preferred(&request.incoming.headers) {
        return gateway.ledger.claim(key, intent, now).await;
    }
    let action = match &intent {
        Intent::Pay(_) => IntentKind::Pay,
        Intent::Close(_) => IntentKind::Close,
        Intent::Refund(_) => IntentKind::Refund,
    };
    let body = String::from_utf8_lossy(&request.incoming.body).into_owned();
    let claimed = gateway.ledger.enqueue(key, intent, body, limit(&request.snapshot), now).await;
    match &claimed {
        Ok(ClaimResult::Accepted(_)) => count(action, "accepted"),
        Ok(ClaimResult::QueueFull(QueueFull::Total)) => count(action, "full"),
        Ok(ClaimResult::QueueFull(QueueFull::Share)) => count(action, "share_full"),
        _ => {}
    }
    claimed
}

/// Returns the queue limits. With several merchants, each may use at most half of the queue.
fn limit(snapshot: &Snapshot) -> QueueLimit {
    let total = snapshot.process.queue.limit;
    let each = if snapshot.merchants.len() > 1 { (total / 2).max(1) } else { total };
    QueueLimit { total, each }
}

/// Ends an execution in which provably nothing was executed. A synchronous claim is released. A job is requeued, or
/// fails if the provider does not support the operation.
pub(super) async fn requeue_or_release(
    gateway: &Gateway,
    permit: ExecutionPermit,
    error: &Error,
) -> Result<(), LedgerError> {
    match &ticket.job {
        Some(errand) if matches!(error, Error::Unsupported(_)) => {
            let action = errand.action;
            give_up(gateway, ticket, action, error.into()).await
        }
        // A refusal to send is for good in this turn, so that it can be asked for once more.
        Some(_) if gateway.ledger.may_send(ticket.execution).is_err() && !was_tried(&ticket) => {
            put_back(gateway, ticket).await
        }
        Some(job) => {
            let action = job.action;
            gateway.ledger.release(permit).await?;
            count(action, "put_back");
            Ok(())
        }
        None => gateway.ledger.release(permit).await,
    }
}

/// Returns whether a channel was tried in this execution, including calls that a filter rejected.
fn was_tried(permit: &ExecutionPermit) -> bool {
    !permit.evidence.is_empty()
}

/// Puts a job back that was not tried.
async fn put_back(gateway: &Gateway, ticket: ExecutionPermit) -> Result<(), LedgerError> {
    let action = ticket.job.as_ref().map(|errand| errand.action);
    gateway.ledger.release_untried(ticket).await?;
    if let Some(action) = action {
        count(action, "requeued");
    }
    Ok(())
}

/// Makes what was taken from the queue, as if its caller waited for it.
pub(crate) async fn execute_job(gateway: &Arc<Gateway>, ticket: ExecutionPermit) {
    let Some(errand) = ticket.job.clone() else { return };
    let (order_id, action) = (ticket.subject.order_id.clone(), errand.action);
    // Another gateway may have ended it by now: this one must neither make it nor give it up.
    if let Err(why) = gateway.ledger.may_send(ticket.execution) {
        tracing::info!(order_id, ?action, %why, "put back into the queue without a try");
        if let Err(error) = put_back(gateway, ticket).await {
            tracing::error!(%error, order_id, "what could not be sent could not be put back into the queue either");
        }
        return;
    }
    let snapshot = gateway.current.load_full();
    let ends_at = ends_at(&errand, &ticket.payment);
    if has_expired(&errand, &ticket.payment, ends_at, snapshot.process.queue.max_age, clock::reading()) {
        if let Err(error) = give_up(gateway, ticket, action, Reason::sentence(too_late(&errand))).await {
            tracing::error!(%error, order_id, "what could not be sent could not be given up either");
        }
        return;
    }
    let making = ExecutionContext {
        snapshot,
        request_id: format!("queue:{order_id}"),
        waits: (MAX_CLIENT_TIMEOUT, Instant::now()),
    };
    let made = match action {
        IntentKind::Pay => pay::resume(gateway, making, ticket, errand.body).await,
        IntentKind::Close => close::finish(Arc::clone(gateway), making, ticket).await,
        IntentKind::Refund => refund::finish(Arc::clone(gateway), making, ticket).await,
    };
    match made {
        Ok(response) => {
            count(action, "made");
            tracing::info!(order_id, ?action, status = response.status().as_u16(), "made by the queue");
        }
        Err(problem) => tracing::info!(order_id, ?action, code = problem.code(), "not made by the queue this time"),
    }
}

/// Whether a job is given up: the payment's own time is over, or it was tried for long enough. However old it seems to be, one
/// that was never tried is tried once, because the clock may be wrong, or all gateways were off. Only the time that has passed
/// for certain counts: a step of the clock gives nothing up.
fn has_expired(errand: &Job, payment: &Payment, ends_at: Option<Timestamp>, give_up: Duration, time: Reading) -> bool {
    let is_payment = errand.action == IntentKind::Pay;
    let created_at = payment.created_at;
    let is_over = |expires_at: Timestamp| time.certain_age(created_at) >= expires_at.duration_since(created_at);
    if is_payment && ends_at.is_some_and(is_over) {
        return true;
    }
    let tried_for = if is_payment && payment.method.is_scanned() { give_up.min(SCANNED) } else { give_up };
    let tried_for = SignedDuration::try_from(tried_for).unwrap_or(SignedDuration::MAX);
    errand.tries > 0 && time.certain_age(errand.since) >= tried_for
}

/// When a payment in the queue ends: the merchant's own end, or the end that an earlier turn may have sent. The channel's
/// lifetime begins anew with each sending that provably came to nothing.
fn ends_at(errand: &Job, payment: &Payment) -> Option<Timestamp> {
    if errand.may_be_known || errand.action != IntentKind::Pay {
        return payment.expires_at;
    }
    NewPayment::read(&Bytes::from(errand.body.clone())).ok()?.expires_at
}

/// Why a job is given up.
fn too_late(errand: &Job) -> String {
    match &errand.last_error {
        Some(why) => format!("it could not be sent in time; the last try ended with: {why}"),
        None => "it could not be sent in time".to_owned(),
    }
}

async fn give_up(
    gateway: &Gateway,
    permit: ExecutionPermit,
    action: IntentKind,
    reason: Reason,
) -> Result<(), LedgerError> {
    let order_id = permit.subject.order_id.clone();
    // No caller waits. A repeated request gets the record's status.
    let answer = |record: &Record| Answer { status: 202, content_type: String::new(), body: body_of(record) };
    gateway.ledger.settle(permit, Update::NotSent(Status::Failed, reason), clock::now(), answer).await?;
    tracing::warn!(order_id, ?action, "job expired: nothing could be sent");
    count(action, "given_up");
    Ok(())
}

/// Counts a job result.
pub(super) fn count(action: IntentKind, result: &str) {
    let action = match action {
        IntentKind::Pay => "pay",
        IntentKind::Close => "close",
        IntentKind::Refund => "refund",
    };
    METRICS.queue_total.with_label_values(&[action, result]).inc();
}

/// Returns whether the headers contain `Prefer: respond-async`.
pub(super) fn is_preferred(headers: &HeaderMap) -> bool {
    headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok()).any(|value| {
        value.split(',').any(|preference| {
            let name = preference.split([';', '=']).next().unwrap_or_default();
            name.trim().eq_ignore_ascii_case(RESPOND_ASYNC)
        })
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn prefer_header_is_parsed_as_rfc_7240() {
        for (value, wanted) in [
            ("respond-async", true),
            ("Respond-Async, wait=100", true),
            ("return=minimal,respond-async; foo=bar", true),
            ("respond-sync", false),
            ("return=respond-async", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.append("prefer", HeaderValue::from_static("handling=strict"));
            headers.append("prefer", value.parse().unwrap());
            assert_eq!(is_preferred(&headers), wanted, "{value}");
        }
    }
}
