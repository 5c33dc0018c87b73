//! Bounds the cardinality of labels: only configured names, and only a limited number of them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::LazyLock;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use prometheus::core::{Collector, MetricVec, MetricVecBuilder};
use tollgate_ledger::SinkName;

use super::{METRICS, Metrics};

/// Maximum number of merchants, and of channels, with labels of their own. The rest are counted together.
const MAX_NAMES: usize = 1_000;
/// Label of the rest.
const OTHER: &str = "other";

/// Names with labels of their own in this process.
pub static LABELS: LazyLock<Labels> = LazyLock::new(Labels::default);

/// Names with labels of their own.
#[derive(Default)]
pub struct Labels(ArcSwap<Names>);

#[derive(Default)]
struct Names {
    merchants: HashSet<String>,
    /// Channels for request metrics. Provider call metrics label every channel.
    channels: HashSet<String>,
    all_merchants: HashSet<String>,
    all_channels: HashSet<String>,
}

impl Labels {
    /// Returns the merchant's label. An empty name stays empty.
    pub fn merchant<'a>(&self, name: &'a str) -> &'a str {
        if name.is_empty() || self.0.load().merchants.contains(name) { name } else { OTHER }
    }

    /// Returns the label of a request's channel. An empty name stays empty.
    pub fn channel<'a>(&self, name: &'a str) -> &'a str {
        if name.is_empty() || self.0.load().channels.contains(name) { name } else { OTHER }
    }

    /// Adds the names of a new configuration. Labels in use stay in use.
    pub fn register<M, C>(&self, merchants: &BTreeMap<String, M>, channels: &BTreeMap<String, C>) {
        let before = self.0.load_full();
        let names = Names {
            merchants: chosen(&before.merchants, merchants.keys()),
            channels: chosen(&before.channels, channels.keys()),
            all_merchants: merchants.keys().cloned().collect(),
            all_channels: channels.keys().cloned().collect(),
        };
        for channel in names.channels.difference(&before.channels) {
            METRICS.initialize_counters(channel);
        }
        self.0.store(names.into());
    }

    /// Removes the series of names that this configuration had and the newest has not. Called once no request uses the old
    /// configuration, which would create the series again.
    pub fn unregister<M, C>(&self, merchants: &BTreeMap<String, M>, channels: &BTreeMap<String, C>) {
        self.remove_series(merchants, channels, &METRICS);
    }

    fn remove_series<M, C>(&self, merchants: &BTreeMap<String, M>, channels: &BTreeMap<String, C>, metrics: &Metrics) {
        let names = self.0.load_full();
        let merchants: HashSet<_> =
            merchants.keys().map(String::as_str).filter(|name| !names.all_merchants.contains(*name)).collect();
        let channels: HashSet<_> =
            channels.keys().map(String::as_str).filter(|name| !names.all_channels.contains(*name)).collect();
        if merchants.is_empty() && channels.is_empty() {
            return;
        }
        metrics.unregister(&|label, name| match label {
            "merchant" => merchants.contains(name),
            "channel" => channels.contains(name),
            _ => false,
        });
    }
}

/// Maximum number of values per label and channel.
const MAX_VALUES: usize = 50;
/// Maximum length of a value.
const MAX_VALUE_LENGTH: usize = 64;

