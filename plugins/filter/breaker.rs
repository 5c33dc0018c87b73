//! `breaker`: circuit breaker. It rejects calls to a failing channel and detects recovery with a few probes.
//!
//! Names and meaning are Hystrix's:
//!
//! | state | calls | next state |
//! |---|---|---|
//! | closed | pass and are counted in a rolling window | open, when enough calls were counted and enough of them failed |
//! | open | are rejected | half open, after the sleep window |
//! | half open | a few probes pass | closed, when all probes succeeded; open, at the first failure, with a doubled sleep window |
//!
//! Each kind of operation has its own breaker: while payments are rejected, the status of earlier ones can still be queried.
//! An operator can force a state in the file, or temporarily over the admin port.

mod config;
mod state;
mod window;

use std::borrow::Cow;
use std::collections::BTreeMap;

use parking_lot::Mutex;

use self::config::{BreakerConfig, ConfigByKind};
use self::state::{BreakerState, Phase, Probe};
use self::window::Window;
use super::*;
use crate::payment::Kind;

/// Relative jitter of the sleep window in both directions, so that machines do not probe at the same time.
const SLEEP_JITTER: f64 = 0.2;

struct Breaker {
    config: ConfigByKind,
    breakers: Arc<Breakers>,
}

/// State that survives a reload.
type Breakers = Mutex<BTreeMap<Kind, BreakerState>>;

pub(crate) fn build(settings: &mut Settings<'_>, state: Option<State>) -> Option<Arc<dyn Filter>> {
    let config = ConfigByKind::read(settings)?;
    let breakers = state.and_then(|state| state.downcast::<Breakers>().ok()).unwrap_or_default();
    Some(Arc::new(Breaker { config, breakers }))
}

#[async_trait]
impl Filter for Breaker {
    fn name(&self) -> &'static str {
        "breaker"
    }

    async fn handle(&self, call: &Call<'_>, next: Next<'_>) -> Result<Outcome, Error> {
        let kind = call.operation.kind();
        // Releases the probe's permit if this call is dropped before it ends.
        let mut guard = AdmissionGuard { breakers: &self.breakers, kind, admission: self.admit(call, kind)? };
        let start = call.clock.now();
        let result = next.run(call).await;
        if let Some(admission) = guard.admission.take() {
            let took = call.clock.now().saturating_sub(start);
            self.count(call, kind, admission, health_of(call, &result), self.config.of(kind).is_slow(took));
        }
        result
    }

    fn force(&self, kind: Kind, force: Option<Force>, until: Duration) -> bool {
        let mut breakers = self.breakers.lock();
        let breaker = breakers.entry(kind).or_insert_with(|| BreakerState::new(self.config.of(kind).rolling_window));
        breaker.forced = force.map(|force| (force, until));
        true
    }

    fn statuses(&self, now: Duration) -> Vec<BreakerStatus> {
        let breakers = self.breakers.lock();
        let to_status = |(kind, breaker): (&Kind, &BreakerState)| BreakerStatus {
            operation: *kind,
            state: breaker.state.name(),
            forced: self.forced(breaker, *kind, now),
            forced_for: breaker.forced.map(|(_, until)| until.saturating_sub(now)).filter(|left| !left.is_zero()),
            transitions: breaker.transitions,
            reason: breaker.reason.clone(),
        };
        breakers.iter().map(to_status).collect()
    }

    fn state(&self) -> Option<State> {
        Some(Arc::clone(&self.breakers) as State)
    }

    fn samples(&self, now: Duration) -> Vec<FilterSample> {
        let breakers = self.breakers.lock();
        let to_samples = |(kind, breaker): (&Kind, &BreakerState)| {
            let value = match (self.forced(breaker, *kind, now), &breaker.state) {
                (Some(Force::Open), _) => 2.0,
                (Some(Force::Closed | Force::Off), _) | (None, Phase::Closed(_)) => 0.0,
                (None, Phase::HalfOpen { .. }) => 1.0,
                (None, Phase::Open { .. }) => 2.0,
            };
            let changes = breaker.changes.iter().map(|(change, times)| FilterSample {
                change: Some(*change),
                ..FilterSample::of("breaker_transitions_total", *kind, *times as f64)
            });
            let transitions = FilterSample::of("breaker_transitions", *kind, breaker.transitions as f64);
            [FilterSample::of("breaker_state", *kind, value), transitions]
                .into_iter()
                .chain(changes)
                .collect::<Vec<_>>()
        };
        breakers.iter().flat_map(to_samples).collect()
    }
}

