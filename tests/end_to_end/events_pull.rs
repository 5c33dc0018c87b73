//! Pull and redelivery: `GET /v1/events` and `POST /v1/events/{id}/redeliver`.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tollgate_ledger::{Address, Ledger, Purge, RetentionPolicy};
use tollgate_plugins::secret::Secret;

use crate::harness::{
    Answer, Gateway, Merchant, OTHER, SHOP, World, WorldOptions, payment_body, signed_request, until,
};
use crate::server::Server;
use crate::status_cache::metric_value;

async fn pull(gateway: &Gateway, merchant: &Merchant, query: &str) -> Answer {
    signed_request(gateway.listen, merchant, "GET", &format!("/v1/events{query}"), None, &Value::Null).await
}

/// Reads from a cursor until the response says that there is no more. Returns the ids.
pub async fn pull_all(gateway: &Gateway, after: Option<&str>, limit: usize) -> Vec<String> {
    let (mut ids, mut cursor) = (Vec::new(), after.map(str::to_owned));
    loop {
        let after = cursor.as_ref().map_or_else(String::new, |cursor| format!("&after={cursor}"));
        let answer = pull(gateway, &SHOP, &format!("?limit={limit}{after}")).await;
        assert_eq!(answer.status, 200, "{:?}", answer.body);
        let page = answer.json();
        let data = page["data"].as_array().unwrap();
        ids.extend(data.iter().map(|event| event["id"].as_str().unwrap().to_owned()));
        cursor = page["next"].as_str().map(str::to_owned);
        if page["done"] == true {
            return ids;
        }
    }
}

async fn pay(world: &World, order: &str) {
    assert_eq!(world.create(order, order).await.status, 201);
    world.pay(order).await;
    world.until_status(order, "succeeded").await;
}

pub async fn redeliver(gateway: &Gateway, merchant: &Merchant, event: &str, key: Option<&str>) -> Answer {
    let target = format!("/v1/events/{event}/redeliver");
    signed_request(gateway.listen, merchant, "POST", &target, key, &Value::Null).await
}

/// Waits until the merchant has received an event this many times.
pub async fn until_received(world: &World, order: &str, event: &str, times: usize) {
    until(&format!("{event} is received {times} times"), || async {
        let received = world.receiver.events_of(order);
        let count = received.iter().filter(|received| received.id == event).count();
        if count == times { Ok(()) } else { Err(count) }
    })
    .await;
}

/// Purges the ledger as another gateway would 40 days later. An embedded ledger has one process, so its gateway is
/// restarted.
async fn purge_in_forty_days(world: &mut World, policy: RetentionPolicy) {
    world.until_metric("tollgate_delivery_queue_depth{sink=\"webhook\"} 0\n").await;
    let settings = std::fs::read_to_string(world.conf().join("tollgate.toml")).unwrap();
    let url = settings.split_once("\nurl = \"plain:postgres").and_then(|(_, rest)| rest.split('"').next());
    let ledger = match url {
        Some(url) => Ledger::connect(Address::parse(&Secret::new(format!("postgres{url}")), None).unwrap()).unwrap(),
        None => {
            world.gateway.kill();
            Ledger::open(&world.dir.path().join("data")).unwrap()
        }
    };
    let (mut purge, now) = (Purge::default(), Timestamp::now() + SignedDuration::from_hours(40 * 24));
    while !ledger.purge(&mut purge, &policy, now).await.unwrap() {}
    drop(ledger);
    if url.is_none() {
        world.start().await;
    }
}