/// Label values from outside, bounded in number and length.
#[derive(Default)]
pub struct FewValues(Mutex<HashMap<(&'static str, String), HashSet<String>>>);

impl FewValues {
    /// Returns the value as a label of this kind, and whether it is new. Beyond the bound the label is `other`, and never new.
    pub fn label(&self, kind: &'static str, channel: &str, value: &str) -> (String, bool) {
        let value: String = value.chars().filter(char::is_ascii_graphic).take(MAX_VALUE_LENGTH).collect();
        let mut kinds = self.0.lock();
        let known = kinds.entry((kind, channel.to_owned())).or_default();
        if known.contains(&value) {
            return (value, false);
        }
        if known.len() >= MAX_VALUES {
            return (OTHER.to_owned(), false);
        }
        known.insert(value.clone());
        (value, true)
    }
}

/// Chooses names with labels of their own: first those that had one before and still exist, then as many others as fit.
fn chosen<'a>(before: &HashSet<String>, names: impl Iterator<Item = &'a String> + Clone) -> HashSet<String> {
    let (known, new): (Vec<_>, Vec<_>) = names.partition(|name| before.contains(*name));
    known.into_iter().chain(new).take(MAX_NAMES).cloned().collect()
}

impl Metrics {
    /// Sets the numbers of events that wait for the sinks of each name, and the age of the oldest in seconds. A sink that is
    /// configured, or was counted before, and is not in the list has none.
    pub fn set_delivery_backlog<'a>(
        &self,
        waiting: &BTreeMap<SinkName, (u64, f64)>,
        configured: impl Iterator<Item = &'a str>,
    ) {
        // Merchants choose the names of their sinks.
        let label = |sink: &str| self.few.label("sink", "", sink).0;
        let none = (0, 0.0);
        let mut backlogs: BTreeMap<String, (u64, f64)> =
            configured.chain(["webhook"]).map(|sink| (label(sink), none)).collect();
        for family in self.delivery_queue_depth.collect() {
            let series = family.get_metric().iter().flat_map(|series| series.get_label());
            backlogs.extend(series.map(|label| (label.value().to_owned(), none)));
        }
        for (sink, (count, age)) in waiting {
            let backlog = backlogs.entry(label(sink.as_str())).or_default();
            *backlog = (backlog.0 + count, backlog.1.max(*age));
        }
        for (sink, (count, age)) in backlogs {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.delivery_queue_depth.with_label_values(&[&sink]).set(count);
            self.delivery_oldest_seconds.with_label_values(&[&sink]).set(age);
        }
    }

    fn unregister(&self, is_gone: &impl Fn(&str, &str) -> bool) {
        unregister(&self.requests_total, is_gone);
        unregister(&self.request_duration_seconds, is_gone);
        unregister(&self.provider_requests_total, is_gone);
        unregister(&self.provider_request_duration_seconds, is_gone);
        unregister(&self.breaker_state, is_gone);
        unregister(&self.breaker_transitions, is_gone);
        unregister(&self.breaker_transitions_total, is_gone);
        unregister(&self.limit_in_flight, is_gone);
        unregister(&self.retries_in_flight, is_gone);
        unregister(&self.retries_total, is_gone);
        unregister(&self.adaptive_limit, is_gone);
        unregister(&self.adaptive_in_flight, is_gone);
        unregister(&self.adaptive_baseline_seconds, is_gone);
        unregister(&self.adaptive_shed_total, is_gone);
        unregister(&self.notifications_total, is_gone);
        unregister(&self.notifications_unusable_total, is_gone);
        unregister(&self.unlisted_refusals_total, is_gone);
        unregister(&self.deliveries_total, is_gone);
        unregister(&self.source_messages_total, is_gone);
        unregister(&self.source_connected, is_gone);
        unregister(&self.upstream_connections_total, is_gone);
        unregister(&self.manual_review_total, is_gone);
        unregister(&self.double_payments_total, is_gone);
        unregister(&self.channel_has_fallback, is_gone);
    }
}

