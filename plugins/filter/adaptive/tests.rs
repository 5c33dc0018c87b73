#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::super::testing::{FakeClock, Script, built, kinds};
use super::*;
use crate::payment::Status;

const MINUTE: Duration = Duration::from_secs(60);
const CONFIG: AdaptiveConfig =
    AdaptiveConfig { floor: 4, ceiling: 200, start: 50, tolerance: 1.5, window: Duration::from_secs(1) };

fn fine() -> Script {
    Script::always(Ok(Outcome::of(Status::Pending)))
}

fn reading(filter: &Arc<dyn Filter>, name: &str, operation: Kind) -> f64 {
    let samples = filter.samples(Duration::ZERO);
    let found = samples.iter().find(|it| it.name == name && it.operation == Some(operation.as_str()));
    found.map_or(0.0, |reading| reading.value)
}

/// Simulates `count` windows in which all permits are used. The channel serves `serves` concurrent calls in 100 ms and queues
/// the others.
fn windows(gradient: &mut Gradient, count: u32, serves: u32) {
    for _ in 0..count {
        let in_flight = gradient.limit(&CONFIG);
        let took = Duration::from_millis(100).mul_f64((f64::from(in_flight) / f64::from(serves)).max(1.0));
        let end = gradient_end(gradient);
        for _ in 0..WINDOW_CALLS {
            gradient.add(&CONFIG, end, took, in_flight);
        }
    }
}

/// Number of calls that ends a window and leaves none for the next.
const WINDOW_CALLS: u32 = 5;

fn gradient_end(gradient: &Gradient) -> Duration {
    gradient.window_start() + CONFIG.window
}

#[test]
fn limit_follows_the_channels_capacity_down_and_up() {
    let mut gradient = Gradient::new(&CONFIG, Duration::ZERO);
    windows(&mut gradient, 30, 100);
    let well = gradient.limit(&CONFIG);
    assert!((100..=185).contains(&well), "near the capacity plus tolerance: {well}");
    windows(&mut gradient, 10, 20);
    let ill = gradient.limit(&CONFIG);
    assert!((20..=60).contains(&ill), "{ill}");
    windows(&mut gradient, 30, 100);
    let again = gradient.limit(&CONFIG);
    assert!(again >= 100, "{again}");
}

#[test]
fn limit_recovers_when_a_channel_stays_slower_permanently() {
    let mut gradient = Gradient::new(&CONFIG, Duration::ZERO);
    windows_of(&mut gradient, 30, 100);
    assert_eq!(gradient.limit(&CONFIG), CONFIG.ceiling);
    windows_of(&mut gradient, 8, 400);
    assert!(gradient.limit(&CONFIG) < 20, "{gradient:?}");
    windows_of(&mut gradient, 1_000, 400);
    assert_eq!(gradient.limit(&CONFIG), CONFIG.ceiling, "{gradient:?}");
}

#[tokio::test]
async fn excess_payments_are_rejected_while_queries_pass_and_counts_survive_reload() {
    let filter = built("adaptive", "floor = 2\nceiling = 2", None).unwrap();
    let (filters, clock) = ([Arc::clone(&filter)], FakeClock::default());
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let hanging = fine().behind(gate.clone());
    let (pay, query) = (&kinds()[0], &kinds()[1]);
    let mut in_flight: Vec<_> = (0..2).map(|_| Box::pin(hanging.run(&filters, pay, &clock, MINUTE))).collect();
    for call in &mut in_flight {
        assert!(tokio::time::timeout(Duration::from_millis(1), call).await.is_err(), "it hangs");
    }
    let over = fine();
    let error = over.run(&filters, pay, &clock, MINUTE).await.unwrap_err();
    assert!(matches!(&error, Error::Rejected { retry_after: 1, .. }), "{error:?}");
    assert_eq!(over.calls(), 0);
    assert_eq!(reading(&filter, "adaptive_shed_total", Kind::Pay), 1.0);
    fine().run(&filters, query, &clock, MINUTE).await.unwrap();
    // Calls in flight are still counted after a reload, and dropped calls are released.
    let reloaded = [built("adaptive", "floor = 2\nceiling = 2", filter.state()).unwrap()];
    assert!(fine().run(&reloaded, pay, &clock, MINUTE).await.is_err());
    drop(in_flight);
    fine().run(&reloaded, pay, &clock, MINUTE).await.unwrap();
    assert_eq!(reading(&filter, "adaptive_in_flight", Kind::Pay), 0.0);
}

