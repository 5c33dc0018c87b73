//! Whose names may stand in a label: those of the configuration, and no more than a page of metrics bears.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::LazyLock;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
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
    all_merchants: HashSet<String>,
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

    /// Takes the names of a new configuration. What is told already stays told.
    pub fn register(&self, snapshot: &Snapshot) {
        self.take(&snapshot.merchants, &snapshot.channels);
    }

    /// Takes from the metrics what is told of names that this configuration had and the newest has not. Whoever still
    /// worked with it would tell of them anew.
    pub fn unregister(&self, last: &Snapshot) {
        self.leave_out(&last.merchants, &last.channels, &METRICS);
    }

    fn take<M, C>(&self, merchants: &BTreeMap<String, M>, channels: &BTreeMap<String, C>) {
        let before = self.0.load_full();
        let names = Names {
            merchants: chosen(&before.merchants, merchants.keys()),
            channels: chosen(&before.channels, channels.keys()),
            all_merchants: merchants.keys().cloned().collect(),
            all_channels: channels.keys().cloned().collect(),
        };
        self.0.store(names.into());
    }

    fn leave_out<M, C>(&self, merchants: &BTreeMap<String, M>, channels: &BTreeMap<String, C>, metrics: &Metrics) {
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

/// The most values that are told apart for each label and channel.
const MOST_VALUES: usize = 50;
/// The longest value that is shown.
const LONGEST_VALUE: usize = 64;

/// Values that come from outside, as labels: their number and length are bounded.
#[derive(Default)]
pub struct FewValues(Mutex<HashMap<(&'static str, String), HashSet<String>>>);

impl FewValues {
    /// Returns the value as a label of this kind, and whether it is seen for the first time. Beyond the bound it is one of the
    /// others, and never new.
    pub fn label(&self, kind: &'static str, channel: &str, value: &str) -> (String, bool) {
        let value: String = value.chars().filter(char::is_ascii_graphic).take(LONGEST_VALUE).collect();
        let mut kinds = self.0.lock();
        let known = kinds.entry((kind, channel.to_owned())).or_default();
        if known.contains(&value) {
            return (value, false);
        }
        if known.len() >= MOST_VALUES {
            return (OTHER.to_owned(), false);
        }
        known.insert(value.clone());
        (value, true)
    }
}

/// Those that were told apart before and still exist; then as many others as there is room for.
fn chosen<'a>(before: &HashSet<String>, names: impl Iterator<Item = &'a String> + Clone) -> HashSet<String> {
    let (known, new): (Vec<_>, Vec<_>) = names.partition(|name| before.contains(*name));
    known.into_iter().chain(new).take(MOST).cloned().collect()
}

impl Metrics {
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
        unregister(&self.upstream_connections_total, is_gone);
    }
}

fn unregister<T: MetricVecBuilder>(metric: &MetricVec<T>, is_gone: &impl Fn(&str, &str) -> bool) {
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

    fn names(range: std::ops::Range<usize>) -> BTreeMap<String, ()> {
        range.map(|number| (format!("n-{number:05}"), ())).collect()
    }

    #[test]
    fn unknown_names_and_those_beyond_the_bound_are_others_and_who_was_told_stays_told() {
        let labels = Labels::default();
        assert_eq!((labels.merchant("anyone"), labels.merchant(""), labels.channel("x")), (OTHER, "", OTHER));
        let many = names(500..500 + MOST);
        labels.take(&many, &many);
        assert_eq!(labels.merchant("n-00500"), "n-00500");
        let more = names(0..500 + MOST);
        labels.take(&more, &more);
        assert_eq!((labels.merchant("n-00500"), labels.channel("n-01499")), ("n-00500", "n-01499"));
        assert_eq!((labels.merchant("n-00001"), labels.channel("n-00001")), (OTHER, OTHER));
        // When some go, there is room for others.
        let fewer = names(0..MOST);
        labels.take(&fewer, &fewer);
        assert_eq!((labels.merchant("n-00001"), labels.merchant("n-01499")), ("n-00001", OTHER));
    }

    #[test]
    fn values_from_outside_are_bounded_in_number_and_length() {
        let few = FewValues::default();
        assert_eq!(few.label("code", "a", "ACQ.NEW\n码"), ("ACQ.NEW".to_owned(), true));
        assert_eq!(few.label("code", "a", "ACQ.NEW"), ("ACQ.NEW".to_owned(), false));
        assert_eq!(few.label("code", "b", &"x".repeat(100)).0.len(), LONGEST_VALUE);
        let new = (0..100).filter(|number| few.label("code", "a", &number.to_string()).1).count();
        assert_eq!(new, MOST_VALUES - 1);
        assert_eq!(few.label("code", "a", "one more"), (OTHER.to_owned(), false));
        assert_eq!(few.label("event", "a", "one more"), ("onemore".to_owned(), true));
    }

    #[test]
    fn what_is_gone_goes_from_the_metrics_and_nothing_else() {
        let (labels, metrics) = (Labels::default(), Metrics::new());
        let both = BTreeMap::from(["a", "b"].map(|name| (name.to_owned(), ())));
        let one = BTreeMap::from([("a".to_owned(), ())]);
        labels.take(&both, &both);
        for name in ["a", "b"] {
            metrics.requests_total.with_label_values(&[name, "a", "create_payment", "201"]).inc();
            metrics.requests_total.with_label_values(&["a", name, "create_payment", "201"]).inc();
            metrics.provider_request_duration_seconds.with_label_values(&[name, "pay"]).observe(1.0);
            metrics.deliveries_total.with_label_values(&[name, "delivered"]).inc();
        }
        metrics.requests_total.with_label_values(&["", "", "denied", "unauthorized"]).inc();
        labels.take(&one, &both);
        assert!(metrics.render().contains("merchant=\"b\""), "somebody may still work with the configuration before");
        labels.leave_out(&both, &both, &metrics);
        let page = metrics.render();
        assert!(!page.contains("merchant=\"b\"") && page.contains("channel=\"b\""), "{page}");
        labels.take(&one, &one);
        labels.leave_out(&one, &both, &metrics);
        let page = metrics.render();
        assert!(!page.contains("\"b\""), "{page}");
        assert_eq!(page.matches("tollgate_requests_total{").count(), 2, "{page}");
        assert!(page.contains("deliveries_total{merchant=\"a\""), "{page}");
    }
}
