//! Breaker of one kind of operation: its state and its state changes.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::{Call, Change, Force};
use super::window::Window;

/// Breaker of one kind of operation.
pub(super) struct BreakerState {
    pub(super) state: Phase,
    /// Incremented by each state change. A call that was admitted in an earlier epoch is not counted.
    pub(super) epoch: u64,
    /// Number of consecutive openings without a closing.
    pub(super) reopened: u32,
    /// Total number of state changes.
    pub(super) transitions: u64,
    /// Number of state changes by source, target and reason.
    pub(super) changes: BTreeMap<Change, u64>,
    /// State forced by an operator, and the time at which it ends.
    pub(super) forced: Option<(Force, Duration)>,
    /// Reason of the last state change.
    pub(super) reason: String,
    /// Total number of probes, used as the id of the next one. Ids are unique, so that a late probe is not mistaken for another.
    pub(super) probes: u64,
}

/// State of a breaker with its data.
pub(super) enum Phase {
    Closed(Window),
    Open { until: Duration },
    HalfOpen { succeeded: u32, probes: Vec<Probe> },
}

/// Call that tests whether the channel has recovered.
pub(super) struct Probe {
    pub(super) id: u64,
    /// Time at which a probe that has not ended loses its permit.
    pub(super) expires: Duration,
}

impl BreakerState {
    pub(super) fn new(rolling_window: Duration) -> Self {
        Self {
            state: Phase::Closed(Window::new(rolling_window)),
            epoch: 0,
            reopened: 0,
            transitions: 0,
            changes: BTreeMap::new(),
            forced: None,
            reason: String::new(),
            probes: 0,
        }
    }

    /// Changes the state. `class` is the reason as a metric label; `reason` is for people.
    pub(super) fn change(&mut self, to: Phase, call: &Call<'_>, class: &'static str, reason: &str) {
        let operation = call.operation.kind().as_str();
        let (from, into) = (self.state.name(), to.name());
        tracing::warn!(target: "breaker", channel = call.channel, operation, from, to = into, reason, "breaker");
        self.state = to;
        reason.clone_into(&mut self.reason);
        self.epoch += 1;
        self.transitions += 1;
        *self.changes.entry(Change { from, to: into, reason: class }).or_default() += 1;
    }
}

impl Phase {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Closed(_) => "closed",
            Self::Open { .. } => "open",
            Self::HalfOpen { .. } => "half_open",
        }
    }
}
