//! `prefer: respond-async`: accepted at once, made once, by whoever takes it, and told.

use serde_json::{Value, json};

use crate::harness::{Answer, Merchant, OTHER, World, WorldOptions, ask_later, force, order_of, send, signed, until};

async fn create(world: &World, order: &str, key: &str) -> Answer {
    ask_later(world.gateway.listen, "/v1/payments", key, &order_of(order)).await
}

fn is_accepted(answer: &Answer) -> bool {
    answer.status == 202 && answer.headers.get("preference-applied").is_some_and(|value| value == "respond-async")
}

/// With something said of the queue.
async fn world(queue: &'static str) -> World {
    World::with(WorldOptions { server: queue, ..WorldOptions::default() }).await
}

/// It was taken, nothing could be sent, and it waits again: not for less than some hundred milliseconds.
async fn until_put_back(world: &World, order: &str) {
    until("it went back to the queue", || async {
        let told = world.explained(order).await;
        told.contains("\"what\":\"requeued\"").then_some(()).ok_or(told)
    })
    .await;
}

#[tokio::test]
async fn respond_async_is_accepted_executed_and_published() {
    let world = World::new().await;
    let accepted = create(&world, "o-1", "k-1").await;
    assert!(is_accepted(&accepted) && !accepted.is_replayed(), "{accepted:?}");
    let payment = accepted.json();
    assert_eq!((&payment["status"], &payment["money_state"]), (&json!("pending"), &json!("not_sent")), "{payment}");
    let made = world.receiver.until("o-1", "payment.pending").await.json();
    let action = &made["data"]["payment"]["action"];
    assert_eq!(action["type"], "qr", "{made}");
    assert_eq!(&world.payment("o-1").await["action"], action);
    // Again: how it stands, and nothing is sent.
    let again = create(&world, "o-1", "k-1").await;
    assert!(is_accepted(&again) && again.is_replayed() && again.json()["action"] == *action, "{again:?}");
    let waiting = world.create("o-1", "k-1").await;
    assert_eq!((waiting.status, &waiting.json()["action"]), (201, action), "who waits is told as ever");
    let other_key = create(&world, "o-1", "k-2").await;
    assert_eq!((other_key.status, &other_key.json()["action"]), (202, action));
    let mut other = order_of("o-1");
    other["amount"]["value"] = 1001.into();
    let refused = ask_later(world.gateway.listen, "/v1/payments", "k-3", &other).await;
    assert_eq!((refused.status, &refused.json()["code"]), (422, &json!("id_conflict")));
    world.pay("o-1").await;
    world.receiver.until("o-1", "payment.succeeded").await;

    let refund = json!({"refund_id": "r-1", "amount": {"value": 400, "currency": "CNY"}});
    let given = ask_later(world.gateway.listen, "/v1/payments/o-1/refunds", "r-1", &refund).await;
    assert!(is_accepted(&given) && given.json()["money_state"] == "not_sent", "{given:?}");
    let told = world.receiver.until("o-1", "refund.succeeded").await.json();
    assert_eq!(told["data"]["refund"]["refund_id"], "r-1", "{told}");
    let too_much = json!({"refund_id": "r-2", "amount": {"value": 601, "currency": "CNY"}});
    let refused = ask_later(world.gateway.listen, "/v1/payments/o-1/refunds", "r-2", &too_much).await;
    assert_eq!(
        (refused.status, &refused.json()["code"]),
        (422, &json!("refund_exceeds_balance")),
        "before it is accepted"
    );

    world.create("o-2", "k-4").await;
    let closing = ask_later(world.gateway.listen, "/v1/payments/o-2/close", "c-1", &Value::Null).await;
    assert!(is_accepted(&closing), "{closing:?}");
    world.receiver.until("o-2", "payment.closed").await;
    let seen = world.seen("o-1").await;
    assert_eq!((&seen["arrivals"]["create"], &seen["arrivals"]["refund"]), (&json!(1), &json!(1)), "{seen}");
    for operation in ["pay", "refund", "close"] {
        world.until_metric(&format!("tollgate_queue_total{{operation=\"{operation}\",result=\"executed\"}} 1")).await;
    }
    world.until_metric("tollgate_queue_depth 0").await;
}