fn unregister<T: MetricVecBuilder>(metric: &MetricVec<T>, is_gone: &impl Fn(&str, &str) -> bool) {
    for family in metric.collect() {
        for series in family.get_metric() {
            let labels: HashMap<&str, &str> =
                series.get_label().iter().map(|label| (label.name(), label.value())).collect();
            if labels.iter().any(|(label, name)| is_gone(label, name)) {
                // The labels were read from the metric itself, so the series exists.
                drop(metric.remove(&labels));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(range: std::ops::Range<usize>) -> BTreeMap<String, ()> {
        range.map(|number| (format!("n-{number:05}"), ())).collect()
    }

    #[test]
    fn unknown_and_excess_names_share_a_label_and_labels_in_use_stay() {
        let labels = Labels::default();
        assert_eq!((labels.merchant("anyone"), labels.merchant(""), labels.channel("x")), (OTHER, "", OTHER));
        let many = names(500..500 + MAX_NAMES);
        labels.register(&many, &many);
        assert_eq!(labels.merchant("n-00500"), "n-00500");
        let more = names(0..500 + MAX_NAMES);
        labels.register(&more, &more);
        assert_eq!((labels.merchant("n-00500"), labels.channel("n-01499")), ("n-00500", "n-01499"));
        assert_eq!((labels.merchant("n-00001"), labels.channel("n-00001")), (OTHER, OTHER));
        // Removed names make room for others.
        let fewer = names(0..MAX_NAMES);
        labels.register(&fewer, &fewer);
        assert_eq!((labels.merchant("n-00001"), labels.merchant("n-01499")), ("n-00001", OTHER));
    }

    #[test]
    fn values_from_outside_are_bounded_in_number_and_length() {
        let few = FewValues::default();
        assert_eq!(few.label("code", "a", "ACQ.NEW\n码"), ("ACQ.NEW".to_owned(), true));
        assert_eq!(few.label("code", "a", "ACQ.NEW"), ("ACQ.NEW".to_owned(), false));
        assert_eq!(few.label("code", "b", &"x".repeat(100)).0.len(), MAX_VALUE_LENGTH);
        let new = (0..100).filter(|number| few.label("code", "a", &number.to_string()).1).count();
        assert_eq!(new, MAX_VALUES - 1);
        assert_eq!(few.label("code", "a", "one more"), (OTHER.to_owned(), false));
        assert_eq!(few.label("event", "a", "one more"), ("onemore".to_owned(), true));
    }

    #[test]
    fn sink_without_waiting_events_is_counted_as_zero() {
        let metrics = Metrics::new();
        let waiting = BTreeMap::from([(SinkName::WEBHOOK, (2, 7.5)), (SinkName::from("mq"), (3, 60.0))]);
        metrics.set_delivery_backlog(&waiting, ["mq", "idle"].into_iter());
        for line in [
            "queue_depth{sink=\"mq\"} 3",
            "queue_depth{sink=\"idle\"} 0",
            "queue_depth{sink=\"webhook\"} 2",
            "oldest_seconds{sink=\"mq\"} 60",
            "oldest_seconds{sink=\"idle\"} 0",
            "oldest_seconds{sink=\"webhook\"} 7.5",
        ] {
            assert!(metrics.render().contains(&format!("delivery_{line}")), "{line}");
        }
        metrics.set_delivery_backlog(&BTreeMap::new(), std::iter::empty());
        for sink in ["mq", "idle", "webhook"] {
            for gauge in ["queue_depth", "oldest_seconds"] {
                let line = format!("delivery_{gauge}{{sink=\"{sink}\"}} 0\n");
                assert!(metrics.render().contains(&line), "{}", metrics.render());
            }
        }
        let many = (0..1000).map(|number| (SinkName::from(format!("mq-{number}").as_str()), (1, 1.0))).collect();
        metrics.set_delivery_backlog(&many, std::iter::empty());
        assert!(metrics.render().matches("delivery_queue_depth{").count() <= MAX_VALUES + 1);
    }

    #[test]
    fn series_of_removed_names_are_removed_and_no_others() {
        let (labels, metrics) = (Labels::default(), Metrics::new());
        let both = BTreeMap::from(["a", "b"].map(|name| (name.to_owned(), ())));
        let one = BTreeMap::from([("a".to_owned(), ())]);
        labels.register(&both, &both);
        for name in ["a", "b"] {
            metrics.requests_total.with_label_values(&[name, "a", "create_payment", "201"]).inc();
            metrics.requests_total.with_label_values(&["a", name, "create_payment", "201"]).inc();
            metrics.provider_request_duration_seconds.with_label_values(&[name, "pay"]).observe(1.0);
            metrics.deliveries_total.with_label_values(&[name, "webhook", "delivered"]).inc();
        }
        metrics.requests_total.with_label_values(&["", "", "denied", "unauthorized"]).inc();
        labels.register(&one, &both);
        assert!(metrics.render().contains("merchant=\"b\""), "a request may still use the old configuration");
        labels.remove_series(&both, &both, &metrics);
        let page = metrics.render();
        assert!(!page.contains("merchant=\"b\"") && page.contains("channel=\"b\""), "{page}");
        labels.register(&one, &one);
        labels.remove_series(&one, &both, &metrics);
        let page = metrics.render();
        assert!(!page.contains("\"b\""), "{page}");
        assert_eq!(page.matches("tollgate_requests_total{").count(), 2, "{page}");
        assert!(page.contains("deliveries_total{merchant=\"a\""), "{page}");
    }
}
