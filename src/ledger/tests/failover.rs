//! Servers that change their role, limit their connections, reject a transaction, or are behind a pooler.

use std::sync::atomic::Ordering;
use std::time::Instant;

use parking_lot::Mutex;
use tollgate_plugins::secret::Secret;

use super::backends::shared;
use super::postgres_outage::until;
use super::relay::Relay;
use super::server::Server;
use super::*;

impl Schema {
    /// Rejects the next writes of records with these codes.
    fn refuse(&self, codes: &[&str]) {
        let arms: String = codes
            .iter()
            .enumerate()
            .map(|(backend, code)| format!("WHEN {} THEN RAISE EXCEPTION 'no' USING ERRCODE = '{code}'; ", backend + 1))
            .collect();
        self.sql(&format!(
            "CREATE SEQUENCE hits; CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN CASE nextval('hits') {arms} ELSE NULL; END CASE; RETURN new; END $$;
             CREATE TRIGGER refuse BEFORE INSERT ON tollgate_records FOR EACH ROW EXECUTE FUNCTION refuse()"
        ));
    }

    /// Removes the codes, so that writes succeed again.
    fn was_refused(&self, times: usize) {
        self.sql(&format!("SELECT 1 / (last_value > {times})::int FROM hits"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conflicts_and_lost_connections_are_retried() {
    for codes in [&["40001", "40P01", "55P03", "57014", "40001"][..], &["25006", "26000", "0A000", "57P01", "57P03"]] {
        let backend = Schema::new();
        let fixture = Fixture { ledger: backend.connect(2), backend };
        fixture.backend.refuse(codes);
        fixture.paid("o").await;
        fixture.backend.was_refused(codes.len());
        assert!(fixture.ledger.is_healthy());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn permanent_statement_error_is_not_retried() {
    let backend = Schema::new();
    let fixture = Fixture { ledger: backend.connect(1), backend };
    fixture.backend.refuse(&["23514", "23514"]);
    assert!(fixture.ledger.claim(claim_key("k", ""), pay("o"), at(0)).await.is_err());
    fixture.backend.sql("SELECT 1 / (last_value = 1)::int FROM hits");
}

fn socket(server: &Server) -> &str {
    server.url.split_once('@').unwrap().1.split('/').next().unwrap()
}

fn address(url: &str) -> Address {
    Address::parse(&Secret::new(url.to_owned()), None).unwrap()
}

fn sql(server: &Server, text: &str) {
    postgres::sql(address(&server.url), text.to_owned()).unwrap();
}

/// Makes the server read-only and keeps its connections.
fn make_read_only(server: &Server) {
    sql(server, "ALTER SYSTEM SET default_transaction_read_only = on");
    sql(server, "SELECT pg_reload_conf()");
}

/// Starts a server and a synchronous standby, with an address that names both.
fn pair() -> ([Server; 2], Address) {
    let first = Server::start(&[]);
    let second = Server::start(&["--standby", &first.url]);
    sql(&first, "ALTER SYSTEM SET synchronous_standby_names = '*'");
    sql(&first, "SELECT pg_reload_conf()");
    let both = address(&format!("postgres://tollgate@{},{}/postgres", socket(&first), socket(&second)));
    ([first, second], both)
}

#[tokio::test(flavor = "multi_thread")]
async fn switchover_to_a_standby_loses_nothing() {
    let ([first, second], both) = pair();
    let fixture = Fixture { ledger: Ledger::connect(both).unwrap(), backend: Schema::on(&first) };
    for number in 0..20 {
        fixture.paid(&format!("o{number}")).await;
    }
    let open = fixture.run("open", pay("open")).await;
    sql(&first, "ALTER SYSTEM RESET synchronous_standby_names");
    make_read_only(&first);
    second.promote();
    until("payments go on", async || fixture.ledger.claim(claim_key("k", ""), pay("after"), at(0)).await.is_ok()).await;
    for number in 0..20 {
        let order = format!("o{number}");
        assert!(matches!(fixture.claim(&format!("pay {order}"), pay(&order)).await, ClaimResult::Replay(_)), "{order}");
    }
    fixture.settle(open, outcome(Status::Succeeded)).await;
    assert_eq!(fixture.payment("open").await.status, Status::Succeeded);
    until("it is ready", async || fixture.ledger.not_ready().is_none()).await;
}

/// Prints how many payments a second were made over a switchover, and how many failed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn payments_during_a_switchover_are_measured() {
    const RATE: u64 = 500;
    let ([first, second], both) = pair();
    let mut second = Some(second);
    let ledger = Ledger::connect(both).unwrap();
    let began = Instant::now();
    let mut payments = Vec::new();
    let mut ticks = tokio::time::interval(std::time::Duration::from_micros(1_000_000 / RATE));
    let mut flip = None;
    for number in 0..RATE * 15 {
        ticks.tick().await;
        if number == RATE * 5 {
            sql(&first, "ALTER SYSTEM RESET synchronous_standby_names");
            flip = Some(std::thread::spawn({
                let (url, second) = (first.url.clone(), second.take().unwrap());
                move || {
                    for text in ["ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()"] {
                        postgres::sql(address(&url), text.to_owned()).unwrap();
                    }
                    second.promote();
                    second
                }
            }));
        }
        let ledger = ledger.clone();
        payments.push(tokio::spawn(async move {
            let (order, at_second) = (format!("o{number}"), began.elapsed().as_secs());
            let claimed = ledger.claim(claim_key(&order, ""), pay(&order), at(0)).await;
            let Ok(ClaimResult::Run(permit)) = claimed else { return (at_second, "refused") };
            match ledger.settle(permit, outcome(Status::Succeeded), at(1), answer).await {
                Ok(_) => (at_second, "paid"),
                Err(_) => (at_second, "unknown"),
            }
        }));
    }
    let mut seconds = std::collections::BTreeMap::<(u64, &str), u64>::new();
    for payment in payments {
        *seconds.entry(payment.await.unwrap()).or_default() += 1;
    }
    println!("{seconds:?}");
    drop(flip.map(std::thread::JoinHandle::join));
    drop(first);
}

#[tokio::test(flavor = "multi_thread")]
async fn read_only_server_is_replaced_by_the_writable_one() {
    let [one, other] = [Server::start(&[]), Server::start(&[])];
    drop(Ledger::connect(address(&other.url)).unwrap());
    let both = format!("postgres://tollgate@{},{}/postgres", socket(&one), socket(&other));
    let ledger = Ledger::connect(address(&both)).unwrap();
    let listener = Arc::new(RecordingListener::default());
    ledger.listen(Arc::clone(&listener) as Arc<dyn ChangeListener>).unwrap();
    let fixture = Fixture { ledger, backend: Schema::on(&other) };
    fixture.paid("before").await;
    until("the listener has caught up", async || fixture.ledger.caught_up().await).await;
    listener.0.lock().clear();
    make_read_only(&one);
    // The sockets stay open, but reads and writes go to the other server, which knows nothing of this ledger.
    until("payments go on", async || fixture.ledger.claim(claim_key("k", ""), pay("after"), at(0)).await.is_ok()).await;
    until("nobody reads the old one", async || fixture.ledger.payment("shop", "before").await.unwrap().is_none()).await;
    until("the listener is subscribed again", async || {
        listener.0.lock().contains(&"disconnected") && fixture.ledger.caught_up().await
    })
    .await;
    until("it is ready", async || fixture.ledger.not_ready().is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_limit_degrades_the_pool_without_errors() {
    for limit in [2, 6] {
        let backend = Schema::new();
        let role = format!("few_{limit}_{}", backend.name());
        backend.sql(&format!(
            "CREATE ROLE {role} LOGIN CONNECTION LIMIT {limit}; GRANT ALL ON SCHEMA {} TO {role}",
            backend.name()
        ));
        let url = format!(
            "{}?options=-csearch_path%3D{}",
            shared().url.replace("tollgate@", &format!("{role}@")),
            backend.name()
        );
        let ledger = Ledger::connect(address(&url)).unwrap();
        let fixture = Arc::new(Fixture { ledger, backend });
        let payments = (0..60).map(|number| {
            let fixture = Arc::clone(&fixture);
            tokio::spawn(async move { fixture.paid(&format!("o{number}")).await })
        });
        for payment in payments.collect::<Vec<_>>() {
            payment.await.unwrap();
        }
        assert!(fixture.ledger.not_ready().is_none() && fixture.ledger.is_healthy(), "{limit}");
        let Ok(Fixture { ledger, backend }) = Arc::try_unwrap(fixture) else { panic!() };
        drop(ledger);
        backend.sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
    }
}

/// Records whether the listener is subscribed.
#[derive(Default)]
struct RecordingListener(Mutex<Vec<&'static str>>);

impl ChangeListener for RecordingListener {
    fn before_commit(&self, _: &Changes) {}

    fn after_commit(&self, _: &Changes) {}

    fn subscribed(&self, _: Option<Instant>) {
        self.0.lock().push("subscribed");
    }

    fn disconnected(&self) {
        self.0.lock().push("disconnected");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn listener_with_swallowed_notifications_reports_disconnection() {
    let backend = Schema::new();
    let relay = Relay::new(shared());
    let ledger = relay.ledger(&backend);
    let listener = Arc::new(RecordingListener::default());
    ledger.listen(Arc::clone(&listener) as Arc<dyn ChangeListener>).unwrap();
    until("the listener has caught up", async || ledger.caught_up().await).await;
    relay.swallows.store(true, Ordering::SeqCst);
    until("the listener is disconnected", async || listener.0.lock().contains(&"disconnected")).await;
    let seen_before = listener.0.lock().len();
    assert!(!ledger.caught_up().await, "its answers prove nothing");
    relay.swallows.store(false, Ordering::SeqCst);
    until("the listener is subscribed again", async || {
        listener.0.lock()[seen_before..].contains(&"subscribed") && ledger.caught_up().await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transaction_pooler_is_rejected_at_startup() {
    let backend = Schema::new();
    let relay = Relay::new(shared());
    relay.swallows.store(true, Ordering::SeqCst);
    let refused = Ledger::connect(relay.address(&backend)).err().unwrap().to_string();
    assert!(refused.contains("is it a pooler in transaction mode?"), "{refused}");
}
