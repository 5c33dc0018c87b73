//! Delivers events to the merchants' sinks and retries failed deliveries. A sink that fails delays no other, and no other
//! merchant. The events of one payment reach each sink in order, because the ledger returns only the oldest undelivered one.
//!
//! `sinks` has one table of the kinds of sinks; each kind is one file and implements `sink::Sink`.

mod connections;
mod decision;
mod dial;
pub(crate) mod failure;
#[cfg(feature = "kafka")]
mod kafka;
mod message;
pub mod operator;
mod probe;
pub(crate) mod rabbitmq;
mod sink;
mod sink_health;
mod sinks;
mod slots;
mod subscriptions;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod trust;
mod webhook;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use rand::RngExt;
use tokio::sync::{Semaphore, watch};
use tollgate_ledger::{Delivery, Ledger, LedgerError, TimelineEvent};

use self::decision::{DEFER_FOR, Decision};
use self::failure::DeliveryError;
use self::message::OutgoingEvent;
pub use self::probe::{SinkProbe, probe_sinks};
use self::sink::{Attempt, Sink};
use self::sink_health::SinkHealth;
use self::sinks::{SinkChanges, Sinks, Target};
use self::slots::{Class, DeliverySlots};
pub(crate) use self::subscriptions::CurrentSubscriptions;
use crate::clock;
use crate::operator_events;
use crate::snapshot::{Current, Snapshot};
use crate::telemetry::{LABELS, METRICS};

/// Minimum time between two searches for due events of failing sinks.
const FAILING_INTERVAL: Duration = Duration::from_millis(250);
/// Delay after an attempt that could not be recorded. Its event is still due and would be sent again at once.
const UNRECORDED_DELAY: Duration = Duration::from_secs(5);
/// Maximum number of sinks that connect at once because they were configured. Events connect theirs themselves.
const MAX_CONCURRENT_CONNECTS: usize = 32;
/// Delay of an event while the name of the cluster is unknown, in seconds.
const CLUSTER_UNKNOWN_FOR: u64 = 5;
/// Name of a gateway whose ledger is not shared, in the origin of a CloudEvent.
const SINGLE_GATEWAY: &str = "local";

/// Runs until shutdown.
pub async fn run(current: Current, ledger: Ledger, mut shutdown: watch::Receiver<bool>) {
    let worker = Arc::new(Worker::new(current, ledger));
    let mut wake = worker.ledger.wake();
    let mut slots = DeliverySlots::new();
    let mut failing_tried: Option<Instant> = None;
    loop {
        let snapshot = worker.follow_configuration();
        // Collects all finished tasks first, because reading due events waits for the disk.
        slots.collect_ended();
        worker.sinks.close_expired();
        // Without a writable ledger, deliveries could not be recorded and would repeat endlessly.
        // Without the cluster's name a CloudEvent would get another source at the next attempt, so that its receiver takes the
        // event twice.
        if worker.ledger.may_work() && clock::is_trusted() && worker.knows_cluster().await {
            worker.start_due(&mut slots, Class::Healthy, &snapshot).await;
            // The failing sinks may be many, and their retries are not urgent.
            if failing_tried.is_none_or(|last| last.elapsed() >= FAILING_INTERVAL) {
                worker.start_due(&mut slots, Class::Failing, &snapshot).await;
                failing_tried = Some(Instant::now());
            }
        }
        tokio::select! {
            () = slots.ended() => {}
            _ = wake.changed() => {}
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            _ = shutdown.wait_for(|stop| *stop) => return,
        }
    }
}

struct Worker {
    current: Current,
    ledger: Ledger,
    sinks: Sinks,
    /// Permits of sinks that connect because they were configured.
    connects: Arc<Semaphore>,
    /// Generation that `sinks` follows.
    generation: Mutex<Option<u64>>,
    /// Name of the cluster, once it is known.
    cluster: OnceLock<String>,
    /// Merchants whose webhook answered 410, with the fingerprint of their file at that time.
    disabled: Mutex<HashMap<String, String>>,
    /// Reports failing sinks to the operator.
    health: SinkHealth,
}

impl Worker {
    fn new(current: Current, ledger: Ledger) -> Self {
        Self {
            current,
            ledger,
            sinks: Sinks::new(),
            connects: Arc::new(Semaphore::new(MAX_CONCURRENT_CONNECTS)),
            generation: Mutex::default(),
            cluster: OnceLock::new(),
            disabled: Mutex::default(),
            health: SinkHealth::default(),
        }
    }

    /// Opens and closes sinks after a reload, and returns the snapshot in force. A sink that cannot be reached is logged
    /// and rejects no reload.
    fn follow_configuration(&self) -> Arc<Snapshot> {
        let snapshot = self.current.load_full();
        if self.generation.lock().replace(snapshot.generation) != Some(snapshot.generation) {
            let SinkChanges { added, removed } = self.sinks.follow(&snapshot);
            for (subscription, sink) in added {
                tokio::spawn(connect(subscription, sink, Arc::clone(&snapshot), Arc::clone(&self.connects)));
            }
            if !removed.is_empty() {
                tokio::spawn(warn_about_removed(self.ledger.clone(), removed));
            }
        }
        snapshot
    }

