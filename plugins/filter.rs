//! What stands around the call to a channel: each filter is one function with `next.run(call)` in its middle.

pub mod adaptive;
pub mod breaker;
mod failure_reason;
pub mod limit;
pub mod retry;
#[cfg(test)]
mod testing;

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

pub use self::failure_reason::FailureReason;
use crate::error::Error;
use crate::payment::{Kind, Operation, Outcome};
use crate::settings::Settings;

/// Something around the call to a channel.
#[async_trait]
pub trait Filter: Send + Sync {
    /// Its name in `[[filter]] use = "…"`.
    fn name(&self) -> &'static str;

    /// Calls `next.run(call)` once, never, or (where that is safe) again.
    async fn handle(&self, call: &Call<'_>, next: Next<'_>) -> Result<Outcome, Error>;

    /// What must outlive a reload; handed to the filter that takes this one's place.
    fn state(&self) -> State;

    /// What it can tell of itself now, for metrics.
    fn samples(&self, now: Duration) -> Vec<FilterSample>;

    /// Takes a state that an operator forces for a kind of operation until then, on the clock's scale; nothing lifts it.
    /// Says whether it has states at all.
    fn force(&self, _: Kind, _: Option<Force>, _: Duration) -> bool {
        false
    }

    /// How it stands for each kind of operation that it has seen, where it has states.
    fn statuses(&self, _: Duration) -> Vec<BreakerStatus> {
        Vec::new()
    }
}

/// A state that an operator forces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// Nothing passes.
    Open,
    /// Everything passes; it is counted but opens nothing.
    Closed,
    /// Everything passes, and nothing is counted.
    Off,
}

impl Force {
    /// Reads `open`, `closed` or `off`.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "open" => Some(Self::Open),
            "closed" => Some(Self::Closed),
            "off" => Some(Self::Off),
            _ => None,
        }
    }

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
            Self::Off => "off",
        }
    }
}

/// How a filter with states stands for one kind of operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakerStatus {
    /// For which.
    pub operation: Kind,
    /// As in `half_open`: its own state, whatever is forced.
    pub state: &'static str,
    /// What counts instead.
    pub forced: Option<Force>,
    /// How long yet, where it was forced for a while.
    pub forced_for: Option<Duration>,
    /// How often it changed.
    pub transitions: u64,
    /// Why it changed last; empty when it never did.
    pub reason: String,
}

/// A filter's memory, kept over reloads.
pub type State = Arc<dyn Any + Send + Sync>;

/// One number that a filter tells of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct FilterSample {
    /// As in `breaker_state`.
    pub name: &'static str,
    /// Which kind of operation, when it keeps them apart.
    pub operation: Option<&'static str>,
    /// From which state to which and why, where changes of state are counted.
    pub change: Option<Change>,
    /// The number.
    pub value: f64,
}

impl FilterSample {
    /// Of the filter as a whole.
    pub fn of_all(name: &'static str, value: f64) -> Self {
        Self { name, operation: None, change: None, value }
    }

    /// Of one kind of operation.
    pub fn of(name: &'static str, operation: Kind, value: f64) -> Self {
        Self { name, operation: Some(operation.as_str()), change: None, value }
    }
}

/// A change of state. All of its words come from the filter's own few.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// As in `closed`.
    pub from: &'static str,
    /// As in `open`.
    pub to: &'static str,
    /// As in `errors`.
    pub reason: &'static str,
}

/// One call through a channel's filters.
pub struct Call<'a> {
    /// The channel's name.
    pub channel: &'a str,
    /// What is asked.
    pub operation: &'a Operation,
    /// Time and chance, so that filters need neither.
    pub clock: &'a dyn Clock,
    /// Counts with other machines.
    pub counter: &'a dyn Counter,
    /// On the clock's scale: when the caller stops waiting.
    pub deadline: Duration,
    /// Whether the caller waits less long than the channel would: what ends at the deadline then says nothing about the
    /// channel, and one merchant's haste must not stop it for the others.
    pub deadline_is_callers: bool,
    /// What the last exchange failed of.
    pub failure_reason: &'a FailureReason,
}

impl Call<'_> {
    /// Whether this end came because the caller stopped waiting, before the channel's own time was over.
    pub fn ended_by_callers_deadline(&self, result: &Result<Outcome, Error>) -> bool {
        let failed = result.as_ref().is_err_and(Error::is_channel_failure);
        failed && self.deadline_is_callers && self.clock.now() >= self.deadline
    }
}

/// Counts calls for several machines together.
#[async_trait]
pub trait Counter: Send + Sync {
    /// Takes a token out of a bucket that all machines share, or says after how many seconds it is worth another try. `None`
    /// where each machine counts for itself, or must for now.
    async fn take(&self, name: &str, rate: limit::Rate) -> Option<Result<(), u64>>;
}

/// There are no other machines.
pub struct LocalOnly;

#[async_trait]
impl Counter for LocalOnly {
    async fn take(&self, _: &str, _: limit::Rate) -> Option<Result<(), u64>> {
        None
    }
}

/// Time and chance.
#[async_trait]
pub trait Clock: Send + Sync {
    /// Time since some fixed moment; never goes back.
    fn now(&self) -> Duration;
    /// Waits.
    async fn sleep(&self, time: Duration);
    /// A number from 0 up to, not including, 1.
    fn random(&self) -> f64;
}

/// The exchange at the end of the filters.
#[async_trait]
pub trait Exchange: Send + Sync {
    /// Asks the provider once.
    async fn run(&self, call: &Call<'_>) -> Result<Outcome, Error>;
}

/// The rest of the way. It can be copied, so that a filter can go it again.
#[derive(Clone, Copy)]
pub struct Next<'a> {
    filters: &'a [Arc<dyn Filter>],
    exchange: &'a dyn Exchange,
}

impl<'a> Next<'a> {
    /// The whole way: all filters, outermost first, then the exchange.
    pub fn new(filters: &'a [Arc<dyn Filter>], exchange: &'a dyn Exchange) -> Self {
        Self { filters, exchange }
    }

    /// Goes the rest of the way.
    pub async fn run(self, call: &Call<'_>) -> Result<Outcome, Error> {
        match self.filters.split_first() {
            Some((filter, rest)) => filter.handle(call, Next { filters: rest, ..self }).await,
            None => self.exchange.run(call).await,
        }
    }
}

/// One row of [`FILTERS`].
pub struct Row {
    /// Its name in `use`.
    pub name: &'static str,
    /// Reads the `[[filter]]` table (`use` is taken already), with the state of the filter whose place it takes; says
    /// every mistake to the settings and gives `None` if there was one.
    pub build: Build,
}

/// Makes a filter of its settings and the memory of the one whose place it takes.
pub type Build = fn(&mut Settings<'_>, Option<State>) -> Option<Arc<dyn Filter>>;

/// Every filter that a channel may use.
pub const FILTERS: &[Row] = &[
    Row { name: "limit", build: limit::build },
    Row { name: "retry", build: retry::build },
    Row { name: "breaker", build: breaker::build },
    Row { name: "adaptive", build: adaptive::build },
];
