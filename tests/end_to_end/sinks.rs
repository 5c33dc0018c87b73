//! Events in RabbitMQ: a real broker, and a consumer that shares no code with the gateway.

use serde_json::{Value, json};
use tollgate_harness::merchant::provider_number;

use crate::harness::{Answer, OTHER, SHOP, World, payment_body, signed_request, until, write_merchant};
use crate::rabbitmq::{RabbitMq, order_of};

/// Returns a `[[sink]]` table of this name for an exchange of the same name, with further lines.
pub fn sink(broker: &RabbitMq, name: &str, more: &str) -> String {
    let url = format!("amqp://guest:guest@127.0.0.1:{}", broker.port);
    format!("[[sink]]\nname = \"{name}\"\nkind = \"rabbitmq\"\nurl = \"plain:{url}\"\nexchange = \"{name}\"\n{more}\n")
}

/// Writes the file of the merchant `shop` with these sinks beside its webhook, and puts it in force.
pub async fn set_sinks(world: &World, sinks: &str) -> Answer {
    write_merchant(world.conf(), "shop", &SHOP, &world.receiver.url());
    append_sinks(world, sinks);
    world.reload().await
}

fn append_sinks(world: &World, sinks: &str) {
    let file = world.conf().join("merchants/shop.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}\n{sinks}")).unwrap();
}

pub async fn world_with(sinks: &str) -> World {
    let world = World::new().await;
    assert_eq!(set_sinks(&world, sinks).await.status, 200);
    world
}

pub async fn create_and_pay(world: &World, order: &str) {
    assert_eq!(world.create(order, order).await.status, 201);
    world.pay(order).await;
}

/// Returns the payment's timeline over the admin port: requests of merchants need a synchronized clock.
pub async fn timeline(world: &World, order: &str) -> Vec<Value> {
    let explained: Value = serde_json::from_str(&world.explain_json(order).await).unwrap();
    let entries = explained[0]["entries"].as_array();
    entries.unwrap_or_else(|| panic!("{explained}")).clone()
}

/// Waits for an entry of this kind about a sink, whose reason contains the text. Returns the event's id.
pub async fn until_entry(world: &World, order: &str, what: &str, sink: &str, why: &str) -> String {
    until(&format!("{what} of {order} for {sink}: {why}"), || async {
        let entries = timeline(world, order).await;
        let is_it = |entry: &&Value| {
            let reason = entry["why"].as_str().unwrap_or_default();
            entry["what"] == what && entry["sink"] == sink && reason.contains(why)
        };
        entries
            .iter()
            .find(is_it)
            .map(|entry| entry["id"].as_str().unwrap().to_owned())
            .ok_or(Value::from(entries.clone()))
    })
    .await
}

/// Waits until this many events wait for a sink.
pub async fn until_waiting(world: &World, sink: &str, count: usize) {
    world.until_metric(&format!("tollgate_delivery_queue_depth{{sink=\"{sink}\"}} {count}\n")).await;
}

