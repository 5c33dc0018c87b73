//! How much goes through: so many calls a second, so many at the same time. What is over it is turned away at once, because
//! a queue in front of a payment only moves the time-out to somebody else.

use parking_lot::Mutex;

use super::*;

/// A rate, a burst and a number of places, with what is used of them. Channels and merchants are limited by the same.
#[derive(Default)]
pub struct Limiter(Mutex<Used>);

#[derive(Default)]
struct Used {
    tokens: f64,
    /// On the clock's scale, when `tokens` was right; `None` before the first call (then the bucket is full).
    at: Option<Duration>,
    inside: u32,
}

/// What may be used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LimitConfig {
    /// Calls a second.
    pub rate: Option<f64>,
    /// Calls at once after a pause; as many as `rate` when not given.
    pub burst: Option<u64>,
    /// Calls at the same time.
    pub in_flight: Option<u32>,
}

/// A bucket of tokens: each call takes one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// So many come back a second.
    pub per_second: f64,
    /// So many are in it when it is full.
    pub burst: f64,
}

/// Why a call is turned away, and the whole seconds after which it is worth another try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitExceeded {
    /// Too many a second.
    Rate(u64),
    /// Too many at the same time.
    InFlight(u64),
}

/// A place inside; given back when dropped, however the call ends.
pub struct Permit(Arc<Limiter>);

impl Limiter {
    /// Takes a place, given back when it is dropped.
    pub fn acquire(self: &Arc<Self>, allowance: &LimitConfig) -> Result<Permit, LimitExceeded> {
        let mut used = self.0.lock();
        if allowance.in_flight.is_some_and(|most| used.inside >= most) {
            return Err(LimitExceeded::InFlight(1));
        }
        used.inside += 1;
        drop(used);
        Ok(Permit(Arc::clone(self)))
    }

    /// Takes a token, where nobody else counts.
    pub fn take_token(&self, allowance: &LimitConfig, now: Duration) -> Result<(), LimitExceeded> {
        let Some(Rate { per_second, burst }) = allowance.rate() else { return Ok(()) };
        let mut used = self.0.lock();
        let gained = used.at.map_or(burst, |at| now.saturating_sub(at).as_secs_f64() * per_second);
        used.tokens = (used.tokens + gained).min(burst);
        used.at = Some(now);
        if used.tokens < 1.0 {
            let seconds = (1.0 - used.tokens) / per_second;
            return Err(LimitExceeded::Rate((seconds.ceil() as u64).max(1)));
        }
        used.tokens -= 1.0;
        Ok(())
    }

    /// How many are inside now.
    pub fn in_flight(&self) -> u32 {
        self.0.lock().inside
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut used = self.0.0.lock();
        used.inside = used.inside.saturating_sub(1);
    }
}

impl LimitConfig {
    /// The bucket, where calls a second are limited.
    pub fn rate(&self) -> Option<Rate> {
        let per_second = self.rate?;
        let burst = self.burst.map_or_else(|| per_second.ceil().max(1.0), |burst| burst as f64);
        Some(Rate { per_second, burst })
    }

    /// Reads `rate`, `burst` and `in_flight`.
    pub fn read(settings: &mut Settings<'_>) -> Option<Self> {
        let allowance = Self {
            rate: settings.optional("rate"),
            burst: settings.optional("burst"),
            in_flight: settings.optional("in_flight"),
        };
        let before = settings.problems().len();
        if settings.has("rate") && allowance.rate.is_some_and(|rate| rate <= 0.0) {
            settings.problem("rate", "`rate` must be more than 0 calls a second", None);
        }
        if allowance.burst == Some(0) {
            settings.problem("burst", "`burst` must be at least 1, or no call ever passes", None);
        }
        if allowance.burst.is_some() && !settings.has("rate") {
            settings.problem(
                "burst",
                "`burst` says nothing without `rate`",
                Some("add `rate = …` (calls a second)".into()),
            );
        }
        if allowance.in_flight == Some(0) {
            settings.problem("in_flight", "`in_flight` must be at least 1, or no call ever passes", None);
        }
        if !settings.has("rate") && !settings.has("in_flight") {
            let advice = "add `rate = …` (calls a second) or `in_flight = …` (calls at the same time)";
            settings.problem("rate", "a limit needs a number", Some(advice.into()));
        }
        (settings.problems().len() == before).then_some(allowance)
    }
}

struct Limit {
    allowance: LimitConfig,
    usage: Arc<Limiter>,
}

pub(super) fn build(settings: &mut Settings<'_>, state: Option<State>) -> Option<Arc<dyn Filter>> {
    let allowance = LimitConfig::read(settings)?;
    let usage = state.and_then(|state| state.downcast::<Limiter>().ok()).unwrap_or_default();
    Some(Arc::new(Limit { allowance, usage }))
}

