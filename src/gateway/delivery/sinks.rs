//! The sinks of the configuration in force. One that did not change keeps its connection over a reload.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use tollgate_config::{Merchant, SinkKind};
use tollgate_ledger::SinkName;

use super::connections::Connections;
#[cfg(feature = "kafka")]
use super::kafka::KafkaSink;
use super::rabbitmq::{Brokers, RabbitMqSink};
use super::sink::Sink;
use super::webhook::WebhookSink;
use crate::snapshot::Snapshot;

/// Sinks by subscription: merchant and name, or the name of a sink of the operator.
pub(super) struct Sinks {
    connections: Arc<Connections>,
    brokers: Brokers,
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
    /// There is no sink of this name any more.
    NotConfigured,
    /// A reload has just changed the sink.
    Replaced,
}

/// Changes of the sinks since the generation before.
pub(super) struct SinkChanges {
    /// New and changed sinks by subscription, sorted.
    pub(super) added: Vec<(String, Arc<dyn Sink>)>,
    /// Subscriptions of the sinks that are configured no more, sorted.
    pub(super) removed: Vec<String>,
}

impl Sinks {
    pub(super) fn new() -> Self {
        Self { connections: Arc::new(Connections::new()), brokers: Brokers::new(), open: Mutex::default() }
    }

