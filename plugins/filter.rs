//! Filters: wrappers of a provider call. Each filter is one function that runs the rest of the chain with `next.run(call)`.
//!
//! ```text
//! Next::run ─▶ limit ─▶ retry ─▶ breaker ─▶ adaptive ─▶ Exchange::run
//! ```
//!
//! The chain follows the order of the `[[filter]]` tables in the channel's file; the drawing shows the usual one.

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

/// Wrapper of a provider call.
#[async_trait]
pub trait Filter: Send + Sync {
    /// Returns the filter's name in `[[filter]] use = "…"`.
    fn name(&self) -> &'static str;

    /// Handles a call. It runs `next.run(call)` once, not at all, or repeatedly where a retry is safe.
    async fn handle(&self, call: &Call<'_>, next: Next<'_>) -> Result<Outcome, Error>;

    /// Returns the state that survives a reload. It is passed to the filter that replaces this one. A stateless filter has none.
    fn state(&self) -> Option<State> {
        None
    }

    /// Returns the filter's metrics at `now`; empty if it has none.
    fn samples(&self, _: Duration) -> Vec<FilterSample> {
        Vec::new()
    }

    /// Forces a state for a kind of operation until a time on the clock's scale; `None` removes a forced state.
    /// Returns whether the filter has states.
    fn force(&self, _: Kind, _: Option<Force>, _: Duration) -> bool {
        false
    }

    /// Returns the breaker status of each kind of operation seen so far; empty for filters without states.
    fn statuses(&self, _: Duration) -> Vec<BreakerStatus> {
        Vec::new()
    }
}

/// Breaker state forced by an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// All calls are rejected.
    Open,
    /// All calls pass. They are counted, but never open the breaker.
    Closed,
    /// All calls pass and are not counted.
    Off,
}

impl Force {
    /// Parses `open`, `closed` or `off`.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "open" => Some(Self::Open),
            "closed" => Some(Self::Closed),
            "off" => Some(Self::Off),
            _ => None,
        }
    }

    /// Returns the name that [`parse`](Self::parse) accepts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
            Self::Off => "off",
        }
    }
}

/// Status of a breaker for one kind of operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakerStatus {
    /// Kind of operation.
    pub operation: Kind,
    /// State without regard to a forced one, for example `half_open`.
    pub state: &'static str,
    /// Forced state, which overrides `state`.
    pub forced: Option<Force>,
    /// Remaining time of a temporarily forced state.
    pub forced_for: Option<Duration>,
    /// Number of state changes.
    pub transitions: u64,
    /// Reason of the last state change; empty before the first.
    pub reason: String,
}

/// State of a filter that survives reloads.
pub type State = Arc<dyn Any + Send + Sync>;

/// Metric sample of a filter.
#[derive(Clone, Debug, PartialEq)]
pub struct FilterSample {
    /// Name of the metric, for example `breaker_state`.
    pub name: &'static str,
    /// Kind of operation, if the filter distinguishes kinds.
    pub operation: Option<&'static str>,
    /// Counted state change, for counters of state changes.
    pub change: Option<Change>,
    /// Value of the metric.
    pub value: f64,
}

impl FilterSample {
    /// Creates a sample for all kinds of operation together.
    pub fn of_all(name: &'static str, value: f64) -> Self {
        Self { name, operation: None, change: None, value }
    }

    /// Creates a sample for one kind of operation.
    pub fn of(name: &'static str, operation: Kind, value: f64) -> Self {
        Self { name, operation: Some(operation.as_str()), change: None, value }
    }
}

/// State change of a breaker. Each field has a small fixed set of values, because the fields become metric labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// Previous state, for example `closed`.
    pub from: &'static str,
    /// New state, for example `open`.
    pub to: &'static str,
    /// Reason, for example `errors`.
    pub reason: &'static str,
}

/// One provider call through a channel's filters.
pub struct Call<'a> {
    /// Name of the channel.
    pub channel: &'a str,
    /// Operation to execute.
    pub operation: &'a Operation,
    /// Source of time and randomness.
    pub clock: &'a dyn Clock,
    /// Rate counter shared with other machines.
    pub counter: &'a dyn Counter,
    /// Time at which the caller stops waiting, on the clock's scale.
    pub deadline: Duration,
    /// True if the caller set the deadline, and it is earlier than the channel's own timeout. A timeout at such a deadline says
    /// nothing about the channel: one merchant's short timeout must not open the breaker for the others.
    pub deadline_is_callers: bool,
    /// Failure reason of the last exchange.
    pub failure_reason: &'a FailureReason,
}