#[tokio::test]
async fn pull_continues_behind_purged_events_and_after_a_restart() {
    let mut world = World::new().await;
    for order in ["a", "b"] {
        pay(&world, order).await;
        world.receiver.until(order, "payment.succeeded").await;
    }
    let old = pull_all(&world.gateway, None, 100).await;
    assert_eq!(old.len(), 2);
    purge_in_forty_days(&mut world, RetentionPolicy::default()).await;
    pay(&world, "c").await;
    let new = pull_all(&world.gateway, None, 100).await;
    assert!(new.len() == 1 && !old.contains(&new[0]), "{new:?}");
    for _ in ["before", "after a restart"] {
        for cursor in &old {
            let page = pull(&world.gateway, &SHOP, &format!("?after={cursor}")).await.json();
            assert_eq!((&page["expired"], &page["next"], &page["done"]), (&json!(true), &json!(new[0]), &json!(true)));
            assert_eq!(page["data"][0]["data"]["payment"]["order_id"], "c", "{page}");
        }
        let page = pull(&world.gateway, &SHOP, &format!("?after={}", new[0])).await.json();
        assert_eq!(page, json!({"data": [], "next": new[0], "done": true}));
        let gone = redeliver(&world.gateway, &SHOP, &old[0], Some("k")).await;
        assert_eq!((gone.status, gone.json()["code"].as_str()), (404, Some("not_found")));
        world.gateway.kill();
        world.start().await;
    }
}

#[tokio::test]
async fn redelivered_event_arrives_after_the_purge_of_its_payment_and_a_restart() {
    let mut world = World::new().await;
    pay(&world, "o").await;
    let event = world.receiver.until("o", "payment.succeeded").await;
    let day = Duration::from_hours(24);
    let policy = RetentionPolicy { claims: day, payments: day, events: 400 * day };
    purge_in_forty_days(&mut world, policy).await;
    let explained = world.explain_json("o").await;
    assert!(!explained.contains("payment.succeeded"), "the payment is purged: {explained}");
    world.receiver.answer_with(500);
    assert_eq!(redeliver(&world.gateway, &SHOP, &event.id, Some("k")).await.status, 202);
    until_received(&world, "o", &event.id, 2).await;
    world.gateway.kill();
    world.receiver.answer_with(204);
    world.start().await;
    until_received(&world, "o", &event.id, 3).await;
    assert_eq!(world.receiver.events_of("o")[2].body, event.body);
    assert_eq!(pull_all(&world.gateway, None, 100).await, [event.id.as_str()]);
}

