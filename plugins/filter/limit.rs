//! `limit`: rate limit (token bucket) and concurrency limit. Excess calls are rejected at once, because a queue in front of a
//! payment only moves the timeout to the caller.

use parking_lot::Mutex;

use super::*;

/// State of a rate and concurrency limit, for a channel or a merchant.
#[derive(Default)]
pub struct Limiter(Mutex<LimiterState>);

#[derive(Default)]
struct LimiterState {
    tokens: f64,
    /// Time of the last refill of `tokens`, on the clock's scale; `None` before the first call, when the bucket is full.
    refilled_at: Option<Duration>,
    in_flight: u32,
}

/// Configuration of a limit. A missing value means unlimited.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LimitConfig {
    /// Calls per second.
    pub rate: Option<f64>,
    /// Maximum number of calls at once; default: `rate`, rounded up.
    pub burst: Option<u64>,
    /// Maximum number of concurrent calls.
    pub in_flight: Option<u32>,
}

/// Parameters of a token bucket. Each call takes one token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Tokens added per second.
    pub per_second: f64,
    /// Capacity of the bucket, in tokens.
    pub burst: f64,
}

/// Limit that a call exceeded, with the number of seconds after which a retry may succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitExceeded {
    /// The rate limit.
    Rate(u64),
    /// The concurrency limit.
    InFlight(u64),
}

/// Permit for one concurrent call, released on drop.
pub struct Permit(Arc<Limiter>);

impl Limiter {
    /// Acquires a permit for one concurrent call.
    pub fn acquire(self: &Arc<Self>, config: &LimitConfig) -> Result<Permit, LimitExceeded> {
        let mut state = self.0.lock();
        if config.in_flight.is_some_and(|max| state.in_flight >= max) {
            return Err(LimitExceeded::InFlight(1));
        }
        state.in_flight += 1;
        drop(state);
        Ok(Permit(Arc::clone(self)))
    }

    /// Takes a token from the local bucket, for limits that no shared counter enforces.
    pub fn take_token(&self, config: &LimitConfig, now: Duration) -> Result<(), LimitExceeded> {
        let Some(Rate { per_second, burst }) = config.rate() else { return Ok(()) };
        let mut state = self.0.lock();
        let gained = state.refilled_at.map_or(burst, |at| now.saturating_sub(at).as_secs_f64() * per_second);
        state.tokens = (state.tokens + gained).min(burst);
        state.refilled_at = Some(now);
        if state.tokens < 1.0 {
            let seconds = (1.0 - state.tokens) / per_second;
            return Err(LimitExceeded::Rate((seconds.ceil() as u64).max(1)));
        }
        state.tokens -= 1.0;
        Ok(())
    }

    /// Returns the number of permits in use.
    pub fn in_flight(&self) -> u32 {
        self.0.lock().in_flight
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.0.0.lock();
        state.in_flight = state.in_flight.saturating_sub(1);
    }
}

impl LimitConfig {
    /// Returns the token bucket; `None` without a rate limit.
    pub fn rate(&self) -> Option<Rate> {
        let per_second = self.rate?;
        let burst = self.burst.map_or_else(|| per_second.ceil().max(1.0), |burst| burst as f64);
        Some(Rate { per_second, burst })
    }

    /// Reads `rate`, `burst` and `in_flight`.
    pub fn read(settings: &mut Settings<'_>) -> Option<Self> {
        let config = Self {
            rate: settings.optional("rate"),
            burst: settings.optional("burst"),
            in_flight: settings.optional("in_flight"),
        };
        let before = settings.problems().len();
        if settings.has("rate") && config.rate.is_some_and(|rate| rate <= 0.0) {
            settings.problem("rate", "`rate` must be more than 0 calls a second", None);
        }
        if config.burst == Some(0) {
            settings.problem("burst", "`burst` must be at least 1, or no call ever passes", None);
        }
        if config.burst.is_some() && !settings.has("rate") {
            settings.problem(
                "burst",
                "`burst` has no effect without `rate`",
                Some("add `rate = …` (calls a second)".into()),
            );
        }
        if config.in_flight == Some(0) {
            settings.problem("in_flight", "`in_flight` must be at least 1, or no call ever passes", None);
        }
        if !settings.has("rate") && !settings.has("in_flight") {
            let advice = "add `rate = …` (calls a second) or `in_flight = …` (calls at the same time)";
            settings.problem("rate", "a limit needs a number", Some(advice.into()));
        }
        (settings.problems().len() == before).then_some(config)
    }
}

