#![allow(clippy::unwrap_used)]

use std::pin::Pin;
use std::task::{Context, Waker};

use proptest::prelude::*;

use super::super::testing::{FakeClock, Script, built, kinds};
use super::*;
use crate::error::ProviderError;
use crate::payment::Status;

const SMALL: &str = "request_volume_threshold = 4\nsleep_window = \"5s\"\nhalf_open_permits = 2";
const MINUTE: Duration = Duration::from_secs(60);

fn breaker(toml: &str) -> Arc<dyn Filter> {
    built("breaker", toml, None).unwrap()
}

fn fine() -> Script {
    Script::always(Ok(Outcome::of(Status::Pending)))
}

fn broken() -> Script {
    Script::always(Err(Error::unclear("cut")))
}

fn reading(filter: &Arc<dyn Filter>, name: &str, operation: &str) -> f64 {
    let samples = filter.samples(Duration::ZERO);
    let found = samples.iter().find(|r| r.name == name && r.operation == Some(operation));
    found.map_or(0.0, |reading| reading.value)
}

fn state_of(filter: &Arc<dyn Filter>, operation: &str) -> f64 {
    reading(filter, "breaker_state", operation)
}

fn unsent() -> [Script; 2] {
    let rejected = Error::Rejected { why: "x".into(), retry_after: 1 };
    [rejected, Error::Unsupported("x".into())].map(|error| Script::always(Err(error)))
}

/// Runs a call that fails at the provider, and asserts that it was sent.
async fn fail(filters: &[Arc<dyn Filter>], operation: &Operation, clock: &FakeClock) {
    let script = broken();
    assert_eq!(script.run(filters, operation, clock, MINUTE).await, Err(Error::unclear("cut")));
    assert_eq!(script.calls(), 1, "the failing call was sent");
}

/// Runs a call that succeeds at the provider, and asserts that it was sent.
async fn succeed(filters: &[Arc<dyn Filter>], operation: &Operation, clock: &FakeClock) {
    let script = fine();
    assert_eq!(script.run(filters, operation, clock, MINUTE).await, Ok(Outcome::of(Status::Pending)));
    assert_eq!(script.calls(), 1, "the call was sent");
}

async fn opened(filter: &Arc<dyn Filter>, clock: &FakeClock) {
    let filters = [Arc::clone(filter)];
    for _ in 0..4 {
        // Earlier successes may have filled the volume, so that fewer failures suffice and the last call is rejected.
        assert!(broken().run(&filters, &kinds()[0], clock, MINUTE).await.is_err());
    }
    assert_eq!(state_of(filter, "pay"), 2.0);
}

#[tokio::test]
async fn breaker_opens_at_the_threshold_and_does_not_affect_queries() {
    let (filter, clock) = (breaker(SMALL), FakeClock::default());
    let filters = [Arc::clone(&filter)];
    for _ in 0..3 {
        fail(&filters, &kinds()[0], &clock).await;
    }
    assert_eq!(state_of(&filter, "pay"), 0.0, "below the volume");
    fail(&filters, &kinds()[0], &clock).await;
    assert_eq!(state_of(&filter, "pay"), 2.0);
    let script = fine();
    let error = script.run(&filters, &kinds()[0], &clock, MINUTE).await.unwrap_err();
    assert!(matches!(error, Error::Rejected { retry_after: 5, .. }), "{error:?}");
    assert_eq!(script.calls(), 0);
    succeed(&filters, &kinds()[1], &clock).await;
}

