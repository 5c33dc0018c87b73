//! Two machines on a real Redis.
#![allow(clippy::unwrap_used, clippy::panic)]

use tollgate_plugins::filter::Counter;
use tollgate_plugins::filter::limit::Rate;

use super::*;
use crate::cache::nonces::{Nonces, RateCheck};
use crate::cache::testing::{Server, name};
use crate::cache::{Admitted, Counters};
use crate::ledger::ChangeListener;

const LIFE: Duration = Duration::from_secs(60);

/// A machine that heard of every change for a long time, as far as it knows.
fn machine(server: &Server) -> (RedisStatuses, StatusCache) {
    let shared = RedisStatuses::new(server.line());
    shared.is_about("ledger".to_owned());
    let statuses = StatusCache::new(Some(server.line()), Instant::now());
    statuses.subscribed(None);
    statuses.pretend_hearing_since(Instant::now() - Duration::from_secs(100));
    (shared, statuses)
}

fn answer(version: u64) -> CachedStatus {
    let body = Bytes::from(format!("version {version}"));
    let age = Version { created: 1_700_000_000_000_000, version };
    CachedStatus { body, channel: "main".to_owned(), age, is_asked: true, is_stale: false }
}

async fn asks((shared, statuses): &(RedisStatuses, StatusCache), forced: bool) -> Flight {
    match shared.elsewhere(statuses, name("o"), forced).await {
        ClusterLookup::Leader(flight) => flight,
        ClusterLookup::Hit(status, _) => panic!("{status:?}"),
        ClusterLookup::Unavailable => panic!("alone"),
    }
}

async fn finds((shared, statuses): &(RedisStatuses, StatusCache), forced: bool) -> (CachedStatus, Duration) {
    match shared.elsewhere(statuses, name("o"), forced).await {
        ClusterLookup::Hit(status, left) => (CachedStatus::clone(&status), left),
        ClusterLookup::Leader(_) => panic!("it is to ask itself"),
        ClusterLookup::Unavailable => panic!("alone"),
    }
}

async fn tell((shared, statuses): &(RedisStatuses, StatusCache), flight: Flight, status: &CachedStatus) {
    let token = statuses.token(name("o"), Instant::now());
    shared.put(name("o"), flight, token, status, LIFE).await;
}

#[tokio::test]
async fn one_asks_and_all_hear_the_answer() {
    let server = Server::start();
    let (one, other) = (machine(&server), machine(&server));
    let flight = asks(&one, false).await;
    // Those who come meanwhile wait for it.
    let waiting = async { finds(&other, false).await };
    let answering = async {
        tokio::time::sleep(LOOK * 3).await;
        tell(&one, flight, &answer(2)).await;
    };
    let ((found, left), ()) = tokio::join!(waiting, answering);
    assert_eq!(found, answer(2));
    assert!(left <= LIFE && left > LIFE / 2, "{left:?}");
    assert_eq!(finds(&one, false).await.0, answer(2));
    // Who wants no answer that is there already asks, and who wants none either waits for that one.
    let flight = asks(&one, true).await;
    let waiting = async { finds(&other, true).await };
    let answering = async {
        tokio::time::sleep(LOOK * 3).await;
        tell(&one, flight, &answer(3)).await;
    };
    let ((found, _), ()) = tokio::join!(waiting, answering);
    assert_eq!(found, answer(3));
    // What was read from the ledger alone is not good enough for who wants the provider's word.
    let flight = asks(&one, true).await;
    let waiting = async { asks(&other, true).await };
    let answering = async {
        tokio::time::sleep(LOOK * 3).await;
        tell(&one, flight, &CachedStatus { is_asked: false, ..answer(3) }).await;
    };
    let (flight, ()) = tokio::join!(waiting, answering);
    other.0.end(name("o"), flight).await;
    // A flight that came to nothing is in nobody's way.
    let flight = asks(&one, true).await;
    one.0.end(name("o"), flight).await;
    let _ = asks(&other, true).await;
}

#[tokio::test]
async fn an_older_answer_never_takes_the_place_of_a_newer_one() {
    let server = Server::start();
    let (one, other) = (machine(&server), machine(&server));
    let (late, early) = (Flight("late".to_owned()), Flight("early".to_owned()));
    tell(&one, early, &answer(5)).await;
    tell(&other, late, &answer(4)).await;
    assert_eq!(finds(&one, false).await.0, answer(5));
    // The order was given back and claimed anew: version 1 of that is newer.
    let again = CachedStatus { age: Version { created: 1_700_000_000_000_001, version: 1 }, ..answer(1) };
    tell(&one, Flight("new".to_owned()), &again).await;
    tell(&other, Flight("old".to_owned()), &answer(9)).await;
    assert_eq!(finds(&one, false).await.0, again);
}