#[tokio::test]
async fn redelivery_with_a_body_or_without_any_sink_is_refused() {
    let world = World::new().await;
    pay(&world, "o").await;
    let event = world.receiver.until("o", "payment.succeeded").await.id;
    let target = format!("/v1/events/{event}/redeliver");
    let refused = world.signed_request("POST", &target, Some("k"), &json!({"sink": "webhook"})).await;
    assert_eq!((refused.status, refused.json()["code"].as_str()), (400, Some("invalid_request")));
    let file = world.conf().join("merchants/shop.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.lines().next().unwrap()).unwrap();
    assert_eq!(world.reload().await.status, 200);
    let refused = redeliver(&world.gateway, &SHOP, &event, Some("k")).await;
    assert_eq!((refused.status, refused.json()["code"].as_str()), (409, Some("invalid_state")), "{:?}", refused.body);
    std::fs::write(&file, text).unwrap();
    assert_eq!(world.reload().await.status, 200);
    let accepted = redeliver(&world.gateway, &SHOP, &event, Some("k")).await;
    assert_eq!((accepted.status, accepted.is_replayed()), (202, false), "the refused request left no key");
    until_received(&world, "o", &event, 2).await;
}

#[tokio::test]
async fn events_behind_an_open_transaction_cost_few_reads_and_arrive_after_it() {
    let server = Server::start(&[]);
    let ledger = format!("kind = \"postgres\"\nurl = \"plain:{}\"", server.url);
    let world = World::with(WorldOptions { ledger: Some(ledger), ..WorldOptions::default() }).await;
    pay(&world, "a").await;
    let first = pull_all(&world.gateway, None, 100).await.remove(0);
    let (client, connection) = tokio_postgres::connect(&server.url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute("BEGIN; SELECT pg_current_xact_id()").await.unwrap();
    pay(&world, "b").await;
    world.receiver.until("b", "payment.succeeded").await;
    let reads = || metric_value(&world.gateway, "tollgate_ledger_reads_total");
    for (query, most) in [("&wait=3s", 15.0), ("", 10.0)] {
        let before = reads().await;
        let page = pull(&world.gateway, &SHOP, &format!("?after={first}{query}")).await.json();
        assert_eq!(page, json!({"data": [], "next": first, "done": false}));
        let made = reads().await - before;
        assert!((2.0..=most).contains(&made), "{made} reads for {query:?}");
    }
    client.batch_execute("COMMIT").await.unwrap();
    let page = pull(&world.gateway, &SHOP, &format!("?after={first}&wait=60s")).await.json();
    assert_eq!(page["data"][0]["data"]["payment"]["order_id"], "b", "{page}");
}

#[tokio::test]
async fn merchant_pulls_its_events_in_pages_as_its_webhook_gets_them() {
    let mut world = World::new().await;
    for order in ["a", "b", "c"] {
        pay(&world, order).await;
    }
    let gateway = &world.gateway;
    let all = pull_all(gateway, None, 2).await;
    assert_eq!(all.len(), 3);
    assert_eq!(pull_all(gateway, Some(&all[0]), 1).await, all[1..]);
    let received = world.receiver.until("b", "payment.succeeded").await;
    let page = pull(gateway, &SHOP, "").await.json();
    let event = page["data"].as_array().unwrap().iter().find(|event| event["id"] == received.id.as_str()).unwrap();
    assert_eq!(*event, received.json());
    let others = pull(gateway, &OTHER, "").await.json();
    assert_eq!(others, json!({"data": [], "next": null, "done": true}));
    let foreign = pull(gateway, &OTHER, &format!("?after={}", all[0])).await.json();
    assert_eq!((&foreign["data"], &foreign["expired"]), (&json!([]), &json!(true)), "{foreign}");
    for wrong in ["?limit=0", "?limit=101", "?after=x", "?wait=61s", "?since=1"] {
        let refused = pull(gateway, &SHOP, wrong).await;
        assert_eq!((refused.status, refused.json()["code"].as_str()), (400, Some("invalid_request")), "{wrong}");
    }
    // The order is the same after a restart, and new events follow.
    world.gateway.kill();
    world.start().await;
    assert_eq!(pull_all(&world.gateway, None, 100).await, all);
    pay(&world, "d").await;
    assert_eq!(pull_all(&world.gateway, Some(&all[2]), 100).await.len(), 1);
}

#[tokio::test]
async fn long_poll_is_answered_by_the_next_event() {
    let world = World::new().await;
    pay(&world, "a").await;
    let first = pull_all(&world.gateway, None, 100).await.remove(0);
    let listen = world.gateway.listen;
    let waiting = tokio::spawn(async move {
        let target = format!("/v1/events?after={first}&wait=60s");
        signed_request(listen, &SHOP, "GET", &target, None, &Value::Null).await.json()
    });
    assert_eq!(world.create("b", "b").await.status, 201);
    assert!(!waiting.is_finished(), "a pending payment is no event");
    world.pay("b").await;
    let page = waiting.await.unwrap();
    assert_eq!(page["data"][0]["data"]["payment"]["order_id"], "b", "{page}");
    // Without an event the wait ends by itself.
    let next = page["next"].as_str().unwrap();
    let empty = pull(&world.gateway, &SHOP, &format!("?after={next}&wait=10ms")).await.json();
    assert_eq!(empty, json!({"data": [], "next": next, "done": true}));
}

#[tokio::test]
async fn shutdown_answers_long_polls_at_once() {
    // The shutdown timeout is longer than the test's limit: an exit in time did not wait for the poll.
    let mut world = World::with(WorldOptions { server: "shutdown_timeout = \"10m\"", ..WorldOptions::default() }).await;
    let listen = world.gateway.listen;
    let waiting =
        tokio::spawn(
            async move { signed_request(listen, &SHOP, "GET", "/v1/events?wait=60s", None, &Value::Null).await },
        );
    world.until_metric("tollgate_requests_in_flight 1").await;
    world.gateway.signal("TERM");
    assert_eq!(world.gateway.wait_exit().await, 0);
    assert_eq!(waiting.await.unwrap().json(), json!({"data": [], "next": null, "done": true}));
}

#[tokio::test]
async fn redelivered_event_arrives_again_with_its_id() {
    let mut world = World::new().await;
    pay(&world, "o").await;
    let event = world.receiver.until("o", "payment.succeeded").await;
    until_received(&world, "o", &event.id, 1).await;
    let refused = redeliver(&world.gateway, &SHOP, &event.id, None).await;
    assert_eq!(refused.status, 400, "a POST needs an idempotency key");
    for (merchant, id) in [(&OTHER, event.id.as_str()), (&SHOP, "evt_00000000000000000000000000000000"), (&SHOP, "x")] {
        let refused = redeliver(&world.gateway, merchant, id, Some("k")).await;
        assert_eq!((refused.status, refused.json()["code"].as_str()), (404, Some("not_found")), "{id}");
    }
    let accepted = redeliver(&world.gateway, &SHOP, &event.id, Some("k")).await;
    assert_eq!((accepted.status, accepted.json()), (202, json!({"id": event.id})));
    until_received(&world, "o", &event.id, 2).await;
    let received = world.receiver.events_of("o");
    assert_eq!(received[0].body, received[1].body);
    // The same key again changes nothing, another one delivers once more, also after a restart.
    let repeated = redeliver(&world.gateway, &SHOP, &event.id, Some("k")).await;
    assert_eq!((repeated.status, repeated.is_replayed()), (202, true));
    world.receiver.answer_with(500);
    assert_eq!(redeliver(&world.gateway, &SHOP, &event.id, Some("k-2")).await.status, 202);
    until_received(&world, "o", &event.id, 3).await;
    world.gateway.kill();
    world.receiver.answer_with(204);
    world.start().await;
    until_received(&world, "o", &event.id, 4).await;
    let timeline = world.explain_json("o").await;
    assert!(timeline.contains("redelivery_requested"), "{timeline}");
}

#[tokio::test]
async fn cursor_and_redelivery_hold_on_every_gateway_of_a_ledger() {
    let server = Server::start(&[]);
    let ledger = format!("kind = \"postgres\"\nurl = \"plain:{}\"", server.url);
    let world = World::with(WorldOptions { ledger: Some(ledger), ..WorldOptions::default() }).await;
    // Its clock is ahead, so that its events have greater ids than later ones of the first gateway.
    let other = world.start_another_with_clock("other", 3).await;
    let body = payment_body("ahead");
    assert_eq!(signed_request(other.listen, &SHOP, "POST", "/v1/payments", Some("k"), &body).await.status, 201);
    world.pay("ahead").await;
    let ahead = world.receiver.until("ahead", "payment.succeeded").await.id;
    let cursor = ahead.clone();
    let listen = other.listen;
    let waiting = tokio::spawn(async move {
        let target = format!("/v1/events?after={cursor}&wait=60s");
        signed_request(listen, &SHOP, "GET", &target, None, &Value::Null).await.json()
    });
    pay(&world, "behind").await;
    let page = waiting.await.unwrap();
    assert_eq!(page["data"][0]["data"]["payment"]["order_id"], "behind", "{page}");
    let behind = page["next"].as_str().unwrap().to_owned();
    for gateway in [&world.gateway, &other] {
        assert_eq!(pull_all(gateway, None, 1).await, [ahead.as_str(), behind.as_str()]);
        assert_eq!(pull_all(gateway, Some(&behind), 1).await, [""; 0]);
    }
    until_received(&world, "behind", &behind, 1).await;
    assert_eq!(redeliver(&other, &SHOP, &behind, Some("k-9")).await.status, 202);
    until_received(&world, "behind", &behind, 2).await;
    let repeated = redeliver(&world.gateway, &SHOP, &behind, Some("k-9")).await;
    assert_eq!((repeated.status, repeated.is_replayed()), (202, true));
}
