//! Stops calling a channel that fails, and finds out by a few calls when it works again.
//!
//! Names and meaning are Hystrix's. Closed: calls pass and are counted in a rolling window; when the window has seen enough
//! calls and enough of them failed, it opens. Open: calls are turned away until the sleep window is over. Half open: a few
//! permits; when so many calls succeeded it closes, at the first failure it opens again and sleeps twice as long.
//!
//! Each kind of operation has its own breaker: when payments are stopped, the truth about earlier ones can still be asked.

mod window;

use std::collections::BTreeMap;

use parking_lot::Mutex;

use self::window::Window;
use super::*;
use crate::payment::Kind;

/// The sleep window never grows beyond this.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// The sleep window is scattered by this part up and down, so that machines do not probe together.
const SCATTER: f64 = 0.2;

struct Breaker {
    numbers: Numbers,
    memory: Arc<Memory>,
}

/// What the file says.
#[derive(Clone, Copy, Debug)]
struct Numbers {
    request_volume_threshold: u32,
    error_threshold_percentage: u32,
    rolling_window: Duration,
    sleep_window: Duration,
    half_open_permits: u32,
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
    let before = settings.problems().len();
    let numbers = Numbers {
        request_volume_threshold: settings.or("request_volume_threshold", 20),
        error_threshold_percentage: settings.or("error_threshold_percentage", 50),
        rolling_window: settings.or("rolling_window", Duration::from_secs(10)),
        sleep_window: settings.or("sleep_window", Duration::from_secs(5)),
        half_open_permits: settings.or("half_open_permits", 5),
    };
    let wrong = |key: &str, message: &str| settings.problem(key, message, None);
    if numbers.request_volume_threshold == 0 {
        wrong(
            "request_volume_threshold",
            "`request_volume_threshold` must be at least 1: with 0 an idle channel would open",
        );
    }
    if !(1..=100).contains(&numbers.error_threshold_percentage) {
        wrong("error_threshold_percentage", "`error_threshold_percentage` must be from 1 to 100");
    }
    if numbers.rolling_window < Duration::from_millis(100) {
        wrong("rolling_window", "`rolling_window` must be at least 100ms: it is kept in 10 parts");
    }
    if numbers.sleep_window.is_zero() || numbers.sleep_window > LONGEST_SLEEP {
        wrong("sleep_window", "`sleep_window` must be more than 0 and at most 60s, to which it doubles");
    }
    if numbers.half_open_permits == 0 {
        wrong("half_open_permits", "`half_open_permits` must be at least 1: with 0 it could never close");
    }
    if settings.problems().len() > before {
        return None;
    }
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
        let ticket = self.admit(call, kind)?;
        // Gives the permit back if this call is dropped before it ends.
        let mut guard = Guard { memory: &self.memory, kind, ticket: Some(ticket) };
        let result = next.run(call).await;
        if let Some(ticket) = guard.ticket.take() {
            self.count(call, kind, ticket, verdict(&result));
        }
        result
    }

    fn state(&self) -> State {
        Arc::clone(&self.memory) as State
    }

    fn readings(&self, _: Duration) -> Vec<Reading> {
        let memory = self.memory.lock();
        let tell = |(kind, cell): (&Kind, &Cell)| {
            let operation = Some(kind.as_str());
            let value = match cell.state {
                Phase::Closed(_) => 0.0,
                Phase::HalfOpen { .. } => 1.0,
                Phase::Open { .. } => 2.0,
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
    fn admit(&self, call: &Call<'_>, kind: Kind) -> Result<Ticket, Error> {
        let now = call.clock.now();
        let mut memory = self.memory.lock();
        let cell = memory.entry(kind).or_insert_with(|| Cell::new(self.numbers.rolling_window));
        if matches!(cell.state, Phase::Open { until } if now >= until) {
            cell.change(Phase::HalfOpen { succeeded: 0, probes: Vec::new() }, call, "the sleep window is over");
        }
        let held = |until: Duration| {
            let seconds = until.saturating_sub(now).as_secs_f64().ceil() as u64;
            let why = format!("the breaker of the channel `{}` is open for {}", call.channel, kind.as_str());
            Error::Held { why, retry_after: seconds.max(1) }
        };
        match &mut cell.state {
            Phase::Closed(_) => Ok(Ticket { epoch: cell.epoch, probe: None }),
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
                Ok(Ticket { epoch: cell.epoch, probe: Some(id) })
            }
        }
    }

    fn count(&self, call: &Call<'_>, kind: Kind, ticket: Ticket, verdict: Verdict) {
        let now = call.clock.now();
        let mut memory = self.memory.lock();
        let Some(cell) = memory.get_mut(&kind).filter(|cell| cell.epoch == ticket.epoch) else { return };
        match &mut cell.state {
            Phase::Closed(window) if verdict != Verdict::Silent => {
                window.resize(self.numbers.rolling_window);
                window.add(now, verdict == Verdict::Failed);
                let (total, failed) = window.sums(now);
                let enough = total >= self.numbers.request_volume_threshold;
                if enough
                    && u64::from(failed) * 100 >= u64::from(total) * u64::from(self.numbers.error_threshold_percentage)
                {
                    let reason = format!("{failed} of {total} calls failed within {:?}", self.numbers.rolling_window);
                    self.open(cell, call, &reason);
                }
            }
            Phase::HalfOpen { succeeded, probes } => {
                let Some(position) = probes.iter().position(|probe| Some(probe.id) == ticket.probe) else { return };
                probes.swap_remove(position);
                match verdict {
                    Verdict::Silent => {}
                    Verdict::Failed => self.open(cell, call, "a probe failed"),
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
        let doubled = self.numbers.sleep_window.saturating_mul(1 << cell.reopened.min(10)).min(LONGEST_SLEEP);
        let scattered = doubled.mul_f64(1.0 - SCATTER + 2.0 * SCATTER * call.clock.random());
        cell.reopened = cell.reopened.saturating_add(1);
        cell.change(Phase::Open { until: call.clock.now() + scattered }, call, reason);
    }
}

impl Cell {
    fn new(rolling_window: Duration) -> Self {
        Self { state: Phase::Closed(Window::new(rolling_window)), epoch: 0, reopened: 0, transitions: 0, probes: 0 }
    }

    fn change(&mut self, to: Phase, call: &Call<'_>, reason: &str) {
        let operation = call.operation.kind().as_str();
        let (from, into) = (self.state.name(), to.name());
        tracing::warn!(target: "breaker", channel = call.channel, operation, from, to = into, reason, "breaker");
        self.state = to;
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
