//! Executes the jobs of the queue, and expires those that cannot be sent in time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use tollgate_ledger::{ExecutionPermit, IntentKind, Job, Payment, Reason};

use super::execution::ExecutionContext;
use super::request_body::NewPayment;
use super::respond_async::{count, fail_unsent, requeue_untried};
use super::{Gateway, MAX_CLIENT_TIMEOUT, close, create_payment, refund};
use crate::clock::{self, Reading};

/// Maximum time in which a queued till payment is retried: the payer's code is valid for about a minute.
const MAX_SCANNED_WAIT: Duration = Duration::from_secs(60);

/// Executes a dequeued job like a synchronous request.
pub(crate) async fn execute_job(gateway: &Arc<Gateway>, permit: ExecutionPermit) {
    let Some(job) = permit.job.clone() else { return };
    let (order_id, action) = (permit.subject.order_id.clone(), job.action);
    // Another gateway may have finished this job already: then this one must neither execute nor expire it.
    if let Err(why) = gateway.ledger.may_send(permit.execution) {
        tracing::info!(order_id, ?action, %why, "job requeued without a try");
        if let Err(error) = requeue_untried(gateway, permit).await {
            tracing::error!(%error, order_id, "a job that could not be sent could not be requeued either: the ledger failed");
        }
        return;
    }
    let snapshot = gateway.current.load_full();
    let ends_at = ends_at(&job, &permit.payment);
    if has_expired(&job, &permit.payment, ends_at, snapshot.process.queue.max_age, clock::reading()) {
        if let Err(error) = fail_unsent(gateway, permit, action, Reason::sentence(expiry_reason(&job))).await {
            tracing::error!(%error, order_id, "an expired job could not be recorded as failed: the ledger failed");
        }
        return;
    }
    let context = ExecutionContext {
        snapshot,
        request_id: format!("queue:{order_id}"),
        deadline: Instant::now() + MAX_CLIENT_TIMEOUT,
    };
    let gateway = Arc::clone(gateway);
    let result = match action {
        IntentKind::Pay => {
            let planned = create_payment::plan_job(&context.snapshot, &permit.subject.merchant, job.body);
            create_payment::execute_payment(gateway, context, permit, planned).await
        }
        IntentKind::Close => close::execute_close(gateway, context, permit).await,
        IntentKind::Refund => refund::execute_refund(gateway, context, permit).await,
    };
    match result {
        Ok(response) => {
            count(action, "executed");
            tracing::info!(order_id, ?action, status = response.status().as_u16(), "job executed");
        }
        Err(problem) => tracing::info!(
            order_id,
            ?action,
            code = problem.code(),
            "job not executed this time; it stays queued or has failed, see the payment's timeline"
        ),
    }
}

/// Returns whether a job has expired: its payment has expired, or retries have lasted for the maximum time. A job
/// that was never tried expires only with its payment, because the clock may be wrong or all gateways may have been
/// down. Only certain time counts, so a clock step expires nothing.
fn has_expired(job: &Job, payment: &Payment, ends_at: Option<Timestamp>, max_age: Duration, time: Reading) -> bool {
    let is_payment = job.action == IntentKind::Pay;
    let created_at = payment.created_at;
    let is_over = |expires_at: Timestamp| time.certain_age(created_at) >= expires_at.duration_since(created_at);
    if is_payment && ends_at.is_some_and(is_over) {
        return true;
    }
    let max_wait = if is_payment && payment.method.is_scanned() { max_age.min(MAX_SCANNED_WAIT) } else { max_age };
    let max_wait = SignedDuration::try_from(max_wait).unwrap_or(SignedDuration::MAX);
    job.tries > 0 && time.certain_age(job.since) >= max_wait
}

/// Returns the expiry of a queued payment: the merchant's own time, or the time that an earlier execution may have
/// sent. A channel's default lifetime starts again with each send that provably failed.
fn ends_at(job: &Job, payment: &Payment) -> Option<Timestamp> {
    if job.may_be_known || job.action != IntentKind::Pay {
        return payment.expires_at;
    }
    NewPayment::read(&Bytes::from(job.body.clone())).ok()?.expires_at
}

