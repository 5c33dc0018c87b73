//! Metrics that follow the configuration in force.

use std::collections::{BTreeMap, HashSet};

use prometheus::core::Collector;
use tollgate_config::RouteRules;
use tollgate_plugins::payment::Kind;

use super::{LABELS, Metrics};

/// Number of characters of a hash in the log and in the names of archives.
const HASH_LENGTH: usize = 12;
/// Result of a provider call or notification with another amount or account.
const MISMATCH: &str = "mismatch";
/// Result of a provider call with an unknown outcome.
const UNCLEAR: &str = "unclear";
/// Operations whose answer may name another amount or account.
const VERIFIED_OPERATIONS: [Kind; 4] = [Kind::Pay, Kind::Query, Kind::Refund, Kind::QueryRefund];

impl Metrics {
    /// Exports the hash of the generation in force, and which of its channels have a fallback.
    pub(crate) fn export_config<C>(&self, hash: &str, routes: &RouteRules, channels: &BTreeMap<String, C>) {
        let hash = hash.get(..HASH_LENGTH).unwrap_or(hash);
        self.config_info.with_label_values(&[hash]).set(1);
        for series in self.config_info.collect().iter().flat_map(|family| family.get_metric()) {
            let old = series.get_label().iter().map(|label| label.value()).find(|old| *old != hash);
            // The label was read from the metric itself, so the series exists.
            old.into_iter().for_each(|old| drop(self.config_info.remove_label_values(&[old])));
        }
        let only = channels_without_fallback(routes);
        for channel in channels.keys().filter(|channel| LABELS.channel(channel) == **channel) {
            let has_fallback = !only.contains(channel.as_str());
            self.channel_has_fallback.with_label_values(&[channel.as_str()]).set(has_fallback.into());
        }
    }

    /// Creates the channel's counters of rare events with the value 0. Prometheus computes increases between samples, so an
    /// alert would miss an event that creates its series.
    pub(super) fn initialize_counters(&self, channel: &str) {
        self.manual_review_total.with_label_values(&[channel]).inc_by(0);
        self.double_payments_total.with_label_values(&[channel]).inc_by(0);
        self.notifications_total.with_label_values(&[channel, MISMATCH]).inc_by(0);
        self.provider_requests_total.with_label_values(&[channel, Kind::Pay.as_str(), UNCLEAR]).inc_by(0);
        for operation in VERIFIED_OPERATIONS {
            self.provider_requests_total.with_label_values(&[channel, operation.as_str(), MISMATCH]).inc_by(0);
        }
    }
}

/// Returns the channels to which some route leads that has no other channel as a fallback.
fn channels_without_fallback(routes: &RouteRules) -> HashSet<&str> {
    let mut only = HashSet::new();
    for route in &routes.rules {
        let names = route.to.iter().map(|(name, _)| name.as_str());
        only.extend(names.filter(|name| !route.fallback.iter().any(|other| other != name)));
    }
    only
}

#[cfg(test)]
mod tests {
    use tollgate_config::Route;

    use super::*;

    fn route(to: &str, fallback: &[&str]) -> Route {
        let fallback = fallback.iter().map(|name| (*name).to_owned()).collect();
        Route { to: vec![(to.to_owned(), 1)], fallback, ..Route::default() }
    }

    #[test]
    fn channel_has_fallback_if_every_route_to_it_has_another_channel() {
        let rules = vec![
            route("a", &["b"]),
            route("b", &["b"]),
            route("c", &["a"]),
            route("c", &[]),
            Route { to: Vec::new(), ..Route::default() },
        ];
        let routes = RouteRules { rules, ..RouteRules::default() };
        assert_eq!(channels_without_fallback(&routes), HashSet::from(["b", "c"]));
    }

    #[test]
    fn only_the_newest_hash_is_exported() {
        let metrics = Metrics::new();
        let channels = BTreeMap::<String, ()>::new();
        for hash in ["0123456789abcdef", "fedcba9876543210"] {
            metrics.export_config(hash, &RouteRules::default(), &channels);
        }
        let page = metrics.render();
        assert!(page.contains("tollgate_config_info{hash=\"fedcba987654\"} 1"), "{page}");
        assert_eq!(page.matches("tollgate_config_info{").count(), 1, "{page}");
    }

    #[test]
    fn counters_of_rare_events_start_at_zero() {
        let metrics = Metrics::new();
        metrics.initialize_counters("a");
        let page = metrics.render();
        for series in [
            "manual_review_total{channel=\"a\"} 0",
            "double_payments_total{channel=\"a\"} 0",
            "notifications_total{channel=\"a\",result=\"mismatch\"} 0",
            "provider_requests_total{channel=\"a\",operation=\"query\",result=\"mismatch\"} 0",
            "provider_requests_total{channel=\"a\",operation=\"pay\",result=\"unclear\"} 0",
        ] {
            assert!(page.contains(&format!("tollgate_{series}")), "{series}: {page}");
        }
    }
}
