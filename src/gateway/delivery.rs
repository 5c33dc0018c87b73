//! Delivers events to the merchants' sinks and retries failed deliveries. A sink that fails delays no other, and no other
//! merchant. The events of one payment reach each sink in order, because the ledger returns only the oldest undelivered one.
//!
//! `sinks` has one table of the kinds of sinks; each kind is one file and implements [`sink::Sink`].

mod connections;
mod decision;
mod dial;
mod failure;
mod message;
pub mod operator;
mod probe;
mod rabbitmq;
mod sink;
mod sink_health;
mod sinks;
mod subscriptions;
#[cfg(test)]
mod testing;
mod webhook;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use rand::RngExt;
use tokio::sync::watch;
use tollgate_ledger::{Delivery, Ledger, SinkName, TimelineEvent};

use self::decision::{DEFER_FOR, Decision};
use self::failure::DeliveryError;
use self::message::OutgoingEvent;
pub use self::probe::{SinkProbe, probe_sinks};
use self::sink::{Attempt, Sink};
use self::sink_health::SinkHealth;
use self::sinks::{Sinks, Target};
pub(crate) use self::subscriptions::CurrentSubscriptions;
use crate::clock;
use crate::operator_events;
use crate::snapshot::{Current, Snapshot};
use crate::task_pool::{EndedTask, KeyedTaskPool};
use crate::telemetry::{LABELS, METRICS};

/// Maximum concurrent deliveries: in total, per webhook, per other sink, and per sink whose last attempt failed. Sinks that
/// time out must not occupy the slots of healthy ones. A broker confirms many messages at once, so it gets more.
const MAX_CONCURRENT_DELIVERIES: usize = 512;
const MAX_PER_WEBHOOK: usize = 8;
const MAX_PER_SINK: usize = 32;
const MAX_PER_FAILING_SINK: usize = 1;
/// Delay after an attempt that could not be recorded. Its event is still due and would be sent again at once.
const UNRECORDED_DELAY: Duration = Duration::from_secs(5);
/// Name of a gateway whose ledger is not shared, in the origin of a CloudEvent.
const SINGLE_GATEWAY: &str = "local";

