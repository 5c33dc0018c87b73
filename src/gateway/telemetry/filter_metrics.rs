//! Exports the metrics of filters.

use std::sync::Arc;
use std::time::Duration;

use prometheus::IntCounter;
use tollgate_plugins::filter::{Filter, FilterSample};

use super::METRICS;

/// Updates the metrics of a channel from the samples of its filters.
pub fn export(name: &str, filters: &[Arc<dyn Filter>], now: Duration) {
    for sample in sum_by_series(filters.iter().flat_map(|filter| filter.samples(now))) {
        let (operation, value) = (sample.operation.unwrap_or_default(), sample.value);
        match sample.name {
            "breaker_state" => METRICS.breaker_state.with_label_values(&[name, operation]).set(value),
            "breaker_transitions" => METRICS.breaker_transitions.with_label_values(&[name, operation]).set(value),
            "breaker_transitions_total" => transitions(name, operation, &sample),
            "limit_in_flight" => METRICS.limit_in_flight.with_label_values(&[name]).set(value),
            "retries_in_flight" => METRICS.retries_in_flight.with_label_values(&[name]).set(value),
            "retries_total" => count(&METRICS.retries_total.with_label_values(&[name, "tried"]), value),
            "retries_over_budget_total" => {
                count(&METRICS.retries_total.with_label_values(&[name, "over_budget"]), value);
            }
            "adaptive_limit" => METRICS.adaptive_limit.with_label_values(&[name, operation]).set(value),
            "adaptive_in_flight" => METRICS.adaptive_in_flight.with_label_values(&[name, operation]).set(value),
            "adaptive_baseline_seconds" => {
                METRICS.adaptive_baseline_seconds.with_label_values(&[name, operation]).set(value)
            }
            "adaptive_shed_total" => count(&METRICS.adaptive_shed_total.with_label_values(&[name, operation]), value),
            _ => {}
        }
    }
}

/// Adds up counters of filters of one kind, of which a channel may have several.
fn sum_by_series(readings: impl Iterator<Item = FilterSample>) -> Vec<FilterSample> {
    let mut sums: Vec<FilterSample> = Vec::new();
    for sample in readings {
        let is_same_series = |it: &&mut FilterSample| {
            (it.name, it.operation, it.change) == (sample.name, sample.operation, sample.change)
        };
        match sums.iter_mut().find(is_same_series).filter(|it| it.name.ends_with("_total")) {
            Some(known) => known.value += sample.value,
            None => sums.push(sample),
        }
    }
    sums
}

fn transitions(channel: &str, operation: &str, sample: &FilterSample) {
    let Some(change) = sample.change else { return };
    let labels = [channel, operation, change.from, change.to, change.reason];
    count(&METRICS.breaker_transitions_total.with_label_values(&labels), sample.value);
}

/// Raises the counter to the filter's count. A filter that was removed and added again restarts at 0, as counters may.
fn count(counter: &IntCounter, value: f64) {
    let value = value as u64;
    if value < counter.get() {
        counter.reset();
    }
    counter.inc_by(value.saturating_sub(counter.get()));
}