#[tokio::test]
async fn what_a_machine_knows_to_be_old_it_does_not_take_from_there() {
    let server = Server::start();
    let (one, other) = (machine(&server), machine(&server));
    tell(&one, Flight("f".to_owned()), &answer(2)).await;
    let became = crate::ledger::Changes { updated: vec![(name("o"), answer(3).age)], ..Default::default() };
    other.1.before_commit(&became);
    other.1.after_commit(&became);
    let flight = asks(&other, false).await;
    tell(&other, flight, &answer(3)).await;
    assert_eq!(finds(&other, false).await.0, answer(3));
    // Another ledger's answers are another's.
    let elsewhere = RedisStatuses::new(server.line());
    elsewhere.is_about("another".to_owned());
    let _ = asks(&(elsewhere, machine(&server).1), false).await;
}

#[tokio::test]
async fn without_redis_each_is_alone_at_once() {
    let server = Server::start();
    let one = machine(&server);
    tell(&one, Flight("f".to_owned()), &answer(2)).await;
    let counters = Counters::new(Some(server.line()));
    drop(server);
    assert!(matches!(one.0.elsewhere(&one.1, name("o"), false).await, ClusterLookup::Unavailable));
    assert_eq!(counters.take("x", Rate { per_second: 1.0, burst: 1.0 }).await, None);
}

#[tokio::test]
async fn a_bucket_is_one_for_all_and_fills_at_its_rate() {
    let server = Server::start();
    let machines = [Counters::new(Some(server.line())), Counters::new(Some(server.line()))];
    let slow = Rate { per_second: 0.01, burst: 5.0 };
    let mut taken = Vec::new();
    for machine in machines.iter().cycle().take(8) {
        taken.push(machine.take("slow", slow).await.unwrap());
    }
    assert!(taken[..5].iter().all(Result::is_ok), "{taken:?}");
    assert!(taken[5..].iter().all(|taken| matches!(taken, Err(90..=100))), "{taken:?}");
    assert_eq!(machines[0].take("other", slow).await, Some(Ok(())));
    // One that was used up is refilled, a token after another.
    let quick = Rate { per_second: 0.5, burst: 1.0 };
    assert_eq!(machines[0].take("quick", quick).await, Some(Ok(())));
    assert!(matches!(machines[1].take("quick", quick).await, Some(Err(1..=2))));
    while machines[1].take("quick", quick).await != Some(Ok(())) {
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
}

#[tokio::test]
async fn a_token_is_taken_only_by_who_is_let_in() {
    let server = Server::start();
    let machines = [Nonces::new(server.line()), Nonces::new(server.line())];
    let toll = Some(RateCheck { merchant: "shop", rate: Rate { per_second: 0.01, burst: 2.0 } });
    let admit = async |machine: usize, mark: u8| {
        machines[machine].admit(("shop", [mark; 16]), (1600, 1000), toll).await.unwrap()
    };
    assert_eq!(admit(0, 1).await, Admitted { first_time: true, counted: Some(Ok(())) });
    for _ in 0..5 {
        assert_eq!(admit(1, 1).await, Admitted { first_time: false, counted: None }, "seen on the other machine");
    }
    assert_eq!(admit(1, 2).await, Admitted { first_time: true, counted: Some(Ok(())) });
    for machine in [0, 1, 0] {
        let over = admit(machine, 3).await;
        assert!(
            matches!(over, Admitted { first_time: true, counted: Some(Err(90..=100)) }),
            "it leaves no nonce: {over:?}"
        );
    }
}

#[tokio::test]
async fn without_redis_no_nonce_is_good_anywhere() {
    let server = Server::start();
    let machines = [Nonces::new(server.line()), Nonces::new(server.line())];
    let admit = async |machine: usize, mark: u8| {
        machines[machine].admit(("shop", [mark; 16]), (1600, 1000), None).await.map(|admitted| admitted.first_time)
    };
    assert_eq!(admit(0, 1).await, Ok(true));
    assert_eq!(admit(1, 1).await, Ok(false));
    drop(server);
    for (machine, mark) in [(0, 1), (0, 2), (1, 2)] {
        admit(machine, mark).await.unwrap_err();
    }
}
