//! Servers that change their role, limit their connections, refuse a transaction, or stand behind a pooler.

use std::sync::atomic::Ordering;
use std::time::Instant;

use parking_lot::Mutex;
use tollgate_plugins::secret::Secret;

use super::outages::until;
use super::places::shared;
use super::relay::Relay;
use super::server::Server;
use super::*;

impl Schema {
    /// Refuses the next writes of records with these codes.
    fn refuse(&self, codes: &[&str]) {
        let arms: String = codes
            .iter()
            .enumerate()
            .map(|(place, code)| format!("WHEN {} THEN RAISE EXCEPTION 'no' USING ERRCODE = '{code}'; ", place + 1))
            .collect();
        self.sql(&format!(
            "CREATE SEQUENCE hits; CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN CASE nextval('hits') {arms} ELSE NULL; END CASE; RETURN new; END $$;
             CREATE TRIGGER refuse BEFORE INSERT ON tollgate_records FOR EACH ROW EXECUTE FUNCTION refuse()"
        ));
    }

    /// Without them all writes go on.
    fn was_refused(&self, times: usize) {
        self.sql(&format!("SELECT 1 / (last_value > {times})::int FROM hits"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conflicts_and_lost_connections_are_retried_inside() {
    for codes in [&["40001", "40P01", "55P03", "57014", "40001"][..], &["25006", "26000", "0A000", "57P01", "57P03"]] {
        let place = Schema::new();
        let bench = Bench { ledger: place.connect(2), place };
        bench.place.refuse(codes);
        bench.paid("o").await;
        bench.place.was_refused(codes.len());
        assert!(bench.ledger.is_healthy());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_write_itself_is_not_retried() {
    let place = Schema::new();
    let bench = Bench { ledger: place.connect(1), place };
    bench.place.refuse(&["23514", "23514"]);
    assert!(bench.ledger.claim(claim_key("k", ""), pay("o"), at(0)).await.is_err());
    bench.place.sql("SELECT 1 / (last_value = 1)::int FROM hits");
}

#[tokio::test(flavor = "multi_thread")]
async fn server_that_became_read_only_is_left_for_the_one_that_takes_writes() {
    let [one, other] = [Server::start(&[]), Server::start(&[])];
    let socket = |server: &Server| server.url.split_once('@').unwrap().1.split('/').next().unwrap().to_owned();
    drop(Ledger::connect(Address::parse(&Secret::new(other.url.clone()), None).unwrap()).unwrap());
    let url = format!("postgres://tollgate@{},{}/postgres", socket(&one), socket(&other));
    let ledger = Ledger::connect(Address::parse(&Secret::new(url), None).unwrap()).unwrap();
    let ear = Arc::new(Ear::default());
    ledger.listen(Arc::clone(&ear) as Arc<dyn Listener>).unwrap();
    let bench = Bench { ledger, place: Schema::on(&other) };
    bench.paid("before").await;
    until("it hears", async || bench.ledger.caught_up().await).await;
    ear.0.lock().clear();
    let sql = |text: &str| {
        let address = Address::parse(&Secret::new(one.url.clone()), None).unwrap();
        postgres::sql(address, text.to_owned()).unwrap();
    };
    sql("ALTER SYSTEM SET default_transaction_read_only = on");
    sql("SELECT pg_reload_conf()");
    // Its sockets stay open; whoever writes or reads goes to the other, which knows of nothing here.
    until("payments go on", async || bench.ledger.claim(claim_key("k", ""), pay("after"), at(0)).await.is_ok()).await;
    until("nobody reads the old one", async || bench.ledger.payment("shop", "before").await.unwrap().is_none()).await;
    until("it hears again", async || ear.0.lock().contains(&"deaf") && bench.ledger.caught_up().await).await;
    until("it is ready", async || bench.ledger.not_ready().is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn process_works_with_the_connections_that_it_gets() {
    for limit in [2, 6] {
        let place = Schema::new();
        let role = format!("few_{limit}_{}", place.name());
        place.sql(&format!(
            "CREATE ROLE {role} LOGIN CONNECTION LIMIT {limit}; GRANT ALL ON SCHEMA {} TO {role}",
            place.name()
        ));
        let url = format!(
            "{}?options=-csearch_path%3D{}",
            shared().url.replace("tollgate@", &format!("{role}@")),
            place.name()
        );
        let ledger = Ledger::connect(Address::parse(&Secret::new(url), None).unwrap()).unwrap();
        let bench = Arc::new(Bench { ledger, place });
        let payments = (0..60).map(|number| {
            let bench = Arc::clone(&bench);
            tokio::spawn(async move { bench.paid(&format!("o{number}")).await })
        });
        for payment in payments.collect::<Vec<_>>() {
            payment.await.unwrap();
        }
        assert_eq!((bench.ledger.not_ready(), bench.ledger.is_healthy()), (None, true), "{limit}");
        let Ok(Bench { ledger, place }) = Arc::try_unwrap(bench) else { panic!() };
        drop(ledger);
        place.sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
    }
}

/// Writes down whether it hears.
#[derive(Default)]
struct Ear(Mutex<Vec<&'static str>>);

impl Listener for Ear {
    fn changing(&self, _: &Changes) {}

    fn changed(&self, _: &Changes) {}

    fn hears(&self, _: Option<Instant>) {
        self.0.lock().push("hears");
    }

    fn deaf(&self) {
        self.0.lock().push("deaf");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn listener_whose_notifications_are_swallowed_knows_that_it_is_deaf() {
    let place = Schema::new();
    let relay = Relay::new(shared());
    let ledger = relay.ledger(&place);
    let ear = Arc::new(Ear::default());
    ledger.listen(Arc::clone(&ear) as Arc<dyn Listener>).unwrap();
    until("it hears", async || ledger.caught_up().await).await;
    relay.swallows.store(true, Ordering::SeqCst);
    until("it is deaf", async || ear.0.lock().contains(&"deaf")).await;
    let heard = ear.0.lock().len();
    assert!(!ledger.caught_up().await, "its answers prove nothing");
    relay.swallows.store(false, Ordering::SeqCst);
    until("it hears again", async || ear.0.lock()[heard..].contains(&"hears") && ledger.caught_up().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pooler_in_transaction_mode_is_refused_at_the_start() {
    let place = Schema::new();
    let relay = Relay::new(shared());
    relay.swallows.store(true, Ordering::SeqCst);
    let refused = Ledger::connect(relay.address(&place)).err().unwrap().to_string();
    assert!(refused.contains("is it a pooler in transaction mode?"), "{refused}");
}