#[tokio::test]
async fn errors_of_caller_or_payer_do_not_open_the_breaker() {
    let (filter, clock) = (breaker(SMALL), FakeClock::default());
    let provider_error = ProviderError { code: "X".into(), message: String::new() };
    for error in [
        Error::Declined(provider_error.clone()),
        Error::ProviderBusy(provider_error.clone()),
        Error::Conflict(provider_error.clone()),
        Error::NotFound(provider_error.clone()),
        Error::UnlistedRefusal(provider_error),
        Error::Probe,
        Error::Unsupported("x".into()),
        Error::Rejected { why: "x".into(), retry_after: 1 },
    ] {
        for _ in 0..8 {
            Script::always(Err(error.clone()))
                .run(&[Arc::clone(&filter)], &kinds()[0], &clock, MINUTE)
                .await
                .unwrap_err();
        }
        assert_eq!(state_of(&filter, "pay"), 0.0, "{error:?}");
    }
}

#[tokio::test]
async fn unsent_calls_count_neither_as_success_nor_as_failure() {
    let (filter, clock) = (breaker(SMALL), FakeClock::default());
    let (filters, operation) = ([Arc::clone(&filter)], &kinds()[0]);
    for script in unsent() {
        for _ in 0..8 {
            script.run(&filters, operation, &clock, MINUTE).await.unwrap_err();
        }
        assert_eq!((script.calls(), state_of(&filter, "pay")), (8, 0.0), "the breaker stays closed");
    }
    opened(&filter, &clock).await; // four failures suffice, because the calls before were not counted
    clock.advance(Duration::from_secs(5));
    for script in unsent() {
        script.run(&filters, operation, &clock, MINUTE).await.unwrap_err();
        assert_eq!(state_of(&filter, "pay"), 1.0, "neither a success nor a failure, and its permit is released");
    }
    succeed(&filters, operation, &clock).await;
    assert_eq!(state_of(&filter, "pay"), 1.0, "one of two permits");
    succeed(&filters, operation, &clock).await;
    assert_eq!(state_of(&filter, "pay"), 0.0);
    assert_eq!(reading(&filter, "breaker_transitions", "pay"), 3.0, "open, half open, closed");
}

#[tokio::test]
async fn reload_applies_new_settings_and_keeps_an_open_breaker_open() {
    let (filter, clock) = (breaker(SMALL), FakeClock::default());
    opened(&filter, &clock).await;
    let lenient = built("breaker", "request_volume_threshold = 1000\nhalf_open_permits = 1", filter.state()).unwrap();
    assert_eq!(state_of(&lenient, "pay"), 2.0);
    let filters = [Arc::clone(&lenient)];
    assert!(fine().run(&filters, &kinds()[0], &clock, MINUTE).await.is_err());
    clock.advance(Duration::from_secs(5));
    succeed(&filters, &kinds()[0], &clock).await;
    assert_eq!(state_of(&lenient, "pay"), 0.0, "the new number of permits applies");
}

#[test]
fn breaker_that_could_never_open_or_close_is_rejected() {
    for bad in [
        "request_volume_threshold = 0",
        "error_threshold_percentage = 0",
        "error_threshold_percentage = 101",
        "rolling_window = \"0s\"",
        "sleep_window = \"0s\"",
        "sleep_window = \"2m\"",
        "half_open_permits = 0",
        "half_open_permit = 1",
        "force = \"opened\"",
        "slow_call = { percentage = 50 }",
        "slow_call = { duration = \"0s\" }",
        "slow_call = { duration = \"1s\", percentage = 0 }",
        "request_volume_threshold = 1000001",
        "half_open_permits = 1001",
        "half_open_max_wait = \"0s\"",
        "half_open_max_wait = \"50ms\"",
        "half_open_max_wait = \"61s\"",
        "half_open_max_wait = \"1s\"\nslow_call = { duration = \"2s\" }",
        "query = { half_open_permits = 0 }",
        "query = { half_open_permit = 1 }",
        "queries = { half_open_permits = 1 }",
        "half_open_max_wait = \"1s\"\npay = { slow_call = { duration = \"2s\" } }",
    ] {
        assert!(built("breaker", bad, None).is_err(), "{bad}");
    }
}

