//! `prefer: respond-async`: accepted durably, executed once by any gateway, published as an event.

use serde_json::{Value, json};

use crate::harness::{
    Answer, Merchant, OTHER, World, WorldOptions, force_breaker, payment_body, send, signed_headers,
    signed_request_async, until,
};

async fn create(world: &World, order: &str, key: &str) -> Answer {
    signed_request_async(world.gateway.listen, "/v1/payments", key, &payment_body(order)).await
}

fn is_accepted(answer: &Answer) -> bool {
    answer.status == 202 && answer.headers.get("preference-applied").is_some_and(|value| value == "respond-async")
}

/// Starts a world with these lines of `[queue]`.
async fn world(queue: &'static str) -> World {
    World::with(WorldOptions { server: queue, ..WorldOptions::default() }).await
}

/// Waits until the job was dequeued, could not be sent and was requeued. Its delay is some hundred milliseconds at least.
async fn until_requeued(world: &World, order: &str) {
    until("the job is requeued", || async {
        let timeline = world.explain_json(order).await;
        timeline.contains("\"what\":\"requeued\"").then_some(()).ok_or(timeline)
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
    // A repeat returns the current state and sends nothing.
    let again = create(&world, "o-1", "k-1").await;
    assert!(is_accepted(&again) && again.is_replayed() && again.json()["action"] == *action, "{again:?}");
    let waiting = world.create("o-1", "k-1").await;
    assert_eq!(
        (waiting.status, &waiting.json()["action"]),
        (201, action),
        "a synchronous repeat gets the usual response"
    );
    let other_key = create(&world, "o-1", "k-2").await;
    assert_eq!((other_key.status, &other_key.json()["action"]), (202, action));
    let mut other = payment_body("o-1");
    other["amount"]["value"] = 1001.into();
    let refused = signed_request_async(world.gateway.listen, "/v1/payments", "k-3", &other).await;
    assert_eq!((refused.status, &refused.json()["code"]), (422, &json!("id_conflict")));
    world.pay("o-1").await;
    world.receiver.until("o-1", "payment.succeeded").await;

    let refund = json!({"refund_id": "r-1", "amount": {"value": 400, "currency": "CNY"}});
    let given = signed_request_async(world.gateway.listen, "/v1/payments/o-1/refunds", "r-1", &refund).await;
    assert!(is_accepted(&given) && given.json()["money_state"] == "not_sent", "{given:?}");
    let event = world.receiver.until("o-1", "refund.succeeded").await.json();
    assert_eq!(event["data"]["refund"]["refund_id"], "r-1", "{event}");
    let too_much = json!({"refund_id": "r-2", "amount": {"value": 601, "currency": "CNY"}});
    let refused = signed_request_async(world.gateway.listen, "/v1/payments/o-1/refunds", "r-2", &too_much).await;
    assert_eq!(
        (refused.status, &refused.json()["code"]),
        (422, &json!("refund_exceeds_balance")),
        "rejected before it is enqueued"
    );

    world.create("o-2", "k-4").await;
    let closing = signed_request_async(world.gateway.listen, "/v1/payments/o-2/close", "c-1", &Value::Null).await;
    assert!(is_accepted(&closing), "{closing:?}");
    world.receiver.until("o-2", "payment.closed").await;
    let seen = world.provider_order("o-1").await;
    assert_eq!((&seen["arrivals"]["create"], &seen["arrivals"]["refund"]), (&json!(1), &json!(1)), "{seen}");
    for operation in ["pay", "refund", "close"] {
        world.until_metric(&format!("tollgate_queue_total{{operation=\"{operation}\",result=\"executed\"}} 1")).await;
    }
    world.until_metric("tollgate_queue_depth 0").await;
}

#[tokio::test]
async fn declined_async_payment_publishes_payment_failed() {
    let world = World::new().await;
    world.inject_fault(json!({"operation": "create", "fault": "status", "status": 400, "code": "PARAM_ERROR"})).await;
    assert!(is_accepted(&create(&world, "o-1", "k-1").await));
    world.receiver.until("o-1", "payment.failed").await;
    let again = create(&world, "o-1", "k-1").await;
    assert_eq!((again.status, &again.json()["status"]), (202, &json!("failed")), "{:?}", again.body);
}

#[tokio::test]
async fn queued_payment_survives_crash_and_is_executed_once() {
    let mut world = World::new().await;
    force_breaker(&world.gateway, "open").await;
    assert!(is_accepted(&create(&world, "o-1", "k-1").await));
    until_requeued(&world, "o-1").await;
    world.until_metric("tollgate_queue_depth 1").await;
    assert!(world.payment("o-1").await.get("stale").is_none(), "an unsent payment is not queried");
    let again = create(&world, "o-1", "k-1").await;
    assert!(is_accepted(&again) && again.json()["money_state"] == "not_sent", "{again:?}");
    assert_eq!(world.create("o-1", "k-2").await.status, 202, "a synchronous repeat of a queued payment is accepted");
    world.gateway.kill();
    world.start().await;
    world.receiver.until("o-1", "payment.pending").await;
    let seen = world.provider_order("o-1").await;
    assert_eq!((&seen["arrivals"]["create"], &seen["arrivals"]["query"]), (&json!(1), &Value::Null), "{seen}");
    let timeline = world.explain_json("o-1").await;
    let positions = ["queued", "dequeued", "requeued", "\"result\":\"pending\""].map(|what| timeline.find(what));
    assert!(positions.is_sorted() && positions.iter().all(Option::is_some), "{timeline}");
}

#[tokio::test]
async fn crash_while_executing_job_never_resends() {
    let mut world = World::new().await;
    world.inject_fault(json!({"operation": "create", "fault": "delay", "delay_ms": 60000})).await;
    assert!(is_accepted(&create(&world, "o-1", "k-1").await));
    until("the create reached the provider", || async {
        let seen = world.provider_order("o-1").await;
        (seen["arrivals"]["create"] == 1).then_some(()).ok_or(seen)
    })
    .await;
    world.gateway.kill();
    world.start().await;
    world.receiver.until("o-1", "payment.unknown").await;
    world.until_status("o-1", "pending").await;
    assert!(is_accepted(&create(&world, "o-1", "k-1").await));
    world.assert_created_once("o-1").await;
}

/// The create that recovers a lost action is identical, even if `public_url` changed while the payment was queued.
#[tokio::test]
async fn queued_payment_recovers_lost_action_after_public_url_change() {
    let mut world = World::new().await;
    force_breaker(&world.gateway, "open").await;
    assert!(is_accepted(&create(&world, "o-1", "k-1").await));
    until_requeued(&world, "o-1").await;
    world.gateway.kill();
    let file = world.conf().join("tollgate.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let listen = world.gateway.listen;
    let there = format!("public_url = \"http://{listen}\"");
    assert!(text.contains(&there), "{text}");
    let other = format!("public_url = \"http://localhost:{}\"", listen.port());
    std::fs::write(&file, text.replace(&there, &other)).unwrap();
    // The provider executes the create and answers without the action.
    world
        .inject_fault(
            json!({"operation": "create", "fault": "status_after", "number": World::provider_order_no("o-1")}),
        )
        .await;
    world.start().await;
    let payment = until("the action is recovered", || async {
        let payment = world.payment("o-1").await;
        (payment["action"]["type"] == "qr").then_some(payment.clone()).ok_or(payment)
    })
    .await;
    assert_eq!(payment["status"], "pending", "{payment}");
    let seen = world.provider_order("o-1").await;
    assert_eq!((&seen["arrivals"]["create"], &seen["created"]), (&json!(2), &json!(1)), "{seen}");
}

#[tokio::test]
async fn full_queue_is_503_without_claim() {
    let world = world("[queue]\nlimit = 1").await;
    force_breaker(&world.gateway, "open").await;
    assert!(is_accepted(&create(&world, "o-1", "k-1").await));
    until_requeued(&world, "o-1").await;
    let full = create(&world, "o-2", "k-2").await;
    assert_eq!(
        (full.status, &full.json()["code"], &full.json()["retryable"]),
        (503, &json!("queue_full"), &json!("same_key"))
    );
    assert!(full.headers.contains_key("retry-after"));
    assert_eq!(world.signed_request("GET", "/v1/payments/o-2", None, &Value::Null).await.status, 404);
    assert!(is_accepted(&create(&world, "o-1", "k-1").await), "an accepted job stays accepted");
    world.until_metric("tollgate_queue_total{operation=\"pay\",result=\"full\"} 1").await;
    force_breaker(&world.gateway, "none").await;
    world.receiver.until("o-1", "payment.pending").await;
    assert!(is_accepted(&create(&world, "o-2", "k-2").await));
    world.receiver.until("o-2", "payment.pending").await;
}

/// As [`signed_request_async`], for any merchant.
async fn create_of(world: &World, merchant: &Merchant, order: &str) -> Answer {
    let body = payment_body(order).to_string();
    let mut headers = signed_headers(merchant, "POST", "/v1/payments", body.as_bytes());
    headers.extend([("idempotency-key", order.to_owned()), ("prefer", "respond-async".to_owned())]);
    let url = format!("http://{}/v1/payments", world.gateway.listen);
    send("POST", &url, &headers, body.as_bytes()).await.unwrap()
}

#[tokio::test]
async fn one_merchant_may_occupy_half_of_queue() {
    let world = world("[queue]\nlimit = 20").await;
    force_breaker(&world.gateway, "open").await;
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
    assert_eq!(accepted, 10, "half of the queue, including jobs in execution");
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
    world.inject_fault(json!({"operation": "*", "fault": "refuse_connection", "times": 1000})).await;
    assert!(is_accepted(&create(&world, "o-1", "k-1").await));
    let event = world.receiver.until("o-1", "payment.failed").await.json();
    assert_eq!(event["data"]["payment"]["money_state"], "not_sent", "{event}");
    assert_eq!(world.payment("o-1").await["status"], "failed");
    world.until_metric("tollgate_queue_total{operation=\"pay\",result=\"not_sent\"} 1").await;
    assert_eq!(world.provider_order("o-1").await["arrivals"], Value::Null);
}

#[tokio::test]
async fn close_cancels_queued_payment() {
    let world = World::new().await;
    force_breaker(&world.gateway, "open").await;
    assert!(is_accepted(&create(&world, "o-1", "k-1").await));
    until_requeued(&world, "o-1").await;
    let closed = world.signed_request("POST", "/v1/payments/o-1/close", Some("c"), &Value::Null).await;
    assert_eq!((closed.status, &closed.json()["money_state"]), (200, &json!("not_sent")), "{:?}", closed.body);
    world.receiver.until("o-1", "payment.closed").await;
    force_breaker(&world.gateway, "none").await;
    assert!(is_accepted(&create(&world, "o-2", "k-2").await));
    world.receiver.until("o-2", "payment.pending").await;
    assert_eq!(world.provider_order("o-1").await["arrivals"], Value::Null);
}