/// Admission of a counted call.
#[derive(Clone, Copy)]
struct Admission {
    /// Epoch of the breaker at the admission. A result of an older epoch is ignored.
    epoch: u64,
    /// Id of the probe, if the breaker was half open.
    probe: Option<u64>,
}

/// Meaning of a call's result for the channel's health.
#[derive(Clone, PartialEq)]
enum CallHealth {
    Healthy,
    /// Failure, with its reason.
    Failed(Cow<'static, str>),
    /// No statement about the channel: nothing was sent, or the caller stopped waiting before the channel's timeout.
    Ignored,
}

fn health_of(call: &Call<'_>, result: &Result<Outcome, Error>) -> CallHealth {
    match result {
        Err(Error::Unsupported(_) | Error::Rejected { .. } | Error::Unverifiable { .. }) => CallHealth::Ignored,
        _ if call.ended_by_callers_deadline(result) => CallHealth::Ignored,
        Err(error) if error.is_channel_failure() => CallHealth::Failed(call.failure_reason.take(error)),
        _ => CallHealth::Healthy,
    }
}

impl Breaker {
    /// Returns the forced state: a temporary one of the admin port, or else the one of the file.
    fn forced(&self, breaker: &BreakerState, kind: Kind, now: Duration) -> Option<Force> {
        let temporary = breaker.forced.filter(|(_, until)| now < *until).map(|(force, _)| force);
        temporary.or(self.config.of(kind).force)
    }

    /// Admits or rejects a call. Returns `None` for a call that passes uncounted.
    fn admit(&self, call: &Call<'_>, kind: Kind) -> Result<Option<Admission>, Error> {
        let (now, config) = (call.clock.now(), self.config.of(kind));
        let mut breakers = self.breakers.lock();
        let breaker = breakers.entry(kind).or_insert_with(|| BreakerState::new(config.rolling_window));
        match self.forced(breaker, kind, now) {
            Some(Force::Off) => return Ok(None),
            Some(Force::Open) => {
                let left = breaker.forced.map(|(_, until)| until.saturating_sub(now)).filter(|left| !left.is_zero());
                let why = format!("the breaker of the channel `{}` is forced open for {}", call.channel, kind.as_str());
                return Err(Error::Rejected { why, retry_after: whole_seconds(left.unwrap_or(config.sleep_window)) });
            }
            Some(Force::Closed) if !matches!(breaker.state, Phase::Closed(_)) => return Ok(None),
            Some(Force::Closed) | None => {}
        }
        if matches!(breaker.state, Phase::Open { until } if now >= until) {
            let probing = Phase::HalfOpen { succeeded: 0, probes: Vec::new() };
            breaker.change(probing, call, "sleep_over", "the sleep window is over");
        }
        let rejected = |until: Duration| {
            let why = format!("the breaker of the channel `{}` is open for {}", call.channel, kind.as_str());
            Error::Rejected { why, retry_after: whole_seconds(until.saturating_sub(now)) }
        };
        match &mut breaker.state {
            Phase::Closed(_) => Ok(Some(Admission { epoch: breaker.epoch, probe: None })),
            Phase::Open { until } => Err(rejected(*until)),
            Phase::HalfOpen { succeeded, probes } => {
                probes.retain(|probe| probe.expires > now);
                let permits_used = probes.len() as u32 + *succeeded;
                if permits_used >= config.half_open_permits {
                    return Err(rejected(now));
                }
                let id = breaker.probes;
                breaker.probes += 1;
                let max_expiry = config.half_open_max_wait.map_or(call.deadline, |wait| now.saturating_add(wait));
                probes.push(Probe { id, expires: call.deadline.min(max_expiry) });
                Ok(Some(Admission { epoch: breaker.epoch, probe: Some(id) }))
            }
        }
    }

