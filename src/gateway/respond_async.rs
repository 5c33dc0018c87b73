//! What a merchant does not wait for: accepted, made by whoever takes it from the queue, its result told as an event.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use tollgate_plugins::error::Error;
use tollgate_plugins::payment::Status;

use super::request_body::NewPayment;
use super::responses::body_of;
use super::{ExecutionContext, Gateway, MAX_CLIENT_TIMEOUT, RequestContext, close, pay, refund};
use crate::clock::{self, Reading};
use crate::config::Snapshot;
use crate::ledger::{
    Answer, ClaimKey, ClaimResult, ExecutionPermit, Intent, IntentKind, Job, LedgerError, Payment, QueueFull,
    QueueLimit, Reason, Record, Update,
};
use crate::problem::Problem;
use crate::telemetry::METRICS;

/// The preference, as RFC 7240 names it.
const RESPOND_ASYNC: &str = "respond-async";
/// What a till scanned is given up after this time: the payer's code is good for a minute, and the payer for not much more.
const SCANNED: Duration = Duration::from_secs(60);

/// Claims what the request asks for: to be made now, or later where the caller prefers that.
pub(super) async fn claim(
    gateway: &Gateway,
    asked: &RequestContext,
    key: ClaimKey,
    intent: Intent,
    now: Timestamp,
) -> Result<ClaimResult, LedgerError> {
    if !is_preferred(&asked.incoming.headers) {
        return gateway.ledger.claim(key, intent, now).await;
    }
    let action = match &intent {
        Intent::Pay(_) => IntentKind::Pay,
        Intent::Close(_) => IntentKind::Close,
        Intent::Refund(_) => IntentKind::Refund,
    };
    let body = String::from_utf8_lossy(&asked.incoming.body).into_owned();
    let claimed = gateway.ledger.enqueue(key, intent, body, limit(&asked.snapshot), now).await;
    match &claimed {
        Ok(ClaimResult::Accepted(_)) => count(action, "accepted"),
        Ok(ClaimResult::QueueFull(QueueFull::Total)) => count(action, "full"),
        Ok(ClaimResult::QueueFull(QueueFull::Share)) => count(action, "share_full"),
        _ => {}
    }
    claimed
}

/// Returns how many jobs may be in the queue. With several merchants, each leaves half of it to the others.
fn limit(snapshot: &Snapshot) -> QueueLimit {
    let total = snapshot.process.queue.limit;
    let each = if snapshot.merchants.len() > 1 { (total / 2).max(1) } else { total };
    QueueLimit { total, each }
}

/// As [`super::answers::not_run`]. Who prefers an answer at once is told how it stands as that answer.
pub(super) fn not_run(
    asked: &RequestContext,
    claimed: ClaimResult,
    order_id: &str,
    done: StatusCode,
) -> Result<Response<Bytes>, Problem> {
    let is_present = matches!(claimed, ClaimResult::AlreadyExists(_));
    if is_present && is_preferred(&asked.incoming.headers) {
        return super::responses::not_run(claimed, order_id, StatusCode::ACCEPTED).map(with_preference_applied);
    }
    super::responses::not_run(claimed, order_id, done)
}

/// Says that the preference was followed.
pub(super) fn with_preference_applied(mut response: Response<Bytes>) -> Response<Bytes> {
    response.headers_mut().insert("preference-applied", HeaderValue::from_static(RESPOND_ASYNC));
    response
}

/// Provably nothing was done. What has a caller goes back to him; what has none is tried again, unless that is of no use.
pub(super) async fn requeue_or_release(
    gateway: &Gateway,
    ticket: ExecutionPermit,
    error: &Error,
) -> Result<(), LedgerError> {
    match &ticket.errand {
        Some(errand) if matches!(error, Error::Unsupported(_)) => {
            let action = errand.action;
            give_up(gateway, ticket, action, error.into()).await
        }
        // A refusal to send is for good in this turn, so that it can be asked for once more.
        Some(_) if gateway.ledger.may_send(ticket.turn).is_err() && !was_tried(&ticket) => {
            put_back(gateway, ticket).await
        }
        Some(errand) => {
            let action = errand.action;
            gateway.ledger.release(ticket).await?;
            count(action, "requeued");
            Ok(())
        }
        None => gateway.ledger.release(ticket).await,
    }
}

/// Whether a channel was tried in this turn, or held the call back.
fn was_tried(ticket: &ExecutionPermit) -> bool {
    !ticket.evidence.is_empty()
}

/// Puts a job back that was not tried.
async fn put_back(gateway: &Gateway, ticket: ExecutionPermit) -> Result<(), LedgerError> {
    let action = ticket.errand.as_ref().map(|errand| errand.action);
    gateway.ledger.release_untried(ticket).await?;
    if let Some(action) = action {
        count(action, "requeued");
    }
    Ok(())
}

