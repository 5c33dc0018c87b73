//! Delivers events to merchants and retries failed deliveries. An unreachable endpoint delays no other. The events of
//! one payment are delivered in order, because the ledger returns only the oldest undelivered one.

mod connections;
mod dial;
mod failure;
mod webhook;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use rand::RngExt;
use tokio::sync::watch;
use tollgate_ledger::{Delivery, Ledger, TimelineEvent};

use self::connections::Reply;
use self::failure::DeliveryError;
use self::webhook::Client;
use crate::clock;
use crate::snapshot::{Current, Snapshot};
use crate::task_pool::{EndedTask, KeyedTaskPool};
use crate::telemetry::{LABELS, METRICS};

/// Delays before the second and later attempts, in seconds: 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h.
const RETRY_SCHEDULE: [u64; 9] = [5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400];
/// Upper bound for the endpoint's `retry-after`, in seconds.
const MAX_RETRY_AFTER: u64 = 86_400;
/// Delay of an event whose merchant has no usable webhook, in seconds.
const DEFER_FOR: u64 = 3600;
/// Maximum concurrent deliveries: in total, per merchant, and per merchant whose last attempt failed. Endpoints that
/// time out must not occupy the slots of healthy ones.
const MAX_CONCURRENT_DELIVERIES: usize = 512;
const MAX_PER_MERCHANT: usize = 8;
const MAX_PER_FAILING_MERCHANT: usize = 1;
/// Delay after an attempt that could not be recorded. Its event is still due and would be sent again at once.
const UNRECORDED_DELAY: Duration = Duration::from_secs(5);

/// Runs until shutdown.
pub async fn run(current: Current, ledger: Ledger, mut shutdown: watch::Receiver<bool>) {
    let worker = Arc::new(Worker { current, ledger, client: Client::new(), disabled: Mutex::default() });
    let mut wake = worker.ledger.wake();
    let mut deliveries = Deliveries::new();
    loop {
        // Collects all finished tasks first, because reading due events waits for the disk.
        while let Some(ended) = deliveries.pool.try_join_next() {
            deliveries.ended(ended);
        }
        worker.client.close_expired();
        // Without a writable ledger, deliveries could not be recorded and would repeat endlessly.
        if worker.ledger.may_work() && clock::is_trusted() {
            let due = worker.ledger.due_deliveries(
                clock::now(),
                deliveries.pool.free(),
                |merchant| deliveries.free(merchant),
                |_, event| deliveries.pool.is_running(event),
            );
            for delivery in due.await {
                let (merchant, event) = (delivery.event.subject.merchant.clone(), delivery.event.id.clone());
                deliveries.pool.start(&event, &merchant, Arc::clone(&worker).deliver(delivery));
            }
        }
        tokio::select! {
            ended = deliveries.pool.join_next() => deliveries.ended(ended),
            _ = wake.changed() => {}
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            _ = shutdown.wait_for(|stop| *stop) => return,
        }
    }
}

/// The running deliveries, by event and merchant.
struct Deliveries {
    /// A task returns whether it delivered its event.
    pool: KeyedTaskPool<bool>,
    /// Merchants whose last attempt failed.
    failing: HashSet<String>,
}

impl Deliveries {
    fn new() -> Self {
        Self { pool: KeyedTaskPool::new(MAX_CONCURRENT_DELIVERIES, MAX_PER_MERCHANT), failing: HashSet::new() }
    }

    /// Returns the number of free slots of a merchant.
    fn free(&self, merchant: &str) -> usize {
        let limit = if self.failing.contains(merchant) { MAX_PER_FAILING_MERCHANT } else { MAX_PER_MERCHANT };
        limit.saturating_sub(self.pool.count(merchant))
    }

    fn ended(&mut self, EndedTask { group: merchant, result: is_delivered }: EndedTask<bool>) {
        match is_delivered {
            Some(true) => self.failing.remove(&merchant),
            Some(false) | None => self.failing.insert(merchant),
        };
    }
}

struct Worker {
    current: Current,
    ledger: Ledger,
    client: Client,
    /// Merchants whose endpoint answered 410, with the fingerprint of their file at that time.
    disabled: Mutex<HashMap<String, String>>,
}

/// Decision after an attempt.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Decision {
    /// The endpoint accepted the event.
    Delivered,
    /// The merchant wants no events.
    NoWebhook,
    /// No further attempt.
    GiveUp,
    /// Retry after this many seconds.
    Again(u64),
    /// Retry after this many seconds without counting this attempt.
    Defer(u64),
}