/// Runs until shutdown.
pub async fn run(current: Current, ledger: Ledger, mut shutdown: watch::Receiver<bool>) {
    let worker = Arc::new(Worker::new(current, ledger));
    let mut wake = worker.ledger.wake();
    let mut deliveries = Deliveries::new();
    loop {
        worker.follow_configuration();
        // Collects all finished tasks first, because reading due events waits for the disk.
        while let Some(ended) = deliveries.pool.try_join_next() {
            deliveries.ended(ended);
        }
        worker.sinks.close_expired();
        // Without a writable ledger, deliveries could not be recorded and would repeat endlessly.
        if worker.ledger.may_work() && clock::is_trusted() {
            let due = worker.ledger.due_deliveries(
                clock::now(),
                deliveries.pool.free(),
                |subscription| match worker.sinks.is_paused(subscription) {
                    true => 0,
                    false => deliveries.free(subscription),
                },
                |subscription, event| deliveries.pool.is_running(&task_key(subscription, event)),
            );
            for delivery in due.await {
                let subscription = delivery.sink.subscription(&delivery.event.subject.merchant);
                let key = task_key(&subscription, &delivery.event.id);
                deliveries.pool.start(&key, &subscription, Arc::clone(&worker).deliver(delivery));
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

/// Returns the key of a delivery: one event may be under way to several sinks.
fn task_key(subscription: &str, event: &str) -> String {
    format!("{subscription} {event}")
}

/// The running deliveries, by event and [subscription](SinkName::subscription).
struct Deliveries {
    /// A task returns whether it delivered its event.
    pool: KeyedTaskPool<bool>,
    /// Subscriptions whose last attempt failed.
    failing: HashSet<String>,
}

impl Deliveries {
    fn new() -> Self {
        Self { pool: KeyedTaskPool::new(MAX_CONCURRENT_DELIVERIES, MAX_PER_SINK), failing: HashSet::new() }
    }

    /// Returns the number of free slots of a subscription.
    fn free(&self, subscription: &str) -> usize {
        let limit = match SinkName::of_subscription(subscription).is_webhook() {
            _ if self.failing.contains(subscription) => MAX_PER_FAILING_SINK,
            true => MAX_PER_WEBHOOK,
            false => MAX_PER_SINK,
        };
        limit.saturating_sub(self.pool.count(subscription))
    }

    fn ended(&mut self, EndedTask { group: subscription, result: is_delivered }: EndedTask<bool>) {
        match is_delivered {
            Some(true) => self.failing.remove(&subscription),
            Some(false) | None => self.failing.insert(subscription),
        };
    }
}

struct Worker {
    current: Current,
    ledger: Ledger,
    sinks: Sinks,
    /// Generation that `sinks` follows.
    generation: Mutex<Option<u64>>,
    /// Name of the cluster, once it is known.
    cluster: tokio::sync::OnceCell<String>,
    /// Merchants whose webhook answered 410, with the fingerprint of their file at that time.
    disabled: Mutex<HashMap<String, String>>,
    /// Tells the operator about sinks that fail.
    health: SinkHealth,
}

impl Worker {
    fn new(current: Current, ledger: Ledger) -> Self {
        Self {
            current,
            ledger,
            sinks: Sinks::new(),
            generation: Mutex::default(),
            cluster: tokio::sync::OnceCell::new(),
            disabled: Mutex::default(),
            health: SinkHealth::default(),
        }
    }

    /// Opens and closes sinks after a reload. A sink that cannot be reached is logged and rejects no reload.
    fn follow_configuration(&self) {
        let snapshot = self.current.load_full();
        if self.generation.lock().replace(snapshot.generation) == Some(snapshot.generation) {
            return;
        }
        for (subscription, sink) in self.sinks.follow(&snapshot) {
            tokio::spawn(connect(subscription, sink, Arc::clone(&snapshot)));
        }
    }

    /// Returns the name of the cluster for the origin of a CloudEvent.
    async fn cluster(&self) -> &str {
        let name = self.cluster.get_or_try_init(async || match self.ledger.cluster_id().await {
            Ok(Some(name)) => Ok(name),
            Ok(None) => Ok(SINGLE_GATEWAY.to_owned()),
            Err(error) => Err(error),
        });
        name.await.map_or(SINGLE_GATEWAY, String::as_str)
    }

    /// Makes one attempt and records its result. Returns whether the event was delivered.
    async fn deliver(self: Arc<Self>, delivery: Delivery) -> bool {
        let (merchant, event) = (delivery.event.subject.merchant.clone(), delivery.event.id.clone());
        let (sink, tries) = (delivery.sink.clone(), delivery.tries);
        // Runs in a task of its own, so that a panic counts as a failed attempt.
        let attempt = tokio::spawn({
            let (worker, delivery) = (Arc::clone(&self), delivery.clone());
            async move { worker.attempt(&worker.current.load_full(), &delivery).await }
        });
        let (decision, reason) = attempt.await.unwrap_or_else(|_| {
            let panicked = DeliveryError::Panicked;
            let reason = panicked.to_string();
            (Decision::after(&Err(panicked), tries, clock::now(), rand::rng().random()), Some(reason))
        });
        let now = clock::now();
        if let Some(reason) = &reason {
            let undelivered =
                vec![TimelineEvent::Undelivered { id: event.clone(), why: reason.clone(), sink: sink.clone() }];
            // The next ledger write waits for the fsync and includes this one.
            if let Err(error) = self.ledger.append_timeline(&delivery.event.subject, undelivered, now).await {
                tracing::warn!(%error, event, "a failed delivery could not be added to the timeline");
            }
        }
        let recorded = match decision {
            Decision::Delivered => self.ledger.delivered(&delivery, now).await,
            Decision::NoWebhook | Decision::Discarded | Decision::GiveUp => {
                self.ledger.dropped(&delivery, decision.label(), now).await
            }
            Decision::Again(seconds) => self.ledger.postpone(&delivery, due_after(now, seconds), tries + 1).await,
            Decision::Defer(seconds) => self.ledger.postpone(&delivery, due_after(now, seconds), tries).await,
        };
        let (label, _) = METRICS.few.label("sink", "", sink.as_str());
        let labels = [LABELS.merchant(&merchant), &label, decision.label()];
        METRICS.deliveries_total.with_label_values(&labels).inc();
        let sink = sink.as_str();
        operator_events::emit(self.health.after(&delivery, decision, reason.as_deref()));
        if decision == Decision::GiveUp {
            tracing::error!(
                merchant,
                event,
                sink,
                outcome = reason,
                "an event was given up after the last attempt; the merchant must query the payment"
            );
        } else if let Some(outcome) = reason {
            tracing::info!(merchant, event, sink, outcome, ?decision, "an event was not delivered");
        }
        if let Err(error) = recorded {
            tracing::error!(%error, event, "a delivery's result could not be recorded; the event is sent again");
            tokio::time::sleep(UNRECORDED_DELAY).await;
        }
        decision.is_done()
    }

    /// Attempts a delivery. Returns the decision and, unless the event is done, the reason.
    async fn attempt(&self, snapshot: &Snapshot, delivery: &Delivery) -> (Decision, Option<String>) {
        let name = &delivery.event.subject.merchant;
        let decide = |result: &Result<(), DeliveryError>| {
            Decision::after(result, delivery.tries, clock::now(), rand::rng().random())
        };
        // A missing merchant file may be restored soon.
        let Some(merchant) = snapshot.config.merchants.get(name) else {
            let missing = Err(DeliveryError::MerchantMissing);
            return (decide(&missing), missing.err().map(|missing| missing.to_string()));
        };
        let sink = match self.sinks.find(merchant, &delivery.sink) {
            Target::Sink(sink) => sink,
            Target::Discard => return (Decision::Discarded, None),
            Target::NoWebhook => return (Decision::NoWebhook, None),
            Target::NotConfigured => {
                let why = format!(
                    "the sink `{}` is not in the merchant's file; add it again, with kind = \"discard\" to drop its events",
                    delivery.sink
                );
                return (Decision::without_sink(delivery.event.created_at, clock::now()), Some(why));
            }
        };
        let is_webhook = delivery.sink.is_webhook();
        if is_webhook && self.disabled.lock().get(name) == Some(&merchant.fingerprint) {
            return (Decision::Defer(DEFER_FOR), Some("the webhook is disabled after it answered 410".to_owned()));
        }
        let allowed = &snapshot.process.webhook_allow;
        let result = match OutgoingEvent::of(delivery, self.cluster().await) {
            Ok(event) => sink.send(&Attempt { event: &event, tries: delivery.tries, allowed }).await,
            Err(error) => Err(error),
        };
        if is_webhook && matches!(result, Err(DeliveryError::Gone)) {
            tracing::error!(
                merchant = name,
                "the webhook answered 410 (gone) and is disabled until the merchant's file changes"
            );
            self.disabled.lock().insert(name.clone(), merchant.fingerprint.clone());
        }
        (decide(&result), result.err().map(|error| error.to_string()))
    }
}

/// Connects to a sink that was added or changed.
async fn connect(subscription: String, sink: Arc<dyn Sink>, snapshot: Arc<Snapshot>) {
    match sink.connect(&snapshot.process.webhook_allow).await {
        Ok(()) => tracing::info!(sink = subscription, "the sink can be reached"),
        Err(error) => tracing::warn!(
            sink = subscription,
            "the sink cannot be reached, its events wait; check its URL and the destination: {error}"
        ),
    }
}

fn due_after(now: Timestamp, seconds: u64) -> Timestamp {
    let pause = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
    now.checked_add(pause).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sinks_of_a_merchant_have_slots_of_their_own() {
        let mut deliveries = Deliveries::new();
        deliveries.failing.insert("a/mq".to_owned());
        assert_eq!(["a", "a/mq", "a/other"].map(|it| deliveries.free(it)), [8, 1, 32]);
        assert_ne!(task_key("a", "evt_1"), task_key("a/mq", "evt_1"));
    }

    #[tokio::test]
    async fn webhook_is_limited_to_its_slots_and_to_one_while_failing() {
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
}