#[tokio::test]
async fn declined_async_payment_publishes_payment_failed() {
    let world = World::new().await;
    world.fault(json!({"operation": "create", "fault": "status", "status": 400, "code": "PARAM_ERROR"})).await;
    assert!(is_accepted(&create(&world, "o-1", "k-1").await));
    world.receiver.until("o-1", "payment.failed").await;
    let again = create(&world, "o-1", "k-1").await;
    assert_eq!((again.status, &again.json()["status"]), (202, &json!("failed")), "{:?}", again.body);
}

#[tokio::test]
async fn queued_payment_survives_crash_and_is_executed_once() {
    let mut world = World::new().await;
    force(&world.gateway, "open").await;
    assert!(is_accepted(&create(&world, "o-1", "k-1").await));
    until_put_back(&world, "o-1").await;
    world.until_metric("tollgate_queue_depth 1").await;
    assert!(world.payment("o-1").await.get("stale").is_none(), "nobody is asked about what was not sent");
    let again = create(&world, "o-1", "k-1").await;
    assert!(is_accepted(&again) && again.json()["money_state"] == "not_sent", "{again:?}");
    assert_eq!(world.create("o-1", "k-2").await.status, 202, "who waits would wait for the queue");
    world.gateway.kill();
    world.start().await;
    world.receiver.until("o-1", "payment.pending").await;
    let seen = world.seen("o-1").await;
    assert_eq!((&seen["arrivals"]["create"], &seen["arrivals"]["query"]), (&json!(1), &Value::Null), "{seen}");
    let told = world.explained("o-1").await;
    let places = ["queued", "dequeued", "requeued", "\"result\":\"pending\""].map(|what| told.find(what));
    assert!(places.is_sorted() && places.iter().all(Option::is_some), "{told}");
}

#[tokio::test]
async fn crash_while_executing_job_never_resends() {
    let mut world = World::new().await;
    world.fault(json!({"operation": "create", "fault": "delay", "delay_ms": 60000})).await;
    assert!(is_accepted(&create(&world, "o-1", "k-1").await));
    until("it reached the provider", || async {
        let seen = world.seen("o-1").await;
        (seen["arrivals"]["create"] == 1).then_some(()).ok_or(seen)
    })
    .await;
    world.gateway.kill();
    world.start().await;
    world.receiver.until("o-1", "payment.unknown").await;
    world.until_status("o-1", "pending").await;
    assert!(is_accepted(&create(&world, "o-1", "k-1").await));
    world.was_made_once("o-1").await;
}

