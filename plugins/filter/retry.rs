//! Tries again, but only where a second try cannot be a second payment.
//!
//! Before a byte was written anything may be tried again; after it only a question may. Pauses follow "full jitter": a
//! random part of a bound that doubles, so that callers who failed together do not come back together.

use std::time::Duration;

use super::*;

/// No pause is longer, however often it doubled.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

struct Retry {
    max: u32,
    base: Duration,
}

pub(super) fn build(settings: &mut Settings<'_>, _: Option<State>) -> Option<Arc<dyn Filter>> {
    let max = settings.or("max", 2u32);
    let base = settings.or("base", Duration::from_millis(100));
    if max > 10 {
        settings.problem("max", "`max` is how often a call is tried again: at most 10", Some("2 suits most".into()));
        return None;
    }
    Some(Arc::new(Retry { max, base }))
}

#[async_trait]
impl Filter for Retry {
    fn name(&self) -> &'static str {
        "retry"
    }

    async fn handle(&self, call: &Call<'_>, next: Next<'_>) -> Result<Outcome, Error> {
        let mut tries = 0;
        loop {
            let result = next.run(call).await;
            let again = match &result {
                Err(Error::NotSent(_)) => true,
                Err(Error::Unclear { .. }) => call.operation.kind().is_query(),
                _ => false,
            };
            if !again || tries >= self.max {
                return result;
            }
            let bound = self.base.saturating_mul(1 << tries.min(16)).min(LONGEST_PAUSE);
            let pause = bound.mul_f64(call.clock.random());
            if call.clock.now() + pause >= call.deadline {
                return result;
            }
            call.clock.sleep(pause).await;
            tries += 1;
        }
    }

    fn state(&self) -> State {
        Arc::new(())
    }

    fn readings(&self, _: Duration) -> Vec<Reading> {
        Vec::new()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::testing::{FakeClock, Script, kinds};
    use super::*;
    use crate::error::Word;

    fn retry(max: u32) -> Arc<dyn Filter> {
        Arc::new(Retry { max, base: Duration::from_millis(100) })
    }

    fn word() -> Word {
        Word { code: "X".into(), message: String::new() }
    }

    #[tokio::test]
    async fn only_what_cannot_pay_twice_is_tried_again() {
        let errors = [
            Error::Unfit("x".into()),
            Error::NotSent("x".into()),
            Error::Held { why: "x".into(), retry_after: 1 },
            Error::Busy(word()),
            Error::Unauthorized(word()),
            Error::Declined(word()),
            Error::Conflict(word()),
            Error::Absent(word()),
            Error::unclear("x"),
            Error::Mismatch("x".into()),
        ];
        for operation in kinds() {
            for error in &errors {
                let script = Script::always(Err(error.clone()));
                let clock = FakeClock::default();
                let result = script.run(&[retry(2)], &operation, &clock, Duration::from_secs(60)).await;
                let again = match error {
                    Error::NotSent(_) => true,
                    Error::Unclear { .. } => operation.kind().is_query(),
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
}
