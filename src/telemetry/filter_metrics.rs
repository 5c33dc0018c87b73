//! What filters tell of themselves, as metrics.

use std::time::Duration;

use prometheus::IntCounter;
use tollgate_plugins::filter::FilterSample;

use super::METRICS;
use crate::config::Channel;

/// Brings a channel's metrics up to what its filters read now.
pub fn tell(channel: &Channel, now: Duration) {
    let name = channel.name.as_str();
    for reading in summed(channel.filters.iter().flat_map(|filter| filter.samples(now))) {
        let (operation, value) = (reading.operation.unwrap_or_default(), reading.value);
        match reading.name {
            "breaker_state" => METRICS.breaker_state.with_label_values(&[name, operation]).set(value),
            "breaker_transitions" => METRICS.breaker_transitions.with_label_values(&[name, operation]).set(value),
            "breaker_transitions_total" => transitions(name, operation, &reading),
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

/// A channel may have two filters of one kind: what they counted is one sum.
fn summed(readings: impl Iterator<Item = FilterSample>) -> Vec<FilterSample> {
    let mut sums: Vec<FilterSample> = Vec::new();
    for reading in readings {
        let same = |it: &&mut FilterSample| {
            (it.name, it.operation, it.change) == (reading.name, reading.operation, reading.change)
        };
        match sums.iter_mut().find(same).filter(|it| it.name.ends_with("_total")) {
            Some(known) => known.value += reading.value,
            None => sums.push(reading),
        }
    }
    sums
}

fn transitions(channel: &str, operation: &str, reading: &FilterSample) {
    let Some(change) = reading.change else { return };
    let labels = [channel, operation, change.from, change.to, change.reason];
    count(&METRICS.breaker_transitions_total.with_label_values(&labels), reading.value);
}

/// The filter counts, and the counter follows. A filter that was taken away and put back begins anew, as counters may.
fn count(counter: &IntCounter, value: f64) {
    let value = value as u64;
    if value < counter.get() {
        counter.reset();
    }
    counter.inc_by(value.saturating_sub(counter.get()));
}
