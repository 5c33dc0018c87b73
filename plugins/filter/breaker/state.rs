//! The breaker of one kind of operation: its state, and how it changes.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::{Call, Change, Force};
use super::window::Window;

/// What is known of one kind of operation.
pub(super) struct Cell {
    pub(super) state: Phase,
    /// Grows with each change of state: a call that began before the change says nothing about the state after it.
    pub(super) epoch: u64,
    /// How often in a row it opened without closing.
    pub(super) reopened: u32,
    pub(super) transitions: u64,
    /// How often from which state to which, and why.
    pub(super) changes: BTreeMap<Change, u64>,
    /// What an operator forced, and until when.
    pub(super) forced: Option<(Force, Duration)>,
    /// Why it changed last.
    pub(super) reason: String,
    /// How many probes there were; each has its number of its own, so that a late one is taken for no other.
    pub(super) probes: u64,
}

/// A state, with what belongs to it.
pub(super) enum Phase {
    Closed(Window),
    Open { until: Duration },
    HalfOpen { succeeded: u32, probes: Vec<Probe> },
}

/// A call that finds out whether the channel works again.
pub(super) struct Probe {
    pub(super) id: u64,
    /// A probe that never ends gives its permit back at this time.
    pub(super) expires: Duration,
}

impl Cell {
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

    /// Goes to another state, for a reason that is counted in one word and told in more.
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
