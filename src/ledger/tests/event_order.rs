//! Order of events between several machines on one PostgreSQL, and across a migration to it.

use super::server::Server;
use super::*;
use crate::transaction::Space;

/// Publishes one event at a time of the machine's own clock.
async fn publish(ledger: &Ledger, order: &str, now: Timestamp) {
    let ClaimResult::Run(permit) = ledger.claim(claim_key(order, ""), pay(order), now).await.unwrap() else {
        panic!("it runs")
    };
    ledger.settle(permit, outcome(Status::Succeeded), now, answer).await.unwrap();
}

async fn page(ledger: &Ledger, after: Option<&str>) -> EventPage {
    ledger.events("shop", after.map(|id| EventCursor::parse(id).unwrap()), 100).await.unwrap()
}

/// Reads after the cursor until no transaction withholds an event.
async fn settled(ledger: &Ledger, after: Option<&str>) -> Vec<Event> {
    loop {
        let page = page(ledger, after).await;
        if !page.is_withheld {
            return page.events;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn event_of_machine_with_slow_clock_follows_those_that_were_read() {
    let server = Server::start(&[]);
    let backend = Schema::on(&server);
    let [fast, slow] = [backend.connect(2), backend.connect(2)];
    publish(&fast, "fast", at(5000)).await;
    let read = settled(&slow, None).await;
    assert_eq!(read.len(), 1);
    publish(&slow, "slow", at(10)).await;
    let cursor = read[0].id.as_str();
    for reader in [&fast, &slow] {
        let next = settled(reader, Some(cursor)).await;
        let orders: Vec<_> = next.iter().map(|event| event.subject.order_id.as_str()).collect();
        assert_eq!(orders, ["slow"]);
        assert!(next[0].id.as_str() < cursor, "its id is smaller, and it was not skipped");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn event_is_withheld_while_an_older_transaction_is_in_progress() {
    let server = Server::start(&[]);
    let backend = Schema::on(&server);
    let ledger = backend.connect(2);
    publish(&ledger, "first", at(1)).await;
    let first = settled(&ledger, None).await.remove(0).id;
    // Another machine writes an event of the merchant, here a copy of the first, and commits late.
    let (slow, link) = tokio_postgres::connect(&server.url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(link);
    let (schema, merchant) = (backend.name(), hex::encode(MerchantKey::of("shop").0));
    let late = "ffffffffffffffffffffffffffffffff";
    let write = format!(
        "SET search_path TO {schema}; BEGIN;
         INSERT INTO tollgate_records SELECT space, '\\x{late}', value FROM tollgate_records WHERE space = {};
         INSERT INTO tollgate_merchant_events VALUES ('\\x{merchant}', '\\x{late}', pg_current_xact_id()::text::bigint)",
        Space::Events as i16
    );
    slow.batch_execute(&write).await.unwrap();
    publish(&ledger, "second", at(2)).await;
    let early = page(&ledger, Some(&first)).await;
    assert_eq!((early.events, early.next, early.is_last, early.is_withheld), (vec![], None, false, true));
    slow.batch_execute("COMMIT").await.unwrap();
    let events = settled(&ledger, Some(&first)).await;
    let orders: Vec<_> = events.iter().map(|event| event.subject.order_id.as_str()).collect();
    assert_eq!(orders, ["first", "second"], "the late event is first, although its id is greater");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_restored_on_a_server_with_smaller_transaction_numbers_keep_their_order() {
    let server = Server::start(&[]);
    let backend = Schema::on(&server);
    let ledger = backend.connect(2);
    for order in ["a", "b", "c"] {
        publish(&ledger, order, at(1)).await;
    }
    let before = settled(&ledger, None).await;
    drop(ledger);
    for round in 1.. {
        // As if the rows came from a server with many more transactions.
        backend.sql("UPDATE tollgate_merchant_events SET xact = xact + (1::bigint << 40)");
        let gateways = [backend.connect(2), backend.connect(2)];
        let restored = page(&gateways[0], None).await;
        assert_eq!((&restored.events[..3], restored.is_withheld), (&before[..], false));
        let order = format!("new-{round}");
        publish(&gateways[1], &order, at(1)).await;
        for gateway in &gateways {
            let behind = settled(gateway, Some(&before[1].id)).await;
            let orders: Vec<_> = behind.iter().map(|event| event.subject.order_id.as_str()).collect();
            assert_eq!((orders[0], orders[orders.len() - 1]), ("c", order.as_str()));
            assert_eq!(orders.len(), 1 + round);
        }
        if round == 2 {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn running_gateways_keep_the_order_when_they_fail_over_to_a_server_with_smaller_transaction_numbers() {
    let server = Server::start(&[]);
    let backend = Schema::on(&server);
    let gateways = [backend.connect(2), backend.connect(2)];
    for order in ["a", "b", "c"] {
        publish(&gateways[0], order, at(1)).await;
    }
    let before = settled(&gateways[0], None).await;
    // As if the sessions ended at a server and led to another one, which has the rows and has begun fewer transactions.
    backend.sql(
        "UPDATE tollgate_merchant_events SET xact = xact + (1::bigint << 40);
         ALTER TABLE tollgate_records RENAME TO former;
         CREATE TABLE tollgate_records (LIKE former INCLUDING ALL);
         INSERT INTO tollgate_records SELECT * FROM former",
    );
    backend.sql(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
         WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'",
    );
    publish(&gateways[1], "new", at(1)).await;
    for gateway in &gateways {
        let orders = async |cursor: &Event| {
            let behind = settled(gateway, Some(&cursor.id)).await;
            behind.into_iter().map(|event| event.subject.order_id).collect::<Vec<_>>()
        };
        assert_eq!(orders(&before[2]).await, ["new"]);
        assert_eq!(orders(&before[1]).await, ["c", "new"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn listener_of_another_machine_is_notified_whose_event_was_published() {
    struct Published(Mutex<Vec<MerchantKey>>);
    impl ChangeListener for Published {
        fn before_commit(&self, _: &Changes) {}
        fn after_commit(&self, changes: &Changes) {
            self.0.lock().extend(&changes.published);
        }
        fn subscribed(&self, _: Option<std::time::Instant>) {}
        fn disconnected(&self) {}
    }
    let server = Server::start(&[]);
    let backend = Schema::on(&server);
    let [maker, other] = [backend.connect(2), backend.connect(2)];
    let listener = Arc::new(Published(Mutex::default()));
    other.listen(Arc::clone(&listener) as Arc<dyn ChangeListener>).unwrap();
    while !other.caught_up().await {}
    publish(&maker, "o", at(1)).await;
    while listener.0.lock().is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(*listener.0.lock(), [MerchantKey::of("shop")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn migration_keeps_the_order_the_cursors_and_the_shared_secret() {
    let old = Fixture::<Directory>::new();
    for order in ["a", "b", "c"] {
        publish(&old.ledger, order, at(1)).await;
    }
    let before = page(&old.ledger, None).await.events;
    let secret = old.ledger.shared_secret().await.unwrap();
    let Fixture { ledger, backend: directory } = old;
    drop(ledger);
    let server = Server::start(&[]);
    let backend = Schema::on(&server);
    // A gateway without payments may have made a secret there.
    assert_ne!(backend.connect(2).shared_secret().await.unwrap(), secret);
    migrate(directory.path(), backend.address()).unwrap();
    let new = backend.connect(2);
    assert_eq!(settled(&new, None).await, before);
    assert_eq!(settled(&new, Some(&before[0].id)).await, before[1..]);
    assert_eq!(new.find_shared_secret().await.unwrap(), Some(secret));
}