#[tokio::test]
async fn unsent_and_early_cut_calls_are_no_latency_samples_but_timeouts_are() {
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
    let baseline = || reading(&filter, "adaptive_baseline_seconds", Kind::Pay);
    ends(None, 100, 5).await;
    assert!((baseline() - 0.1).abs() < 1e-9, "{}", baseline());
    ends(Some(Error::NotSent("x".into())), 1, 20).await;
    ends(Some(Error::unclear("cut")), 1, 20).await;
    assert!((baseline() - 0.1).abs() < 1e-9, "{}", baseline());
    let before = reading(&filter, "adaptive_limit", Kind::Pay);
    ends(Some(Error::unclear("no answer in time")), 1000, 5).await;
    let after = reading(&filter, "adaptive_limit", Kind::Pay);
    assert!(after < before, "timeouts lower the limit: {before} {after}");
}

#[test]
fn invalid_adaptive_settings_are_rejected() {
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
    assert!(
        built("adaptive", "floor = 60\nceiling = 80", None).is_ok(),
        "the default start is clamped to floor and ceiling"
    );
    assert!(built("adaptive", "ceiling = 10", None).is_ok());
}

proptest! {
    /// For any measurements, the limit stays within its bounds, never falls by more than half in a window, falls in much slower
    /// windows, and rises while the latency is normal and the limit is used.
    #[test]
    fn limit_stays_in_bounds_and_never_halves_more_than_once_a_window(steps in proptest::collection::vec((1u64..5_000, 0u32..300, 3u32..=WINDOW_CALLS), 1..200)) {
        let mut gradient = Gradient::new(&CONFIG, Duration::ZERO);
        let mut shortest = u64::MAX;
        for (milliseconds, in_flight, calls) in steps {
            let before = gradient.limit(&CONFIG);
            let end = gradient_end(&gradient);
            let windows = gradient.window_start();
            for _ in 0..calls {
                gradient.add(&CONFIG, end, Duration::from_millis(milliseconds), in_flight);
            }
            let after = gradient.limit(&CONFIG);
            prop_assert!((CONFIG.floor..=CONFIG.ceiling).contains(&after), "{after}");
            if gradient.window_start() == windows {
                prop_assert_eq!(before, after, "too few calls end no window");
                // These calls would count in the next window with another latency, so start again.
                gradient = Gradient::new(&CONFIG, gradient.window_start());
                shortest = u64::MAX;
                continue;
            }
            prop_assert!(after * 2 + 1 >= before, "{before} {after}");
            if milliseconds <= shortest {
                prop_assert!(after >= before, "the lowest latency does not lower the limit: {before} {after}");
                if in_flight * 2 > before && before < CONFIG.ceiling - 1 {
                    prop_assert!(after > before, "a used limit rises at normal latency: {before} {after}");
                }
            }
            shortest = shortest.min(milliseconds);
        }
        // From any state, fast windows with a fully used limit raise it to the ceiling.
        windows_of(&mut gradient, 400, 1);
        prop_assert_eq!(gradient.limit(&CONFIG), CONFIG.ceiling);
        // Windows of a much higher latency lower it close to the floor.
        windows_of(&mut gradient, 10, 50);
        prop_assert!(gradient.limit(&CONFIG) < 16, "{:?}", gradient);
    }
}

fn windows_of(gradient: &mut Gradient, count: u32, milliseconds: u64) {
    for _ in 0..count {
        let (end, in_flight) = (gradient_end(gradient), gradient.limit(&CONFIG));
        for _ in 0..WINDOW_CALLS {
            gradient.add(&CONFIG, end, Duration::from_millis(milliseconds), in_flight);
        }
    }
}