    /// Returns the sink of a merchant. Opens none, because the merchant may be of an older generation than the open sinks.
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
        self.opened(&name.subscription(&merchant.name), &configured.kind)
    }

    /// Returns whether a sink accepts nothing at present, so that its events need not be tried.
    pub(super) fn is_paused(&self, subscription: &str) -> bool {
        let sink = self.open.lock().get(subscription).map(|open| Arc::clone(&open.sink));
        sink.is_some_and(|sink| sink.is_paused())
    }

    /// Returns a sink of the operator. Opens none, like [`Self::find`].
    pub(super) fn find_operators(&self, snapshot: &Snapshot, name: &str) -> Target {
        let configured = snapshot.process.operator_sinks.iter().find(|sink| sink.name == name);
        configured.map_or(Target::NotConfigured, |configured| self.opened(name, &configured.kind))
    }

    /// Returns the open sink of a subscription, if it has these settings.
    fn opened(&self, subscription: &str, kind: &SinkKind) -> Target {
        if *kind == SinkKind::Discard {
            return Target::Discard;
        }
        let open = self.open.lock();
        let same = open.get(subscription).filter(|open| open.kind == *kind);
        same.map_or(Target::Replaced, |open| Target::Sink(Arc::clone(&open.sink)))
    }

    /// Follows the merchants' sinks: closes those that were removed or changed, and opens the new ones.
    pub(super) fn follow(&self, snapshot: &Snapshot) -> SinkChanges {
        let configured = snapshot.config.merchants.values().flat_map(|merchant| {
            let sinks = merchant.sinks.iter();
            sinks.map(|sink| (SinkName::from(sink.name.as_str()).subscription(&merchant.name), &sink.kind))
        });
        self.follow_all(snapshot, configured.collect())
    }

    /// Follows the operator's sinks like [`Self::follow`]. Their names are the subscriptions.
    pub(super) fn follow_operators(&self, snapshot: &Snapshot) -> SinkChanges {
        let configured = snapshot.process.operator_sinks.iter().map(|sink| (sink.name.clone(), &sink.kind));
        self.follow_all(snapshot, configured.collect())
    }

    fn follow_all(&self, snapshot: &Snapshot, configured: BTreeMap<String, &SinkKind>) -> SinkChanges {
        self.brokers.permit(&snapshot.process.webhook_allow);
        let mut open = self.open.lock();
        let mut removed: Vec<_> = open.keys().filter(|name| !configured.contains_key(*name)).cloned().collect();
        removed.sort();
        open.retain(|subscription, open| configured.get(subscription) == Some(&&open.kind));
        let mut added = Vec::new();
        for (subscription, kind) in configured {
            if open.contains_key(&subscription) {
                continue;
            }
            if let Some(sink) = self.sink_of(kind) {
                open.insert(subscription.clone(), OpenSink { kind: kind.clone(), sink: Arc::clone(&sink) });
                added.push((subscription, sink));
            }
        }
        SinkChanges { added, removed }
    }

    /// Closes webhook connections that were idle for too long.
    pub(super) fn close_expired(&self) {
        self.connections.close_expired(std::time::Instant::now());
    }

    /// Opens a sink of this kind: what is sent where. `None` for a kind that sends nothing. Makes no connection.
    fn sink_of(&self, kind: &SinkKind) -> Option<Arc<dyn Sink>> {
        match kind {
            SinkKind::Webhook(webhook) => {
                Some(Arc::new(WebhookSink::new(Arc::clone(&self.connections), Arc::clone(webhook))))
            }
            SinkKind::RabbitMq(config) => Some(Arc::new(RabbitMqSink::new(Arc::clone(config), &self.brokers))),
            #[cfg(feature = "kafka")]
            SinkKind::Kafka(config) => Some(Arc::new(KafkaSink::new(Arc::clone(config)))),
            SinkKind::Discard => None,
        }
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
        let names = |changes: SinkChanges| {
            let added: Vec<_> = changes.added.into_iter().map(|(name, _)| name).collect();
            (added.join(" "), changes.removed.join(" "))
        };
        let expected = |added: &str, removed: &str| (added.to_owned(), removed.to_owned());
        assert_eq!(names(sinks.follow(&first)), expected("shop/mq", ""));
        let find =
            |snapshot: &Snapshot, name: &str| sinks.find(&snapshot.config.merchants["shop"], &SinkName::from(name));
        let mq = opened(find(&first, "mq"));
        assert!(matches!(find(&first, "gone"), Target::Discard));
        assert!(matches!(find(&first, "never"), Target::NotConfigured));
        edit(&dir, "merchants/shop.toml", "events = [\"payment.*\"]", "events = []");
        let second = load(dir.path(), Some(&first)).unwrap();
        assert_eq!(names(sinks.follow(&second)), expected("", ""), "the filter needs no other connection");
        assert!(Arc::ptr_eq(&mq, &opened(find(&second, "mq"))));
        edit(&dir, "merchants/shop.toml", "exchange = \"payments\"", "exchange = \"others\"");
        let third = load(dir.path(), Some(&second)).unwrap();
        assert_eq!(names(sinks.follow(&third)), expected("shop/mq", ""));
        assert!(!Arc::ptr_eq(&mq, &opened(find(&third, "mq"))));
        assert!(matches!(find(&second, "mq"), Target::Replaced), "a task that began before the reload");
        std::fs::write(&file, plain).unwrap();
        let fourth = load(dir.path(), Some(&third)).unwrap();
        assert_eq!(names(sinks.follow(&fourth)), expected("", "shop/mq"));
        assert!(matches!(find(&third, "mq"), Target::Replaced), "a removed sink is not opened again");
        assert!(sinks.open.lock().is_empty());
        assert_eq!(Arc::strong_count(&mq), 1, "nobody else holds it");
    }

    #[test]
    fn filters_choose_the_sinks_and_an_unknown_merchant_has_a_webhook_queue() {
        let dir = sandbox();
        let file = dir.path().join("merchants/shop.toml");
        let plain = std::fs::read_to_string(&file).unwrap();
        let has_webhook = plain.contains("webhook");
        std::fs::write(&file, format!("{plain}{SINKS}")).unwrap();
        let subscriptions = CurrentSubscriptions::new(put_in_force(load(dir.path(), None).unwrap()));
        let sinks = |merchant: &str, kind: &str| -> Vec<String> {
            subscriptions.sinks(merchant, kind).iter().map(ToString::to_string).collect()
        };
        let webhook: Vec<String> = has_webhook.then(|| "webhook".to_owned()).into_iter().collect();
        assert_eq!(sinks("shop", "payment.closed"), [&webhook[..], &["mq".to_owned()]].concat());
        assert_eq!(sinks("shop", "refund.failed"), webhook);
        assert_eq!(sinks("missing", "refund.failed"), ["webhook"]);
    }

    #[test]
    fn merchant_whose_file_is_missing_keeps_its_sinks() {
        let dir = sandbox();
        let file = dir.path().join("merchants/shop.toml");
        let plain = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, format!("{plain}{SINKS}")).unwrap();
        std::fs::write(dir.path().join("merchants/other.toml"), plain.replace("shop", "other")).unwrap();
        let current = put_in_force(load(dir.path(), None).unwrap());
        let subscriptions = CurrentSubscriptions::new(Arc::clone(&current));
        let reload = || current.store(Arc::new(load(dir.path(), Some(&current.load_full())).unwrap()));
        let before = subscriptions.sinks("shop", "payment.closed");
        assert!(before.contains(&SinkName::from("mq")));
        std::fs::remove_file(&file).unwrap();
        reload();
        assert_eq!(subscriptions.sinks("shop", "payment.closed"), before);
        // Also after another generation, and until the file is back.
        reload();
        assert_eq!(subscriptions.sinks("shop", "payment.closed"), before);
        std::fs::write(&file, plain).unwrap();
        reload();
        assert!(!subscriptions.sinks("shop", "payment.closed").contains(&SinkName::from("mq")));
    }
}