    /// Starts due deliveries to the sinks of a class.
    async fn start_due(self: &Arc<Self>, slots: &mut DeliverySlots, class: Class, snapshot: &Arc<Snapshot>) {
        let limit = slots.limit(class);
        if limit == 0 {
            return;
        }
        let due = self.ledger.due_deliveries(
            clock::now(),
            limit,
            |subscription| match slots.free(subscription, class) {
                0 => 0,
                _ if self.sinks.is_paused(subscription) => 0,
                free => free,
            },
            |subscription, event| slots.is_running(subscription, event),
        );
        let due = due.await;
        if due.len() == limit {
            slots.reached_limit(class);
        }
        for delivery in due {
            let subscription = delivery.sink.subscription(&delivery.event.subject.merchant);
            let event = delivery.event.id.clone();
            slots.start(&subscription, &event, Arc::clone(self).deliver(delivery, Arc::clone(snapshot)));
        }
    }

    /// Returns whether the name of the cluster is known, and reads it until it is.
    async fn knows_cluster(&self) -> bool {
        self.cluster.get().is_some() || learn(&self.cluster, self.ledger.cluster_id().await)
    }

    /// Makes one attempt by the snapshot that the open sinks follow, and records its result. Returns whether the event was
    /// delivered.
    async fn deliver(self: Arc<Self>, delivery: Delivery, snapshot: Arc<Snapshot>) -> bool {
        let (merchant, event) = (delivery.event.subject.merchant.clone(), delivery.event.id.clone());
        let (sink, tries) = (delivery.sink.clone(), delivery.tries);
        // Runs in a task of its own, so that a panic counts as a failed attempt.
        let attempt = tokio::spawn({
            let (worker, delivery) = (Arc::clone(&self), delivery.clone());
            async move { worker.attempt(&snapshot, &delivery).await }
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
        let without_sink = || Decision::without_sink(delivery.event.created_at, clock::now());
        let Some(merchant) = snapshot.config.merchants.get(name) else {
            let why = "the merchant's file is missing, its events wait; restore the file";
            return (without_sink(), Some(why.to_owned()));
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
                return (without_sink(), Some(why));
            }
            Target::Replaced => return (Decision::Defer(1), Some("a reload has just changed the sink".to_owned())),
        };
        let is_webhook = delivery.sink.is_webhook();
        if is_webhook && self.disabled.lock().get(name) == Some(&merchant.fingerprint) {
            return (Decision::Defer(DEFER_FOR), Some("the webhook is disabled after it answered 410".to_owned()));
        }
        let allowed = &snapshot.process.webhook_allow;
        let Some(cluster) = self.cluster.get() else {
            let why = "the ledger cannot tell the name of the cluster; see that PostgreSQL can be reached";
            return (Decision::Defer(CLUSTER_UNKNOWN_FOR), Some(why.to_owned()));
        };
        let result = match OutgoingEvent::of(delivery, cluster) {
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
async fn connect(subscription: String, sink: Arc<dyn Sink>, snapshot: Arc<Snapshot>, permits: Arc<Semaphore>) {
    let Ok(_permit) = permits.acquire().await else { return };
    match sink.connect(&snapshot.process.webhook_allow).await {
        Ok(()) => tracing::info!(sink = subscription, "the sink can be reached"),
        Err(error) => tracing::warn!(
            sink = subscription,
            "the sink cannot be reached, its events wait; check its URL and the destination: {error}"
        ),
    }
}

/// Logs how many events wait for sinks that are configured no more.
async fn warn_about_removed(ledger: Ledger, removed: Vec<String>) {
    for subscription in removed {
        match ledger.sink_queue(&subscription).await.map(|queue| queue.waiting) {
            Ok(0) => {}
            Ok(waiting) => tracing::warn!(
                sink = subscription,
                waiting,
                "a sink was removed for which events wait; add it again to deliver them, or with kind = \"discard\" to drop them"
            ),
            Err(error) => tracing::warn!(%error, sink = subscription, "the events of a removed sink cannot be counted"),
        }
    }
}

/// Keeps the name of the cluster for the origin of a CloudEvent, if the ledger returned it. Returns whether it is known.
fn learn(cluster: &OnceLock<String>, read: Result<Option<String>, LedgerError>) -> bool {
    match read {
        Ok(name) => {
            cluster.get_or_init(|| name.unwrap_or_else(|| SINGLE_GATEWAY.to_owned()));
            true
        }
        Err(error) => {
            tracing::warn!(
                %error,
                "no event is delivered while the ledger cannot tell the name of the cluster; see that PostgreSQL can be reached"
            );
            false
        }
    }
}

fn due_after(now: Timestamp, seconds: u64) -> Timestamp {
    let pause = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
    now.checked_add(pause).unwrap_or(now)
}
