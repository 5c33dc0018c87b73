//! Half-open breaker: acquisition and release of probe permits.

use super::*;

#[tokio::test]
async fn breaker_closes_after_all_probes_succeed_and_doubles_sleep_after_a_failed_one() {
    let (filter, clock) = (breaker(SMALL), FakeClock::default());
    let filters = [Arc::clone(&filter)];
    opened(&filter, &clock).await;
    clock.advance(Duration::from_secs(5));
    fail(&filters, &kinds()[0], &clock).await;
    let error = fine().run(&filters, &kinds()[0], &clock, MINUTE).await.unwrap_err();
    assert!(matches!(error, Error::Rejected { retry_after: 10, .. }), "doubled: {error:?}");
    clock.advance(Duration::from_secs(10));
    succeed(&filters, &kinds()[0], &clock).await;
    assert_eq!(state_of(&filter, "pay"), 1.0, "one of two permits");
    succeed(&filters, &kinds()[0], &clock).await;
    assert_eq!(state_of(&filter, "pay"), 0.0);
}

#[tokio::test]
async fn late_probe_with_expired_permit_is_not_counted() {
    let (filter, clock) = (breaker(SMALL), FakeClock::default());
    let (filters, operation) = ([Arc::clone(&filter)], &kinds()[0]);
    opened(&filter, &clock).await;
    clock.advance(Duration::from_secs(5));
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let late = Script::gated(Err(Error::unclear("cut")), gate.clone());
    let mut late = Box::pin(late.run(&filters, operation, &clock, Duration::from_secs(3)));
    assert!(tokio::time::timeout(Duration::from_millis(1), &mut late).await.is_err(), "it hangs");
    clock.advance(Duration::from_secs(4));
    let second_gate = Arc::new(tokio::sync::Semaphore::new(0));
    let second = Script::gated(Ok(Outcome::of(Status::Pending)), second_gate.clone());
    let mut second = Box::pin(second.run(&filters, operation, &clock, MINUTE));
    assert!(tokio::time::timeout(Duration::from_millis(1), &mut second).await.is_err(), "it hangs");
    gate.add_permits(1);
    late.await.unwrap_err();
    assert_eq!(state_of(&filter, "pay"), 1.0, "its failure came too late to count");
    second_gate.add_permits(1);
    second.await.unwrap();
    succeed(&filters, operation, &clock).await;
    assert_eq!(state_of(&filter, "pay"), 0.0);
}

#[tokio::test]
async fn dropped_and_hung_probes_release_their_permits() {
    let (filter, clock) = (breaker(SMALL), FakeClock::default());
    let filters = [Arc::clone(&filter)];
    opened(&filter, &clock).await;
    clock.advance(Duration::from_secs(5));
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let hanging = Script::gated(Ok(Outcome::of(Status::Pending)), gate);
    let operation = &kinds()[0];
    let mut probes = [
        Box::pin(hanging.run(&filters, operation, &clock, Duration::from_secs(3))),
        Box::pin(hanging.run(&filters, operation, &clock, Duration::from_secs(3))),
    ];
    for probe in &mut probes {
        assert!(tokio::time::timeout(Duration::from_millis(1), probe).await.is_err(), "it hangs");
    }
    assert!(fine().run(&filters, operation, &clock, MINUTE).await.is_err(), "no permit is left");
    let [dropped, hung] = probes;
    drop(dropped);
    succeed(&filters, operation, &clock).await;
    assert!(fine().run(&filters, operation, &clock, MINUTE).await.is_err(), "one succeeded, one hangs");
    clock.advance(Duration::from_secs(4));
    succeed(&filters, operation, &clock).await;
    assert_eq!(state_of(&filter, "pay"), 0.0);
    drop(hung);
    assert_eq!(state_of(&filter, "pay"), 0.0, "a probe of an earlier epoch is not counted");
}

#[tokio::test]
async fn probe_permit_expires_after_half_open_max_wait() {
    let (filter, clock) = (
        breaker("request_volume_threshold = 4\nhalf_open_permits = 1\nhalf_open_max_wait = \"2s\""),
        FakeClock::default(),
    );
    let (filters, operation) = ([Arc::clone(&filter)], &kinds()[0]);
    opened(&filter, &clock).await;
    clock.advance(Duration::from_secs(5));
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let hanging = fine().behind(gate.clone());
    let mut hung = Box::pin(hanging.run(&filters, operation, &clock, MINUTE));
    assert!(tokio::time::timeout(Duration::from_millis(1), &mut hung).await.is_err(), "it hangs");
    clock.advance(Duration::from_millis(1999));
    assert!(fine().run(&filters, operation, &clock, MINUTE).await.is_err());
    clock.advance(Duration::from_millis(1));
    succeed(&filters, operation, &clock).await;
    assert_eq!(state_of(&filter, "pay"), 0.0, "the second probe closed it");
    gate.add_permits(1);
    hung.await.unwrap();
}

type Running<'a> = Pin<Box<dyn Future<Output = Result<Outcome, Error>> + 'a>>;

proptest! {
    /// For any results of probes (success, failure, hang, drop, late end): no more counted probes than permits are in flight; a
    /// healthy channel closes the breaker after the remaining probes expired; and payments do not affect queries.
    #[test]
    fn probes_never_exceed_permits_and_healthy_channel_closes_the_breaker(steps in proptest::collection::vec((0u8..4, 0u64..1500), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let toml = format!("{SMALL}\nhalf_open_max_wait = \"2s\"");
            let (filter, clock) = (breaker(&toml), FakeClock::default());
            let (filters, pay) = ([Arc::clone(&filter)], &kinds()[0]);
            opened(&filter, &clock).await;
            let gate = Arc::new(tokio::sync::Semaphore::new(0));
            let hanging = fine().behind(gate.clone());
            let mut hung: Vec<(Duration, Running<'_>)> = Vec::new();
            for (step, wait) in steps {
                clock.advance(Duration::from_millis(wait));
                let now = clock.now();
                match step {
                    0 => drop(fine().run(&filters, pay, &clock, MINUTE).await),
                    1 => drop(broken().run(&filters, pay, &clock, MINUTE).await),
                    2 => {
                        let before = state_of(&filter, "pay");
                        let mut call: Running<'_> = Box::pin(hanging.run(&filters, pay, &clock, MINUTE));
                        let is_ready = call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready();
                        if !is_ready && before != 0.0 {
                            hung.push((now + Duration::from_secs(2), call));
                        }
                    }
                    _ => drop(hung.pop()),
                }
                if state_of(&filter, "pay") == 1.0 {
                    let counted = hung.iter().filter(|(expires, _)| *expires > now).count();
                    prop_assert!(counted <= 2, "{counted} probes in flight");
                } else {
                    hung.clear();
                }
                prop_assert_eq!(state_of(&filter, "query"), 0.0);
            }
            drop(hung);
            clock.advance(MINUTE + MINUTE);
            for _ in 0..2 {
                prop_assert!(fine().run(&filters, pay, &clock, MINUTE).await.is_ok());
            }
            prop_assert_eq!(state_of(&filter, "pay"), 0.0);
            Ok(())
        })?;
    }
}
