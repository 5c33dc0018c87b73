//! Alipay behaviour that differs from its documentation.

use serde_json::{Value, json};
use tollgate_plugins::payment::provider_number;
use tollgate_sandbox::keygen::SandboxProvider;

use crate::harness::{World, WorldOptions, payment_body, until};

async fn create(world: &World, order: &str) -> crate::harness::Answer {
    let mut body = payment_body(order);
    body["method"] = "alipay.qr".into();
    world.signed_request("POST", "/v1/payments", Some(&format!("pay-{order}")), &body).await
}

async fn paid(world: &World, order: &str) {
    assert_eq!(create(world, order).await.status, 201);
    world.pay(order).await;
    world.receiver.until(order, "payment.succeeded").await;
}

async fn refund(world: &World, order: &str, refund: &str) -> crate::harness::Answer {
    let body = json!({"refund_id": refund, "amount": {"value": 300, "currency": "CNY"}});
    let key = format!("refund-{order}-{refund}");
    world.signed_request("POST", &format!("/v1/payments/{order}/refunds"), Some(&key), &body).await
}

/// Two cases: Alipay records a refund and never executes it; Alipay answers that no money moved.
#[tokio::test]
async fn refund_not_executed_by_alipay_fails_after_not_found_grace_and_releases_amount() {
    let provider = SandboxProvider::ALIPAY;
    let world = World::with(WorldOptions { provider, refunds_wait: true, ..WorldOptions::default() }).await;
    let faults = [
        ("written-down", json!({"fault": "status_after", "status": 200, "code": "SYSTEM_ERROR"})),
        ("no-change", json!({"fault": "not_refunded"})),
    ];
    for (order, fault) in &faults {
        paid(&world, order).await;
        let mut fault = fault.clone();
        fault["operation"] = "refund".into();
        world.inject_fault(fault).await;
        let answer = refund(&world, order, "r-1").await;
        assert_eq!((answer.status, &answer.json()["status"]), (202, &json!("unknown")), "{order}: {}", answer.json());
    }
    for (order, _) in &faults {
        let event = world.receiver.until(order, "refund.failed").await.json();
        assert_eq!(event["data"]["refund"]["money_state"], "not_moved", "{event}");
        assert_eq!(world.payment(order).await["refunded"], 0);
        let seen = world.provider_order(order).await;
        assert_eq!(seen["arrivals"]["refund"], 1, "{order}: the refund was sent once: {seen}");
        // The whole amount can be refunded again.
        let body = json!({"refund_id": "r-2", "amount": {"value": 1000, "currency": "CNY"}});
        let again = world
            .signed_request("POST", &format!("/v1/payments/{order}/refunds"), Some(&format!("{order}-2")), &body)
            .await;
        assert_ne!(again.status, 422, "{order}: {}", again.json());
    }
}

/// Alipay's gateway does not sign its errors: v2 wraps them in the method's envelope, v3 sends a bare code.
#[tokio::test]
async fn alipay_unsigned_key_rejection_is_not_sent_and_same_key_retries() {
    for (provider, fault) in [
        (SandboxProvider::ALIPAY, json!({"fault": "own_envelope", "status": 200, "code": "isv.invalid-app-id"})),
        (SandboxProvider::ALIPAY, json!({"fault": "own_envelope", "status": 200, "code": "isv.app-cert-expired"})),
        (SandboxProvider::ALIPAY_V3, json!({"fault": "status", "status": 400, "code": "isv.app-cert-expired"})),
    ] {
        let world = World::with(WorldOptions { provider, ..WorldOptions::default() }).await;
        let mut fault = fault;
        fault["operation"] = "create".into();
        world.inject_fault(fault.clone()).await;
        let refused = create(&world, "o-1").await;
        let problem = refused.json();
        assert_eq!(
            (refused.status, &problem["code"]),
            (503, &json!("channel_credentials_rejected")),
            "{fault} {problem}"
        );
        assert_eq!(
            (&problem["retryable"], &problem["money_state"]),
            (&json!("same_key"), &json!("not_sent")),
            "{problem}"
        );
        until("the log contains the alert", || async {
            let log = world.log();
            if log.contains("the channel's keys or certificates are wrong") { Ok(()) } else { Err(log) }
        })
        .await;
        let made = create(&world, "o-1").await;
        assert_eq!(
            (made.status, &made.json()["status"]),
            (201, &json!("pending")),
            "the same request succeeds: {}",
            made.json()
        );
    }
}