impl Call<'_> {
    /// Returns whether the call failed because the caller stopped waiting before the channel's own timeout.
    pub fn ended_by_callers_deadline(&self, result: &Result<Outcome, Error>) -> bool {
        let failed = result.as_ref().is_err_and(Error::is_channel_failure);
        failed && self.deadline_is_callers && self.clock.now() >= self.deadline
    }
}

/// Token bucket shared by several machines.
#[async_trait]
pub trait Counter: Send + Sync {
    /// Takes a token from the shared bucket `name`. If it is empty, the error is the number of seconds until a retry may succeed.
    /// Returns `None` if each machine counts locally, because no shared counter is configured or reachable.
    async fn take(&self, name: &str, rate: limit::Rate) -> Option<Result<(), u64>>;
}

/// [`Counter`] of a single machine: there is no shared bucket.
pub struct LocalOnly;

#[async_trait]
impl Counter for LocalOnly {
    async fn take(&self, _: &str, _: limit::Rate) -> Option<Result<(), u64>> {
        None
    }
}

/// Source of time and randomness.
#[async_trait]
pub trait Clock: Send + Sync {
    /// Returns the time since a fixed moment; monotonic.
    fn now(&self) -> Duration;
    /// Sleeps for this time.
    async fn sleep(&self, time: Duration);
    /// Returns a random number in [0, 1).
    fn random(&self) -> f64;
}

/// Request to the provider, at the end of the filter chain.
#[async_trait]
pub trait Exchange: Send + Sync {
    /// Sends one request to the provider and returns its outcome.
    async fn run(&self, call: &Call<'_>) -> Result<Outcome, Error>;
}

/// Rest of the filter chain. It is `Copy`, so that a filter can run it repeatedly.
#[derive(Clone, Copy)]
pub struct Next<'a> {
    filters: &'a [Arc<dyn Filter>],
    exchange: &'a dyn Exchange,
}

impl<'a> Next<'a> {
    /// Creates the whole chain: all filters, outermost first, then the exchange.
    pub fn new(filters: &'a [Arc<dyn Filter>], exchange: &'a dyn Exchange) -> Self {
        Self { filters, exchange }
    }

    /// Runs the rest of the chain.
    pub async fn run(self, call: &Call<'_>) -> Result<Outcome, Error> {
        match self.filters.split_first() {
            Some((filter, rest)) => filter.handle(call, Next { filters: rest, ..self }).await,
            None => self.exchange.run(call).await,
        }
    }
}

/// Registration of a filter in [`FILTERS`](crate::registry::FILTERS).
pub struct FilterSpec {
    /// Name in `[[filter]] use = "…"`.
    pub name: &'static str,
    /// Constructor of the filter.
    pub build: Build,
}

/// Builds a filter from its `[[filter]]` table (without `use`) and the state of the filter that it replaces. Reports every
/// error to the settings and returns `None` if there is one.
pub type Build = fn(&mut Settings<'_>, Option<State>) -> Option<Arc<dyn Filter>>;

#[cfg(test)]
mod tests {
    use super::testing::{FakeClock, Script, built, kinds};
    use super::*;
    use crate::payment::Status;
    use crate::registry::FILTERS;

    /// Smallest filter: it has no state, no metrics and no breaker.
    struct PassThrough;

    #[async_trait]
    impl Filter for PassThrough {
        fn name(&self) -> &'static str {
            "pass_through"
        }

        async fn handle(&self, call: &Call<'_>, next: Next<'_>) -> Result<Outcome, Error> {
            next.run(call).await
        }
    }

    #[tokio::test]
    async fn filter_without_optional_functions_passes_calls_and_reports_nothing() {
        let script = Script::always(Ok(Outcome::of(Status::Pending)));
        let filters = [Arc::new(PassThrough) as Arc<dyn Filter>];
        let outcome = script.run(&filters, &kinds()[0], &FakeClock::default(), Duration::from_secs(1)).await;
        assert_eq!((outcome, script.calls()), (Ok(Outcome::of(Status::Pending)), 1));
        let filter = &filters[0];
        assert!(filter.state().is_none() && filter.samples(Duration::ZERO).is_empty());
        assert!(filter.statuses(Duration::ZERO).is_empty());
        assert!(!filter.force(Kind::Pay, Some(Force::Open), Duration::ZERO), "it has no states to force");
    }

    #[test]
    fn registered_name_of_each_filter_is_its_own() {
        for spec in FILTERS {
            let settings = if spec.name == "limit" { "rate = 1" } else { "" };
            assert_eq!(built(spec.name, settings, None).unwrap().name(), spec.name);
        }
    }
}
