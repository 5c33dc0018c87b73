//! Signed requests from a merchant's queue: a real broker, and a producer that shares no code with the gateway.

mod attacks;
mod crashes;
mod producer;

use serde_json::{Value, json};

use self::producer::{Message, plain_create, signed_create};
use crate::harness::{SHOP, World, WorldOptions, force_breaker, payment_body, until, write_merchant};
use crate::rabbitmq::RabbitMq;
use tollgate_merchant::{plain, rfc9421};

/// Returns a `[[source]]` table whose queue has its name, with further lines.
fn source(port: u16, name: &str, more: &str) -> String {
    format!(
        "[[source]]\nname = \"{name}\"\nkind = \"rabbitmq\"\nurl = \"plain:amqp://guest:guest@127.0.0.1:{port}\"\nqueue = \"{name}\"\n{more}\n"
    )
}

/// Writes the file of the merchant `shop` with these further tables.
fn write_shop(world: &World, tables: &str) {
    write_merchant(world.conf(), "shop", &SHOP, &world.receiver.url());
    let file = world.conf().join("merchants/shop.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}\n{tables}")).unwrap();
}

async fn put_in_force(world: &World, tables: &str) {
    write_shop(world, tables);
    let answer = world.reload().await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
}

/// Waits until messages of the source are consumed.
async fn until_consumed(world: &World, name: &str) {
    world.until_metric(&format!("tollgate_source_connected{{merchant=\"shop\",source=\"{name}\"}} 1\n")).await;
}

/// Starts a world that consumes this source, whose queue is declared.
async fn world_with(broker: &RabbitMq, name: &str, more: &str, options: WorldOptions) -> World {
    broker.declare_queue(name, json!({})).await;
    let world = World::with(options).await;
    put_in_force(&world, &source(broker.port, name, more)).await;
    until_consumed(&world, name).await;
    world
}

fn count_of(name: &str, result: &str, count: u64) -> String {
    format!("tollgate_source_messages_total{{merchant=\"shop\",result=\"{result}\",source=\"{name}\"}} {count}\n")
}

/// Asserts that the provider got and executed one create of the order.
async fn assert_created_once(world: &World, order: &str) {
    let seen = world.provider_order(order).await;
    assert_eq!((&seen["arrivals"]["create"], &seen["executions"]["create"]), (&json!(1), &json!(1)), "{order}: {seen}");
}

#[tokio::test]
async fn queued_messages_of_both_schemes_pay_refund_and_close_with_events() {
    let broker = RabbitMq::shared().await;
    let world = world_with(broker, "all-in", "", WorldOptions::default()).await;
    let of_number = {
        // A producer may write the time as a number.
        let mut message = plain_create("all-in", "o-2");
        let time: u64 = message["headers"]["x-tollgate-timestamp"].as_str().unwrap().parse().unwrap();
        message["headers"]["x-tollgate-timestamp"] = time.into();
        message
    };
    broker.publish("all-in", &[signed_create("all-in", "o-1"), of_number]).await;
    for order in ["o-1", "o-2"] {
        let event = world.receiver.until(order, "payment.pending").await.json();
        assert_eq!(event["data"]["payment"]["action"]["type"], "qr", "{event}");
        assert_created_once(&world, order).await;
    }
    world.until_metric(&count_of("all-in", "accepted", 2)).await;
    let timeline = world.explain_json("o-1").await;
    assert!(timeline.contains("\"what\":\"queued\""), "{timeline}");
    // The same request over HTTP finds the claim.
    let again = world.create("o-1", "o-1").await;
    assert!(again.status == 201 && again.is_replayed(), "{again:?}");

    world.pay("o-1").await;
    world.receiver.until("o-1", "payment.succeeded").await;
    let refund = json!({"refund_id": "r-1", "amount": {"value": 400, "currency": "CNY"}}).to_string();
    let message = |sign, path: &str, key: &str, body: &str| {
        Message { path, key, body, ..Message::of(&SHOP, "all-in", sign) }.signed_now()
    };
    let messages = [
        message(rfc9421, "/v1/payments/o-1/refunds", "r-1", &refund),
        message(plain, "/v1/payments/o-2/close", "c-2", ""),
    ];
    broker.publish("all-in", &messages).await;
    let event = world.receiver.until("o-1", "refund.succeeded").await.json();
    assert_eq!(event["data"]["refund"]["refund_id"], "r-1", "{event}");
    world.receiver.until("o-2", "payment.closed").await;
    world.until_metric(&count_of("all-in", "accepted", 4)).await;
    world.until_logged("\"source\":\"all-in\"").await;
    broker.until_depth("all-in", 0).await;
}

