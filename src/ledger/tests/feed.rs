//! Change feed between several processes on one PostgreSQL.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::server::Server;
use super::*;

/// Records what a listener is called with.
#[derive(Default)]
struct RecordingListener(Mutex<Vec<Reported>>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Reported {
    Before(Changes),
    After(Changes),
    Disconnected,
}

impl ChangeListener for RecordingListener {
    fn before_commit(&self, changes: &Changes) {
        self.0.lock().push(Reported::Before(changes.clone()));
    }

    fn after_commit(&self, changes: &Changes) {
        self.0.lock().push(Reported::After(changes.clone()));
    }

    fn subscribed(&self, _: Option<Instant>) {}

    fn disconnected(&self) {
        self.0.lock().push(Reported::Disconnected);
    }
}

fn name(order: &str) -> RecordKey {
    RecordKey::of(&RecordId { merchant: "shop".into(), order_id: order.into(), refund_id: None })
}

/// Returns two processes; the second listens. Uses a server of its own, because notifications of other tests would
/// disturb it.
async fn two(backend: Schema) -> (Schema, [Ledger; 2], Arc<RecordingListener>) {
    let ledgers = [backend.connect(2), backend.connect(2)];
    let listener = Arc::new(RecordingListener::default());
    ledgers[1].listen(Arc::clone(&listener) as Arc<dyn ChangeListener>).unwrap();
    until(|| async { ledgers[1].caught_up().await }).await;
    listener.0.lock().clear();
    (backend, ledgers, listener)
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

fn is_inserted(listener: &RecordingListener, order: &str) -> bool {
    listener
        .0
        .lock()
        .iter()
        .any(|reported| matches!(reported, Reported::Before(changes) if changes.inserted.contains(&name(order))))
}

fn became(listener: &RecordingListener, order: &str, version: u64) -> [bool; 2] {
    let has =
        |changes: &Changes| changes.updated.iter().any(|(named, age)| *named == name(order) && age.version == version);
    let reported = listener.0.lock();
    [
        reported.iter().any(|reported| matches!(reported, Reported::Before(changes) if has(changes))),
        reported.iter().any(|reported| matches!(reported, Reported::After(changes) if has(changes))),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn caught_up_listener_has_received_every_durable_change() {
    let server = Server::start(&[]);
    let (_place, [maker, other], listener) = two(Schema::on(&server)).await;
    for number in 0..50 {
        let order = format!("o-{number}");
        let permit = run(&maker, &order).await;
        assert!(other.caught_up().await);
        assert!(is_inserted(&listener, &order), "{order}");
        maker.settle(permit, outcome(Status::Pending), at(1), answer).await.unwrap();
        assert!(other.caught_up().await);
        assert!(became(&listener, &order, 2)[0], "{order}");
    }
    until(|| async { became(&listener, "o-49", 2) == [true, true] }).await;
    // A process receives its own changes without a round trip.
    let permit = run(&other, "own").await;
    assert!(is_inserted(&listener, "own") && became(&listener, "own", 1) == [true, true]);
    other.release(permit).await.unwrap();
    let gone =
        |reported: &Reported| matches!(reported, Reported::After(changes) if changes.deleted.contains(&name("own")));
    assert!(listener.0.lock().iter().any(gone));
    assert!(!listener.0.lock().contains(&Reported::Disconnected));
}

#[tokio::test(flavor = "multi_thread")]
async fn transaction_sends_notify_itself_when_the_announcer_fails() {
    let server = Server::start(&[]);
    let (backend, [maker, other], listener) = two(Schema::on(&server)).await;
    drop(run(&maker, "first").await);
    for round in 0..3 {
        backend.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE query LIKE '%pg_notify(channel%' AND pid <> pg_backend_pid()",
        );
        let order = format!("o-{round}");
        let _permit = run(&maker, &order).await;
        assert!(other.caught_up().await);
        assert!(is_inserted(&listener, &order), "{order}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn disconnected_listener_is_reported_and_resubscribes() {
    let server = Server::start(&[]);
    let (backend, [maker, other], listener) = two(Schema::on(&server)).await;
    backend.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tollgate feed'");
    until(|| async { listener.0.lock().contains(&Reported::Disconnected) }).await;
    until(|| async { other.caught_up().await }).await;
    let _permit = run(&maker, "o").await;
    assert!(other.caught_up().await && is_inserted(&listener, "o"));
}

#[tokio::test(flavor = "multi_thread")]
async fn import_of_a_ledger_disconnects_running_listeners() {
    let server = Server::start(&[]);
    let (backend, [_, other], listener) = two(Schema::on(&server)).await;
    let old = Fixture::<Directory>::new();
    drop(run(&old.ledger, "o").await);
    let Fixture { ledger, backend: directory } = old;
    drop(ledger);
    migrate(directory.path(), backend.address()).unwrap();
    until(|| async { other.caught_up().await }).await;
    assert!(listener.0.lock().contains(&Reported::Disconnected));
}

#[tokio::test(flavor = "multi_thread")]
async fn quiesce_waits_for_transactions_in_progress() {
    let server = Server::start(&[]);
    let (backend, [_, other], _) = two(Schema::on(&server)).await;
    let address = backend.address();
    // Another session writes and commits after a second.
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
    until(|| async { postgres::sql(backend.address(), SLEEPS.into()).is_ok() }).await;
    assert!(running().await, "it is not committed yet");
    other.quiesce().await.unwrap();
    assert_eq!(other.names(None, 10).await.unwrap().len(), 1);
    slow.join().unwrap().unwrap();
}
