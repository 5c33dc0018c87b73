#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::super::testing::{FakeClock, Script, built, kinds};
use super::*;
use crate::payment::Status;

const MINUTE: Duration = Duration::from_secs(60);
const NUMBERS: Numbers = Numbers { floor: 4, ceiling: 200, start: 50, tolerance: 1.5, window: Duration::from_secs(1) };

fn fine() -> Script {
    Script::always(Ok(Outcome::of(Status::Pending)))
}

fn reading(filter: &Arc<dyn Filter>, name: &str, operation: Kind) -> f64 {
    let samples = filter.samples(Duration::ZERO);
    let found = samples.iter().find(|it| it.name == name && it.operation == Some(operation.as_str()));
    found.map_or(0.0, |reading| reading.value)
}

/// A channel that serves so many calls at the same time in 100 ms, and queues the others: windows in which as many call as may.
fn windows(gradient: &mut Gradient, count: u32, serves: u32) {
    for _ in 0..count {
        let inside = gradient.limit(&NUMBERS);
        let took = Duration::from_millis(100).mul_f64((f64::from(inside) / f64::from(serves)).max(1.0));
        let end = gradient_end(gradient);
        for _ in 0..ENOUGH_CALLS {
            gradient.add(&NUMBERS, end, took, inside);
        }
    }
}

/// They end a window, and none is left for the next.
const ENOUGH_CALLS: u32 = 5;

fn gradient_end(gradient: &Gradient) -> Duration {
    gradient.since() + NUMBERS.window
}

#[test]
fn it_rises_to_what_a_channel_bears_falls_when_that_becomes_less_and_recovers() {
    let mut gradient = Gradient::new(&NUMBERS, Duration::ZERO);
    windows(&mut gradient, 30, 100);
    let well = gradient.limit(&NUMBERS);
    assert!((100..=185).contains(&well), "near what it serves without a queue, and what is tolerated: {well}");
    windows(&mut gradient, 10, 20);
    let ill = gradient.limit(&NUMBERS);
    assert!((20..=60).contains(&ill), "{ill}");
    windows(&mut gradient, 30, 100);
    let again = gradient.limit(&NUMBERS);
    assert!(again >= 100, "{again}");
}

#[test]
fn a_channel_that_became_slower_for_good_is_not_strangled_for_ever() {
    let mut gradient = Gradient::new(&NUMBERS, Duration::ZERO);
    windows_of(&mut gradient, 30, 100);
    assert_eq!(gradient.limit(&NUMBERS), NUMBERS.ceiling);
    windows_of(&mut gradient, 8, 400);
    assert!(gradient.limit(&NUMBERS) < 20, "{gradient:?}");
    windows_of(&mut gradient, 1_000, 400);
    assert_eq!(gradient.limit(&NUMBERS), NUMBERS.ceiling, "{gradient:?}");
}

#[tokio::test]
async fn what_is_over_the_limit_is_turned_away_early_and_queries_are_not_starved_by_payments() {
    let filter = built("adaptive", "floor = 2\nceiling = 2", None).unwrap();
    let (filters, clock) = ([Arc::clone(&filter)], FakeClock::default());
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let hanging = fine().behind(gate.clone());
    let (pay, query) = (&kinds()[0], &kinds()[1]);
    let mut inside: Vec<_> = (0..2).map(|_| Box::pin(hanging.run(&filters, pay, &clock, MINUTE))).collect();
    for call in &mut inside {
        assert!(tokio::time::timeout(Duration::from_millis(1), call).await.is_err(), "it hangs");
    }
    let over = fine();
    let error = over.run(&filters, pay, &clock, MINUTE).await.unwrap_err();
    assert!(matches!(&error, Error::Rejected { retry_after: 1, .. }), "{error:?}");
    assert_eq!(over.calls(), 0);
    assert_eq!(reading(&filter, "adaptive_shed_total", Kind::Pay), 1.0);
    fine().run(&filters, query, &clock, MINUTE).await.unwrap();
    // What is inside outlives a reload, and a place comes back however its call ends.
    let reloaded = [built("adaptive", "floor = 2\nceiling = 2", Some(filter.state())).unwrap()];
    assert!(fine().run(&reloaded, pay, &clock, MINUTE).await.is_err());
    drop(inside);
    fine().run(&reloaded, pay, &clock, MINUTE).await.unwrap();
    assert_eq!(reading(&filter, "adaptive_in_flight", Kind::Pay), 0.0);
}