#[tokio::test]
async fn repeated_message_is_acknowledged_and_executed_once() {
    let broker = RabbitMq::shared().await;
    let world = world_with(broker, "twice-in", "dead_letter = \"twice-dead\"", WorldOptions::default());
    broker.bind("twice-dead", "twice-dead", "#").await;
    let world = world.await;
    let message = signed_create("twice-in", "o-1");
    broker.publish("twice-in", &[message.clone(), message.clone()]).await;
    world.receiver.until("o-1", "payment.pending").await;
    // The same request under another key is the same payment.
    let mut other_key = message.clone();
    other_key["headers"]["idempotency-key"] = "other".into();
    broker.publish("twice-in", &[message, other_key]).await;
    world.until_metric(&count_of("twice-in", "repeated", 3)).await;
    assert_created_once(&world, "o-1").await;
    assert_eq!(world.receiver.events_of("o-1").len(), 1);
    assert!(broker.take("twice-dead").await.is_empty());
}

#[tokio::test]
async fn messages_of_one_order_are_processed_in_their_order() {
    let broker = RabbitMq::shared().await;
    let world = world_with(broker, "ordered-in", "prefetch = 256", WorldOptions::default()).await;
    let orders: Vec<String> = (0..40).map(|number| format!("o-{number}")).collect();
    let messages: Vec<Value> = orders
        .iter()
        .flat_map(|order| {
            let path = format!("/v1/payments/{order}/close");
            let close = Message { path: &path, key: "c", body: "", ..Message::of(&SHOP, "ordered-in", plain) };
            [signed_create("ordered-in", order), close.signed_now()]
        })
        .collect();
    broker.publish("ordered-in", &messages).await;
    for order in &orders {
        world.receiver.until(order, "payment.closed").await;
    }
    broker.until_depth("ordered-in", 0).await;
    let metrics = world.metrics().await;
    assert!(!metrics.contains("result=\"refused\",source=\"ordered-in\""), "{metrics}");
}

#[tokio::test]
async fn held_messages_count_against_prefetch_and_are_accepted_later() {
    let broker = RabbitMq::shared().await;
    let options = WorldOptions { server: "[queue]\nlimit = 1", ..WorldOptions::default() };
    let world = world_with(broker, "held-in", "prefetch = 2", options).await;
    force_breaker(&world.gateway, "open").await;
    broker.publish("held-in", &[signed_create("held-in", "o-0")]).await;
    world.until_metric(&count_of("held-in", "accepted", 1)).await;
    let orders = ["o-1", "o-2", "o-3", "o-4", "o-5"];
    broker.publish("held-in", &orders.map(|order| signed_create("held-in", order))).await;
    world.until_metric("tollgate_queue_total{operation=\"pay\",result=\"full\"}").await;
    broker.until_depth("held-in", 3).await;
    world.until_logged("\"code\":\"queue_full\"").await;
    assert_eq!(broker.depth("held-in").await, 3, "two messages are held, so the broker sends no more");
    force_breaker(&world.gateway, "none").await;
    for order in orders {
        world.receiver.until(order, "payment.pending").await;
        assert_created_once(&world, order).await;
    }
}

