//! Gradient algorithm that adapts a concurrency limit to measured latencies.

use std::time::Duration;

use super::AdaptiveConfig;

/// Minimum number of samples in a window; a window with fewer is extended, because few samples are noise.
const MIN_SAMPLES: u32 = 5;
/// Share of the difference by which the baseline follows a higher latency in each window. A fourfold latency becomes the baseline
/// after about 400 windows. With a faster drift, a long burst would become the baseline.
const BASELINE_DRIFT: f64 = 0.002;
/// Minimum factor of the limit per window, so that one slow window does not close the channel.
const MIN_FACTOR: f64 = 0.5;

/// Concurrency limit with its measurements.
#[derive(Debug)]
pub(super) struct Gradient {
    limit: f64,
    /// Baseline latency in seconds; `None` before the end of the first window.
    baseline: Option<f64>,
    /// Start of the current window.
    window_start: Duration,
    /// Number of samples in the window.
    count: u32,
    /// Sum of the samples in the window, in seconds.
    sum: f64,
    /// Maximum number of concurrent calls in the window.
    max_in_flight: u32,
}

impl Gradient {
    pub(super) fn new(config: &AdaptiveConfig, now: Duration) -> Self {
        Self { limit: f64::from(config.start), baseline: None, window_start: now, count: 0, sum: 0.0, max_in_flight: 0 }
    }

    /// Returns the maximum number of concurrent calls.
    pub(super) fn limit(&self, config: &AdaptiveConfig) -> u32 {
        (self.limit as u32).clamp(config.floor, config.ceiling)
    }

    /// Returns the baseline latency in seconds; 0 before the end of the first window.
    pub(super) fn baseline(&self) -> f64 {
        self.baseline.unwrap_or_default()
    }

    /// Returns the start of the current window.
    #[cfg(test)]
    pub(super) fn window_start(&self) -> Duration {
        self.window_start
    }

    /// Adds the latency of a call that ended at `now`, with the number of concurrent calls at that time.
    pub(super) fn add(&mut self, config: &AdaptiveConfig, now: Duration, took: Duration, in_flight: u32) {
        self.count += 1;
        self.sum += took.as_secs_f64();
        self.max_in_flight = self.max_in_flight.max(in_flight);
        if now.saturating_sub(self.window_start) >= config.window && self.count >= MIN_SAMPLES {
            self.end_window(config);
            *self = Self {
                window_start: now,
                count: 0,
                sum: 0.0,
                max_in_flight: 0,
                limit: self.limit,
                baseline: self.baseline,
            };
        }
    }

    /// Adds a lower bound of a latency. It counts only if it is already longer than normal.
    pub(super) fn add_lower_bound(&mut self, config: &AdaptiveConfig, now: Duration, took: Duration, in_flight: u32) {
        if self.baseline.is_some_and(|baseline| took.as_secs_f64() > baseline * config.tolerance) {
            self.add(config, now, took, in_flight);
        }
    }

    /// Ends the window: updates the baseline and the limit.
    fn end_window(&mut self, config: &AdaptiveConfig) {
        let latency = self.sum / f64::from(self.count);
        let baseline = match self.baseline {
            Some(baseline) if latency > baseline => baseline + (latency - baseline) * BASELINE_DRIFT,
            _ => latency,
        };
        let before = self.baseline.replace(baseline).unwrap_or(baseline);
        let gradient = if latency > 0.0 { config.tolerance * before / latency } else { 1.0 };
        let limit = self.limit.clamp(f64::from(config.floor), f64::from(config.ceiling));
        // The limit rises only if at least half of it was used: an unused limit is untested.
        let growth = if f64::from(self.max_in_flight) * 2.0 >= limit { limit.sqrt() } else { 0.0 };
        let next = limit * gradient.clamp(MIN_FACTOR, 1.0) + growth;
        self.limit = next.clamp(f64::from(config.floor), f64::from(config.ceiling));
    }
}
