//! `retry`: retries a failed call, but never where a retry could be a second payment.
//!
//! A call that sent no byte may always be retried. After a byte was sent, only a query may be retried. Pauses use full jitter: a
//! random part of a bound that doubles, so that calls that failed together are not retried together.
//!
//! A retry budget limits the share of calls in flight that may be retries. On a failing channel every call fails. Without the
//! budget, retries would multiply the load when the channel can serve least.

use std::time::Duration;

use parking_lot::Mutex;

use super::*;

/// Upper bound of the doubling pause.
const MAX_PAUSE: Duration = Duration::from_secs(2);

struct Retry {
    max: u32,
    base: Duration,
    budget: Budget,
    counts: Arc<SharedCounts>,
}

/// Retry budget: maximum number of calls that are in retry at the same time.
#[derive(Clone, Copy)]
struct Budget {
    /// Percentage of the calls in flight.
    percentage: u32,
    /// Minimum of the budget, whatever the number of calls in flight.
    at_least: u32,
}

/// State that survives a reload.
type SharedCounts = Mutex<Counts>;

#[derive(Clone, Copy, Default)]
struct Counts {
    in_flight: u32,
    /// Number of calls in retry, including their pauses.
    retrying: u32,
    /// Total number of retries.
    retries: u64,
    /// Total number of retries that the budget refused.
    over_budget: u64,
}

pub(crate) fn build(settings: &mut Settings<'_>, state: Option<State>) -> Option<Arc<dyn Filter>> {
    let before = settings.problems().len();
    let max = settings.or("max", 2u32);
    let base = settings.or("base", Duration::from_millis(100));
    let budget = settings.section("budget").map_or(Budget::DEFAULT, Budget::read);
    if max > 10 {
        settings.problem(
            "max",
            "`max` is the number of retries of a call: at most 10",
            Some("2 suits most channels".into()),
        );
    }
    if base > MAX_PAUSE {
        settings.problem(
            "base",
            "`base` must be at most 2s, the longest pause",
            Some("100ms suits most channels".into()),
        );
    }
    let counts = state.and_then(|state| state.downcast::<SharedCounts>().ok()).unwrap_or_default();
    (settings.problems().len() == before).then(|| Arc::new(Retry { max, base, budget, counts }) as Arc<dyn Filter>)
}

impl Budget {
    const DEFAULT: Self = Self { percentage: 20, at_least: 3 };

    fn read(mut table: Settings<'_>) -> Self {
        let percentage = table.or("percentage", Self::DEFAULT.percentage);
        let at_least = table.or("at_least", Self::DEFAULT.at_least);
        if percentage > 100 {
            table.problem("percentage", "`budget.percentage` must be from 0 to 100", None);
        }
        if percentage == 0 && at_least == 0 {
            let advice = "to disable retries, write `max = 0`";
            table.problem("at_least", "with this `budget` no call is ever retried", Some(advice.to_owned()));
        }
        Self { percentage, at_least }
    }

    fn allows(self, counts: &Counts) -> bool {
        let share = u64::from(counts.in_flight) * u64::from(self.percentage) / 100;
        u64::from(counts.retrying) < share.max(u64::from(self.at_least))
    }
}

#[async_trait]
impl Filter for Retry {
    fn name(&self) -> &'static str {
        "retry"
    }

    async fn handle(&self, call: &Call<'_>, next: Next<'_>) -> Result<Outcome, Error> {
        let mut guard = CallGuard::enter(&self.counts);
        let mut retries = 0;
        loop {
            let result = next.run(call).await;
            let is_retryable = match &result {
                Err(Error::NotSent(_)) => true,
                Err(Error::Unclear { .. } | Error::UnlistedRefusal(_) | Error::Probe) => {
                    call.operation.kind().is_query()
                }
                _ => false,
            };
            if !is_retryable || retries >= self.max {
                return result;
            }
            let bound = self.base.saturating_mul(1 << retries.min(16)).min(MAX_PAUSE);
            let pause = bound.mul_f64(call.clock.random());
            if call.clock.now() + pause >= call.deadline || !guard.may_retry(self.budget) {
                return result;
            }
            call.clock.sleep(pause).await;
            retries += 1;
        }
    }

    fn state(&self) -> Option<State> {
        Some(Arc::clone(&self.counts) as State)
    }

    fn samples(&self, _: Duration) -> Vec<FilterSample> {
        let counts = *self.counts.lock();
        vec![
            FilterSample::of_all("retries_in_flight", f64::from(counts.retrying)),
            FilterSample::of_all("retries_total", counts.retries as f64),
            FilterSample::of_all("retries_over_budget_total", counts.over_budget as f64),
        ]
    }
}

