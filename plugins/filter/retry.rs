//! Tries again, but only where a second try cannot be a second payment.
//!
//! Before a byte was written anything may be tried again; after it only a question may. Pauses follow "full jitter": a
//! random part of a bound that doubles, so that callers who failed together do not come back together.
//!
//! A budget bounds how many of the calls under way may be second tries: when a channel is ill, each call fails, and without a
//! bound the tries would be a multiple of the calls just when it can bear least.

use std::time::Duration;

use parking_lot::Mutex;

use super::*;

/// No pause is longer, however often it doubled.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

struct Retry {
    max: u32,
    base: Duration,
    budget: Budget,
    memory: Arc<Memory>,
}

/// How many calls may be being tried again at the same time.
#[derive(Clone, Copy)]
struct Budget {
    /// Of a hundred that are under way.
    percentage: u32,
    /// However few are under way.
    at_least: u32,
}

/// What outlives a reload.
type Memory = Mutex<Counts>;

#[derive(Clone, Copy, Default)]
struct Counts {
    under_way: u32,
    /// Those that are being tried again, their pauses included.
    retrying: u32,
    tried_again: u64,
    over_budget: u64,
}

pub(super) fn build(settings: &mut Settings<'_>, state: Option<State>) -> Option<Arc<dyn Filter>> {
    let before = settings.problems().len();
    let max = settings.or("max", 2u32);
    let base = settings.or("base", Duration::from_millis(100));
    let budget = settings.section("budget").map_or(Budget::DEFAULT, Budget::read);
    if max > 10 {
        settings.problem("max", "`max` is how often a call is tried again: at most 10", Some("2 suits most".into()));
    }
    if base > LONGEST_PAUSE {
        settings.problem("base", "`base` must be at most 2s: no pause is longer", Some("100ms suits most".into()));
    }
    let memory = state.and_then(|state| state.downcast::<Memory>().ok()).unwrap_or_default();
    (settings.problems().len() == before).then(|| Arc::new(Retry { max, base, budget, memory }) as Arc<dyn Filter>)
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
            let advice = "write `max = 0` if that is what you want";
            table.problem("at_least", "with this `budget` nothing is ever tried again", Some(advice.to_owned()));
        }
        Self { percentage, at_least }
    }

    fn allows(self, counts: &Counts) -> bool {
        let share = u64::from(counts.under_way) * u64::from(self.percentage) / 100;
        u64::from(counts.retrying) < share.max(u64::from(self.at_least))
    }
}

#[async_trait]
impl Filter for Retry {
    fn name(&self) -> &'static str {
        "retry"
    }

    async fn handle(&self, call: &Call<'_>, next: Next<'_>) -> Result<Outcome, Error> {
        let mut place = Place::enter(&self.memory);
        let mut tries = 0;
        loop {
            let result = next.run(call).await;
            let again = match &result {
                Err(Error::NotSent(_)) => true,
                Err(Error::Unclear { .. } | Error::UnlistedRefusal(_) | Error::Probe) => {
                    call.operation.kind().is_query()
                }
                _ => false,
            };
            if !again || tries >= self.max {
                return result;
            }
            let bound = self.base.saturating_mul(1 << tries.min(16)).min(LONGEST_PAUSE);
            let pause = bound.mul_f64(call.clock.random());
            if call.clock.now() + pause >= call.deadline || !place.may_retry(self.budget) {
                return result;
            }
            call.clock.sleep(pause).await;
            tries += 1;
        }
    }

    fn state(&self) -> State {
        Arc::clone(&self.memory) as State
    }

    fn samples(&self, _: Duration) -> Vec<FilterSample> {
        let counts = *self.memory.lock();
        vec![
            FilterSample::of_all("retries_in_flight", f64::from(counts.retrying)),
            FilterSample::of_all("retries_total", counts.tried_again as f64),
            FilterSample::of_all("retries_over_budget_total", counts.over_budget as f64),
        ]
    }
}

/// A call's place among those under way, and among those that are being tried again; given back however it ends.
struct Place<'a> {
    memory: &'a Memory,
    retries: bool,
}

impl<'a> Place<'a> {
    fn enter(memory: &'a Memory) -> Self {
        memory.lock().under_way += 1;
        Self { memory, retries: false }
    }

