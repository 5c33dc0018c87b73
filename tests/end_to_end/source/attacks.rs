//! Messages that are refused, and what becomes of them.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tollgate_harness::merchant::{new_nonce, unix_now};
use tollgate_merchant::{plain, rfc9421};

use super::producer::{Message, signed_create};
use super::{assert_created_once, count_of, put_in_force, source, until_consumed, world_with};
use crate::harness::{OTHER, SHOP, World, WorldOptions, payment_body, send, until};
use crate::rabbitmq::RabbitMq;

/// Takes refused messages out of a queue until there are this many, by message id.
async fn refused(broker: &RabbitMq, queue: &str, count: usize) -> BTreeMap<String, Value> {
    let taken = tokio::sync::Mutex::new(BTreeMap::new());
    until(&format!("{count} messages are refused"), || async {
        let mut taken = taken.lock().await;
        let messages = broker.take(queue).await.into_iter();
        taken.extend(messages.map(|message| (message["message_id"].as_str().unwrap().to_owned(), message)));
        if taken.len() == count { Ok(()) } else { Err(format!("{taken:?}")) }
    })
    .await;
    taken.into_inner()
}

#[tokio::test]
async fn forged_old_foreign_and_malformed_messages_are_dead_lettered_with_code_and_detail() {
    let broker = RabbitMq::shared().await;
    broker.bind("attacked-dead", "attacked-dead", "#").await;
    let options = WorldOptions { server: "body_limit = \"4KiB\"", ..WorldOptions::default() };
    let world = world_with(broker, "attacked-in", "dead_letter = \"attacked-dead\"\nmax_age = \"1h\"", options).await;
    assert_eq!(world.create("o-0", "o-0").await.status, 201);
    let bodies: Vec<String> = (0..20).map(|number| payment_body(&format!("x-{number}")).to_string()).collect();
    let good = |number: usize| {
        let scheme = if number.is_multiple_of(2) { plain } else { rfc9421 };
        Message { body: &bodies[number], ..Message::of(&SHOP, "attacked-in", scheme) }
    };
    let nonce = || format!("queue:attacked-in:{}", new_nonce());
    let with = |mut message: Value, header: &str, value: &str| {
        message["headers"][header] = value.into();
        message
    };
    let mut tampered = [good(0).signed_now(), good(1).signed_now()];
    for message in &mut tampered {
        message["body"] = message["body"].as_str().unwrap().replace("1000", "9000").into();
    }
    let [tampered, tampered_digest] = tampered;
    let mut unsigned = good(2).signed_now();
    unsigned["headers"].as_object_mut().unwrap().remove("x-tollgate-signature");
    let mut keyless = good(3).signed_now();
    keyless["headers"].as_object_mut().unwrap().remove("idempotency-key");
    let conflict = payment_body("o-0").to_string().replace("1000", "2000");
    let long = json!({"order_id": "x", "description": "d".repeat(5000)}).to_string();
    let request = |method: &'static str, path: &'static str| Message { method, path, ..good(4) }.signed_now();
    let table = [
        ("tampered", tampered, "unauthorized", "its key or signature was rejected"),
        ("digest", tampered_digest, "unauthorized", "its key or signature was rejected"),
        ("unsigned", unsigned, "unauthorized", "The message is not signed"),
        ("foreign", Message { merchant: &OTHER, ..good(5) }.signed_now(), "unauthorized", "a key of this merchant"),
        (
            "path",
            with(good(6).signed_now(), "path", "/v1/payments/o-0/refunds"),
            "unauthorized",
            "signature was rejected",
        ),
        ("old", good(7).signed(unix_now() - 3700, &nonce()), "unauthorized", "older than 3600 s"),
        ("future", good(8).signed(unix_now() + 400, &nonce()), "unauthorized", "from the future"),
        (
            "http",
            good(9).signed(unix_now() - 400, &new_nonce()),
            "unauthorized",
            "a nonce that begins with `queue:attacked-in:`",
        ),
        (
            "other",
            good(10).signed(unix_now(), "queue:other-in:1"),
            "unauthorized",
            "must begin with `queue:attacked-in:`",
        ),
        ("get", request("GET", "/v1/payments/o-0"), "method_not_allowed", "A queue accepts POST of payments"),
        ("events", request("POST", "/v1/events/evt_1/redeliver"), "method_not_allowed", "A queue accepts POST"),
        ("nowhere", request("POST", "/v1/nowhere"), "not_found", "no such path"),
        ("form", Message { body: "{}", ..good(11) }.signed_now(), "invalid_request", "order_id"),
        ("keyless", keyless, "invalid_request", "`Idempotency-Key`"),
        ("target", with(good(12).signed_now(), "path", "v1"), "invalid_request", "The header `path`"),
        ("long", Message { body: &long, ..good(13) }.signed_now(), "payload_too_large", "at most 4096"),
        (
            "order",
            Message { path: "/v1/payments/none/close", body: "", ..good(14) }.signed_now(),
            "not_found",
            "no such payment",
        ),
        ("conflict", Message { body: &conflict, ..good(15) }.signed_now(), "id_conflict", "different parameters"),
    ];
    let messages: Vec<Value> = table.iter().map(|(id, message, ..)| with_id(message, id)).collect();
    broker.publish("attacked-in", &messages).await;
    let refused = refused(broker, "attacked-dead", table.len()).await;
    for (id, sent, code, detail) in &table {
        let message = &refused[*id];
        let header = |name: &str| message["headers"][format!("x-tollgate-refused-{name}")].as_str().unwrap();
        assert_eq!((header("code"), header("by")), (*code, "attacked-in"), "{id}: {message}");
        assert!(header("detail").contains(detail), "{id}: {message}");
        let problem: Value = serde_json::from_str(header("problem")).unwrap();
        assert_eq!((&problem["code"], &problem["status"].to_string()), (&json!(code), &header("status").to_owned()));
        assert_eq!((&message["body"], &message["routing_key"]), (&sent["body"], &json!("attacked-in")), "{id}");
        assert_eq!(message["headers"]["path"], sent["headers"]["path"], "the producer's headers are kept");
    }
    // One that is young enough and valid is accepted after all of these.
    let young = Message { key: "o-9", body: &payment_body("o-9").to_string(), ..good(0) };
    broker.publish("attacked-in", &[young.signed(unix_now() - 3000, &nonce())]).await;
    world.receiver.until("o-9", "payment.pending").await;
    // Signed as for HTTP, within its five minutes.
    let usual = Message { key: "o-10", body: &payment_body("o-10").to_string(), ..good(0) };
    broker.publish("attacked-in", &[usual.signed(unix_now() - 200, &new_nonce())]).await;
    world.receiver.until("o-10", "payment.pending").await;
    world.until_metric(&count_of("attacked-in", "refused", table.len() as u64)).await;
    for number in 0..20 {
        let seen = world.provider_order(&format!("x-{number}")).await;
        assert_eq!(seen["arrivals"], Value::Null, "x-{number}");
    }
    broker.until_depth("attacked-in", 0).await;
}

