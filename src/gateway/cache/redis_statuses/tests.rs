//! Tests with two gateways on a real Redis server.
#![allow(clippy::unwrap_used, clippy::panic)]

use tollgate_ledger::ChangeListener;
use tollgate_plugins::filter::Counter;
use tollgate_plugins::filter::limit::Rate;

use super::*;
use crate::cache::nonces::{Nonces, RateCheck};
use crate::cache::statuses::StatusCache;
use crate::cache::testing::{Server, name};
use crate::cache::{Admitted, Counters};

const LIFE: Duration = Duration::from_secs(60);

/// Returns a gateway that has received every change for a long time.
fn machine(server: &Server) -> (RedisStatuses, StatusCache) {
    let shared = RedisStatuses::new(server.client());
    shared.set_ledger("ledger".to_owned());
    let statuses = StatusCache::new(Some(server.client()), Instant::now());
    statuses.subscribed(None);
    statuses.pretend_subscribed_since(Instant::now() - Duration::from_secs(100));
    (shared, statuses)
}

fn answer(version: u64) -> CachedStatus {
    let body = Bytes::from(format!("version {version}"));
    let age = Version { created: 1_700_000_000_000_000, version };
    CachedStatus { body, channel: "main".to_owned(), age, is_from_provider: true, is_stale: false }
}

async fn find(shared: &RedisStatuses, statuses: &StatusCache, forced: bool) -> ClusterLookup {
    let is_current = |age, stored_for| statuses.is_current(name("o"), age, stored_for, Instant::now());
    shared.find(name("o"), forced, is_current).await
}

async fn asks((shared, statuses): &(RedisStatuses, StatusCache), forced: bool) -> QueryLease {
    match find(shared, statuses, forced).await {
        ClusterLookup::Leader(lease) => lease,
        ClusterLookup::Hit(status, _) => panic!("{status:?}"),
        ClusterLookup::Unavailable => panic!("alone"),
    }
}

async fn finds((shared, statuses): &(RedisStatuses, StatusCache), forced: bool) -> (CachedStatus, Duration) {
    match find(shared, statuses, forced).await {
        ClusterLookup::Hit(status, left) => (CachedStatus::clone(&status), left),
        ClusterLookup::Leader(_) => panic!("it is to ask itself"),
        ClusterLookup::Unavailable => panic!("alone"),
    }
}

async fn store((shared, statuses): &(RedisStatuses, StatusCache), lease: QueryLease, status: &CachedStatus) {
    let token = statuses.token(name("o"), Instant::now());
    shared.put(name("o"), lease, token, status, LIFE).await;
}

#[tokio::test]
async fn one_gateway_queries_and_all_get_the_result() {
    let server = Server::start();
    let (one, other) = (machine(&server), machine(&server));
    let lease = asks(&one, false).await;
    // A gateway that comes meanwhile waits for the result.
    let waiting = async { finds(&other, false).await };
    let answering = async {
        tokio::time::sleep(LEASE_POLL_INTERVAL * 3).await;
        store(&one, lease, &answer(2)).await;
    };
    let ((found, left), ()) = tokio::join!(waiting, answering);
    assert_eq!(found, answer(2));
    assert!(left <= LIFE && left > LIFE / 2, "{left:?}");
    assert_eq!(finds(&one, false).await.0, answer(2));
    // A forced lookup starts a query, and a second forced lookup waits for that one.
    let lease = asks(&one, true).await;
    let waiting = async { finds(&other, true).await };
    let answering = async {
        tokio::time::sleep(LEASE_POLL_INTERVAL * 3).await;
        store(&one, lease, &answer(3)).await;
    };
    let ((found, _), ()) = tokio::join!(waiting, answering);
    assert_eq!(found, answer(3));
    // A status from the ledger alone does not satisfy a forced lookup.
    let lease = asks(&one, true).await;
    let waiting = async { asks(&other, true).await };
    let answering = async {
        tokio::time::sleep(LEASE_POLL_INTERVAL * 3).await;
        store(&one, lease, &CachedStatus { is_from_provider: false, ..answer(3) }).await;
    };
    let (lease, ()) = tokio::join!(waiting, answering);
    other.0.end(name("o"), lease).await;
    // A lease without a result blocks nobody.
    let lease = asks(&one, true).await;
    one.0.end(name("o"), lease).await;
    let _ = asks(&other, true).await;
}