#[tokio::test]
async fn alipay_gbk_responses_and_notifications_are_accepted() {
    let world = World::with(WorldOptions { provider: SandboxProvider::ALIPAY, ..WorldOptions::default() }).await;
    world.inject_fault(json!({"operation": "create", "fault": "gbk"})).await;
    let made = create(&world, "queried").await;
    assert_eq!((made.status, &made.json()["action"]["type"]), (201, &json!("qr")), "{}", made.json());
    let path = format!("/orders/{}", World::provider_order_no("queried"));
    world.sandbox_control("POST", &format!("{path}/pay"), json!({"notify": false})).await;
    world.inject_fault(json!({"operation": "query", "fault": "gbk"})).await;
    world.until_status("queried", "succeeded").await;

    assert_eq!(create(&world, "notified").await.status, 201);
    let path = format!("/orders/{}", World::provider_order_no("notified"));
    world.sandbox_control("POST", &format!("{path}/pay"), json!({"notify": false})).await;
    world.sandbox_control("POST", &format!("{path}/notify"), json!({"gbk": true})).await;
    world.receiver.until("notified", "payment.succeeded").await;
    acknowledged(&world, "notified").await;
}

#[tokio::test]
async fn alipay_console_refund_is_acknowledged_and_published() {
    let world = World::with(WorldOptions { provider: SandboxProvider::ALIPAY, ..WorldOptions::default() }).await;
    paid(&world, "o-1").await;
    let path = format!("/orders/{}/refund_in_console", World::provider_order_no("o-1"));
    world.sandbox_control("POST", &path, json!({"number": "CONSOLE-1", "amount": 300})).await;
    let event = world.receiver.until("o-1", "payment.refunded_elsewhere").await.json();
    let payment = &event["data"]["payment"];
    assert_eq!((&payment["refunded"], &payment["refunded_elsewhere"]), (&json!(300), &json!(300)), "{event}");
    world.sandbox_control("POST", &path, json!({"number": "CONSOLE-2", "amount": 700})).await;
    until("both refunds are recorded", || async {
        let payment = world.payment("o-1").await;
        (payment["refunded"] == 1000).then_some(()).ok_or(payment)
    })
    .await;
    acknowledged(&world, "o-1").await;
    until("the log contains the alert", || async {
        let log = world.log();
        if log.contains("the payer received a refund that was not made through this gateway") {
            Ok(())
        } else {
            Err(log)
        }
    })
    .await;
    assert_eq!(refund(&world, "o-1", "r-1").await.status, 422, "nothing is left to refund");
    assert_eq!(world.payment("o-1").await["status"], "succeeded");
}

/// The notification names the sum of all refunds, and the result of the gateway's own refund is unknown: its answer and
/// the answers to its queries are lost.
#[tokio::test]
async fn alipay_console_refund_is_counted_while_own_refund_is_unknown() {
    let world = World::with(WorldOptions { provider: SandboxProvider::ALIPAY, ..WorldOptions::default() }).await;
    paid(&world, "o-1").await;
    world.inject_fault(json!({"operation": "refund", "fault": "cut_after"})).await;
    let ours = provider_number(&["shop", "o-1", "r-1"]);
    let lost = json!({"operation": "refund_query", "fault": "cut_after", "number": ours, "times": 1000});
    world.inject_fault(lost).await;
    let answer = refund(&world, "o-1", "r-1").await;
    assert_eq!((answer.status, &answer.json()["status"]), (202, &json!("unknown")), "{}", answer.json());
    let path = format!("/orders/{}/refund_in_console", World::provider_order_no("o-1"));
    world.sandbox_control("POST", &path, json!({"number": "CONSOLE-1", "amount": 200})).await;
    let event = world.receiver.until("o-1", "payment.refunded_elsewhere").await.json();
    let payment = &event["data"]["payment"];
    assert_eq!((&payment["refunded"], &payment["refunded_elsewhere"]), (&json!(200), &json!(200)), "{event}");
    acknowledged(&world, "o-1").await;
    world.sandbox_control("DELETE", "/faults", Value::Null).await;
    world.receiver.until("o-1", "refund.succeeded").await;
    let payment = world.payment("o-1").await;
    assert_eq!((&payment["refunded"], &payment["refunded_elsewhere"]), (&json!(500), &json!(200)), "{payment}");
    let history = world.explain_json("o-1").await;
    assert!(history.contains("elsewhere/CONSOLE-1") && history.contains("query_refund"), "{history}");
}

/// Waits until the gateway acknowledged each of the provider's notifications.
async fn acknowledged(world: &World, order: &str) {
    until("every notification is acknowledged", || async {
        let seen = world.provider_order(order).await;
        let of = |value: &Value| value["notifications"].as_array().cloned().unwrap_or_default();
        let refunds = seen["refunds"].as_object().cloned().unwrap_or_default();
        let all: Vec<Value> = of(&seen).into_iter().chain(refunds.values().flat_map(of)).collect();
        let is_done = !all.is_empty() && all.iter().all(|notification| notification["acknowledged"] == true);
        if is_done { Ok(()) } else { Err(seen) }
    })
    .await;
}