fn with_id(message: &Value, id: &str) -> Value {
    let mut message = message.clone();
    message["id"] = id.into();
    message
}

/// A captured message is worthless over HTTP, also within the five minutes of its signature.
#[tokio::test]
async fn message_of_a_queue_is_refused_over_http() {
    let world = World::new().await;
    let body = payment_body("o-1").to_string();
    for scheme in [plain, rfc9421] {
        let message = Message { body: &body, ..Message::of(&SHOP, "orders-in", scheme) };
        let over_http = |message: Value| {
            let headers: Vec<(&'static str, String)> = [
                "idempotency-key",
                "x-tollgate-key",
                "x-tollgate-timestamp",
                "x-tollgate-nonce",
                "x-tollgate-signature",
                "signature",
                "signature-input",
                "content-digest",
            ]
            .into_iter()
            .filter_map(|name| Some((name, message["headers"][name].as_str()?.to_owned())))
            .collect();
            let (url, body) = (format!("http://{}/v1/payments", world.gateway.listen), body.clone());
            async move { send("POST", &url, &headers, body.as_bytes()).await.unwrap().status }
        };
        assert_eq!(over_http(message.signed_now()).await, 401);
        assert_eq!(world.provider_order("o-1").await["arrivals"], Value::Null);
    }
    let usual = Message { body: &body, ..Message::of(&SHOP, "orders-in", plain) }.signed(unix_now(), &new_nonce());
    assert!(usual["headers"]["x-tollgate-signature"].is_string());
    assert_eq!(world.create("o-1", "k").await.status, 201);
}

