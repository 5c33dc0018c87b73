//! Stops calling a channel that fails, and finds out by a few calls when it works again.
//!
//! Names and meaning are Hystrix's. Closed: calls pass and are counted in a rolling window; when the window has seen enough
//! calls and enough of them failed, it opens. Open: calls are turned away until the sleep window is over. Half open: a few
//! permits; when so many calls succeeded it closes, at the first failure it opens again and sleeps twice as long.
//!
//! Each kind of operation has its own breaker: when payments are stopped, the truth about earlier ones can still be asked.
//! An operator may force a state, by the file or for a while by the admin port.

mod config;
mod state;
mod window;

use std::borrow::Cow;
use std::collections::BTreeMap;

use parking_lot::Mutex;

use self::config::{ByKind, Numbers};
use self::state::{Cell, Phase, Probe};
use self::window::Window;
use super::*;
use crate::payment::Kind;

/// The sleep window is scattered by this part up and down, so that machines do not probe together.
const SCATTER: f64 = 0.2;

struct Breaker {
    numbers: ByKind,
    memory: Arc<Memory>,
}

/// What outlives a reload.
type Memory = Mutex<BTreeMap<Kind, Cell>>;

pub(super) fn build(settings: &mut Settings<'_>, state: Option<State>) -> Option<Arc<dyn Filter>> {
    let numbers = ByKind::read(settings)?;
    let memory = state.and_then(|state| state.downcast::<Memory>().ok()).unwrap_or_default();
    Some(Arc::new(Breaker { numbers, memory }))
}

#[async_trait]
impl Filter for Breaker {
    fn name(&self) -> &'static str {
        "breaker"
    }

    async fn handle(&self, call: &Call<'_>, next: Next<'_>) -> Result<Outcome, Error> {
        let kind = call.operation.kind();
        // Gives the permit back if this call is dropped before it ends.
        let mut guard = Guard { memory: &self.memory, kind, ticket: self.admit(call, kind)? };
        let start = call.clock.now();
        let result = next.run(call).await;
        if let Some(ticket) = guard.ticket.take() {
            let took = call.clock.now().saturating_sub(start);
            self.count(call, kind, ticket, verdict(call, &result), self.numbers.of(kind).is_slow(took));
        }
        result
    }

    fn force(&self, kind: Kind, force: Option<Force>, until: Duration) -> bool {
        let mut memory = self.memory.lock();
        let cell = memory.entry(kind).or_insert_with(|| Cell::new(self.numbers.of(kind).rolling_window));
        cell.forced = force.map(|force| (force, until));
        true
    }

    fn statuses(&self, now: Duration) -> Vec<BreakerStatus> {
        let memory = self.memory.lock();
        let tell = |(kind, cell): (&Kind, &Cell)| BreakerStatus {
            operation: *kind,
            state: cell.state.name(),
            forced: self.forced(cell, *kind, now),
            forced_for: cell.forced.map(|(_, until)| until.saturating_sub(now)).filter(|left| !left.is_zero()),
            transitions: cell.transitions,
            reason: cell.reason.clone(),
        };
        memory.iter().map(tell).collect()
    }

    fn state(&self) -> State {
        Arc::clone(&self.memory) as State
    }

    fn samples(&self, now: Duration) -> Vec<FilterSample> {
        let memory = self.memory.lock();
        let tell = |(kind, cell): (&Kind, &Cell)| {
            let value = match (self.forced(cell, *kind, now), &cell.state) {
                (Some(Force::Open), _) => 2.0,
                (Some(Force::Closed | Force::Off), _) | (None, Phase::Closed(_)) => 0.0,
                (None, Phase::HalfOpen { .. }) => 1.0,
                (None, Phase::Open { .. }) => 2.0,
            };
            let changes = cell.changes.iter().map(|(change, times)| FilterSample {
                change: Some(*change),
                ..FilterSample::of("breaker_transitions_total", *kind, *times as f64)
            });
            let transitions = FilterSample::of("breaker_transitions", *kind, cell.transitions as f64);
            [FilterSample::of("breaker_state", *kind, value), transitions]
                .into_iter()
                .chain(changes)
                .collect::<Vec<_>>()
        };
        memory.iter().flat_map(tell).collect()
    }
}

#[derive(Clone, Copy)]
struct Ticket {
    epoch: u64,
    probe: Option<u64>,
}

#[derive(Clone, PartialEq)]
enum Verdict {
    Healthy,
    /// Of what.
    Failed(Cow<'static, str>),
    /// Says nothing about the channel's health: nothing was asked of it, or the caller did not wait for what it would have
    /// said.
    Silent,
}

fn verdict(call: &Call<'_>, result: &Result<Outcome, Error>) -> Verdict {
    match result {
        Err(Error::Unsupported(_) | Error::Rejected { .. } | Error::Unverifiable { .. }) => Verdict::Silent,
        _ if call.ended_by_callers_deadline(result) => Verdict::Silent,
        Err(error) if error.is_channel_failure() => Verdict::Failed(call.failure_reason.take(error)),
        _ => Verdict::Healthy,
    }
}

impl Breaker {
    /// The state that counts instead of its own: what was forced for a while, or else what the file says.
    fn forced(&self, cell: &Cell, kind: Kind, now: Duration) -> Option<Force> {
        let for_a_while = cell.forced.filter(|(_, until)| now < *until).map(|(force, _)| force);
        for_a_while.or(self.numbers.of(kind).force)
    }

