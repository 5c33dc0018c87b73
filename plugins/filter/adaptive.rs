//! `adaptive`: concurrency limit that adapts to the channel's latency. A latency above the baseline means that calls queue at
//! the provider, so the limit falls and excess calls are rejected early.
//!
//! The limit follows a gradient, like Envoy's adaptive concurrency and Netflix's concurrency-limits. At the end of each window
//! the new limit is
//!
//! ```text
//! limit × clamp(tolerance × baseline ÷ latency, ½, 1) + √limit      between floor and ceiling
//! ```
//!
//! The baseline is a long-term minimum: it follows a lower latency at once and a higher one slowly, so that a channel that
//! became permanently slower recovers its limit.
//!
//! Each kind of operation has its own limit: refunds may be slower than queries, and a burst of payments must not block queries.

mod gradient;

use std::collections::BTreeMap;

use parking_lot::Mutex;

use self::gradient::Gradient;
use super::*;

/// Settings of the filter.
#[derive(Clone, Copy, Debug)]
struct AdaptiveConfig {
    /// Minimum of the limit, in concurrent calls.
    floor: u32,
    /// Maximum of the limit, in concurrent calls.
    ceiling: u32,
    /// Initial limit, in concurrent calls.
    start: u32,
    /// Multiple of the baseline latency up to which a latency is normal.
    tolerance: f64,
    /// Time between adjustments of the limit.
    window: Duration,
}

struct Adaptive {
    config: AdaptiveConfig,
    limits: Arc<Limits>,
}

/// State that survives a reload.
type Limits = Mutex<BTreeMap<Kind, OperationLimit>>;

/// Limit and counts of one kind of operation.
struct OperationLimit {
    gradient: Gradient,
    in_flight: u32,
    rejected: u64,
}

pub(crate) fn build(settings: &mut Settings<'_>, state: Option<State>) -> Option<Arc<dyn Filter>> {
    let config = AdaptiveConfig::read(settings)?;
    let limits = state.and_then(|state| state.downcast::<Limits>().ok()).unwrap_or_default();
    Some(Arc::new(Adaptive { config, limits }))
}

impl AdaptiveConfig {
    fn read(settings: &mut Settings<'_>) -> Option<Self> {
        let before = settings.problems().len();
        let floor = settings.or("floor", 4u32);
        let ceiling = settings.or("ceiling", 500u32);
        let start = settings.or("start", 50u32.clamp(floor.min(ceiling), ceiling));
        let tolerance = settings.or("tolerance", 1.5);
        let window = settings.or("window", Duration::from_secs(1));
        if floor == 0 {
            settings.problem(
                "floor",
                "`floor` must be at least 1, or the recovery of a slow channel could never be detected",
                None,
            );
        }
        if floor > ceiling {
            settings.problem("ceiling", "`ceiling` must be at least `floor`", None);
        }
        if settings.has("start") && !(floor..=ceiling.max(floor)).contains(&start) {
            settings.problem("start", "`start` must be from `floor` to `ceiling`", None);
        }
        if !(1.0..=10.0).contains(&tolerance) {
            let message =
                "`tolerance` must be from 1 to 10 times the baseline latency: below 1 every latency would be too long";
            settings.problem("tolerance", message, None);
        }
        if !(Duration::from_millis(100)..=Duration::from_secs(60)).contains(&window) {
            settings.problem("window", "`window` must be from 100ms to 60s", None);
        }
        let config = Self { floor, ceiling, start, tolerance, window };
        (settings.problems().len() == before).then_some(config)
    }
}

#[async_trait]
impl Filter for Adaptive {
    fn name(&self) -> &'static str {
        "adaptive"
    }

    async fn handle(&self, call: &Call<'_>, next: Next<'_>) -> Result<Outcome, Error> {
        let kind = call.operation.kind();
        let start = call.clock.now();
        self.admit(call, kind, start)?;
        // Decrements the count even if this call is dropped before it ends.
        let guard = InFlightGuard { limits: &self.limits, kind };
        let result = next.run(call).await;
        let now = call.clock.now();
        let mut limits = self.limits.lock();
        if let Some(limiter) = limits.get_mut(&kind) {
            let in_flight = limiter.in_flight;
            match latency_sample(&result) {
                LatencySample::Measured => {
                    limiter.gradient.add(&self.config, now, now.saturating_sub(start), in_flight)
                }
                LatencySample::LowerBound => {
                    limiter.gradient.add_lower_bound(&self.config, now, now.saturating_sub(start), in_flight)
                }
                LatencySample::None => {}
            }
        }
        drop(limits);
        drop(guard);
        result
    }

    fn state(&self) -> Option<State> {
        Some(Arc::clone(&self.limits) as State)
    }

    fn samples(&self, _: Duration) -> Vec<FilterSample> {
        let limits = self.limits.lock();
        let to_samples = |(kind, limiter): (&Kind, &OperationLimit)| {
            [
                FilterSample::of("adaptive_limit", *kind, f64::from(limiter.gradient.limit(&self.config))),
                FilterSample::of("adaptive_in_flight", *kind, f64::from(limiter.in_flight)),
                FilterSample::of("adaptive_baseline_seconds", *kind, limiter.gradient.baseline()),
                FilterSample::of("adaptive_shed_total", *kind, limiter.rejected as f64),
            ]
        };
        limits.iter().flat_map(to_samples).collect()
    }
}

impl Adaptive {
    fn admit(&self, call: &Call<'_>, kind: Kind, now: Duration) -> Result<(), Error> {
        let mut limits = self.limits.lock();
        let limiter = limits.entry(kind).or_insert_with(|| OperationLimit {
            gradient: Gradient::new(&self.config, now),
            in_flight: 0,
            rejected: 0,
        });
        let limit = limiter.gradient.limit(&self.config);
        if limiter.in_flight < limit {
            limiter.in_flight += 1;
            return Ok(());
        }
        limiter.rejected += 1;
        let why = format!(
            "the channel `{}` has reached its adaptive limit of {limit} concurrent calls for {}",
            call.channel,
            kind.as_str()
        );
        // The limit is adjusted once per window.
        Err(Error::Rejected { why, retry_after: (self.config.window.as_secs_f64().ceil() as u64).max(1) })
    }
}

/// Meaning of a call's duration as a sample of the channel's latency.
enum LatencySample {
    /// The duration is the latency.
    Measured,
    /// The duration is a lower bound of the latency, because no response came.
    LowerBound,
    /// The duration is no sample, because no request reached the provider.
    None,
}

fn latency_sample(result: &Result<Outcome, Error>) -> LatencySample {
    match result {
        Err(Error::Unsupported(_) | Error::NotSent(_) | Error::Rejected { .. } | Error::Unverifiable { .. }) => {
            LatencySample::None
        }
        Err(Error::Unclear { .. }) => LatencySample::LowerBound,
        _ => LatencySample::Measured,
    }
}

/// Counts one call as in flight until it is dropped.
struct InFlightGuard<'a> {
    limits: &'a Limits,
    kind: Kind,
}

impl Drop for InFlightGuard<'_> {
    fn drop(&mut self) {
        if let Some(limiter) = self.limits.lock().get_mut(&self.kind) {
            limiter.in_flight = limiter.in_flight.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests;