#[tokio::test]
async fn older_status_never_replaces_a_newer_one() {
    let server = Server::start();
    let (one, other) = (machine(&server), machine(&server));
    let (late, early) = (QueryLease("late".to_owned()), QueryLease("early".to_owned()));
    store(&one, early, &answer(5)).await;
    store(&other, late, &answer(4)).await;
    assert_eq!(finds(&one, false).await.0, answer(5));
    // The order was released and claimed again: version 1 of the new record is newer.
    let again = CachedStatus { age: Version { created: 1_700_000_000_000_001, version: 1 }, ..answer(1) };
    store(&one, QueryLease("new".to_owned()), &again).await;
    store(&other, QueryLease("old".to_owned()), &answer(9)).await;
    assert_eq!(finds(&one, false).await.0, again);
}

#[tokio::test]
async fn status_known_to_be_outdated_is_not_used() {
    let server = Server::start();
    let (one, other) = (machine(&server), machine(&server));
    store(&one, QueryLease("f".to_owned()), &answer(2)).await;
    let became = tollgate_ledger::Changes { updated: vec![(name("o"), answer(3).age)], ..Default::default() };
    other.1.before_commit(&became);
    other.1.after_commit(&became);
    let lease = asks(&other, false).await;
    store(&other, lease, &answer(3)).await;
    assert_eq!(finds(&other, false).await.0, answer(3));
    // Statuses of another ledger are separate.
    let elsewhere = RedisStatuses::new(server.client());
    elsewhere.set_ledger("another".to_owned());
    let _ = asks(&(elsewhere, machine(&server).1), false).await;
}

#[tokio::test]
async fn lookup_without_redis_is_unavailable_immediately() {
    let server = Server::start();
    let one = machine(&server);
    store(&one, QueryLease("f".to_owned()), &answer(2)).await;
    let counters = Counters::new(Some(server.client()));
    drop(server);
    assert!(matches!(find(&one.0, &one.1, false).await, ClusterLookup::Unavailable));
    assert_eq!(counters.take("x", Rate { per_second: 1.0, burst: 1.0 }).await, None);
}

#[tokio::test]
async fn token_bucket_is_shared_and_refilled_at_its_rate() {
    let server = Server::start();
    let machines = [Counters::new(Some(server.client())), Counters::new(Some(server.client()))];
    let slow = Rate { per_second: 0.01, burst: 5.0 };
    let mut taken = Vec::new();
    for machine in machines.iter().cycle().take(8) {
        taken.push(machine.take("slow", slow).await.unwrap());
    }
    assert!(taken[..5].iter().all(Result::is_ok), "{taken:?}");
    assert!(taken[5..].iter().all(|taken| matches!(taken, Err(90..=100))), "{taken:?}");
    assert_eq!(machines[0].take("other", slow).await, Some(Ok(())));
    // An empty bucket is refilled one token at a time.
    let quick = Rate { per_second: 0.5, burst: 1.0 };
    assert_eq!(machines[0].take("quick", quick).await, Some(Ok(())));
    assert!(matches!(machines[1].take("quick", quick).await, Some(Err(1..=2))));
    while machines[1].take("quick", quick).await != Some(Ok(())) {
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
}

#[tokio::test]
async fn replayed_or_rate_limited_request_takes_no_token_and_leaves_no_nonce() {
    let server = Server::start();
    let machines = [Nonces::new(server.client()), Nonces::new(server.client())];
    let rate_check = Some(RateCheck { merchant: "shop", rate: Rate { per_second: 0.01, burst: 2.0 } });
    let admit = async |machine: usize, mark: u8| {
        machines[machine].admit(("shop", [mark; 16]), (1600, 1000), rate_check).await.unwrap()
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
async fn token_without_nonce_comes_from_the_bucket_of_signed_requests() {
    let server = Server::start();
    let machines = [Nonces::new(server.client()), Nonces::new(server.client())];
    let rate_check = RateCheck { merchant: "shop", rate: Rate { per_second: 0.01, burst: 2.0 } };
    assert_eq!(machines[0].take_token(rate_check).await, Some(Ok(())));
    let admitted = machines[1].admit(("shop", [1; 16]), (1600, 1000), Some(rate_check)).await.unwrap();
    assert_eq!(admitted.counted, Some(Ok(())));
    assert!(matches!(machines[0].take_token(rate_check).await, Some(Err(90..=100))));
    drop(server);
    assert_eq!(machines[0].take_token(rate_check).await, None, "then each gateway counts alone");
}

#[tokio::test]
async fn nonces_are_rejected_while_redis_is_down() {
    let server = Server::start();
    let machines = [Nonces::new(server.client()), Nonces::new(server.client())];
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
