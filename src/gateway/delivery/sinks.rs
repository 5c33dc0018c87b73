//! The sinks of the configuration in force. One that did not change keeps its connection over a reload.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tollgate_config::{Merchant, SinkKind};
use tollgate_ledger::SinkName;

use super::connections::Connections;
use super::rabbitmq::RabbitMqSink;
use super::sink::Sink;
use super::webhook::WebhookSink;
use crate::snapshot::Snapshot;

/// Sinks by subscription: merchant and name.
pub(super) struct Sinks {
    connections: Arc<Connections>,
    open: Mutex<HashMap<String, OpenSink>>,
}

struct OpenSink {
    kind: SinkKind,
    sink: Arc<dyn Sink>,
}

/// Destination of one delivery.
pub(super) enum Target {
    /// Events are sent there.
    Sink(Arc<dyn Sink>),
    /// The operator drops the events.
    Discard,
    /// The merchant has no webhook any more.
    NoWebhook,
    /// The merchant has no sink of this name any more.
    NotConfigured,
}

impl Sinks {
    pub(super) fn new() -> Self {
        Self { connections: Arc::new(Connections::new()), open: Mutex::default() }
    }

    /// Returns the sink of a merchant.
    pub(super) fn find(&self, merchant: &Arc<Merchant>, name: &SinkName) -> Target {
        if name.is_webhook() {
            return match &merchant.webhook {
                Some(_) => {
                    Target::Sink(Arc::new(WebhookSink::new(Arc::clone(&self.connections), Arc::clone(merchant))))
                }
                None => Target::NoWebhook,
            };
        }
        let Some(configured) = merchant.sinks.iter().find(|sink| sink.name == name.as_str()) else {
            return Target::NotConfigured;
        };
        match self.open(name.subscription(&merchant.name), &configured.kind) {
            Some((sink, _)) => Target::Sink(sink),
            None => Target::Discard,
        }
    }

    /// Returns whether a sink accepts nothing at present, so that its events need not be tried.
    pub(super) fn is_paused(&self, subscription: &str) -> bool {
        let sink = self.open.lock().get(subscription).map(|open| Arc::clone(&open.sink));
        sink.is_some_and(|sink| sink.is_paused())
    }

    /// Closes the sinks that are configured no more or otherwise, and returns the new ones by subscription.
    pub(super) fn follow(&self, snapshot: &Snapshot) -> Vec<(String, Arc<dyn Sink>)> {
        let configured = snapshot.config.merchants.values().flat_map(|merchant| {
            let sinks = merchant.sinks.iter();
            sinks.map(|sink| (SinkName::from(sink.name.as_str()).subscription(&merchant.name), &sink.kind))
        });
        let configured: HashMap<String, &SinkKind> = configured.collect();
        self.open.lock().retain(|subscription, open| configured.get(subscription) == Some(&&open.kind));
        let mut added = Vec::new();
        for (subscription, kind) in configured {
            if let Some((sink, true)) = self.open(subscription.clone(), kind) {
                added.push((subscription, sink));
            }
        }
        added
    }

    /// Closes webhook connections that were idle for too long.
    pub(super) fn close_expired(&self) {
        self.connections.close_expired(std::time::Instant::now());
    }

    /// Returns the open sink of a subscription if it has the same settings, else a new one, and whether it is new.
    fn open(&self, subscription: String, kind: &SinkKind) -> Option<(Arc<dyn Sink>, bool)> {
        let mut open = self.open.lock();
        if let Some(same) = open.get(&subscription).filter(|open| open.kind == *kind) {
            return Some((Arc::clone(&same.sink), false));
        }
        let sink = sink_of(kind)?;
        open.insert(subscription, OpenSink { kind: kind.clone(), sink: Arc::clone(&sink) });
        Some((sink, true))
    }
}

/// The kinds of sinks: what is sent where. `None` for a kind that sends nothing. Opens no connection.
fn sink_of(kind: &SinkKind) -> Option<Arc<dyn Sink>> {
    match kind {
        SinkKind::RabbitMq(config) => Some(Arc::new(RabbitMqSink::new(Arc::clone(config)))),
        SinkKind::Discard => None,
    }
}