    /// A ticket for what is counted; nothing for what passes uncounted.
    fn admit(&self, call: &Call<'_>, kind: Kind) -> Result<Option<Ticket>, Error> {
        let (now, numbers) = (call.clock.now(), self.numbers.of(kind));
        let mut memory = self.memory.lock();
        let cell = memory.entry(kind).or_insert_with(|| Cell::new(numbers.rolling_window));
        match self.forced(cell, kind, now) {
            Some(Force::Off) => return Ok(None),
            Some(Force::Open) => {
                let left = cell.forced.map(|(_, until)| until.saturating_sub(now)).filter(|left| !left.is_zero());
                let why = format!("the breaker of the channel `{}` is forced open for {}", call.channel, kind.as_str());
                return Err(Error::Rejected { why, retry_after: whole_seconds(left.unwrap_or(numbers.sleep_window)) });
            }
            Some(Force::Closed) if !matches!(cell.state, Phase::Closed(_)) => return Ok(None),
            Some(Force::Closed) | None => {}
        }
        if matches!(cell.state, Phase::Open { until } if now >= until) {
            let probing = Phase::HalfOpen { succeeded: 0, probes: Vec::new() };
            cell.change(probing, call, "sleep_over", "the sleep window is over");
        }
        let held = |until: Duration| {
            let why = format!("the breaker of the channel `{}` is open for {}", call.channel, kind.as_str());
            Error::Rejected { why, retry_after: whole_seconds(until.saturating_sub(now)) }
        };
        match &mut cell.state {
            Phase::Closed(_) => Ok(Some(Ticket { epoch: cell.epoch, probe: None })),
            Phase::Open { until } => Err(held(*until)),
            Phase::HalfOpen { succeeded, probes } => {
                probes.retain(|probe| probe.expires > now);
                let used = probes.len() as u32 + *succeeded;
                if used >= numbers.half_open_permits {
                    return Err(held(now));
                }
                let id = cell.probes;
                cell.probes += 1;
                let longest = numbers.half_open_max_wait.map_or(call.deadline, |wait| now.saturating_add(wait));
                probes.push(Probe { id, expires: call.deadline.min(longest) });
                Ok(Some(Ticket { epoch: cell.epoch, probe: Some(id) }))
            }
        }
    }

    fn count(&self, call: &Call<'_>, kind: Kind, ticket: Ticket, verdict: Verdict, is_slow: bool) {
        let (now, numbers) = (call.clock.now(), self.numbers.of(kind));
        let mut memory = self.memory.lock();
        let Some(cell) = memory.get_mut(&kind).filter(|cell| cell.epoch == ticket.epoch) else { return };
        let is_forced = self.forced(cell, kind, now).is_some();
        match &mut cell.state {
            // What nobody waited for was slow all the same, when it took that long.
            Phase::Closed(window) if verdict != Verdict::Silent || is_slow => {
                let failed = if let Verdict::Failed(reason) = verdict { Some(reason) } else { None };
                window.resize(numbers.rolling_window);
                window.add(now, failed, is_slow);
                if let Some(reason) = numbers.too_much(window, now).filter(|_| !is_forced) {
                    open(cell, numbers, call, reason.class, &reason.why);
                }
            }
            Phase::HalfOpen { succeeded, probes } => {
                let Some(position) = probes.iter().position(|probe| Some(probe.id) == ticket.probe) else { return };
                probes.swap_remove(position);
                match verdict {
                    Verdict::Failed(reason) => {
                        open(cell, numbers, call, "probe_failed", &format!("a probe failed: {reason}"));
                    }
                    _ if is_slow => open(cell, numbers, call, "probe_slow", "a probe was slow"),
                    Verdict::Silent => {}
                    Verdict::Healthy => {
                        *succeeded += 1;
                        if *succeeded >= numbers.half_open_permits {
                            cell.reopened = 0;
                            let closed = Phase::Closed(Window::new(numbers.rolling_window));
                            cell.change(closed, call, "probes_succeeded", "all probes succeeded");
                        }
                    }
                }
            }
            Phase::Closed(_) | Phase::Open { .. } => {}
        }
    }
}

fn open(cell: &mut Cell, numbers: &Numbers, call: &Call<'_>, class: &'static str, reason: &str) {
    let doubled = numbers.sleep_window.saturating_mul(1 << cell.reopened.min(10)).min(config::LONGEST_SLEEP);
    let scattered = doubled.mul_f64(1.0 - SCATTER + 2.0 * SCATTER * call.clock.random());
    cell.reopened = cell.reopened.saturating_add(1);
    cell.change(Phase::Open { until: call.clock.now() + scattered }, call, class, reason);
}

/// As `retry-after` says it: at least one.
fn whole_seconds(time: Duration) -> u64 {
    (time.as_secs_f64().ceil() as u64).max(1)
}

struct Guard<'a> {
    memory: &'a Memory,
    kind: Kind,
    ticket: Option<Ticket>,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let mut memory = self.memory.lock();
        if let Some(cell) = memory.get_mut(&self.kind).filter(|cell| cell.epoch == ticket.epoch)
            && let Phase::HalfOpen { probes, .. } = &mut cell.state
        {
            probes.retain(|probe| Some(probe.id) != ticket.probe);
        }
    }
}

#[cfg(test)]
mod tests;
