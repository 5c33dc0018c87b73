//! Stops calling a channel that fails, and finds out by a few calls when it works again.
//!
//! Names and meaning are Hystrix's. Closed: calls pass and are counted in a rolling window; when the window has seen enough
//! calls and enough of them failed, it opens. Open: calls are turned away until the sleep window is over. Half open: a few
//! permits; when so many calls succeeded it closes, at the first failure it opens again and sleeps twice as long.
//!
//! Each kind of operation has its own breaker: when payments are stopped, the truth about earlier ones can still be asked.
//! An operator may force a state, by the file or for a while by the admin port.

mod numbers;
mod window;

use std::collections::BTreeMap;

use parking_lot::Mutex;

use self::numbers::Numbers;
use self::window::Window;
use super::*;
use crate::payment::Kind;

/// The sleep window is scattered by this part up and down, so that machines do not probe together.
const SCATTER: f64 = 0.2;

struct Breaker {
    numbers: Numbers,
    memory: Arc<Memory>,
}

/// What outlives a reload.
type Memory = Mutex<BTreeMap<Kind, Cell>>;

/// The breaker of one kind of operation.
struct Cell {
    state: Phase,
    /// Grows with each change of state: a call that began before the change says nothing about the state after it.
    epoch: u64,
    /// How often in a row it opened without closing.
    reopened: u32,
    transitions: u64,
    /// What an operator forced, and until when.
    forced: Option<(Force, Duration)>,
    /// Why it changed last.
    reason: String,
    /// How many probes there were; each has its number of its own, so that a late one is taken for no other.
    probes: u64,
}

enum Phase {
    Closed(Window),
    Open { until: Duration },
    HalfOpen { succeeded: u32, probes: Vec<Probe> },
}

struct Probe {
    id: u64,
    /// A probe that never ends gives its permit back at this time.
    expires: Duration,
}