impl Decision {
    /// Returns the metric label.
    fn label(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::NoWebhook => "no_webhook",
            Self::GiveUp => "given_up",
            Self::Again(_) => "failed",
            Self::Defer(_) => "deferred",
        }
    }

    /// Returns whether the event is finished without a failure.
    fn is_done(self) -> bool {
        matches!(self, Self::Delivered | Self::NoWebhook)
    }
}

impl Worker {
    /// Makes one attempt and records its result. Returns whether the event was delivered.
    async fn deliver(self: Arc<Self>, delivery: Delivery) -> bool {
        let merchant = delivery.event.subject.merchant.clone();
        let event = delivery.event.id.clone();
        // Runs in a task of its own, so that a panic counts as a failed attempt.
        let attempt = tokio::spawn({
            let (worker, delivery) = (Arc::clone(&self), delivery.clone());
            async move { worker.attempt(&worker.current.load_full(), &delivery).await }
        });
        let (decision, reason) = attempt.await.unwrap_or_else(|_| {
            let panicked = DeliveryError::Panicked;
            let reason = panicked.to_string();
            (decide(&Err(panicked), delivery.tries, clock::now(), rand::rng().random()), Some(reason))
        });
        let now = clock::now();
        if let Some(reason) = &reason {
            let undelivered = vec![TimelineEvent::Undelivered { id: event.clone(), why: reason.clone() }];
            // The next ledger write waits for the fsync and includes this one.
            if let Err(error) = self.ledger.append_timeline(&delivery.event.subject, undelivered, now).await {
                tracing::warn!(%error, event, "a failed delivery could not be added to the timeline");
            }
        }
        let recorded = match decision {
            Decision::Delivered => self.ledger.delivered(&event, now).await,
            Decision::NoWebhook | Decision::GiveUp => self.ledger.dropped(&event, decision.label(), now).await,
            Decision::Again(seconds) => self.ledger.postpone(&event, due_after(now, seconds), delivery.tries + 1).await,
            Decision::Defer(seconds) => self.ledger.postpone(&event, due_after(now, seconds), delivery.tries).await,
        };
        METRICS.deliveries_total.with_label_values(&[LABELS.merchant(&merchant), decision.label()]).inc();
        if decision == Decision::GiveUp {
            tracing::error!(
                merchant,
                event,
                outcome = reason,
                "an event was given up after the last attempt; the merchant must query the payment"
            );
        } else if let Some(outcome) = reason {
            tracing::info!(merchant, event, outcome, ?decision, "an event was not delivered");
        }
        if let Err(error) = recorded {
            tracing::error!(%error, event, "a delivery's result could not be recorded; the event is sent again");
            tokio::time::sleep(UNRECORDED_DELAY).await;
        }
        decision.is_done()
    }

    /// Attempts a delivery. Returns the decision and, unless it was delivered, the reason.
    async fn attempt(&self, snapshot: &Snapshot, delivery: &Delivery) -> (Decision, Option<String>) {
        let name = &delivery.event.subject.merchant;
        // A missing merchant file may be restored soon.
        let Some(merchant) = snapshot.config.merchants.get(name) else {
            let missing = DeliveryError::MerchantMissing;
            let reason = missing.to_string();
            return (decide(&Err(missing), delivery.tries, clock::now(), 0.5), Some(reason));
        };
        let Some(target) = &merchant.webhook else { return (Decision::NoWebhook, None) };
        if self.disabled.lock().get(name) == Some(&merchant.fingerprint) {
            return (Decision::Defer(DEFER_FOR), Some("the webhook is disabled after it answered 410".to_owned()));
        }
        let reply = self.client.post(target, &snapshot.process.webhook_allow, &delivery.event, delivery.tries).await;
        if let Ok(Reply { status: 410, .. }) = reply {
            tracing::error!(
                merchant = name,
                "the webhook answered 410 (gone) and is disabled until the merchant's file changes"
            );
            self.disabled.lock().insert(name.clone(), merchant.fingerprint.clone());
            return (Decision::Defer(DEFER_FOR), Some("it answered 410".to_owned()));
        }
        let decision = decide(&reply, delivery.tries, clock::now(), rand::rng().random());
        if decision.is_done() {
            return (decision, None);
        }
        let outcome = reply.map_or_else(|error| error.to_string(), |reply| format!("it answered {}", reply.status));
        (decision, Some(outcome))
    }
}