struct Limit {
    config: LimitConfig,
    limiter: Arc<Limiter>,
}

pub(crate) fn build(settings: &mut Settings<'_>, state: Option<State>) -> Option<Arc<dyn Filter>> {
    let config = LimitConfig::read(settings)?;
    let limiter = state.and_then(|state| state.downcast::<Limiter>().ok()).unwrap_or_default();
    Some(Arc::new(Limit { config, limiter }))
}

#[async_trait]
impl Filter for Limit {
    fn name(&self) -> &'static str {
        "limit"
    }

    async fn handle(&self, call: &Call<'_>, next: Next<'_>) -> Result<Outcome, Error> {
        let rejected = |what: &str, retry_after| Error::Rejected {
            why: format!("the channel `{}` {what}", call.channel),
            retry_after,
        };
        let exceeded = |limit| match limit {
            LimitExceeded::Rate(seconds) => rejected("has reached its limit of calls per second", seconds),
            LimitExceeded::InFlight(seconds) => rejected("has reached its limit of concurrent calls", seconds),
        };
        // The permit comes first: a call without one must not take a token.
        let _permit = self.limiter.acquire(&self.config).map_err(exceeded)?;
        if let Some(rate) = self.config.rate() {
            let counted = call.counter.take(&format!("channel:{}", call.channel), rate).await;
            let counted = counted.map(|taken| taken.map_err(LimitExceeded::Rate));
            counted.unwrap_or_else(|| self.limiter.take_token(&self.config, call.clock.now())).map_err(exceeded)?;
        }
        next.run(call).await
    }

    fn state(&self) -> Option<State> {
        Some(Arc::clone(&self.limiter) as State)
    }

    fn samples(&self, _: Duration) -> Vec<FilterSample> {
        vec![FilterSample::of_all("limit_in_flight", f64::from(self.limiter.in_flight()))]
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
    async fn rate_limit_admits_the_burst_then_rejects_until_tokens_refill() {
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
        assert_eq!(script.calls(), 4, "rejected calls do not reach the exchange");
    }

    /// Shared counter with a fixed answer.
    struct FixedCounter(Option<Result<(), u64>>);

    #[async_trait]
    impl Counter for FixedCounter {
        async fn take(&self, name: &str, rate: Rate) -> Option<Result<(), u64>> {
            assert_eq!((name, rate), ("channel:main", Rate { per_second: 1.0, burst: 1.0 }));
            self.0
        }
    }

    #[tokio::test]
    async fn shared_counter_decides_and_local_bucket_is_the_fallback() {
        for (answer, expected) in [(Some(Ok(())), [true, true]), (None, [true, false]), (Some(Err(7)), [false, false])]
        {
            let filters = [built("limit", "rate = 1", None).unwrap()];
            let (clock, script) = (FakeClock::default(), Script::always(Ok(Outcome::of(Status::Pending))));
            let operation = &kinds()[0];
            for passes in expected {
                let (counter, failure_reason, deadline) =
                    (&FixedCounter(answer), &FailureReason::default(), clock.now() + MINUTE);
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
                        assert_eq!(retry_after, if answer.is_some() { 7 } else { 1 });
                    }
                    other => assert!(passes && other.is_ok(), "{answer:?}: {other:?}"),
                }
            }
        }
    }

    #[tokio::test]
    async fn permit_of_dropped_call_is_released_and_permits_survive_reload() {
        let first = built("limit", "in_flight = 1", None).unwrap();
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let clock = FakeClock::default();
        let (hanging, quick) =
            (Script::gated(Ok(Outcome::of(Status::Pending)), gate), Script::always(Ok(Outcome::of(Status::Pending))));
        let filters = [Arc::clone(&first)];
        let operation = &kinds()[0];
        let mut inside = Box::pin(hanging.run(&filters, operation, &clock, MINUTE));
        assert!(tokio::time::timeout(Duration::from_millis(1), &mut inside).await.is_err(), "it hangs inside");
        let second = [built("limit", "in_flight = 1", first.state()).unwrap()];
        assert!(matches!(quick.run(&second, operation, &clock, MINUTE).await, Err(Error::Rejected { .. })));
        drop(inside);
        quick.run(&second, operation, &clock, MINUTE).await.unwrap();
    }

    #[test]
    fn limit_that_admits_no_call_is_rejected() {
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
