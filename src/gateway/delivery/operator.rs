//! Delivers operator events to the operator's sinks. Each sink has a bounded queue and a task of its own, so that none
//! delays another, and none a merchant's sink. Nothing is durable: a restart loses what waits.

mod sink_queue;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tollgate_ledger::Ledger;

use self::sink_queue::SinkQueue;
use super::message::{OutgoingEvent, encode};
use super::sinks::Sinks;
use super::{MAX_CONCURRENT_CONNECTS, SINGLE_GATEWAY, connect};
use crate::clock;
use crate::operator_events::{
    BreakerWatch, CertificateWatch, Details, Emitted, InProgress, OperatorEvent, Suppressor, receiver,
};
use crate::snapshot::{Current, Snapshot};
use crate::telemetry::METRICS;

/// Interval at which breakers are looked at and windows of suppressed events end.
const TICK: Duration = Duration::from_secs(1);
/// Interval at which certificates are looked at. A new generation is looked at at once.
const CERTIFICATE_INTERVAL: Duration = Duration::from_hours(1);
/// Pause before the name of the cluster is asked for again.
const CLUSTER_RETRY: Duration = Duration::from_secs(5);

/// Delivers operator events until the process exits: also those of a graceful shutdown. `port` distinguishes the gateways of
/// one host.
pub async fn run(current: Current, ledger: Ledger, port: u16) {
    let Some(mut emitted) = receiver() else { return };
    let node = format!("{}:{port}", rustix::system::uname().nodename().to_string_lossy());
    let cluster = Arc::new(OnceLock::new());
    tokio::spawn(find_cluster(ledger, Arc::clone(&cluster)));
    let mut worker = OperatorWorker::new(current, node, cluster);
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            Some(Emitted { event, in_progress }) = emitted.recv() => worker.handle(event, Some(in_progress)),
            _ = tick.tick() => worker.tick(),
        }
    }
}

/// Asks for the name of the cluster until the ledger answers.
async fn find_cluster(ledger: Ledger, cluster: Arc<OnceLock<String>>) {
    loop {
        if let Ok(name) = ledger.cluster_id().await {
            let _ = cluster.set(name.unwrap_or_else(|| SINGLE_GATEWAY.to_owned()));
            return;
        }
        tokio::time::sleep(CLUSTER_RETRY).await;
    }
}

struct OperatorWorker {
    current: Current,
    /// Name of this gateway among others, as in `pay-1:8080`.
    node: String,
    /// Name of the cluster, once it is known.
    cluster: Arc<OnceLock<String>>,
    sinks: Arc<Sinks>,
    /// Permits of sinks that connect.
    connects: Arc<Semaphore>,
    /// Queues by the name of their sink.
    queues: HashMap<String, SinkQueue>,
    /// Generation that `sinks` and `queues` follow.
    generation: watch::Sender<u64>,
    suppressor: Suppressor,
    breakers: BreakerWatch,
    certificates: CertificateWatch,
    /// Time of the next look at the certificates.
    certificates_due: Instant,
}

/// Body of an operator event.
#[derive(Serialize)]
struct Body<'a> {
    id: &'a str,
    r#type: &'static str,
    created_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<&'a str>,
    node: &'a str,
    data: &'a Details,
}

impl OperatorWorker {
    fn new(current: Current, node: String, cluster: Arc<OnceLock<String>>) -> Self {
        Self {
            current,
            node,
            cluster,
            sinks: Arc::new(Sinks::new()),
            connects: Arc::new(Semaphore::new(MAX_CONCURRENT_CONNECTS)),
            queues: HashMap::new(),
            generation: watch::Sender::new(0),
            suppressor: Suppressor::default(),
            breakers: BreakerWatch::default(),
            certificates: CertificateWatch::default(),
            certificates_due: Instant::now(),
        }
    }