/// Returns the failure reason of an expired job.
fn expiry_reason(job: &Job) -> String {
    match &job.last_error {
        Some(why) => format!("it could not be sent in time; the last try failed: {why}"),
        None => "it could not be sent in time".to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tollgate_ledger::RecordState;
    use tollgate_ledger::testing::a_payment;
    use tollgate_plugins::payment::Method;

    use super::*;

    fn is_over(job: &Job, payment: &Payment, max_age: Duration, time: Reading) -> bool {
        has_expired(job, payment, payment.expires_at, max_age, time)
    }

    /// The channel's lifetime starts again with each send; the merchant's own expiry is fixed.
    #[test]
    fn queued_payment_keeps_merchant_expiry_but_not_channel_default() {
        let channels = Some(Timestamp::UNIX_EPOCH + SignedDuration::from_secs(900));
        let payment = Payment { expires_at: channels, ..a_payment("o") };
        let body = |own: &str| {
            format!(
                r#"{{"order_id": "o", "amount": {{"value": 1, "currency": "CNY"}}, "description": "d", "method": "unionpay.qr"{own}}}"#
            )
        };
        let job = |body, may_be_known| Job {
            action: IntentKind::Pay,
            body,
            since: Timestamp::UNIX_EPOCH,
            tries: 1,
            due: Timestamp::UNIX_EPOCH,
            may_be_known,
            last_error: None,
        };
        assert_eq!(ends_at(&job(body(""), false), &payment), None, "no earlier execution may have sent it");
        assert_eq!(ends_at(&job(body(""), true), &payment), channels, "it may have been sent with this expiry");
        let own = r#", "expires_at": "2025-01-01T00:00:00Z""#;
        assert_eq!(ends_at(&job(body(own), false), &payment), "2025-01-01T00:00:00Z".parse().ok());
    }

    #[test]
    fn job_expires_after_max_retry_time_or_with_its_payment() {
        let (start, hour) = (Timestamp::UNIX_EPOCH, Duration::from_hours(1));
        let at = |seconds| start + SignedDuration::from_secs(seconds);
        let steady = |now| Reading { now: at(now), steady_for: SignedDuration::MAX };
        let job = |tries| Job {
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
            state: RecordState::new(start),
            ..a_payment("o")
        };
        let till = Payment { method: Method::all().find(Method::is_scanned).unwrap(), ..a_payment("o") };
        for (payment, time) in [(&web, 3600), (&till, 60)] {
            assert!(!is_over(&job(1), payment, hour, steady(time - 1)));
            assert!(is_over(&job(1), payment, hour, steady(time)));
            for never in [steady(time), steady(400 * 86_400)] {
                assert!(!is_over(&job(0), payment, hour, never), "it was never tried");
            }
        }
        let dated = Payment { expires_at: Some(at(100)), ..web };
        assert!(!is_over(&job(0), &dated, hour, steady(99)) && is_over(&job(0), &dated, hour, steady(100)));
        let refund = Job { action: IntentKind::Refund, ..job(0) };
        assert!(!is_over(&refund, &dated, hour, steady(100)), "a payment's expiry does not apply to its refund");
    }

    #[test]
    fn clock_step_does_not_expire_job_before_certain_time_has_passed() {
        let (start, hour) = (Timestamp::UNIX_EPOCH, Duration::from_hours(1));
        let job = |tries| Job {
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
        let web = Payment { expires_at: None, state: RecordState { created_at: start, ..web.state.clone() }, ..web };
        let till = Payment { method: Method::all().find(Method::is_scanned).unwrap(), ..web.clone() };
        let dated = Payment { expires_at: Some(start + SignedDuration::from_secs(100)), ..web.clone() };
        for (payment, tries, time) in [(&web, 1, 3600), (&till, 1, 60), (&dated, 0, 100), (&dated, 1, 100)] {
            for ahead in [time, 400 * 86_400] {
                assert!(!is_over(&job(tries), payment, hour, stepped(ahead, 0)), "{ahead}");
                assert!(!is_over(&job(tries), payment, hour, stepped(ahead, time - 1)), "{ahead}");
                assert!(is_over(&job(tries), payment, hour, stepped(ahead, time)), "{ahead}");
            }
        }
    }
}
