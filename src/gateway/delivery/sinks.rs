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

/// Sinks by subscription: merchant and name, or the name of a sink of the operator.
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
                Some(webhook) => {
                    Target::Sink(Arc::new(WebhookSink::new(Arc::clone(&self.connections), Arc::clone(webhook))))
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

    /// Returns a sink of the operator; `None` if none of this name sends events.
    pub(super) fn find_operators(&self, snapshot: &Snapshot, name: &str) -> Option<Arc<dyn Sink>> {
        let configured = snapshot.process.operator_sinks.iter().find(|sink| sink.name == name)?;
        self.open(name.to_owned(), &configured.kind).map(|(sink, _)| sink)
    }

    /// Follows the merchants' sinks: closes those that are configured no more or otherwise, and returns the new ones by
    /// subscription.
    pub(super) fn follow(&self, snapshot: &Snapshot) -> Vec<(String, Arc<dyn Sink>)> {
        let configured = snapshot.config.merchants.values().flat_map(|merchant| {
            let sinks = merchant.sinks.iter();
            sinks.map(|sink| (SinkName::from(sink.name.as_str()).subscription(&merchant.name), &sink.kind))
        });
        self.follow_all(configured.collect())
    }

    /// Follows the operator's sinks like [`Self::follow`]. Their names are the subscriptions.
    pub(super) fn follow_operators(&self, snapshot: &Snapshot) -> Vec<(String, Arc<dyn Sink>)> {
        let configured = snapshot.process.operator_sinks.iter().map(|sink| (sink.name.clone(), &sink.kind));
        self.follow_all(configured.collect())
    }

    fn follow_all(&self, configured: HashMap<String, &SinkKind>) -> Vec<(String, Arc<dyn Sink>)> {
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
        let sink = sink_of(kind, &self.connections)?;
        open.insert(subscription, OpenSink { kind: kind.clone(), sink: Arc::clone(&sink) });
        Some((sink, true))
    }
}

/// The kinds of sinks: what is sent where. `None` for a kind that sends nothing. Opens no connection.
fn sink_of(kind: &SinkKind, connections: &Arc<Connections>) -> Option<Arc<dyn Sink>> {
    match kind {
        SinkKind::Webhook(webhook) => Some(Arc::new(WebhookSink::new(Arc::clone(connections), Arc::clone(webhook)))),
        SinkKind::RabbitMq(config) => Some(Arc::new(RabbitMqSink::new(Arc::clone(config)))),
        SinkKind::Discard => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use tollgate_config::testing::edit;
    use tollgate_ledger::Subscriptions;

    use super::*;
    use crate::delivery::subscriptions::CurrentSubscriptions;
    use crate::snapshot::testing::sandbox;
    use crate::snapshot::{load, put_in_force};

    const SINKS: &str = "
[[sink]]
name = \"mq\"
kind = \"rabbitmq\"
url = \"plain:amqp://localhost:1\"
exchange = \"payments\"
events = [\"payment.*\"]
[[sink]]
name = \"gone\"
kind = \"discard\"
";

    fn opened(target: Target) -> Arc<dyn Sink> {
        match target {
            Target::Sink(sink) => sink,
            _ => panic!("no sink"),
        }
    }

    #[test]
    fn unchanged_sink_is_kept_over_a_reload_and_a_removed_one_is_closed() {
        let dir = sandbox();
        let file = dir.path().join("merchants/shop.toml");
        let plain = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, format!("{plain}{SINKS}")).unwrap();
        let (sinks, first) = (Sinks::new(), load(dir.path(), None).unwrap());
        let names = |added: Vec<(String, Arc<dyn Sink>)>| added.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names(sinks.follow(&first)), ["shop/mq"]);
        let find =
            |snapshot: &Snapshot, name: &str| sinks.find(&snapshot.config.merchants["shop"], &SinkName::from(name));
        let mq = opened(find(&first, "mq"));
        assert!(matches!(find(&first, "gone"), Target::Discard));
        assert!(matches!(find(&first, "never"), Target::NotConfigured));
        edit(&dir, "merchants/shop.toml", "events = [\"payment.*\"]", "events = []");
        let second = load(dir.path(), Some(&first)).unwrap();
        assert!(sinks.follow(&second).is_empty(), "the filter needs no other connection");
        assert!(Arc::ptr_eq(&mq, &opened(find(&second, "mq"))));
        edit(&dir, "merchants/shop.toml", "exchange = \"payments\"", "exchange = \"others\"");
        let third = load(dir.path(), Some(&second)).unwrap();
        assert_eq!(names(sinks.follow(&third)), ["shop/mq"]);
        assert!(!Arc::ptr_eq(&mq, &opened(find(&third, "mq"))));
        std::fs::write(&file, plain).unwrap();
        let fourth = load(dir.path(), Some(&third)).unwrap();
        assert!(sinks.follow(&fourth).is_empty() && sinks.open.lock().is_empty());
        assert_eq!(Arc::strong_count(&mq), 1, "nobody else holds it");
    }

    #[test]
    fn merchant_without_file_keeps_a_webhook_queue_and_filters_choose_the_sinks() {
        let dir = sandbox();
        let file = dir.path().join("merchants/shop.toml");
        let plain = std::fs::read_to_string(&file).unwrap();
        let has_webhook = plain.contains("webhook");
        std::fs::write(&file, format!("{plain}{SINKS}")).unwrap();
        let subscriptions = CurrentSubscriptions(put_in_force(load(dir.path(), None).unwrap()));
        let sinks = |merchant: &str, kind: &str| -> Vec<String> {
            subscriptions.sinks(merchant, kind).iter().map(ToString::to_string).collect()
        };
        let webhook: Vec<String> = has_webhook.then(|| "webhook".to_owned()).into_iter().collect();
        assert_eq!(sinks("shop", "payment.closed"), [&webhook[..], &["mq".to_owned()]].concat());
        assert_eq!(sinks("shop", "refund.failed"), webhook);
        assert_eq!(sinks("missing", "refund.failed"), ["webhook"]);
    }
}