pub(super) fn build(settings: &mut Settings<'_>, state: Option<State>) -> Option<Arc<dyn Filter>> {
    let numbers = Numbers::read(settings)?;
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
            self.count(call, kind, ticket, verdict(&result), self.numbers.is_slow(took));
        }
        result
    }

    fn force(&self, kind: Kind, force: Option<Force>, until: Duration) -> bool {
        let mut memory = self.memory.lock();
        let cell = memory.entry(kind).or_insert_with(|| Cell::new(self.numbers.rolling_window));
        cell.forced = force.map(|force| (force, until));
        true
    }

    fn stances(&self, now: Duration) -> Vec<Stance> {
        let memory = self.memory.lock();
        let tell = |(kind, cell): (&Kind, &Cell)| Stance {
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

    fn readings(&self, now: Duration) -> Vec<Reading> {
        let memory = self.memory.lock();
        let tell = |(kind, cell): (&Kind, &Cell)| {
            let operation = Some(kind.as_str());
            let value = match (self.forced(cell, *kind, now), &cell.state) {
                (Some(Force::Open), _) => 2.0,
                (Some(Force::Closed | Force::Off), _) | (None, Phase::Closed(_)) => 0.0,
                (None, Phase::HalfOpen { .. }) => 1.0,
                (None, Phase::Open { .. }) => 2.0,
            };
            [
                Reading { name: "breaker_state", operation, value },
                Reading { name: "breaker_transitions", operation, value: cell.transitions as f64 },
            ]
        };
        memory.iter().flat_map(tell).collect()
    }
}

#[derive(Clone, Copy)]
struct Ticket {
    epoch: u64,
    probe: Option<u64>,
}

#[derive(Clone, Copy, PartialEq)]
enum Verdict {
    Healthy,
    Failed,
    /// Says nothing about the channel's health: nothing was asked of it.
    Silent,
}

fn verdict(result: &Result<Outcome, Error>) -> Verdict {
    match result {
        Err(Error::Unfit(_) | Error::Held { .. }) => Verdict::Silent,
        Err(error) if error.is_channel_failure() => Verdict::Failed,
        _ => Verdict::Healthy,
    }
}

impl Breaker {
    /// The state that counts instead of its own: what was forced for a while, or else what the file says. That stops no
    /// queries, so that the truth about what was sent can be found.
    fn forced(&self, cell: &Cell, kind: Kind, now: Duration) -> Option<Force> {
        let for_a_while = cell.forced.filter(|(_, until)| now < *until).map(|(force, _)| force);
        let by_file = self.numbers.force.filter(|force| *force != Force::Open || !kind.is_query());
        for_a_while.or(by_file)
    }

    /// A ticket for what is counted; nothing for what passes uncounted.
    fn admit(&self, call: &Call<'_>, kind: Kind) -> Result<Option<Ticket>, Error> {
        let now = call.clock.now();
        let mut memory = self.memory.lock();
        let cell = memory.entry(kind).or_insert_with(|| Cell::new(self.numbers.rolling_window));
        match self.forced(cell, kind, now) {
            Some(Force::Off) => return Ok(None),
            Some(Force::Open) => {
                let left = cell.forced.map(|(_, until)| until.saturating_sub(now)).filter(|left| !left.is_zero());
                let seconds = left.unwrap_or(self.numbers.sleep_window).as_secs().max(1);
                let why = format!("the breaker of the channel `{}` is forced open for {}", call.channel, kind.as_str());
                return Err(Error::Held { why, retry_after: seconds });
            }
            Some(Force::Closed) if !matches!(cell.state, Phase::Closed(_)) => return Ok(None),
            Some(Force::Closed) | None => {}
        }
        if matches!(cell.state, Phase::Open { until } if now >= until) {
            cell.change(Phase::HalfOpen { succeeded: 0, probes: Vec::new() }, call, "the sleep window is over");
        }
        let held = |until: Duration| {
            let seconds = until.saturating_sub(now).as_secs_f64().ceil() as u64;
            let why = format!("the breaker of the channel `{}` is open for {}", call.channel, kind.as_str());
            Error::Held { why, retry_after: seconds.max(1) }
        };
        match &mut cell.state {
            Phase::Closed(_) => Ok(Some(Ticket { epoch: cell.epoch, probe: None })),
            Phase::Open { until } => Err(held(*until)),
            Phase::HalfOpen { succeeded, probes } => {
                probes.retain(|probe| probe.expires > now);
                let used = probes.len() as u32 + *succeeded;
                if used >= self.numbers.half_open_permits {
                    return Err(held(now));
                }
                let id = cell.probes;
                cell.probes += 1;
                probes.push(Probe { id, expires: call.deadline });
                Ok(Some(Ticket { epoch: cell.epoch, probe: Some(id) }))
            }
        }
    }

    fn count(&self, call: &Call<'_>, kind: Kind, ticket: Ticket, verdict: Verdict, is_slow: bool) {
        let now = call.clock.now();
        let mut memory = self.memory.lock();
        let Some(cell) = memory.get_mut(&kind).filter(|cell| cell.epoch == ticket.epoch) else { return };
        let is_forced = self.forced(cell, kind, now).is_some();
        match &mut cell.state {
            Phase::Closed(window) if verdict != Verdict::Silent => {
                window.resize(self.numbers.rolling_window);
                window.add(now, verdict == Verdict::Failed, is_slow);
                if let Some(reason) = self.numbers.too_much(&window.sums(now)).filter(|_| !is_forced) {
                    self.open(cell, call, &reason);
                }
            }
            Phase::HalfOpen { succeeded, probes } => {
                let Some(position) = probes.iter().position(|probe| Some(probe.id) == ticket.probe) else { return };
                probes.swap_remove(position);
                match verdict {
                    Verdict::Silent => {}
                    Verdict::Failed => self.open(cell, call, "a probe failed"),
                    Verdict::Healthy if is_slow => self.open(cell, call, "a probe was slow"),
                    Verdict::Healthy => {
                        *succeeded += 1;
                        if *succeeded >= self.numbers.half_open_permits {
                            cell.reopened = 0;
                            cell.change(
                                Phase::Closed(Window::new(self.numbers.rolling_window)),
                                call,
                                "all probes succeeded",
                            );
                        }
                    }
                }
            }
            Phase::Closed(_) | Phase::Open { .. } => {}
        }
    }

    fn open(&self, cell: &mut Cell, call: &Call<'_>, reason: &str) {
        let doubled = self.numbers.sleep_window.saturating_mul(1 << cell.reopened.min(10)).min(numbers::LONGEST_SLEEP);
        let scattered = doubled.mul_f64(1.0 - SCATTER + 2.0 * SCATTER * call.clock.random());
        cell.reopened = cell.reopened.saturating_add(1);
        cell.change(Phase::Open { until: call.clock.now() + scattered }, call, reason);
    }
}

impl Cell {
    fn new(rolling_window: Duration) -> Self {
        Self {
            state: Phase::Closed(Window::new(rolling_window)),
            epoch: 0,
            reopened: 0,
            transitions: 0,
            forced: None,
            reason: String::new(),
            probes: 0,
        }
    }

    fn change(&mut self, to: Phase, call: &Call<'_>, reason: &str) {
        let operation = call.operation.kind().as_str();
        let (from, into) = (self.state.name(), to.name());
        tracing::warn!(target: "breaker", channel = call.channel, operation, from, to = into, reason, "breaker");
        self.state = to;
        reason.clone_into(&mut self.reason);
        self.epoch += 1;
        self.transitions += 1;
    }
}

impl Phase {
    fn name(&self) -> &'static str {
        match self {
            Self::Closed(_) => "closed",
            Self::Open { .. } => "open",
            Self::HalfOpen { .. } => "half_open",
        }
    }
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