#[tokio::test]
async fn message_that_cannot_be_dead_lettered_is_held_until_a_queue_is_bound() {
    let broker = RabbitMq::shared().await;
    broker.declare("unbound-dead").await;
    let world = world_with(broker, "unbound-in", "dead_letter = \"unbound-dead\"", WorldOptions::default()).await;
    let refused_one = Message { body: "{}", ..Message::of(&SHOP, "unbound-in", plain) }.signed_now();
    broker.publish("unbound-in", &[with_id(&refused_one, "bad"), signed_create("unbound-in", "o-1")]).await;
    world.receiver.until("o-1", "payment.pending").await;
    world.until_logged("a refused message cannot be dead-lettered and is held").await;
    broker.bind("unbound-dead", "unbound-dead", "#").await;
    let refused = refused(broker, "unbound-dead", 1).await;
    assert_eq!(refused["bad"]["headers"]["x-tollgate-refused-code"], "invalid_request");
    world.until_metric(&count_of("unbound-in", "refused", 1)).await;
}

/// A broker with an alarm reads nothing more from a connection that publishes, acknowledgements included.
#[tokio::test]
async fn alarm_of_the_broker_delays_refused_messages_and_no_acknowledgement() {
    let broker = RabbitMq::start().await;
    broker.bind("alarm-dead", "alarm-dead", "#").await;
    broker.declare_queue("alarm-in", json!({})).await;
    let mut world = World::new().await;
    let refused_one = Message { body: "{}", ..Message::of(&SHOP, "alarm-in", plain) }.signed_now();
    let orders: Vec<String> = (0..10).map(|number| format!("o-{number}")).collect();
    let mut messages = vec![with_id(&refused_one, "bad")];
    messages.extend(orders.iter().map(|order| signed_create("alarm-in", order)));
    broker.publish("alarm-in", &messages).await;
    broker.command("set_vm_memory_high_watermark 0.00001").await;
    put_in_force(&world, &source(broker.port, "alarm-in", "prefetch = 2\ndead_letter = \"alarm-dead\"")).await;
    for order in &orders {
        world.receiver.until(order, "payment.pending").await;
    }
    world.until_logged("a refused message cannot be dead-lettered and is held").await;
    world.until_metric(&count_of("alarm-in", "accepted", 10)).await;
    world.gateway.kill();
    broker.until_depth("alarm-in", 1).await;
    broker.command("set_vm_memory_high_watermark 0.9").await;
    world.start().await;
    refused(&broker, "alarm-dead", 1).await;
}

#[tokio::test]
async fn refused_message_follows_the_policy_of_its_queue_if_the_source_names_no_exchange() {
    let broker = RabbitMq::shared().await;
    broker.bind("policy-dead", "policy-dead", "#").await;
    broker.declare_queue("policy-in", json!({"x-dead-letter-exchange": "policy-dead"})).await;
    let world = World::new().await;
    put_in_force(&world, &source(broker.port, "policy-in", "")).await;
    until_consumed(&world, "policy-in").await;
    let refused_one = Message { body: "{}", ..Message::of(&SHOP, "policy-in", plain) }.signed_now();
    broker.publish("policy-in", &[with_id(&refused_one, "bad"), signed_create("policy-in", "o-1")]).await;
    let refused = refused(broker, "policy-dead", 1).await;
    assert_eq!(refused["bad"]["headers"]["x-first-death-reason"], "rejected");
    world.until_logged("the dead-letter policy of the queue decides about it").await;
    world.until_metric(&count_of("policy-in", "refused", 1)).await;
    world.receiver.until("o-1", "payment.pending").await;
    assert_created_once(&world, "o-1").await;
}
