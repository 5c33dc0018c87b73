//! What Alipay really sends, beside what its documents say.

use serde_json::{Value, json};
use tollgate::keygen::SandboxProvider;

use crate::harness::{World, WorldOptions, order_of, until};

async fn create(world: &World, order: &str) -> crate::harness::Answer {
    let mut body = order_of(order);
    body["method"] = "alipay.qr".into();
    world.ask("POST", "/v1/payments", Some(&format!("pay-{order}")), &body).await
}

async fn paid(world: &World, order: &str) {
    assert_eq!(create(world, order).await.status, 201);
    world.pay(order).await;
    world.receiver.until(order, "payment.succeeded").await;
}

async fn refund(world: &World, order: &str, refund: &str) -> crate::harness::Answer {
    let body = json!({"refund_id": refund, "amount": {"value": 300, "currency": "CNY"}});
    let key = format!("refund-{order}-{refund}");
    world.ask("POST", &format!("/v1/payments/{order}/refunds"), Some(&key), &body).await
}

/// A refund that Alipay wrote down and never made, and one of which it only says that no money moved.
#[tokio::test]
async fn refund_not_executed_by_alipay_fails_after_not_found_grace_and_releases_amount() {
    let provider = SandboxProvider::Alipay;
    let world = World::with(WorldOptions { provider, refunds_wait: true, ..WorldOptions::default() }).await;
    let faults = [
        ("written-down", json!({"fault": "status_after", "status": 200, "code": "SYSTEM_ERROR"})),
        ("no-change", json!({"fault": "not_refunded"})),
    ];
    for (order, fault) in &faults {
        paid(&world, order).await;
        let mut fault = fault.clone();
        fault["operation"] = "refund".into();
        world.fault(fault).await;
        let answer = refund(&world, order, "r-1").await;
        assert_eq!((answer.status, &answer.json()["status"]), (202, &json!("unknown")), "{order}: {}", answer.json());
    }
    for (order, _) in &faults {
        let event = world.receiver.until(order, "refund.failed").await.json();
        assert_eq!(event["data"]["refund"]["money_state"], "not_moved", "{event}");
        assert_eq!(world.payment(order).await["refunded"], 0);
        let seen = world.seen(order).await;
        assert_eq!(seen["arrivals"]["refund"], 1, "{order}: it was sent once: {seen}");
        // The whole amount may go back.
        let body = json!({"refund_id": "r-2", "amount": {"value": 1000, "currency": "CNY"}});
        let again =
            world.ask("POST", &format!("/v1/payments/{order}/refunds"), Some(&format!("{order}-2")), &body).await;
        assert_ne!(again.status, 422, "{order}: {}", again.json());
    }
}

/// The gateway signs no refusal: it writes them in the envelope of the method, or in v3 with a bare name.
#[tokio::test]
async fn alipay_unsigned_key_rejection_is_not_sent_and_same_key_retries() {
    for (provider, fault) in [
        (SandboxProvider::Alipay, json!({"fault": "own_envelope", "status": 200, "code": "isv.invalid-app-id"})),
        (SandboxProvider::Alipay, json!({"fault": "own_envelope", "status": 200, "code": "isv.app-cert-expired"})),
        (SandboxProvider::AlipayV3, json!({"fault": "status", "status": 400, "code": "isv.app-cert-expired"})),
    ] {
        let world = World::with(WorldOptions { provider, ..WorldOptions::default() }).await;
        let mut fault = fault;
        fault["operation"] = "create".into();
        world.fault(fault.clone()).await;
        let refused = create(&world, "o-1").await;
        let told = refused.json();
        assert_eq!((refused.status, &told["code"]), (503, &json!("channel_credentials_rejected")), "{fault} {told}");
        assert_eq!((&told["retryable"], &told["money_state"]), (&json!("same_key"), &json!("not_sent")), "{told}");
        until("people are alerted", || async {
            let log = world.log();
            if log.contains("the channel's keys or certificates are wrong") { Ok(()) } else { Err(log) }
        })
        .await;
        let made = create(&world, "o-1").await;
        assert_eq!(
            (made.status, &made.json()["status"]),
            (201, &json!("pending")),
            "the same request: {}",
            made.json()
        );
    }
}

#[tokio::test]
async fn alipay_gbk_responses_and_notifications_are_accepted() {
    let world = World::with(WorldOptions { provider: SandboxProvider::Alipay, ..WorldOptions::default() }).await;
    world.fault(json!({"operation": "create", "fault": "gbk"})).await;
    let made = create(&world, "asked").await;
    assert_eq!((made.status, &made.json()["action"]["type"]), (201, &json!("qr")), "{}", made.json());
    let path = format!("/orders/{}", World::number("asked"));
    world.control("POST", &format!("{path}/pay"), json!({"notify": false})).await;
    world.fault(json!({"operation": "query", "fault": "gbk"})).await;
    world.until_status("asked", "succeeded").await;

    assert_eq!(create(&world, "told").await.status, 201);
    let path = format!("/orders/{}", World::number("told"));
    world.control("POST", &format!("{path}/pay"), json!({"notify": false})).await;
    world.control("POST", &format!("{path}/notify"), json!({"gbk": true})).await;
    world.receiver.until("told", "payment.succeeded").await;
    acknowledged(&world, "told").await;
}

#[tokio::test]
async fn alipay_console_refund_is_acknowledged_and_published() {
    let world = World::with(WorldOptions { provider: SandboxProvider::Alipay, ..WorldOptions::default() }).await;
    paid(&world, "o-1").await;
    let path = format!("/orders/{}/refund_in_console", World::number("o-1"));
    world.control("POST", &path, json!({"number": "CONSOLE-1", "amount": 300})).await;
    let event = world.receiver.until("o-1", "payment.refunded_elsewhere").await.json();
    let payment = &event["data"]["payment"];
    assert_eq!((&payment["refunded"], &payment["refunded_elsewhere"]), (&json!(300), &json!(300)), "{event}");
    world.control("POST", &path, json!({"number": "CONSOLE-2", "amount": 700})).await;
    until("the rest is known", || async {
        let payment = world.payment("o-1").await;
        (payment["refunded"] == 1000).then_some(()).ok_or(payment)
    })
    .await;
    acknowledged(&world, "o-1").await;
    until("people are alerted", || async {
        let log = world.log();
        if log.contains("money went back to the payer by a refund that was not made here") { Ok(()) } else { Err(log) }
    })
    .await;
    assert_eq!(refund(&world, "o-1", "r-1").await.status, 422, "nothing is left");
    assert_eq!(world.payment("o-1").await["status"], "succeeded");
}

/// Waits until the provider has been told that each of its notifications arrived.
async fn acknowledged(world: &World, order: &str) {
    until("every notification is acknowledged", || async {
        let seen = world.seen(order).await;
        let of = |value: &Value| value["notifications"].as_array().cloned().unwrap_or_default();
        let refunds = seen["refunds"].as_object().cloned().unwrap_or_default();
        let all: Vec<Value> = of(&seen).into_iter().chain(refunds.values().flat_map(of)).collect();
        let is_done = !all.is_empty() && all.iter().all(|notification| notification["acknowledged"] == true);
        if is_done { Ok(()) } else { Err(seen) }
    })
    .await;
}