/// Makes what was taken from the queue, as if its caller waited for it.
pub(crate) async fn execute_job(gateway: &Arc<Gateway>, ticket: ExecutionPermit) {
    let Some(errand) = ticket.errand.clone() else { return };
    let (order_id, action) = (ticket.subject.order_id.clone(), errand.action);
    // Another gateway may have ended it by now: this one must neither make it nor give it up.
    if let Err(why) = gateway.ledger.may_send(ticket.turn) {
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
            count(action, "executed");
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
    ticket: ExecutionPermit,
    action: IntentKind,
    reason: Reason,
) -> Result<(), LedgerError> {
    let order_id = ticket.subject.order_id.clone();
    // Nobody waits for it, and a repetition is told how the record stands.
    let answer = |record: &Record| Answer { status: 202, content_type: String::new(), body: body_of(record) };
    gateway.ledger.settle(ticket, Update::NotSent(Status::Failed, reason), clock::now(), answer).await?;
    tracing::warn!(order_id, ?action, "given up: nothing could be sent");
    count(action, "expired");
    Ok(())
}

fn count(action: IntentKind, result: &str) {
    let action = match action {
        IntentKind::Pay => "pay",
        IntentKind::Close => "close",
        IntentKind::Refund => "refund",
    };
    METRICS.queue_total.with_label_values(&[action, result]).inc();
}

/// Whether the caller prefers an answer at once.
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
    use tollgate_plugins::payment::Method;

    use super::*;
    use crate::ledger::a_payment;

    fn is_over(errand: &Job, payment: &Payment, give_up: Duration, time: Reading) -> bool {
        has_expired(errand, payment, payment.expires_at, give_up, time)
    }

    /// The channel's lifetime begins anew with each sending, the merchant's own end does not.
    #[test]
    fn queued_payment_ends_by_the_end_that_stays() {
        let channels = Some(Timestamp::UNIX_EPOCH + SignedDuration::from_secs(900));
        let payment = Payment { expires_at: channels, ..a_payment("o") };
        let body = |own: &str| {
            format!(
                r#"{{"order_id": "o", "amount": {{"value": 1, "currency": "CNY"}}, "description": "d", "method": "unionpay.qr"{own}}}"#
            )
        };
        let errand = |body, may_be_known| Job {
            action: IntentKind::Pay,
            body,
            since: Timestamp::UNIX_EPOCH,
            tries: 1,
            due: Timestamp::UNIX_EPOCH,
            may_be_known,
            last_error: None,
        };
        assert_eq!(ends_at(&errand(body(""), false), &payment), None, "nothing of an earlier turn is known");
        assert_eq!(ends_at(&errand(body(""), true), &payment), channels, "it may have been sent with this end");
        let own = r#", "expires_at": "2025-01-01T00:00:00Z""#;
        assert_eq!(ends_at(&errand(body(own), false), &payment), "2025-01-01T00:00:00Z".parse().ok());
    }

    #[test]
    fn job_expires_after_a_try_or_when_its_payment_does() {
        let (start, hour) = (Timestamp::UNIX_EPOCH, Duration::from_hours(1));
        let at = |seconds| start + SignedDuration::from_secs(seconds);
        let steady = |now| Reading { now: at(now), steady_for: SignedDuration::MAX };
        let errand = |tries| Job {
            action: IntentKind::Pay,
            body: String::new(),
            since: start,
            tries,
            due: start,
            may_be_known: false,
            last_error: None,
        };
        let web = Payment {
            method: Method::all().find(|method| !method.is_scanned()).unwrap(),
            created_at: start,
            ..a_payment("o")
        };
        let till = Payment { method: Method::all().find(Method::is_scanned).unwrap(), ..a_payment("o") };
        for (payment, time) in [(&web, 3600), (&till, 60)] {
            assert!(!is_over(&errand(1), payment, hour, steady(time - 1)));
            assert!(is_over(&errand(1), payment, hour, steady(time)));
            for never in [steady(time), steady(400 * 86_400)] {
                assert!(!is_over(&errand(0), payment, hour, never), "it was never tried");
            }
        }
        let dated = Payment { expires_at: Some(at(100)), ..web };
        assert!(!is_over(&errand(0), &dated, hour, steady(99)) && is_over(&errand(0), &dated, hour, steady(100)));
        let refund = Job { action: IntentKind::Refund, ..errand(0) };
        assert!(!is_over(&refund, &dated, hour, steady(100)), "the payment's end is none of a refund's");
    }

    #[test]
    fn clock_step_expires_no_job_until_the_time_has_passed_for_certain() {
        let (start, hour) = (Timestamp::UNIX_EPOCH, Duration::from_hours(1));
        let errand = |tries| Job {
            action: IntentKind::Pay,
            body: String::new(),
            since: start,
            tries,
            due: start,
            may_be_known: false,
            last_error: None,
        };
        let stepped = |ahead: i64, steady_for: i64| {
            let steady_for = SignedDuration::from_secs(steady_for);
            Reading { now: start + SignedDuration::from_secs(ahead) + steady_for, steady_for }
        };
        let web = Payment { method: Method::all().find(|method| !method.is_scanned()).unwrap(), ..a_payment("o") };
        let web = Payment { created_at: start, expires_at: None, ..web };
        let till = Payment { method: Method::all().find(Method::is_scanned).unwrap(), ..web.clone() };
        let dated = Payment { expires_at: Some(start + SignedDuration::from_secs(100)), ..web.clone() };
        for (payment, tries, time) in [(&web, 1, 3600), (&till, 1, 60), (&dated, 0, 100), (&dated, 1, 100)] {
            for ahead in [time, 400 * 86_400] {
                assert!(!is_over(&errand(tries), payment, hour, stepped(ahead, 0)), "{ahead}");
                assert!(!is_over(&errand(tries), payment, hour, stepped(ahead, time - 1)), "{ahead}");
                assert!(is_over(&errand(tries), payment, hour, stepped(ahead, time)), "{ahead}");
            }
        }
    }

    #[test]
    fn the_preference_is_read_as_rfc_7240_writes_it() {
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