    /// Follows the configuration, looks at what is watched, and sends what was suppressed for long enough.
    fn tick(&mut self) {
        let snapshot = self.current.load_full();
        self.follow(&snapshot);
        self.sinks.close_expired();
        let mut events = self.breakers.changes(&snapshot);
        if Instant::now() >= self.certificates_due {
            self.certificates_due = Instant::now() + CERTIFICATE_INTERVAL;
            events.extend(self.certificates.due(&snapshot.config.sources.certificates, clock::now()));
        }
        for event in events {
            self.handle(event, None);
        }
        for event in self.suppressor.due(Instant::now()) {
            self.publish(&snapshot, &event, None);
        }
    }

    /// Opens and closes sinks after a reload.
    fn follow(&mut self, snapshot: &Arc<Snapshot>) {
        if !self
            .generation
            .send_if_modified(|known| std::mem::replace(known, snapshot.generation) != snapshot.generation)
        {
            return;
        }
        self.certificates_due = Instant::now();
        for (name, sink) in self.sinks.follow_operators(snapshot).added {
            tokio::spawn(connect(format!("operator/{name}"), sink, Arc::clone(snapshot), Arc::clone(&self.connects)));
        }
        let configured = &snapshot.process.operator_sinks;
        self.queues.retain(|name, _| configured.iter().any(|sink| sink.name == *name));
        for sink in configured {
            let (current, sinks, generation) = (&self.current, &self.sinks, &self.generation);
            self.queues
                .entry(sink.name.clone())
                .or_insert_with(|| SinkQueue::start(&sink.name, current, sinks, generation.subscribe()));
        }
    }

    fn handle(&mut self, event: OperatorEvent, in_progress: Option<InProgress>) {
        if let Some(event) = self.suppressor.admit(event, Instant::now()) {
            let snapshot = self.current.load_full();
            // An event about a new generation goes to the sinks of that generation.
            self.follow(&snapshot);
            self.publish(&snapshot, &event, in_progress);
        }
    }

    /// Hands an event to every sink that wants it.
    fn publish(&self, snapshot: &Snapshot, event: &OperatorEvent, in_progress: Option<InProgress>) {
        let name = event.event_type.name();
        METRICS.operator_events_total.with_label_values(&[name, "published"]).inc();
        let outgoing = match self.outgoing(snapshot, event) {
            Ok(outgoing) => Arc::new(outgoing),
            Err(error) => return tracing::error!(%error, name, "an operator event was lost"),
        };
        for sink in snapshot.process.operator_sinks.iter().filter(|sink| sink.events.matches(name)) {
            if let Some(queue) = self.queues.get(&sink.name) {
                queue.push(Arc::clone(&outgoing), in_progress.clone());
            }
        }
    }

    fn outgoing(&self, snapshot: &Snapshot, event: &OperatorEvent) -> Result<OutgoingEvent, super::DeliveryError> {
        let OperatorEvent { event_type, details } = event;
        let (id, created_at) = (event.id(&snapshot.process.public_url), clock::now());
        let cluster = self.cluster.get().map(String::as_str);
        let (node, r#type) = (self.node.as_str(), event_type.name());
        let body = encode(&Body { id: &id, r#type, created_at, cluster, node, data: details })?;
        // What the event is about: an order, a sink, a channel, or the configuration.
        let names = [&details.merchant, &details.channel, &details.sink, &details.host, &details.order_id];
        let names: Vec<&str> = names.into_iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
        let subject = if names.is_empty() { "configuration".to_owned() } else { names.join("/") };
        Ok(OutgoingEvent {
            id,
            event_type: r#type.to_owned(),
            created_at,
            source: format!("/tollgate/{}/operator", cluster.unwrap_or(SINGLE_GATEWAY)),
            partition_key: subject.clone(),
            subject,
            body,
            merchant: details.merchant.clone(),
            method: String::new(),
            channel: details.channel.clone(),
            currency: String::new(),
        })
    }
}

#[cfg(test)]
mod tests;