#[async_trait]
impl Filter for Limit {
    fn name(&self) -> &'static str {
        "limit"
    }

    async fn handle(&self, call: &Call<'_>, next: Next<'_>) -> Result<Outcome, Error> {
        let held = |what: &str, retry_after| Error::Rejected {
            why: format!("the channel `{}` {what}", call.channel),
            retry_after,
        };
        let over = |over| match over {
            LimitExceeded::Rate(seconds) => held("is at its limit of calls a second", seconds),
            LimitExceeded::InFlight(seconds) => held("is at its limit of calls at the same time", seconds),
        };
        // First: what finds no place takes no token.
        let _place = self.usage.acquire(&self.allowance).map_err(over)?;
        if let Some(rate) = self.allowance.rate() {
            let counted = call.counter.take(&format!("channel:{}", call.channel), rate).await;
            let counted = counted.map(|verdict| verdict.map_err(LimitExceeded::Rate));
            counted.unwrap_or_else(|| self.usage.take_token(&self.allowance, call.clock.now())).map_err(over)?;
        }
        next.run(call).await
    }

    fn state(&self) -> State {
        Arc::clone(&self.usage) as State
    }

    fn samples(&self, _: Duration) -> Vec<FilterSample> {
        vec![FilterSample::of_all("limit_in_flight", f64::from(self.usage.in_flight()))]
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::testing::{FakeClock, Script, built, kinds};
    use super::*;
    use crate::payment::Status;

    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_burst_passes_then_the_rate() {
        let filters = [built("limit", "rate = 2\nburst = 3", None).unwrap()];
        let (clock, script) = (FakeClock::default(), Script::always(Ok(Outcome::of(Status::Pending))));
        let operation = &kinds()[0];
        let run = || script.run(&filters, operation, &clock, MINUTE);
        for _ in 0..3 {
            run().await.unwrap();
        }
        assert!(matches!(run().await, Err(Error::Rejected { retry_after: 1, .. })));
        clock.advance(Duration::from_millis(499));
        assert!(run().await.is_err());
        clock.advance(Duration::from_millis(2));
        run().await.unwrap();
        assert!(run().await.is_err());
        assert_eq!(script.calls(), 4, "what is turned away does not reach the exchange");
    }

    /// Says always the same.
    struct Together(Option<Result<(), u64>>);

    #[async_trait]
    impl Counter for Together {
        async fn take(&self, name: &str, rate: Rate) -> Option<Result<(), u64>> {
            assert_eq!((name, rate), ("channel:main", Rate { per_second: 1.0, burst: 1.0 }));
            self.0
        }
    }

    #[tokio::test]
    async fn where_machines_count_together_their_word_counts_and_else_each_counts_alone() {
        for (said, expected) in [(Some(Ok(())), [true, true]), (None, [true, false]), (Some(Err(7)), [false, false])] {
            let filters = [built("limit", "rate = 1", None).unwrap()];
            let (clock, script) = (FakeClock::default(), Script::always(Ok(Outcome::of(Status::Pending))));
            let operation = &kinds()[0];
            for passes in expected {
                let (counter, failure_reason, deadline) =
                    (&Together(said), &FailureReason::default(), clock.now() + MINUTE);
                let call = Call {
                    channel: "main",
                    operation,
                    clock: &clock,
                    counter,
                    deadline,
                    deadline_is_callers: false,
                    failure_reason,
                };
                match Next::new(&filters, &script).run(&call).await {
                    Err(Error::Rejected { retry_after, .. }) => {
                        assert!(!passes);
                        assert_eq!(retry_after, if said.is_some() { 7 } else { 1 });
                    }
                    other => assert!(passes && other.is_ok(), "{said:?}: {other:?}"),
                }
            }
        }
    }

    #[tokio::test]
    async fn places_are_given_back_even_when_the_call_is_dropped_and_outlive_a_reload() {
        let first = built("limit", "in_flight = 1", None).unwrap();
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let clock = FakeClock::default();
        let (hanging, quick) =
            (Script::gated(Ok(Outcome::of(Status::Pending)), gate), Script::always(Ok(Outcome::of(Status::Pending))));
        let filters = [Arc::clone(&first)];
        let operation = &kinds()[0];
        let mut inside = Box::pin(hanging.run(&filters, operation, &clock, MINUTE));
        assert!(tokio::time::timeout(Duration::from_millis(1), &mut inside).await.is_err(), "it hangs inside");
        let second = [built("limit", "in_flight = 1", Some(first.state())).unwrap()];
        assert!(matches!(quick.run(&second, operation, &clock, MINUTE).await, Err(Error::Rejected { .. })));
        drop(inside);
        quick.run(&second, operation, &clock, MINUTE).await.unwrap();
    }

    #[test]
    fn numbers_that_let_nothing_through_are_refused() {
        for bad in [
            "",
            "rate = 0",
            "rate = -1",
            "rate = 1\nburst = 0",
            "in_flight = 0",
            "burst = 5",
            "rat = 5",
            "rate = \"5\"",
        ] {
            assert!(built("limit", bad, None).is_err(), "{bad}");
        }
        assert!(built("limit", "rate = 0.5", None).is_ok());
    }
}