fn kinds(messages: &[Value]) -> Vec<&str> {
    messages.iter().map(|message| message["type"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn event_arrives_in_rabbitmq_with_all_properties_and_headers() {
    let broker = RabbitMq::shared().await;
    broker.bind("all-mq", "all", "#").await;
    broker.bind("structured-mq", "structured", "#").await;
    let more = "routing_key = \"{merchant}.{type}.{method}.{channel}.{currency}\"";
    let sinks = sink(broker, "all-mq", more) + &sink(broker, "structured-mq", "format = \"structured\"");
    let world = world_with(&sinks).await;
    create_and_pay(&world, "o-1").await;
    let messages = broker.until("all", "o-1", "payment.succeeded").await;
    let webhook = world.receiver.until("o-1", "payment.succeeded").await;
    let [message] = &messages[..] else { panic!("{messages:?}") };
    assert_eq!(message["message_id"], webhook.id.as_str(), "every sink gets the event with the same id");
    assert_eq!(message["body"].as_str().unwrap().as_bytes(), &webhook.body[..]);
    assert_eq!(message["routing_key"], "shop.payment.succeeded.wechat.native.main.CNY");
    let event = webhook.json();
    let time: jiff::Timestamp = event["created_at"].as_str().unwrap().parse().unwrap();
    assert_eq!(message["timestamp"], time.as_second());
    for (property, value) in [
        ("exchange", json!("all-mq")),
        ("type", json!("payment.succeeded")),
        ("app_id", json!("tollgate")),
        ("content_type", json!("application/json")),
        ("delivery_mode", json!(2)),
    ] {
        assert_eq!(message[property], value, "{property}");
    }
    let headers = json!({
        "ce_specversion": "1.0",
        "ce_id": webhook.id,
        "ce_source": "/tollgate/local/shop",
        "ce_type": "payment.succeeded",
        "ce_time": event["created_at"],
        "ce_subject": "o-1",
        "ce_partitionkey": "shop/o-1",
    });
    assert_eq!(message["headers"], headers);

    let messages = broker.until("structured", "o-1", "payment.succeeded").await;
    assert_eq!(messages[0]["content_type"], "application/cloudevents+json");
    assert_eq!((&messages[0]["headers"], &messages[0]["routing_key"]), (&json!({}), &json!("payment.succeeded")));
    let structured: Value = serde_json::from_str(messages[0]["body"].as_str().unwrap()).unwrap();
    assert_eq!((&structured["id"], &structured["data"]), (&json!(webhook.id), &event));
    assert_eq!(structured["datacontenttype"], "application/json");

    let refund = json!({"refund_id": "r-1", "amount": {"value": 300, "currency": "CNY"}});
    world.signed_request("POST", "/v1/payments/o-1/refunds", Some("r-1"), &refund).await;
    let messages = broker.until("all", "o-1", "refund.succeeded").await;
    assert_eq!(messages[0]["routing_key"], "shop.refund.succeeded.wechat.native.main.CNY");
    world.until_metric("tollgate_deliveries_total{merchant=\"shop\",result=\"delivered\",sink=\"all-mq\"} 2").await;
    until_entry(&world, "o-1", "delivered", "all-mq", "").await;
}

#[tokio::test]
async fn returned_event_is_retried_and_arrives_once_a_queue_is_bound() {
    let broker = RabbitMq::shared().await;
    // `declare = true` makes the exchange; no queue is bound to it.
    let world = world_with(&sink(broker, "unbound-mq", "declare = true")).await;
    create_and_pay(&world, "o-1").await;
    let why = "routes the event to no queue: bind a queue for the routing key `payment.succeeded`";
    let event = until_entry(&world, "o-1", "undelivered", "unbound-mq", why).await;
    assert_eq!(world.receiver.until("o-1", "payment.succeeded").await.id, event, "the webhook has it");
    broker.bind("unbound-mq", "unbound", "payment.#").await;
    let messages = broker.until("unbound", "o-1", "payment.succeeded").await;
    assert_eq!(messages[0]["message_id"], event.as_str());
    until_waiting(&world, "unbound-mq", 0).await;
}

/// The broker returns unroutable events at once and confirms routed ones later, so confirmations arrive in another order.
#[tokio::test]
async fn returned_events_are_never_taken_for_delivered_among_routed_ones() {
    let broker = RabbitMq::shared().await;
    broker.bind("mixed-mq", "mixed", "payment.succeeded").await;
    let there = sink(broker, "mixed-mq", "events = [\"payment.succeeded\", \"payment.closed\"]");
    let elsewhere = there.replace(&broker.port.to_string(), &crate::wait::free_address().port().to_string());
    let mut world = world_with(&elsewhere).await;
    let orders: Vec<String> = (0..32).map(|number| format!("o-{number}")).collect();
    for (number, order) in orders.iter().enumerate() {
        world.create(order, order).await;
        if number % 2 == 0 {
            world.pay(order).await;
        } else {
            let target = format!("/v1/payments/{order}/close");
            let closed = world.signed_request("POST", &target, Some(&format!("close-{order}")), &json!({})).await;
            assert_eq!(closed.json()["status"], "closed");
        }
    }
    until_waiting(&world, "mixed-mq", 32).await;
    // All of them become due at once, when the broker can be reached.
    world.gateway.kill();
    write_merchant(world.conf(), "shop", &SHOP, &world.receiver.url());
    append_sinks(&world, &there);
    world.gateway.clock_ahead = 400;
    world.start().await;
    let arrived = tokio::sync::Mutex::new(std::collections::BTreeSet::new());
    until("every routed event arrives", || async {
        let mut arrived = arrived.lock().await;
        arrived.extend(broker.take("mixed").await.iter().map(order_of));
        if arrived.len() == 16 { Ok(()) } else { Err(format!("{arrived:?}")) }
    })
    .await;
    let arrived = arrived.into_inner();
    for (number, order) in orders.iter().enumerate() {
        if number % 2 == 0 {
            assert!(arrived.contains(order), "{order}: {arrived:?}");
            until_entry(&world, order, "delivered", "mixed-mq", "").await;
        } else {
            let event = until_entry(&world, order, "undelivered", "mixed-mq", "to no queue").await;
            let entries = timeline(&world, order).await;
            let is_delivered = entries.iter().any(|entry| entry["what"] == "delivered" && entry["sink"] == "mixed-mq");
            assert!(!is_delivered, "{event} of {order} is in no queue: {entries:?}");
        }
    }
}

#[tokio::test]
async fn sink_gets_only_its_event_types_and_a_new_sink_events_from_then_on() {
    let broker = RabbitMq::shared().await;
    for name in ["refunds", "added"] {
        broker.bind(&format!("{name}-mq"), name, "#").await;
    }
    let refunds = sink(broker, "refunds-mq", "events = [\"refund.*\"]");
    let world = world_with(&refunds).await;
    create_and_pay(&world, "o-1").await;
    world.receiver.until("o-1", "payment.succeeded").await;
    let added = refunds + &sink(broker, "added-mq", "");
    assert_eq!(set_sinks(&world, &added).await.status, 200);
    let refund = json!({"refund_id": "r-1", "amount": {"value": 300, "currency": "CNY"}});
    world.signed_request("POST", "/v1/payments/o-1/refunds", Some("r-1"), &refund).await;
    assert_eq!(kinds(&broker.until("refunds", "o-1", "refund.succeeded").await), ["refund.succeeded"]);
    assert_eq!(kinds(&broker.until("added", "o-1", "refund.succeeded").await), ["refund.succeeded"]);
    create_and_pay(&world, "o-2").await;
    assert_eq!(kinds(&broker.until("added", "o-2", "payment.succeeded").await), ["payment.succeeded"]);
    until_waiting(&world, "added-mq", 0).await;
    assert!(broker.take("refunds").await.is_empty());
}

#[tokio::test]
async fn events_of_a_removed_sink_are_kept_until_it_is_back_or_discarded() {
    let broker = RabbitMq::shared().await;
    broker.declare("removed-mq").await;
    let removed = sink(broker, "removed-mq", "");
    let mut world = world_with(&removed).await;
    create_and_pay(&world, "o-1").await;
    until_entry(&world, "o-1", "undelivered", "removed-mq", "to no queue").await;
    assert_eq!(set_sinks(&world, "").await.status, 200);
    until_entry(&world, "o-1", "undelivered", "removed-mq", "is not in the merchant's file").await;
    until_waiting(&world, "removed-mq", 1).await;
    let gone = removed.replace("removed-mq", "gone-mq");
    assert_eq!(set_sinks(&world, &gone).await.status, 200);
    create_and_pay(&world, "o-2").await;
    until_entry(&world, "o-2", "undelivered", "gone-mq", "NOT_FOUND - no exchange 'gone-mq'").await;
    // An hour later the first sink is back, and the second one is discarded.
    world.gateway.kill();
    broker.bind("removed-mq", "removed", "#").await;
    write_merchant(world.conf(), "shop", &SHOP, &world.receiver.url());
    append_sinks(&world, &format!("{removed}[[sink]]\nname = \"gone-mq\"\nkind = \"discard\"\n"));
    world.gateway.clock_ahead = 3700;
    world.start().await;
    assert_eq!(kinds(&broker.until("removed", "o-1", "payment.succeeded").await), ["payment.succeeded"]);
    until_entry(&world, "o-2", "delivery_abandoned", "gone-mq", "discarded").await;
    for name in ["removed-mq", "gone-mq"] {
        until_waiting(&world, name, 0).await;
    }
}

#[tokio::test]
async fn unreachable_broker_rejects_no_reload_and_delays_neither_webhooks_nor_other_merchants() {
    let closed = crate::wait::free_address();
    let dead = format!(
        "[[sink]]\nname = \"dead-mq\"\nkind = \"rabbitmq\"\nurl = \"plain:amqp://user:hunter2-hunter2@{closed}\"\nexchange = \"x\"\n"
    );
    let world = world_with(&dead).await;
    world.until_logged("the sink cannot be reached").await;
    for number in 0..20 {
        create_and_pay(&world, &format!("o-{number}")).await;
    }
    signed_request(world.gateway.listen, &OTHER, "POST", "/v1/payments", Some("k"), &payment_body("p-1")).await;
    let path = format!("/orders/{}/pay", provider_number(&["other", "p-1"]));
    world.sandbox_control("POST", &path, json!({})).await;
    world.receiver.until("p-1", "payment.succeeded").await;
    for number in 0..20 {
        world.receiver.until(&format!("o-{number}"), "payment.succeeded").await;
    }
    until_waiting(&world, "dead-mq", 20).await;
    until_entry(&world, "o-0", "undelivered", "dead-mq", "cannot").await;
    let outputs = [world.log(), world.metrics().await, world.explain_json("o-0").await];
    assert!(outputs.iter().all(|text| !text.contains("hunter2")), "the password is secret");
    assert!(outputs[2].contains("dead-mq"), "{}", outputs[2]);
}

#[tokio::test]
async fn killed_broker_delays_no_webhook_and_gets_the_event_after_its_restart() {
    let broker = RabbitMq::start().await;
    broker.bind("orders-mq", "orders", "#").await;
    let world = world_with(&sink(&broker, "orders-mq", "")).await;
    create_and_pay(&world, "o-1").await;
    broker.until("orders", "o-1", "payment.succeeded").await;
    // The gateway connects again by itself.
    broker.command("close_all_connections cut").await;
    create_and_pay(&world, "o-2").await;
    broker.until("orders", "o-2", "payment.succeeded").await;
    broker.command("stop").await;
    create_and_pay(&world, "o-3").await;
    world.receiver.until("o-3", "payment.succeeded").await;
    let event = until_entry(&world, "o-3", "undelivered", "orders-mq", "").await;
    broker.command("start").await;
    let messages = broker.until("orders", "o-3", "payment.succeeded").await;
    // The crash of the broker may bring back messages that were taken before.
    assert!(ids_of(&messages, "o-3").iter().all(|id| *id == event), "{messages:?}");
    until_waiting(&world, "orders-mq", 0).await;
}

/// Returns the ids of the messages about an order.
pub fn ids_of(messages: &[Value], order: &str) -> Vec<String> {
    let of_order = messages.iter().filter(|message| order_of(message) == order);
    of_order.map(|message| message["message_id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn unconfirmed_event_is_sent_again_with_the_same_id() {
    let broker = RabbitMq::start().await;
    broker.bind("orders-mq", "orders", "#").await;
    let world = world_with(&sink(&broker, "orders-mq", "")).await;
    create_and_pay(&world, "o-1").await;
    broker.until("orders", "o-1", "payment.succeeded").await;
    // The broker's machine keeps the connection and answers nothing.
    broker.command("freeze").await;
    create_and_pay(&world, "o-2").await;
    let event = until_entry(&world, "o-2", "undelivered", "orders-mq", "no answer within 10 s").await;
    broker.command("thaw").await;
    until_waiting(&world, "orders-mq", 0).await;
    let messages = broker.until("orders", "o-2", "payment.succeeded").await;
    assert!(messages.iter().all(|message| message["message_id"] == event.as_str()), "{messages:?}");
}

#[tokio::test]
async fn blocked_broker_gets_events_when_its_alarm_ends_and_no_attempt_counts() {
    let broker = RabbitMq::start().await;
    broker.bind("orders-mq", "orders", "#").await;
    let world = world_with(&sink(&broker, "orders-mq", "")).await;
    create_and_pay(&world, "o-1").await;
    broker.until("orders", "o-1", "payment.succeeded").await;
    broker.command("set_vm_memory_high_watermark 0.00001").await;
    create_and_pay(&world, "o-2").await;
    world.receiver.until("o-2", "payment.succeeded").await;
    until_entry(&world, "o-2", "undelivered", "orders-mq", "accepts no events at present").await;
    world.until_metric("{merchant=\"shop\",result=\"deferred\",sink=\"orders-mq\"}").await;
    broker.command("set_vm_memory_high_watermark 0.9").await;
    let messages = broker.until("orders", "o-2", "payment.succeeded").await;
    assert!(messages.iter().all(|message| order_of(message) == "o-2"));
    until_waiting(&world, "orders-mq", 0).await;
}

#[tokio::test]
async fn broker_with_another_certificate_gets_no_event() {
    let files = tempfile::tempdir().unwrap();
    let certificate = |name: &str| {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let [certificate, key] = ["pem", "key"].map(|kind| files.path().join(format!("{name}.{kind}")));
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        [certificate, key]
    };
    let (theirs, other) = (certificate("theirs"), certificate("other"));
    let broker = RabbitMq::start_with_tls(theirs.clone()).await;
    for name in ["trusted", "wrong", "public"] {
        broker.bind(&format!("{name}-mq"), name, "#").await;
    }
    let of_port = format!("amqp://guest:guest@127.0.0.1:{}", broker.port);
    let with_tls = |name: &str, ca: &str| {
        sink(&broker, name, ca).replace(&of_port, &format!("amqps://guest:guest@127.0.0.1:{}", broker.tls_port))
    };
    let ca = |file: &std::path::Path| format!("ca = \"{}\"", file.display());
    let sinks =
        with_tls("trusted-mq", &ca(&theirs[0])) + &with_tls("wrong-mq", &ca(&other[0])) + &with_tls("public-mq", "");
    let world = world_with(&sinks).await;
    create_and_pay(&world, "o-1").await;
    assert_eq!(kinds(&broker.until("trusted", "o-1", "payment.succeeded").await), ["payment.succeeded"]);
    for name in ["wrong-mq", "public-mq"] {
        until_entry(&world, "o-1", "undelivered", name, "TLS with 127.0.0.1").await;
    }
    let (out, err) = world.check_probe().await;
    assert!(out.contains("shop trusted-mq: reached"), "{out}");
    assert!(err.contains("shop.toml: the sink `wrong-mq`: TLS with 127.0.0.1"), "{err}");
}