#[tokio::test]
async fn messages_over_the_rate_are_accepted_later() {
    let broker = RabbitMq::shared().await;
    broker.declare_queue("rate-in", json!({})).await;
    let world = World::new().await;
    let table = source(broker.port, "rate-in", "");
    put_in_force(&world, &format!("limit = {{ rate = 2, burst = 1 }}\n{table}")).await;
    let orders = ["o-1", "o-2", "o-3"];
    broker.publish("rate-in", &orders.map(|order| signed_create("rate-in", order))).await;
    for order in orders {
        world.receiver.until(order, "payment.pending").await;
    }
    world.until_metric(&count_of("rate-in", "accepted", 3)).await;
    assert!(world.log().contains("\"code\":\"rate_limited\""), "{}", world.log());
}

#[tokio::test]
async fn source_is_added_changed_and_removed_without_a_restart() {
    let broker = RabbitMq::shared().await;
    for queue in ["first-in", "second-in"] {
        broker.declare_queue(queue, json!({})).await;
    }
    let world = World::new().await;
    broker.publish("first-in", &[signed_create("first-in", "o-1")]).await;
    let first = source(broker.port, "first-in", "");
    put_in_force(&world, &first).await;
    world.receiver.until("o-1", "payment.pending").await;
    // The same source with another queue.
    put_in_force(&world, &first.replace("queue = \"first-in\"", "queue = \"second-in\"")).await;
    broker.publish("second-in", &[signed_create("first-in", "o-2")]).await;
    world.receiver.until("o-2", "payment.pending").await;
    until_consumed(&world, "first-in").await;
    put_in_force(&world, "").await;
    until("the series is removed", || async {
        let metrics = world.metrics().await;
        if metrics.contains("tollgate_source_connected{") { Err(metrics) } else { Ok(()) }
    })
    .await;
    for queue in ["first-in", "second-in"] {
        broker.publish(queue, &[signed_create("first-in", "o-3")]).await;
        assert_eq!(broker.depth(queue).await, 1, "nobody consumes {queue}");
    }
}

#[tokio::test]
async fn source_that_cannot_be_reached_rejects_no_reload_and_is_a_warning_of_the_probe() {
    let broker = RabbitMq::shared().await;
    broker.declare_queue("probed-in", json!({})).await;
    broker.bind("probed-dead", "probed-dead", "#").await;
    let closed = crate::wait::free_address().port();
    let with = |name: &str, dead_letter: &str| {
        source(broker.port, name, &format!("dead_letter = \"{dead_letter}\"")).replace(
            &format!("queue = \"{name}\""),
            if name == "missing-in" { "queue = \"missing\"" } else { "queue = \"probed-in\"" },
        )
    };
    let unreachable = source(closed, "closed-in", "").replace("guest:guest", "user:hunter2-hunter2");
    let tables = with("good-in", "probed-dead") + &with("missing-in", "probed-dead") + &with("lost-in", "nowhere");
    let world = World::new().await;
    put_in_force(&world, &(tables + &unreachable)).await;
    world.until_logged("NOT_FOUND - no queue 'missing'").await;
    let (out, err) = world.check_probe().await;
    assert!(out.contains("shop good-in: reached"), "{out}");
    assert_eq!(out.matches("note: ").count(), 1, "of `closed-in`: {out}");
    assert!(
        out.contains("refused messages of this source are dropped unless its queue has a dead-letter policy"),
        "{out}"
    );
    for warning in [
        "shop.toml: the source `missing-in`: the broker closed the connection: NOT_FOUND - no queue 'missing'",
        "shop.toml: the source `lost-in`: the broker closed the connection: NOT_FOUND - no exchange 'nowhere'",
        "shop.toml: the source `closed-in`: cannot connect",
    ] {
        assert!(err.contains(warning), "{warning} / {err}");
    }
    assert!(!err.contains("good-in") && !err.contains("hunter2") && !world.log().contains("hunter2"), "{err}");
    let paid = world.signed_request("POST", "/v1/payments", Some("k"), &payment_body("o-1")).await;
    assert_eq!(paid.status, 201);
}
