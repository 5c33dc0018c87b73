//! Whose names may stand in a label: those of the configuration, and no more than a page of metrics bears.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock};

use arc_swap::ArcSwap;
use prometheus::core::{Collector, MetricVec, MetricVecBuilder};

use super::{METRICS, Metrics};
use crate::config::Snapshot;

/// With more merchants, or more channels, the rest is counted together.
const MOST: usize = 1_000;
/// Under this name.
const OTHER: &str = "other";

/// The names that are told apart in the metrics of this process.
pub static LABELS: LazyLock<Labels> = LazyLock::new(Labels::default);

/// The names that are told apart.
#[derive(Default)]
pub struct Labels(ArcSwap<Names>);

#[derive(Default)]
struct Names {
    merchants: HashSet<String>,
    /// Of requests: every exchange is counted by its channel.
    channels: HashSet<String>,
    all_channels: HashSet<String>,
}

impl Labels {
    /// The merchant's name, or what it is counted under; nothing stays nothing.
    pub fn merchant<'a>(&self, name: &'a str) -> &'a str {
        if name.is_empty() || self.0.load().merchants.contains(name) { name } else { OTHER }
    }

    /// The same for the channel of a request.
    pub fn channel<'a>(&self, name: &'a str) -> &'a str {
        if name.is_empty() || self.0.load().channels.contains(name) { name } else { OTHER }
    }

    /// Takes the names of a new configuration. What is told already stays told; what is gone goes from the metrics.
    pub fn follow(&self, snapshot: &Snapshot) {
        self.take(snapshot.merchants.keys(), snapshot.channels.keys(), &METRICS);
    }

    fn take<'a>(
        &self,
        merchants: impl Iterator<Item = &'a String> + Clone,
        channels: impl Iterator<Item = &'a String> + Clone,
        metrics: &Metrics,
    ) {
        let before = self.0.load_full();
        let names = Arc::new(Names {
            merchants: chosen(&before.merchants, merchants),
            channels: chosen(&before.channels, channels.clone()),
            all_channels: channels.cloned().collect(),
        });
        self.0.store(Arc::clone(&names));
        let is_gone = |label: &str, name: &str| match label {
            "merchant" => before.merchants.contains(name) && !names.merchants.contains(name),
            "channel" => before.all_channels.contains(name) && !names.all_channels.contains(name),
            _ => false,
        };
        let any_gone =
            !before.merchants.is_subset(&names.merchants) || !before.all_channels.is_subset(&names.all_channels);
        if any_gone {
            metrics.forget(&is_gone);
        }
    }
}

/// Those that were told apart before and still exist; then as many others as there is room for.
fn chosen<'a>(before: &HashSet<String>, names: impl Iterator<Item = &'a String> + Clone) -> HashSet<String> {
    let (known, new): (Vec<_>, Vec<_>) = names.partition(|name| before.contains(*name));
    known.into_iter().chain(new).take(MOST).cloned().collect()
}

impl Metrics {
    fn forget(&self, is_gone: &impl Fn(&str, &str) -> bool) {
        forget(&self.requests_total, is_gone);
        forget(&self.request_duration_seconds, is_gone);
        forget(&self.exchanges_total, is_gone);
        forget(&self.exchange_duration_seconds, is_gone);
        forget(&self.breaker_state, is_gone);
        forget(&self.breaker_transitions, is_gone);
        forget(&self.breaker_transitions_total, is_gone);
        forget(&self.limit_in_flight, is_gone);
        forget(&self.retries_in_flight, is_gone);
        forget(&self.retries_total, is_gone);
        forget(&self.adaptive_limit, is_gone);
        forget(&self.adaptive_in_flight, is_gone);
        forget(&self.adaptive_usual_seconds, is_gone);
        forget(&self.adaptive_shed_total, is_gone);
        forget(&self.notifications_total, is_gone);
        forget(&self.deliveries_total, is_gone);
        forget(&self.upstream_connections_total, is_gone);
    }
}

fn forget<T: MetricVecBuilder>(metric: &MetricVec<T>, is_gone: &impl Fn(&str, &str) -> bool) {
    for family in metric.collect() {
        for series in family.get_metric() {
            let labels: HashMap<&str, &str> =
                series.get_label().iter().map(|label| (label.name(), label.value())).collect();
            if labels.iter().any(|(label, name)| is_gone(label, name)) {
                // Only its own labels are asked for, so it is there.
                drop(metric.remove(&labels));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(range: std::ops::Range<usize>) -> Vec<String> {
        range.map(|number| format!("n-{number:05}")).collect()
    }

    #[test]
    fn unknown_names_and_those_beyond_the_bound_are_others_and_who_was_told_stays_told() {
        let (labels, metrics) = (Labels::default(), Metrics::new());
        assert_eq!((labels.merchant("anyone"), labels.merchant(""), labels.channel("x")), (OTHER, "", OTHER));
        let many = names(500..500 + MOST);
        labels.take(many.iter(), many.iter(), &metrics);
        assert_eq!(labels.merchant("n-00500"), "n-00500");
        let more = names(0..500 + MOST);
        labels.take(more.iter(), more.iter(), &metrics);
        assert_eq!((labels.merchant("n-00500"), labels.channel("n-01499")), ("n-00500", "n-01499"));
        assert_eq!((labels.merchant("n-00001"), labels.channel("n-00001")), (OTHER, OTHER));
        // When some go, there is room for others.
        let fewer = names(0..MOST);
        labels.take(fewer.iter(), fewer.iter(), &metrics);
        assert_eq!((labels.merchant("n-00001"), labels.merchant("n-01499")), ("n-00001", OTHER));
    }

    #[test]
    fn what_is_gone_goes_from_the_metrics_and_nothing_else() {
        let (labels, metrics) = (Labels::default(), Metrics::new());
        let (both, one) = (["a".to_owned(), "b".to_owned()], ["a".to_owned()]);
        labels.take(both.iter(), both.iter(), &metrics);
        for name in ["a", "b"] {
            metrics.requests_total.with_label_values(&[name, "a", "create_payment", "201"]).inc();
            metrics.requests_total.with_label_values(&["a", name, "create_payment", "201"]).inc();
            metrics.exchange_duration_seconds.with_label_values(&[name, "pay"]).observe(1.0);
            metrics.deliveries_total.with_label_values(&[name, "delivered"]).inc();
        }
        metrics.requests_total.with_label_values(&["", "", "denied", "unauthorized"]).inc();
        labels.take(one.iter(), both.iter(), &metrics);
        let page = metrics.render();
        assert!(!page.contains("merchant=\"b\"") && page.contains("channel=\"b\""), "{page}");
        labels.take(one.iter(), one.iter(), &metrics);
        let page = metrics.render();
        assert!(!page.contains("\"b\""), "{page}");
        assert_eq!(page.matches("tollgate_requests_total{").count(), 2, "{page}");
        assert!(page.contains("deliveries_total{merchant=\"a\""), "{page}");
    }
}