#[tokio::test]
async fn what_never_reached_the_provider_is_no_latency_and_what_was_cut_early_is_none_either() {
    let filter = built("adaptive", "window = \"100ms\"", None).unwrap();
    let (filters, clock, operation) = ([Arc::clone(&filter)], FakeClock::default(), &kinds()[0]);
    let ends = async |error: Option<Error>, milliseconds: u64, count: u32| {
        for _ in 0..count {
            let gate = Arc::new(tokio::sync::Semaphore::new(0));
            let answer = error.clone().map_or(Ok(Outcome::of(Status::Pending)), Err);
            let script = Script::gated(answer, gate.clone());
            let mut call = Box::pin(script.run(&filters, operation, &clock, MINUTE));
            assert!(tokio::time::timeout(Duration::from_millis(1), &mut call).await.is_err(), "it hangs");
            clock.advance(Duration::from_millis(milliseconds));
            gate.add_permits(1);
            let _ = call.await;
        }
    };
    let usual = || reading(&filter, "adaptive_baseline_seconds", Kind::Pay);
    ends(None, 100, 5).await;
    assert!((usual() - 0.1).abs() < 1e-9, "{}", usual());
    ends(Some(Error::NotSent("x".into())), 1, 20).await;
    ends(Some(Error::unclear("cut")), 1, 20).await;
    assert!((usual() - 0.1).abs() < 1e-9, "{}", usual());
    let before = reading(&filter, "adaptive_limit", Kind::Pay);
    ends(Some(Error::unclear("no answer in time")), 1000, 5).await;
    let after = reading(&filter, "adaptive_limit", Kind::Pay);
    assert!(after < before, "time-outs are long: {before} {after}");
}

#[test]
fn numbers_that_make_no_sense_are_refused() {
    for bad in [
        "floor = 0",
        "floor = 9\nceiling = 8",
        "start = 3",
        "start = 501",
        "tolerance = 0.9",
        "tolerance = 11",
        "window = \"50ms\"",
        "window = \"2m\"",
        "limit = 5",
    ] {
        assert!(built("adaptive", bad, None).is_err(), "{bad}");
    }
    assert!(built("adaptive", "floor = 60\nceiling = 80", None).is_ok(), "it starts within them by itself");
    assert!(built("adaptive", "ceiling = 10", None).is_ok());
}

proptest! {
    /// Whatever is measured: the limit stays within its bounds, never falls by more than half in a window, falls in windows
    /// that are much slower than anything before as long as it is above what the headroom holds, and rises while
    /// latency is usual and calls come near it.
    #[test]
    fn laws(steps in proptest::collection::vec((1u64..5_000, 0u32..300, 3u32..=ENOUGH_CALLS), 1..200)) {
        let mut gradient = Gradient::new(&NUMBERS, Duration::ZERO);
        let mut shortest = u64::MAX;
        for (milliseconds, inside, calls) in steps {
            let before = gradient.limit(&NUMBERS);
            let end = gradient_end(&gradient);
            let windows = gradient.since();
            for _ in 0..calls {
                gradient.add(&NUMBERS, end, Duration::from_millis(milliseconds), inside);
            }
            let after = gradient.limit(&NUMBERS);
            prop_assert!((NUMBERS.floor..=NUMBERS.ceiling).contains(&after), "{after}");
            if gradient.since() == windows {
                prop_assert_eq!(before, after, "too few calls to tell");
                // They count in the window to come, with another latency: start anew for the laws below.
                gradient = Gradient::new(&NUMBERS, gradient.since());
                shortest = u64::MAX;
                continue;
            }
            prop_assert!(after * 2 + 1 >= before, "{before} {after}");
            if milliseconds <= shortest {
                prop_assert!(after >= before, "nothing is shorter: {before} {after}");
                if inside * 2 > before && before < NUMBERS.ceiling - 1 {
                    prop_assert!(after > before, "it is used and usual: {before} {after}");
                }
            }
            shortest = shortest.min(milliseconds);
        }
        // From anything, calm windows in which as many call as may lead back to the ceiling.
        windows_of(&mut gradient, 400, 1);
        prop_assert_eq!(gradient.limit(&NUMBERS), NUMBERS.ceiling);
        // And ten times slower ones lead down to the floor's neighbourhood.
        windows_of(&mut gradient, 10, 50);
        prop_assert!(gradient.limit(&NUMBERS) < 16, "{:?}", gradient);
    }
}

fn windows_of(gradient: &mut Gradient, count: u32, milliseconds: u64) {
    for _ in 0..count {
        let (end, inside) = (gradient_end(gradient), gradient.limit(&NUMBERS));
        for _ in 0..ENOUGH_CALLS {
            gradient.add(&NUMBERS, end, Duration::from_millis(milliseconds), inside);
        }
    }
}