/// Runs a successful payment that takes `time`.
async fn after(time: Duration, filter: &Arc<dyn Filter>, clock: &FakeClock) -> Result<Outcome, Error> {
    let (filters, operation) = ([Arc::clone(filter)], &kinds()[0]);
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let script = Script::gated(Ok(Outcome::of(Status::Pending)), gate.clone());
    let mut call = Box::pin(script.run(&filters, operation, clock, MINUTE));
    let early = tokio::time::timeout(Duration::from_millis(1), &mut call).await;
    if let Ok(result) = early {
        return result;
    }
    clock.advance(time);
    gate.add_permits(1);
    call.await
}

#[tokio::test]
async fn slow_calls_and_slow_probes_open_the_breaker_though_they_succeed() {
    let slow = format!("{SMALL}\nslow_call = {{ duration = \"2s\", percentage = 50 }}");
    let (filter, clock) = (breaker(&slow), FakeClock::default());
    for seconds in [1, 2, 1, 2] {
        assert_eq!(state_of(&filter, "pay"), 0.0);
        after(Duration::from_secs(seconds), &filter, &clock).await.unwrap();
    }
    assert_eq!(state_of(&filter, "pay"), 2.0, "two of four took two seconds");
    assert!(filter.statuses(clock.now())[0].reason.contains("2 of 4 calls took 2s or longer"));
    clock.advance(Duration::from_secs(5));
    after(Duration::from_secs(3), &filter, &clock).await.unwrap();
    assert_eq!(state_of(&filter, "pay"), 2.0, "a slow probe opens the breaker again");
    assert!(after(Duration::ZERO, &filter, &clock).await.is_err());
}

#[tokio::test]
async fn state_forced_by_file_applies_to_all_operations_but_open_spares_queries() {
    let clock = FakeClock::default();
    let stopped = breaker("force = \"open\"");
    let filters = [Arc::clone(&stopped)];
    for (operation, passes) in kinds().iter().zip([false, true, false, false, true]) {
        assert_eq!(fine().run(&filters, operation, &clock, MINUTE).await.is_ok(), passes, "{:?}", operation.kind());
    }
    assert_eq!((state_of(&stopped, "pay"), state_of(&stopped, "query")), (2.0, 0.0));
    for force in ["closed", "off"] {
        let filter = breaker(&format!("{SMALL}\nforce = \"{force}\""));
        let filters = [Arc::clone(&filter)];
        for _ in 0..20 {
            let script = broken();
            script.run(&filters, &kinds()[0], &clock, MINUTE).await.unwrap_err();
            assert_eq!(script.calls(), 1, "{force}");
        }
        // After a reload without `force`: failures counted while forced closed count from the next call on.
        let lifted = built("breaker", SMALL, filter.state()).unwrap();
        let filters = [Arc::clone(&lifted)];
        fail(&filters, &kinds()[0], &clock).await;
        assert_eq!(state_of(&lifted, "pay"), if force == "closed" { 2.0 } else { 0.0 }, "{force}");
    }
}

#[tokio::test]
async fn state_forced_by_operator_expires() {
    let (filter, clock) = (breaker(SMALL), FakeClock::default());
    let filters = [Arc::clone(&filter)];
    let (pay, query) = (&kinds()[0], &kinds()[1]);
    assert!(filter.force(Kind::Pay, Some(Force::Open), clock.now() + MINUTE));
    let error = fine().run(&filters, pay, &clock, MINUTE).await.unwrap_err();
    assert!(matches!(error, Error::Rejected { retry_after: 60, .. }), "{error:?}");
    succeed(&filters, query, &clock).await;
    let status = &filter.statuses(clock.now())[0];
    assert_eq!((status.state, status.forced, status.forced_for), ("closed", Some(Force::Open), Some(MINUTE)));
    clock.advance(MINUTE);
    succeed(&filters, pay, &clock).await;
    // An open breaker can be forced closed, and is open again when the forced state is removed.
    opened(&filter, &clock).await;
    filter.force(Kind::Pay, Some(Force::Closed), clock.now() + Duration::from_secs(1));
    succeed(&filters, pay, &clock).await;
    filter.force(Kind::Pay, None, clock.now());
    assert!(fine().run(&filters, pay, &clock, MINUTE).await.is_err());
}