    fn may_retry(&mut self, budget: Budget) -> bool {
        let mut counts = self.memory.lock();
        if !self.retries && !budget.allows(&counts) {
            counts.over_budget += 1;
            return false;
        }
        counts.retrying += u32::from(!std::mem::replace(&mut self.retries, true));
        counts.tried_again += 1;
        true
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut counts = self.memory.lock();
        counts.under_way = counts.under_way.saturating_sub(1);
        counts.retrying = counts.retrying.saturating_sub(u32::from(self.retries));
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

    fn word() -> ProviderError {
        ProviderError { code: "X".into(), message: String::new() }
    }

    #[tokio::test]
    async fn only_what_cannot_pay_twice_is_tried_again() {
        let errors = [
            Error::Unsupported("x".into()),
            Error::NotSent("x".into()),
            Error::Rejected { why: "x".into(), retry_after: 1 },
            Error::ProviderBusy(word()),
            Error::Unauthorized(word()),
            Error::Declined(word()),
            Error::Conflict(word()),
            Error::NotFound(word()),
            Error::unclear("x"),
            Error::UnlistedRefusal(word()),
            Error::Probe,
            Error::Mismatch("x".into()),
        ];
        for operation in kinds() {
            for error in &errors {
                let script = Script::always(Err(error.clone()));
                let clock = FakeClock::default();
                let result = script.run(&[retry(2)], &operation, &clock, Duration::from_secs(60)).await;
                let again = match error {
                    Error::NotSent(_) => true,
                    Error::Unclear { .. } | Error::UnlistedRefusal(_) | Error::Probe => operation.kind().is_query(),
                    _ => false,
                };
                assert_eq!(script.calls(), if again { 3 } else { 1 }, "{:?} {error:?}", operation.kind());
                assert_eq!(result.as_ref(), Err(error));
            }
        }
    }

    #[tokio::test]
    async fn pauses_stay_under_a_doubling_bound_and_before_the_deadline() {
        let operation = &kinds()[0];
        let script = Script::always(Err(Error::NotSent("x".into())));
        let clock = FakeClock::with_chance(0.999);
        script.run(&[retry(3)], operation, &clock, Duration::from_secs(60)).await.unwrap_err();
        let slept = clock.slept();
        assert_eq!(slept.len(), 3);
        for (pause, bound) in slept.iter().zip([100, 200, 400]) {
            assert!(
                *pause <= Duration::from_millis(bound) && *pause > Duration::from_millis(bound * 9 / 10),
                "{slept:?}"
            );
        }
        let clock = FakeClock::with_chance(0.999);
        script.run(&[retry(3)], operation, &clock, Duration::from_millis(150)).await.unwrap_err();
        assert_eq!(clock.slept().len(), 1, "the second pause would end after the deadline");
    }

    #[tokio::test]
    async fn a_success_on_the_second_try_is_a_success() {
        let script =
            Script::of(vec![Err(Error::NotSent("x".into())), Ok(Outcome::of(crate::payment::Status::Pending))]);
        let result = script.run(&[retry(2)], &kinds()[0], &FakeClock::default(), Duration::from_secs(60)).await;
        assert!(result.is_ok());
        assert_eq!(script.calls(), 2);
    }

    fn reading(filter: &Arc<dyn Filter>, name: &str) -> f64 {
        filter.samples(Duration::ZERO).into_iter().find(|reading| reading.name == name).unwrap().value
    }

    /// A clock on which nobody's pause ends.
    struct Standing(FakeClock);

    #[async_trait]
    impl Clock for Standing {
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

    /// How many of so many calls that all fail wait to be tried again, and how many have given up.
    async fn storm(filter: &Arc<dyn Filter>, calls: usize) -> (usize, f64, f64) {
        let (script, clock) = (Script::always(Err(Error::NotSent("x".into()))), Standing(FakeClock::default()));
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
        let mut under_way: Vec<_> = (0..calls).map(|_| one()).collect();
        let mut waiting = calls;
        let poll = |call: &mut std::pin::Pin<Box<_>>| {
            let context = &mut std::task::Context::from_waker(std::task::Waker::noop());
            Future::poll(std::pin::Pin::as_mut(call), context).is_ready()
        };
        // All of them are under way before the first fails.
        under_way.iter_mut().for_each(|call| assert!(!poll(call)));
        gate.add_permits(calls);
        under_way.iter_mut().for_each(|call| waiting -= usize::from(poll(call)));
        (waiting, reading(filter, "retries_in_flight"), reading(filter, "retries_over_budget_total"))
    }

    #[tokio::test]
    async fn no_more_than_a_fifth_of_what_is_in_flight_is_tried_again_at_the_same_time() {
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
            let (waiting, retrying, over) = storm(&filter, calls).await;
            assert_eq!(
                (waiting, retrying, over),
                (expected, expected as f64, (calls - expected) as f64),
                "{budget} {calls}"
            );
            assert_eq!(reading(&filter, "retries_in_flight"), 0.0, "given back by those that were dropped");
            let after_reload = built("retry", budget, Some(filter.state())).unwrap();
            assert_eq!(reading(&after_reload, "retries_over_budget_total"), over, "counts outlive a reload");
        }
    }

    #[test]
    fn a_budget_that_allows_nothing_is_refused() {
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
