//! Outages of PostgreSQL, and connections cut at the worst moment.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::backends::shared;
use super::relay::Relay;
use super::server::Server;
use super::*;

/// Waits until a condition holds; panics with its name after a timeout.
pub(super) async fn until(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(120);
    while !look().await {
        assert!(Instant::now() < end, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_outage_rejects_claims_then_recovers() {
    let server = Server::start(&[]);
    let backend = Schema::on(&server);
    let fixture = Fixture { ledger: backend.connect(3), backend };
    fixture.paid("before").await;
    let [held, lost] = [fixture.run("held", pay("held")).await, fixture.run("lost", pay("lost")).await];
    server.crash();
    for number in 0..5 {
        let key = format!("while {number}");
        assert!(fixture.ledger.claim(claim_key(&key, ""), pay(&key), at(0)).await.is_err());
    }
    assert!(fixture.ledger.payment("shop", "before").await.is_err());
    assert!(
        fixture
            .ledger
            .record("wechat", notification("e", "before", None, Outcome::of(Status::Closed)), at(1))
            .await
            .is_err()
    );
    assert!(fixture.ledger.settle(lost, outcome(Status::Succeeded), at(1), answer).await.is_err());
    assert!(fixture.ledger.due_inquiries(at(10), 10, &[]).await.is_empty());
    assert!(!fixture.ledger.is_healthy());
    server.revive();
    until("it is healthy", async || fixture.ledger.is_healthy()).await;
    until("connections are back", async || fixture.ledger.payment("shop", "before").await.is_ok()).await;
    assert_eq!(fixture.payment("before").await.status, Status::Succeeded);
    fixture.paid("after").await;
    // A claim whose end could not be written gets an inquiry; one with a permit stays as it is.
    until("the lost one is unknown", async || fixture.payment("lost").await.status == Status::Unknown).await;
    assert_eq!(fixture.due().await.len(), 1);
    assert_eq!(fixture.payment("held").await.version, 1);
    fixture.settle(held, outcome(Status::Pending)).await;
    for number in 0..5 {
        fixture.run(&format!("while {number}"), pay(&format!("while {number}"))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn claim_with_unconfirmed_commit_sends_nothing_and_is_rolled_back() {
    let backend = Schema::new();
    let relay = Relay::new(shared());
    let fixture = Fixture { ledger: relay.ledger(&backend), backend };
    fixture.paid("warm").await;
    let looker = fixture.backend.connect(1);
    relay.cuts.store(true, Ordering::SeqCst);
    let claimed = fixture.ledger.claim(claim_key("k", ""), pay("o"), at(0)).await;
    assert!(claimed.is_err(), "{claimed:?}");
    assert!(!relay.cuts.load(Ordering::SeqCst), "it was the commit that was cut");
    until("it is taken back", async || looker.payment("shop", "o").await.unwrap().is_none()).await;
    fixture.run("k", pay("o")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settlement_with_unconfirmed_commit_stays_as_committed() {
    let backend = Schema::new();
    let relay = Relay::new(shared());
    let fixture = Fixture { ledger: relay.ledger(&backend), backend };
    let permit = fixture.run("k", pay("o")).await;
    relay.cuts.store(true, Ordering::SeqCst);
    assert!(fixture.ledger.settle(permit, outcome(Status::Succeeded), at(1), answer).await.is_err());
    // The drop of the permit finds no running claim any more.
    let claimed = fixture.claim("k", pay("o")).await;
    assert!(matches!(claimed, ClaimResult::Replay(_)), "{claimed:?}");
    assert_eq!(fixture.payment("o").await.status, Status::Succeeded);
}

/// Returns a ledger with one connection for requests, and a session that locks its records.
async fn locked() -> (Schema, Ledger, tokio_postgres::Client) {
    let backend = Schema::on(shared());
    let ledger = backend.connect(1);
    let (client, connection) = tokio_postgres::connect(&shared().url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let lock = format!("BEGIN; LOCK TABLE {}.tollgate_records IN EXCLUSIVE MODE", backend.name());
    client.batch_execute(&lock).await.unwrap();
    (backend, ledger, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn claim_or_job_whose_caller_timed_out_is_not_started() {
    let (_place, ledger, client) = locked().await;
    let mut first = Box::pin(ledger.claim(claim_key("first", ""), pay("first"), at(0)));
    let mut job = Box::pin(ledger.enqueue(claim_key("job", ""), pay("job"), "{}".into(), 9, at(0)));
    let mut claim = Box::pin(ledger.claim(claim_key("claim", ""), pay("claim"), at(0)));
    // Each is polled once, so that it is queued; the first has the only connection.
    tokio::select! { biased; _ = &mut first => panic!(), () = std::future::ready(()) => {} }
    tokio::select! { biased; _ = &mut job => panic!(), () = std::future::ready(()) => {} }
    tokio::select! { biased; _ = &mut claim => panic!(), () = std::future::ready(()) => {} }
    drop((job, claim));
    client.batch_execute("ROLLBACK").await.unwrap();
    assert!(matches!(first.await.unwrap(), ClaimResult::Run(_)));
    // One after another: work queued before this has run, or never will.
    assert_eq!(ledger.payment("shop", "job").await.unwrap(), None);
    assert_eq!(ledger.payment("shop", "claim").await.unwrap(), None);
    assert_eq!(ledger.due_job_ids(at(10), 9).await.len(), 0);
}

#[tokio::test]
async fn enqueue_timeout_is_in_doubt_not_rejected() {
    let (_place, ledger, client) = locked().await;
    // From here on a timeout passes as soon as all tasks are idle.
    tokio::time::pause();
    let accepted = ledger.enqueue(claim_key("job", ""), pay("job"), "{}".into(), 9, at(0)).await.unwrap();
    assert!(matches!(accepted, ClaimResult::InDoubt(_)), "{accepted:?}");
    tokio::time::resume();
    client.batch_execute("ROLLBACK").await.unwrap();
}