/// Counts one call as in flight, and as in retry once it is retried; dropping it decrements both counts.
struct CallGuard<'a> {
    counts: &'a SharedCounts,
    is_retrying: bool,
}

impl<'a> CallGuard<'a> {
    fn enter(counts: &'a SharedCounts) -> Self {
        counts.lock().in_flight += 1;
        Self { counts, is_retrying: false }
    }

    fn may_retry(&mut self, budget: Budget) -> bool {
        let mut counts = self.counts.lock();
        if !self.is_retrying && !budget.allows(&counts) {
            counts.over_budget += 1;
            return false;
        }
        counts.retrying += u32::from(!std::mem::replace(&mut self.is_retrying, true));
        counts.retries += 1;
        true
    }
}

impl Drop for CallGuard<'_> {
    fn drop(&mut self) {
        let mut counts = self.counts.lock();
        counts.in_flight = counts.in_flight.saturating_sub(1);
        counts.retrying = counts.retrying.saturating_sub(u32::from(self.is_retrying));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::testing::{FakeClock, Script, built, kinds};
    use super::*;
    use crate::error::ProviderError;

    fn retry(max: u32) -> Arc<dyn Filter> {
        built("retry", &format!("max = {max}"), None).unwrap()
    }

    fn provider_error() -> ProviderError {
        ProviderError { code: "X".into(), message: String::new() }
    }

    #[tokio::test]
    async fn retry_happens_only_where_it_cannot_pay_twice() {
        let errors = [
            Error::Unsupported("x".into()),
            Error::NotSent("x".into()),
            Error::Rejected { why: "x".into(), retry_after: 1 },
            Error::ProviderBusy(provider_error()),
            Error::Unauthorized(provider_error()),
            Error::Declined(provider_error()),
            Error::Conflict(provider_error()),
            Error::NotFound(provider_error()),
            Error::unclear("x"),
            Error::UnlistedRefusal(provider_error()),
            Error::Probe,
            Error::Mismatch("x".into()),
        ];
        for operation in kinds() {
            for error in &errors {
                let script = Script::always(Err(error.clone()));
                let clock = FakeClock::default();
                let result = script.run(&[retry(2)], &operation, &clock, Duration::from_secs(60)).await;
                let is_retried = match error {
                    Error::NotSent(_) => true,
                    Error::Unclear { .. } | Error::UnlistedRefusal(_) | Error::Probe => operation.kind().is_query(),
                    _ => false,
                };
                assert_eq!(script.calls(), if is_retried { 3 } else { 1 }, "{:?} {error:?}", operation.kind());
                assert_eq!(result.as_ref(), Err(error));
            }
        }
    }

    #[tokio::test]
    async fn retry_pauses_double_and_never_pass_the_deadline() {
        let operation = &kinds()[0];
        let script = Script::always(Err(Error::NotSent("x".into())));
        let clock = FakeClock::with_random(0.999);
        script.run(&[retry(3)], operation, &clock, Duration::from_secs(60)).await.unwrap_err();
        let slept = clock.slept();
        assert_eq!(slept.len(), 3);
        for (pause, bound) in slept.iter().zip([100, 200, 400]) {
            assert!(
                *pause <= Duration::from_millis(bound) && *pause > Duration::from_millis(bound * 9 / 10),
                "{slept:?}"
            );
        }
        let clock = FakeClock::with_random(0.999);
        script.run(&[retry(3)], operation, &clock, Duration::from_millis(150)).await.unwrap_err();
        assert_eq!(clock.slept().len(), 1, "the second pause would end after the deadline");
    }

    #[tokio::test]
    async fn first_retry_that_succeeds_returns_its_outcome() {
        let script =
            Script::of(vec![Err(Error::NotSent("x".into())), Ok(Outcome::of(crate::payment::Status::Pending))]);
        let result = script.run(&[retry(2)], &kinds()[0], &FakeClock::default(), Duration::from_secs(60)).await;
        assert!(result.is_ok());
        assert_eq!(script.calls(), 2);
    }

    fn reading(filter: &Arc<dyn Filter>, name: &str) -> f64 {
        filter.samples(Duration::ZERO).into_iter().find(|reading| reading.name == name).unwrap().value
    }

    /// Clock on which no sleep ends.
    struct SleeplessClock(FakeClock);

    #[async_trait]
    impl Clock for SleeplessClock {
        fn now(&self) -> Duration {
            self.0.now()
        }
        async fn sleep(&self, _: Duration) {
            std::future::pending().await
        }
        fn random(&self) -> f64 {
            0.5
        }
    }

    /// Starts `calls` concurrent calls that all fail. Returns the number of calls that wait for a retry, and the samples
    /// `retries_in_flight` and `retries_over_budget_total`.
    async fn retry_storm(filter: &Arc<dyn Filter>, calls: usize) -> (usize, f64, f64) {
        let (script, clock) = (Script::always(Err(Error::NotSent("x".into()))), SleeplessClock(FakeClock::default()));
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let script = script.behind(gate.clone());
        let (operation, filters) = (&kinds()[0], [Arc::clone(filter)]);
        let (counter, failure_reason) = (&LocalOnly, &FailureReason::default());
        let deadline = clock.now() + Duration::from_secs(60);
        let call = Call {
            channel: "main",
            operation,
            clock: &clock,
            counter,
            deadline,
            deadline_is_callers: false,
            failure_reason,
        };
        let one = || Box::pin(tokio::task::unconstrained(Next::new(&filters, &script).run(&call)));
        let mut in_flight: Vec<_> = (0..calls).map(|_| one()).collect();
        let mut waiting = calls;
        let poll = |call: &mut std::pin::Pin<Box<_>>| {
            let context = &mut std::task::Context::from_waker(std::task::Waker::noop());
            Future::poll(std::pin::Pin::as_mut(call), context).is_ready()
        };
        // All calls are in flight before the first fails.
        in_flight.iter_mut().for_each(|call| assert!(!poll(call)));
        gate.add_permits(calls);
        in_flight.iter_mut().for_each(|call| waiting -= usize::from(poll(call)));
        (waiting, reading(filter, "retries_in_flight"), reading(filter, "retries_over_budget_total"))
    }

    #[tokio::test]
    async fn retry_budget_limits_concurrent_retries_and_survives_reload() {
        for (budget, calls, expected) in [
            ("", 2, 2),
            ("", 10, 3),
            ("", 15, 3),
            ("", 100, 20),
            ("budget = { percentage = 50, at_least = 1 }", 1, 1),
            ("budget = { percentage = 0, at_least = 2 }", 100, 2),
            ("budget = { percentage = 100, at_least = 0 }", 100, 100),
        ] {
            let filter = built("retry", budget, None).unwrap();
            let (waiting, retrying, over) = retry_storm(&filter, calls).await;
            assert_eq!(
                (waiting, retrying, over),
                (expected, expected as f64, (calls - expected) as f64),
                "{budget} {calls}"
            );
            assert_eq!(reading(&filter, "retries_in_flight"), 0.0, "dropped calls release the budget");
            let after_reload = built("retry", budget, filter.state()).unwrap();
            assert_eq!(reading(&after_reload, "retries_over_budget_total"), over, "counts survive a reload");
        }
    }

    #[test]
    fn invalid_retry_settings_are_rejected() {
        for bad in [
            "max = 11",
            "base = \"3s\"",
            "budget = { percentage = 0, at_least = 0 }",
            "budget = { percentage = 101 }",
            "budget = { percent = 20 }",
            "budget = 20",
        ] {
            assert!(built("retry", bad, None).is_err(), "{bad}");
        }
    }
}
