//! Queue of one sink of the operator. Its events are sent one after the other; each is retried for an hour.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::super::decision::Decision;
use super::super::failure::DeliveryError;
use super::super::message::OutgoingEvent;
use super::super::sink::{Attempt, Sink};
use super::super::sinks::{Sinks, Target};
use crate::clock;
use crate::operator_events::InProgress;
use crate::snapshot::Current;
use crate::telemetry::METRICS;

/// Maximum number of events that wait for one sink.
const MAX_WAITING: usize = 256;
/// Time for which an event is retried.
const RETRY_FOR: Duration = Duration::from_hours(1);
/// Pause until the worker has followed a reload.
const FOLLOW_PAUSE: Duration = Duration::from_secs(1);
/// Step of the merchants' schedule that the pauses do not exceed: 5 s, then 5 min. An old alert is of little use.
const LAST_STEP: u32 = 1;

/// Events that wait for one sink. Its task ends, and drops them, after the queue is dropped.
pub(super) struct SinkQueue {
    name: String,
    sender: mpsc::Sender<Waiting>,
}

struct Waiting {
    event: Arc<OutgoingEvent>,
    in_progress: Option<InProgress>,
}

/// End of an event's delivery, as a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Delivered,
    GivenUp,
    /// The sink is configured no more.
    Removed,
}

impl SinkQueue {
    /// Starts the task of a sink. `generation` changes with each reload.
    pub(super) fn start(name: &str, current: &Current, sinks: &Arc<Sinks>, generation: watch::Receiver<u64>) -> Self {
        let (sender, waiting) = mpsc::channel(MAX_WAITING);
        let (current, sinks) = (Arc::clone(current), Arc::clone(sinks));
        let task = SinkTask { name: name.to_owned(), current, sinks, generation };
        tokio::spawn(task.run(waiting));
        Self { name: name.to_owned(), sender }
    }

    /// Adds an event. It is dropped and counted if too many wait.
    pub(super) fn push(&self, event: Arc<OutgoingEvent>, in_progress: Option<InProgress>) {
        if self.sender.try_send(Waiting { event, in_progress }).is_err() {
            count(&self.name, "dropped");
        }
    }
}

struct SinkTask {
    name: String,
    current: Current,
    sinks: Arc<Sinks>,
    generation: watch::Receiver<u64>,
}

impl SinkTask {
    async fn run(mut self, mut waiting: mpsc::Receiver<Waiting>) {
        while let Some(Waiting { event, in_progress }) = waiting.recv().await {
            let end = self.deliver(&event, in_progress).await;
            let (sink, event_type) = (self.name.as_str(), &event.event_type);
            match end {
                End::Delivered => count(sink, "delivered"),
                End::GivenUp => {
                    count(sink, "given_up");
                    tracing::error!(
                        sink,
                        event_type,
                        "an operator event was given up; check the sink in tollgate.toml"
                    );
                }
                End::Removed => count(sink, "dropped"),
            }
        }
    }

    /// Sends an event until the sink has it, or for an hour.
    async fn deliver(&mut self, event: &Arc<OutgoingEvent>, mut in_progress: Option<InProgress>) -> End {
        let (mut tries, started) = (0, Instant::now());
        loop {
            self.generation.mark_unchanged();
            let snapshot = self.current.load_full();
            let sink = match self.sinks.find_operators(&snapshot, &self.name) {
                Target::Sink(sink) => sink,
                // The worker has not followed a reload yet.
                Target::Replaced => {
                    self.wait(FOLLOW_PAUSE).await;
                    continue;
                }
                Target::Discard | Target::NoWebhook | Target::NotConfigured => return End::Removed,
            };
            let result = attempt(sink, Arc::clone(event), tries, snapshot.process.webhook_allow.clone()).await;
            // A shutdown waits for one attempt only.
            drop(in_progress.take());
            let random = rand::rng().random();
            let pause = match Decision::after(&result, tries.min(LAST_STEP), clock::now(), random) {
                Decision::Again(seconds) | Decision::Defer(seconds) => Duration::from_secs(seconds),
                Decision::Delivered => return End::Delivered,
                Decision::NoWebhook | Decision::Discarded | Decision::GiveUp => return End::GivenUp,
            };
            count(&self.name, "failed");
            if let Err(error) = &result
                && tries == 0
            {
                let (sink, event_type) = (self.name.as_str(), &event.event_type);
                tracing::warn!(sink, event_type, "an operator event was not delivered, it is retried: {error}");
            }
            if started.elapsed() + pause > RETRY_FOR {
                return End::GivenUp;
            }
            tries += 1;
            self.wait(pause).await;
        }
    }

    /// Waits for a time, or for a reload, which may have corrected the sink or removed it.
    async fn wait(&mut self, pause: Duration) {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            Ok(()) = self.generation.changed() => {}
        }
    }
}

/// Makes one attempt in a task of its own, so that a panic counts as a failure.
async fn attempt(
    sink: Arc<dyn Sink>,
    event: Arc<OutgoingEvent>,
    tries: u32,
    allowed: Vec<ipnet::IpNet>,
) -> Result<(), DeliveryError> {
    let send = async move { sink.send(&Attempt { event: &event, tries, allowed: &allowed }).await };
    tokio::spawn(send).await.unwrap_or(Err(DeliveryError::Panicked))
}

fn count(sink: &str, result: &str) {
    METRICS.operator_deliveries_total.with_label_values(&[sink, result]).inc();
}
