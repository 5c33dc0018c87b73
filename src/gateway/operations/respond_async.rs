//! Handles `Prefer: respond-async`: the request is enqueued, executed by any gateway, and its result is published as
//! an event.

use http::HeaderMap;
use jiff::Timestamp;
use tollgate_ledger::{
    Answer, ClaimKey, ClaimResult, ExecutionPermit, Intent, IntentKind, LedgerError, QueueFull, QueueLimit, Reason,
    Record, Update,
};
use tollgate_plugins::error::Error;
use tollgate_plugins::payment::Status;

use super::responses::{RESPOND_ASYNC, body_of};
use super::{Gateway, RequestContext};
use crate::clock;
use crate::snapshot::Snapshot;
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
    let each = if snapshot.config.merchants.len() > 1 { (total / 2).max(1) } else { total };
    QueueLimit { total, each }
}

/// Ends an execution in which provably nothing was executed. A synchronous claim is released. A job is requeued, or
/// fails if the provider does not support the operation.
pub(super) async fn requeue_or_release(
    gateway: &Gateway,
    permit: ExecutionPermit,
    error: &Error,
) -> Result<(), LedgerError> {
    match &permit.job {
        Some(job) if matches!(error, Error::Unsupported(_)) => {
            let action = job.action;
            fail_unsent(gateway, permit, action, error.into()).await
        }
        // Permission to send is never restored within one execution, so this check may be repeated here.
        Some(_) if gateway.ledger.may_send(permit.execution).is_err() && !has_evidence(&permit) => {
            requeue_untried(gateway, permit).await
        }
        Some(job) => {
            let action = job.action;
            gateway.ledger.release(permit).await?;
            count(action, "requeued");
            Ok(())
        }
        None => gateway.ledger.release(permit).await,
    }
}

/// Returns whether a channel was tried in this execution, including calls that a filter rejected.
fn has_evidence(permit: &ExecutionPermit) -> bool {
    !permit.evidence.is_empty()
}

/// Requeues a job that was not tried, without counting a try.
pub(super) async fn requeue_untried(gateway: &Gateway, permit: ExecutionPermit) -> Result<(), LedgerError> {
    let action = permit.job.as_ref().map(|job| job.action);
    gateway.ledger.release_untried(permit).await?;
    if let Some(action) = action {
        count(action, "requeued");
    }
    Ok(())
}

/// Ends an expired or unsupported job as failed, with money state `not_sent`.
pub(super) async fn fail_unsent(
    gateway: &Gateway,
    permit: ExecutionPermit,
    action: IntentKind,
    reason: Reason,
) -> Result<(), LedgerError> {
    let order_id = permit.subject.order_id.clone();
    let why = reason.sentence.clone().or_else(|| reason.provider_error.as_ref().map(ToString::to_string));
    // No caller waits. A repeated request gets the record's status.
    let answer = |record: &Record| Answer { status: 202, content_type: String::new(), body: body_of(record) };
    gateway.ledger.settle(permit, Update::NotSent(Status::Failed, reason), clock::now(), answer).await?;
    tracing::warn!(order_id, ?action, why, "job failed: nothing was sent");
    count(action, "not_sent");
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