/// Decides after the reply to attempt number `tries`, counted from 0; `random` is from 0 to 1.
fn decide(reply: &Result<Reply, DeliveryError>, tries: u32, now: Timestamp, random: f64) -> Decision {
    match reply {
        Ok(reply) if (200..300).contains(&reply.status) => return Decision::Delivered,
        _ => {}
    }
    let Some(pause) = RETRY_SCHEDULE.get(tries as usize) else { return Decision::GiveUp };
    let delay = (*pause as f64 * (0.9 + 0.2 * random)).round() as u64;
    let requested =
        reply.as_ref().ok().and_then(|reply| reply.retry_after.as_deref()).and_then(|text| seconds(text, now));
    Decision::Again(delay.max(requested.unwrap_or(0).min(MAX_RETRY_AFTER)))
}

fn due_after(now: Timestamp, seconds: u64) -> Timestamp {
    let pause = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
    now.checked_add(pause).unwrap_or(now)
}

/// Parses `retry-after`: seconds or an HTTP date.
fn seconds(text: &str, now: Timestamp) -> Option<u64> {
    let date = || {
        let date = Timestamp::try_from(httpdate::parse_http_date(text.trim()).ok()?).ok()?;
        u64::try_from(date.duration_since(now).as_secs()).ok()
    };
    text.trim().parse().ok().or_else(date)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn merchant_is_limited_to_its_slots_and_to_one_while_failing() {
        let mut deliveries = Deliveries::new();
        assert_eq!((deliveries.free("a"), deliveries.free("b")), (8, 8));
        let (end, ended) = watch::channel(None);
        let start = |deliveries: &mut Deliveries, event: &str| {
            let mut ended = ended.clone();
            let work = async move { ended.wait_for(Option::is_some).await.is_ok_and(|result| *result == Some(true)) };
            assert!(deliveries.pool.start(event, "a", work));
        };
        for event in 0..8 {
            start(&mut deliveries, &event.to_string());
        }
        assert_eq!((deliveries.free("a"), deliveries.free("b")), (0, 8), "another merchant has slots of its own");
        assert!(deliveries.pool.is_running("0") && !deliveries.pool.is_running("8"));
        end.send_replace(Some(false));
        for _ in 0..8 {
            let ended = deliveries.pool.join_next().await;
            deliveries.ended(ended);
        }
        assert_eq!(deliveries.free("a"), 1, "its last attempt failed");
        end.send_replace(None);
        start(&mut deliveries, "8");
        assert_eq!(deliveries.free("a"), 0);
        end.send_replace(Some(true));
        let ended = deliveries.pool.join_next().await;
        deliveries.ended(ended);
        assert_eq!(deliveries.free("a"), 8, "it works again");
    }

    fn reply(status: u16, retry_after: Option<&str>) -> Result<Reply, DeliveryError> {
        Ok(Reply { status, retry_after: retry_after.map(str::to_owned) })
    }

    #[test]
    fn retries_follow_schedule_with_jitter_and_end() {
        let now = Timestamp::UNIX_EPOCH;
        for (tries, pause) in RETRY_SCHEDULE.iter().enumerate() {
            for random in [0.0, 0.5, 0.999] {
                let Decision::Again(seconds) =
                    decide(&Err(DeliveryError::Timeout(UNRECORDED_DELAY)), tries as u32, now, random)
                else {
                    panic!("again")
                };
                assert!(seconds * 10 >= pause * 9 && seconds * 10 <= pause * 11 + 5, "{tries}: {seconds} for {pause}");
            }
        }
        assert_eq!(decide(&Err(DeliveryError::Timeout(UNRECORDED_DELAY)), 9, now, 0.5), Decision::GiveUp);
    }

    #[test]
    fn only_2xx_counts_as_delivered() {
        let now = Timestamp::UNIX_EPOCH;
        for status in [200, 202, 204, 299] {
            assert_eq!(decide(&reply(status, None), 0, now, 0.5), Decision::Delivered);
        }
        for status in [199, 301, 302, 307, 400, 404, 429, 500, 503] {
            assert_eq!(decide(&reply(status, None), 0, now, 0.5), Decision::Again(5), "{status}");
        }
    }

    #[test]
    fn retry_after_header_is_honoured_up_to_a_day() {
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(decide(&reply(503, Some("120")), 0, now, 0.5), Decision::Again(120));
        assert_eq!(decide(&reply(503, Some("1")), 0, now, 0.5), Decision::Again(5), "never sooner than the schedule");
        assert_eq!(decide(&reply(503, Some("999999999")), 0, now, 0.5), Decision::Again(86_400));
        assert_eq!(decide(&reply(503, Some("Thu, 01 Jan 1970 00:10:00 GMT")), 0, now, 0.5), Decision::Again(600));
        assert_eq!(decide(&reply(503, Some("soon")), 0, now, 0.5), Decision::Again(5));
    }
}