    fn count(&self, call: &Call<'_>, kind: Kind, admission: Admission, health: CallHealth, is_slow: bool) {
        let (now, config) = (call.clock.now(), self.config.of(kind));
        let mut breakers = self.breakers.lock();
        let Some(breaker) = breakers.get_mut(&kind).filter(|breaker| breaker.epoch == admission.epoch) else { return };
        let is_forced = self.forced(breaker, kind, now).is_some();
        match &mut breaker.state {
            // A call whose caller stopped waiting still counts as slow if it took that long.
            Phase::Closed(window) if health != CallHealth::Ignored || is_slow => {
                let failed = if let CallHealth::Failed(reason) = health { Some(reason) } else { None };
                window.resize(config.rolling_window);
                window.add(now, failed, is_slow);
                if let Some(reason) = config.open_reason(window, now).filter(|_| !is_forced) {
                    open(breaker, config, call, reason.class, &reason.why);
                }
            }
            Phase::HalfOpen { succeeded, probes } => {
                let Some(position) = probes.iter().position(|probe| Some(probe.id) == admission.probe) else { return };
                probes.swap_remove(position);
                match health {
                    CallHealth::Failed(reason) => {
                        open(breaker, config, call, "probe_failed", &format!("a probe failed: {reason}"));
                    }
                    _ if is_slow => open(breaker, config, call, "probe_slow", "a probe was slow"),
                    CallHealth::Ignored => {}
                    CallHealth::Healthy => {
                        *succeeded += 1;
                        if *succeeded >= config.half_open_permits {
                            breaker.reopened = 0;
                            let closed = Phase::Closed(Window::new(config.rolling_window));
                            breaker.change(closed, call, "probes_succeeded", "all probes succeeded");
                        }
                    }
                }
            }
            Phase::Closed(_) | Phase::Open { .. } => {}
        }
    }
}

fn open(breaker: &mut BreakerState, config: &BreakerConfig, call: &Call<'_>, class: &'static str, reason: &str) {
    let doubled = config.sleep_window.saturating_mul(1 << breaker.reopened.min(10)).min(config::MAX_SLEEP_WINDOW);
    let jittered = doubled.mul_f64(1.0 - SLEEP_JITTER + 2.0 * SLEEP_JITTER * call.clock.random());
    breaker.reopened = breaker.reopened.saturating_add(1);
    breaker.change(Phase::Open { until: call.clock.now() + jittered }, call, class, reason);
}

/// Rounds up to whole seconds for `Retry-After`; at least 1.
fn whole_seconds(time: Duration) -> u64 {
    (time.as_secs_f64().ceil() as u64).max(1)
}

/// Releases the permit of a probe that ends without a counted result.
struct AdmissionGuard<'a> {
    breakers: &'a Breakers,
    kind: Kind,
    admission: Option<Admission>,
}

impl Drop for AdmissionGuard<'_> {
    fn drop(&mut self) {
        let Some(admission) = self.admission else { return };
        let mut breakers = self.breakers.lock();
        if let Some(breaker) = breakers.get_mut(&self.kind).filter(|breaker| breaker.epoch == admission.epoch)
            && let Phase::HalfOpen { probes, .. } = &mut breaker.state
        {
            probes.retain(|probe| Some(probe.id) != admission.probe);
        }
    }
}

#[cfg(test)]
mod tests;