/// The identical create repeats what was sent, also where `public_url` changed while the payment waited.
#[tokio::test]
async fn queued_payment_recovers_lost_action_after_public_url_change() {
    let mut world = World::new().await;
    force(&world.gateway, "open").await;
    assert!(is_accepted(&create(&world, "o-1", "k-1").await));
    until_put_back(&world, "o-1").await;
    world.gateway.kill();
    let file = world.conf().join("tollgate.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let listen = world.gateway.listen;
    let there = format!("public_url = \"http://{listen}\"");
    assert!(text.contains(&there), "{text}");
    let other = format!("public_url = \"http://localhost:{}\"", listen.port());
    std::fs::write(&file, text.replace(&there, &other)).unwrap();
    // Executed, and answered without the action.
    world.fault(json!({"operation": "create", "fault": "status_after", "number": World::number("o-1")})).await;
    world.start().await;
    let payment = until("the action is there", || async {
        let payment = world.payment("o-1").await;
        (payment["action"]["type"] == "qr").then_some(payment.clone()).ok_or(payment)
    })
    .await;
    assert_eq!(payment["status"], "pending", "{payment}");
    let seen = world.seen("o-1").await;
    assert_eq!((&seen["arrivals"]["create"], &seen["created"]), (&json!(2), &json!(1)), "{seen}");
}

#[tokio::test]
async fn full_queue_is_503_without_claim() {
    let world = world("[queue]\nlimit = 1").await;
    force(&world.gateway, "open").await;
    assert!(is_accepted(&create(&world, "o-1", "k-1").await));
    until_put_back(&world, "o-1").await;
    let full = create(&world, "o-2", "k-2").await;
    assert_eq!(
        (full.status, &full.json()["code"], &full.json()["retryable"]),
        (503, &json!("queue_full"), &json!("same_key"))
    );
    assert!(full.headers.contains_key("retry-after"));
    assert_eq!(world.ask("GET", "/v1/payments/o-2", None, &Value::Null).await.status, 404);
    assert!(is_accepted(&create(&world, "o-1", "k-1").await), "what was accepted stays so");
    world.until_metric("tollgate_queue_total{operation=\"pay\",result=\"full\"} 1").await;
    force(&world.gateway, "none").await;
    world.receiver.until("o-1", "payment.pending").await;
    assert!(is_accepted(&create(&world, "o-2", "k-2").await));
    world.receiver.until("o-2", "payment.pending").await;
}

/// As [`ask_later`], of any merchant.
async fn create_of(world: &World, merchant: &Merchant, order: &str) -> Answer {
    let body = order_of(order).to_string();
    let mut headers = signed(merchant, "POST", "/v1/payments", body.as_bytes());
    headers.extend([("idempotency-key", order.to_owned()), ("prefer", "respond-async".to_owned())]);
    let url = format!("http://{}/v1/payments", world.gateway.listen);
    send("POST", &url, &headers, body.as_bytes()).await.unwrap()
}

#[tokio::test]
async fn one_merchant_may_occupy_half_of_queue() {
    let world = world("[queue]\nlimit = 20").await;
    force(&world.gateway, "open").await;
    let mut accepted = 0;
    for number in 0..15 {
        let answer = create(&world, &format!("o-{number}"), &format!("k-{number}")).await;
        if is_accepted(&answer) {
            accepted += 1;
            continue;
        }
        let problem = answer.json();
        assert_eq!((answer.status, &problem["retryable"]), (503, &json!("same_key")), "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains("half of the queue"), "{problem}");
        assert!(answer.headers.contains_key("retry-after"));
    }
    assert_eq!(accepted, 10, "half, those included that are under way");
    for number in 0..10 {
        let answer = create_of(&world, &OTHER, &format!("p-{number}")).await;
        assert!(is_accepted(&answer), "{number}: {answer:?}");
    }
    let full = create_of(&world, &OTHER, "p-10").await;
    assert!(full.json()["detail"].as_str().unwrap().contains("the queue is full"), "{:?}", full.body);
    world.until_metric("tollgate_queue_total{operation=\"pay\",result=\"share_full\"} 5").await;
}

#[tokio::test]
async fn job_expires_after_max_age_and_publishes_payment_failed() {
    let world = world("[queue]\nmax_age = \"3s\"").await;
    world.fault(json!({"operation": "*", "fault": "refuse_connection", "times": 1000})).await;
    assert!(is_accepted(&create(&world, "o-1", "k-1").await));
    let told = world.receiver.until("o-1", "payment.failed").await.json();
    assert_eq!(told["data"]["payment"]["money_state"], "not_sent", "{told}");
    assert_eq!(world.payment("o-1").await["status"], "failed");
    world.until_metric("tollgate_queue_total{operation=\"pay\",result=\"expired\"} 1").await;
    assert_eq!(world.seen("o-1").await["arrivals"], Value::Null);
}

#[tokio::test]
async fn close_cancels_queued_payment() {
    let world = World::new().await;
    force(&world.gateway, "open").await;
    assert!(is_accepted(&create(&world, "o-1", "k-1").await));
    until_put_back(&world, "o-1").await;
    let closed = world.ask("POST", "/v1/payments/o-1/close", Some("c"), &Value::Null).await;
    assert_eq!((closed.status, &closed.json()["money_state"]), (200, &json!("not_sent")), "{:?}", closed.body);
    world.receiver.until("o-1", "payment.closed").await;
    force(&world.gateway, "none").await;
    assert!(is_accepted(&create(&world, "o-2", "k-2").await));
    world.receiver.until("o-2", "payment.pending").await;
    assert_eq!(world.seen("o-1").await["arrivals"], Value::Null);
}