proptest! {
    /// For any sequence of results: an open breaker admits nothing before the sleep window ends, a half-open one admits no more
    /// calls than permits, and a closed one never opens below the request volume.
    #[test]
    fn open_breaker_admits_only_probes(steps in proptest::collection::vec((any::<bool>(), 0u64..4000), 1..200)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (filter, clock) = (breaker(SMALL), FakeClock::default());
            let filters = [Arc::clone(&filter)];
            let (mut opened_at, mut passed_closed, mut passed_half_open) = (None, 0, 0);
            for (healthy, wait) in steps {
                clock.advance(Duration::from_millis(wait));
                let before = state_of(&filter, "pay");
                let script = if healthy { fine() } else { broken() };
                let _ = script.run(&filters, &kinds()[0], &clock, MINUTE).await;
                let after = state_of(&filter, "pay");
                let passed = script.calls() == 1;
                if before == 2.0 && passed {
                    let slept = clock.now() - opened_at.unwrap();
                    prop_assert!(slept >= Duration::from_secs(4), "slept only {slept:?}");
                    passed_half_open = 0;
                }
                if before != 0.0 && passed { passed_half_open += 1; }
                if before == 0.0 { passed_closed += 1; prop_assert!(passed); }
                if before == 0.0 && after == 2.0 { prop_assert!(passed_closed >= 4); }
                if before != 0.0 && after == 0.0 { prop_assert_eq!(passed_half_open, 2); passed_closed = 0; }
                if after == 2.0 && (before != 2.0 || passed) { opened_at = Some(clock.now()); passed_half_open = 0; }
            }
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn settings_per_operation_override_the_common_ones() {
    let own = "query = { request_volume_threshold = 2, sleep_window = \"1s\" }\nrefund = { force = \"off\" }";
    let (filter, clock) = (breaker(&format!("{SMALL}\n{own}")), FakeClock::default());
    let filters = [Arc::clone(&filter)];
    for operation in &kinds() {
        for _ in 0..2 {
            fail(&filters, operation, &clock).await;
        }
    }
    let state = |operation| state_of(&filter, operation);
    assert_eq!((state("pay"), state("query"), state("query_refund")), (0.0, 2.0, 0.0));
    let error = fine().run(&filters, &kinds()[1], &clock, MINUTE).await.unwrap_err();
    assert!(matches!(error, Error::Rejected { retry_after: 1, .. }), "{error:?}");
    for _ in 0..20 {
        fail(&filters, &kinds()[3], &clock).await;
    }
    assert_eq!(state("refund"), 0.0, "off");
    // `force = "open"` for all operations spares queries, unless a query's own table forces it too.
    let stopped = built("breaker", "force = \"open\"\nquery_refund = { force = \"open\" }", None).unwrap();
    let filters = [Arc::clone(&stopped)];
    for (operation, passes) in kinds().iter().zip([false, true, false, false, false]) {
        assert_eq!(fine().run(&filters, operation, &clock, MINUTE).await.is_ok(), passes, "{:?}", operation.kind());
    }
}

#[tokio::test]
async fn callers_short_timeout_opens_no_breaker_but_counts_as_slow() {
    let (filter, clock) = (breaker(SMALL), FakeClock::default());
    let (filters, operation) = ([Arc::clone(&filter)], &kinds()[0]);
    let hasty = async |filters: &[Arc<dyn Filter>], wait: Duration, deadline_is_callers: bool| {
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let script = broken().behind(gate.clone());
        let mut call = Box::pin(script.run_for(filters, operation, &clock, wait, deadline_is_callers));
        let early = tokio::time::timeout(Duration::from_millis(1), &mut call).await;
        assert!(early.is_err(), "the breaker admitted the call, which waits for the provider");
        clock.advance(wait);
        gate.add_permits(1);
        assert_eq!(call.await, Err(Error::unclear("cut")));
    };
    for _ in 0..20 {
        hasty(&filters, Duration::from_millis(50), true).await;
    }
    assert_eq!(state_of(&filter, "pay"), 0.0, "one merchant's short timeout does not affect the others");
    for _ in 0..4 {
        hasty(&filters, Duration::from_millis(50), false).await;
    }
    assert_eq!(state_of(&filter, "pay"), 2.0, "the channel's own timeout expired");
    let slow = breaker(&format!("{SMALL}\nslow_call = {{ duration = \"1s\" }}"));
    for _ in 0..4 {
        hasty(&[Arc::clone(&slow)], Duration::from_secs(1), true).await;
    }
    assert_eq!(state_of(&slow, "pay"), 2.0, "a call of that duration is slow, even if its caller ended it");
}

#[tokio::test]
async fn state_changes_are_counted_by_reason_and_list_failure_reasons() {
    let (filter, clock) = (breaker(SMALL), FakeClock::default());
    let (filters, operation) = ([Arc::clone(&filter)], &kinds()[0]);
    let provider_error = ProviderError { code: "SYSTEM_ERROR".into(), message: String::new() };
    let failures = [
        Error::NotSent("x".into()),
        Error::Unclear { why: "x".into(), provider_error: Some(provider_error) },
        Error::NotSent("x".into()),
        Error::Mismatch("x".into()),
    ];
    for error in failures {
        Script::always(Err(error)).run(&filters, operation, &clock, MINUTE).await.unwrap_err();
    }
    let reason = filter.statuses(clock.now())[0].reason.clone();
    assert_eq!(reason, "4 of 4 calls failed within 10s: 2 not_sent, 1 SYSTEM_ERROR, 1 mismatch");
    clock.advance(Duration::from_secs(5));
    fail(&filters, operation, &clock).await;
    assert_eq!(filter.statuses(clock.now())[0].reason, "a probe failed: unclear");
    clock.advance(Duration::from_secs(10));
    for _ in 0..2 {
        succeed(&filters, operation, &clock).await;
    }
    let changes: Vec<_> =
        filter.samples(clock.now()).into_iter().filter_map(|it| Some((it.change?, it.value))).collect();
    let change = |from, to, reason| Change { from, to, reason };
    let expected = [
        (change("closed", "open", "errors"), 1.0),
        (change("half_open", "closed", "probes_succeeded"), 1.0),
        (change("half_open", "open", "probe_failed"), 1.0),
        (change("open", "half_open", "sleep_over"), 2.0),
    ];
    assert_eq!(changes, expected);
}

#[tokio::test]
async fn sleep_window_doubles_up_to_a_minute_and_resets_after_closing() {
    let (filter, clock) = (breaker(SMALL), FakeClock::default());
    let (filters, operation) = ([Arc::clone(&filter)], &kinds()[0]);
    opened(&filter, &clock).await;
    for sleep in [5, 10, 20, 40, 60, 60] {
        let error = fine().run(&filters, operation, &clock, MINUTE).await.unwrap_err();
        assert!(matches!(error, Error::Rejected { retry_after, .. } if retry_after == sleep), "{sleep}: {error:?}");
        clock.advance(Duration::from_secs(sleep));
        // One success before the next failure does not reset the sleep window.
        succeed(&filters, operation, &clock).await;
        fail(&filters, operation, &clock).await;
        assert_eq!(state_of(&filter, "pay"), 2.0);
    }
    clock.advance(MINUTE);
    for _ in 0..2 {
        succeed(&filters, operation, &clock).await;
    }
    opened(&filter, &clock).await;
    let error = fine().run(&filters, operation, &clock, MINUTE).await.unwrap_err();
    assert!(matches!(error, Error::Rejected { retry_after: 5, .. }), "{error:?}");
}

mod probes;
