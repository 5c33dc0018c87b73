//! Who hears of what changes, over several processes on one PostgreSQL.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::server::Server;
use super::*;

/// Writes down what it hears.
#[derive(Default)]
struct Ear(Mutex<Vec<Told>>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    Before(Changes),
    After(Changes),
    Deaf,
}

impl ChangeListener for Ear {
    fn before_commit(&self, changes: &Changes) {
        self.0.lock().push(Told::Before(changes.clone()));
    }

    fn after_commit(&self, changes: &Changes) {
        self.0.lock().push(Told::After(changes.clone()));
    }

    fn subscribed(&self, _: Option<Instant>) {}

    fn disconnected(&self) {
        self.0.lock().push(Told::Deaf);
    }
}

fn name(order: &str) -> RecordKey {
    RecordKey::of(&RecordId { merchant: "shop".into(), order_id: order.into(), refund_id: None })
}

/// Two processes; the second listens. On a server of their own, because others' noise is heard in the whole of it.
async fn two(place: Schema) -> (Schema, [Ledger; 2], Arc<Ear>) {
    let ledgers = [place.connect(2), place.connect(2)];
    let ear = Arc::new(Ear::default());
    ledgers[1].listen(Arc::clone(&ear) as Arc<dyn ChangeListener>).unwrap();
    until(|| async { ledgers[1].caught_up().await }).await;
    ear.0.lock().clear();
    (place, ledgers, ear)
}

async fn until<F: Future<Output = bool>>(mut is_so: impl FnMut() -> F) {
    let end = Instant::now() + Duration::from_secs(120);
    while !is_so().await {
        assert!(Instant::now() < end, "waited in vain");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn run(ledger: &Ledger, order: &str) -> ExecutionPermit {
    match ledger.claim(claim_key(order, ""), pay(order), at(0)).await.unwrap() {
        ClaimResult::Run(permit) => permit,
        other => panic!("{other:?}"),
    }
}

fn is_born(ear: &Ear, order: &str) -> bool {
    ear.0.lock().iter().any(|told| matches!(told, Told::Before(changes) if changes.inserted.contains(&name(order))))
}

fn became(ear: &Ear, order: &str, version: u64) -> [bool; 2] {
    let has =
        |changes: &Changes| changes.updated.iter().any(|(named, age)| *named == name(order) && age.version == version);
    let told = ear.0.lock();
    [
        told.iter().any(|told| matches!(told, Told::Before(changes) if has(changes))),
        told.iter().any(|told| matches!(told, Told::After(changes) if has(changes))),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn caught_up_listener_has_received_every_durable_change() {
    let server = Server::start(&[]);
    let (_place, [maker, other], ear) = two(Schema::on(&server)).await;
    for number in 0..50 {
        let order = format!("o-{number}");
        let permit = run(&maker, &order).await;
        assert!(other.caught_up().await);
        assert!(is_born(&ear, &order), "{order}");
        maker.settle(permit, outcome(Status::Pending), at(1), answer).await.unwrap();
        assert!(other.caught_up().await);
        assert!(became(&ear, &order, 2)[0], "{order}");
    }
    until(|| async { became(&ear, "o-49", 2) == [true, true] }).await;
    // What a process changes itself it hears without asking anybody.
    let permit = run(&other, "own").await;
    assert!(is_born(&ear, "own") && became(&ear, "own", 1) == [true, true]);
    other.release(permit).await.unwrap();
    let gone = |told: &Told| matches!(told, Told::After(changes) if changes.deleted.contains(&name("own")));
    assert!(ear.0.lock().iter().any(gone));
    assert!(!ear.0.lock().contains(&Told::Deaf));
}

#[tokio::test(flavor = "multi_thread")]
async fn transaction_sends_notify_itself_when_the_announcer_fails() {
    let server = Server::start(&[]);
    let (place, [maker, other], ear) = two(Schema::on(&server)).await;
    drop(run(&maker, "first").await);
    for round in 0..3 {
        place.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE query LIKE '%pg_notify(channel%' AND pid <> pg_backend_pid()",
        );
        let order = format!("o-{round}");
        let _ticket = run(&maker, &order).await;
        assert!(other.caught_up().await);
        assert!(is_born(&ear, &order), "{order}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn disconnected_listener_is_reported_and_resubscribes() {
    let server = Server::start(&[]);
    let (place, [maker, other], ear) = two(Schema::on(&server)).await;
    place.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tollgate feed'");
    until(|| async { ear.0.lock().contains(&Told::Deaf) }).await;
    until(|| async { other.caught_up().await }).await;
    let _ticket = run(&maker, "o").await;
    assert!(other.caught_up().await && is_born(&ear, "o"));
}

#[tokio::test(flavor = "multi_thread")]
async fn import_of_a_ledger_disconnects_running_listeners() {
    let server = Server::start(&[]);
    let (place, [_, other], ear) = two(Schema::on(&server)).await;
    let old = Fixture::<Directory>::new();
    drop(run(&old.ledger, "o").await);
    let Fixture { ledger, place: directory } = old;
    drop(ledger);
    migrate(directory.path(), place.address()).unwrap();
    until(|| async { other.caught_up().await }).await;
    assert!(ear.0.lock().contains(&Told::Deaf));
}

#[tokio::test(flavor = "multi_thread")]
async fn quiesce_waits_for_transactions_in_progress() {
    let server = Server::start(&[]);
    let (place, [_, other], _) = two(Schema::on(&server)).await;
    let address = place.address();
    // Somebody writes, and takes a second until he commits.
    let slow = std::thread::spawn(move || {
        postgres::sql(
            address,
            "BEGIN; INSERT INTO tollgate_records VALUES (5, '\\x00000000000000000000000000000001', '');
             SELECT pg_sleep(1); COMMIT"
                .into(),
        )
    });
    let running = || async { other.names(None, 10).await.unwrap().is_empty() };
    const SLEEPS: &str = "\
        SELECT 1 / count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(1)%' AND wait_event = 'PgSleep'";
    until(|| async { postgres::sql(place.address(), SLEEPS.into()).is_ok() }).await;
    assert!(running().await, "it is not committed yet");
    other.quiesce().await.unwrap();
    assert_eq!(other.names(None, 10).await.unwrap().len(), 1);
    slow.join().unwrap().unwrap();
}
