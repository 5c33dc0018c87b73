//! Every operation from the merchant's request to the delivered event.

use serde_json::{Value, json};

use crate::harness::{WEBHOOK_SECRET, World, payment_body, until};

#[tokio::test]
async fn each_method_returns_its_action() {
    let world = World::new().await;
    let table = [
        ("wechat.native", json!({}), "qr"),
        ("wechat.jsapi", json!({"openid": "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o"}), "jsapi"),
        ("wechat.h5", json!({"client_ip": "203.0.113.9"}), "redirect"),
        ("wechat.app", json!({}), "app"),
    ];
    for (method, payer, action) in table {
        let order = method.replace('.', "-");
        let mut body = payment_body(&order);
        (body["method"], body["payer"]) = (method.into(), payer);
        let answer = world.signed_request("POST", "/v1/payments", Some(&order), &body).await;
        let payment = answer.json();
        assert_eq!(answer.status, 201, "{payment}");
        assert_eq!(
            (&payment["status"], &payment["money_state"]),
            (&"pending".into(), &"not_moved".into()),
            "{payment}"
        );
        assert_eq!(payment["action"]["type"], action, "{payment}");
        if let Some(params) = payment["action"].get("params") {
            let signature = params.get("paySign").or(params.get("sign")).and_then(Value::as_str).unwrap();
            assert_eq!(signature.len(), 344, "an RSA-2048 signature in base64");
        }
    }
}

#[tokio::test]
async fn payment_is_notified_delivered_and_refunded() {
    let world = World::new().await;
    let created = world.create("o-1", "k-1").await;
    assert_eq!(created.status, 201, "{:?}", created.body);
    assert!(created.json()["action"]["data"].as_str().unwrap().starts_with("weixin://"));
    world.pay("o-1").await;

    let event = world.receiver.until("o-1", "payment.succeeded").await;
    let body = event.json();
    assert_eq!(body["merchant"], "shop");
    assert_eq!(
        (&body["data"]["payment"]["status"], &body["data"]["payment"]["money_state"]),
        (&"succeeded".into(), &"moved".into())
    );
    assert_eq!(expected_signature(&event.id, &event.timestamp, &event.body), event.signature);
    let payment = world.payment("o-1").await;
    assert_eq!(payment["version"], body["data"]["payment"]["version"]);
    assert!(payment["paid_at"].is_string() && payment["provider_payment_id"].is_string(), "{payment}");

    let refund = |id: &str, value: u64| json!({"refund_id": id, "amount": {"value": value, "currency": "CNY"}, "reason": "退款"});
    let first = world.signed_request("POST", "/v1/payments/o-1/refunds", Some("r-1"), &refund("r-1", 300)).await;
    assert_eq!(first.status, 201, "{:?}", first.body);
    let too_much = world.signed_request("POST", "/v1/payments/o-1/refunds", Some("r-2"), &refund("r-2", 701)).await;
    assert_eq!((too_much.status, too_much.json()["code"].as_str()), (422, Some("refund_exceeds_balance")));
    let second = world.signed_request("POST", "/v1/payments/o-1/refunds", Some("r-3"), &refund("r-3", 700)).await;
    assert_eq!(second.status, 201, "{:?}", second.body);
    world.receiver.until("o-1", "refund.succeeded").await;
    until("both refunds arrived", || async {
        let payment = world.payment("o-1").await;
        (payment["refunded"] == 1000).then_some(()).ok_or(payment)
    })
    .await;
    let asked = world.signed_request("GET", "/v1/payments/o-1/refunds/r-1", None, &Value::Null).await.json();
    assert_eq!((&asked["status"], &asked["money_state"]), (&"succeeded".into(), &"moved".into()), "{asked}");
    let seen = world.provider_order("o-1").await;
    assert_eq!((&seen["executions"]["create"], &seen["executions"]["refund"]), (&1.into(), &2.into()), "{seen}");
}

#[tokio::test]
async fn unpaid_payment_closes_and_paid_one_is_409() {
    let world = World::new().await;
    world.create("open", "k-1").await;
    let closed = world.signed_request("POST", "/v1/payments/open/close", Some("c-1"), &Value::Null).await;
    assert_eq!((closed.status, closed.json()["status"].as_str()), (200, Some("closed")), "{:?}", closed.body);
    world.receiver.until("open", "payment.closed").await;
    assert_eq!(world.provider_order("open").await["state"], "CLOSED");

    world.create("paid", "k-2").await;
    let silent = json!({"notify": false});
    world.sandbox_control("POST", &format!("/orders/{}/pay", World::provider_order_no("paid")), silent).await;
    let refused = world.signed_request("POST", "/v1/payments/paid/close", Some("c-2"), &Value::Null).await;
    assert_eq!((refused.status, refused.json()["money_state"].as_str()), (409, Some("moved")), "{:?}", refused.body);
    assert_eq!(world.payment("paid").await["status"], "succeeded", "the paid status was recorded");
    let missing = world.signed_request("POST", "/v1/payments/nothing/close", Some("c-3"), &Value::Null).await;
    assert_eq!(missing.status, 404);
}

#[tokio::test]
async fn query_finds_paid_order_without_notification() {
    let world = World::new().await;
    world.create("o-1", "k-1").await;
    let silent = json!({"notify": false});
    world.sandbox_control("POST", &format!("/orders/{}/pay", World::provider_order_no("o-1")), silent).await;
    let payment = world.until_status("o-1", "succeeded").await;
    assert_eq!(payment["money_state"], "moved");
    world.receiver.until("o-1", "payment.succeeded").await;
    let before = world.provider_order("o-1").await["arrivals"]["query"].clone();
    world.payment("o-1").await;
    assert_eq!(world.provider_order("o-1").await["arrivals"]["query"], before, "a final payment is not queried again");
}

#[tokio::test]
async fn declined_payment_carries_provider_error_and_is_replayed() {
    let world = World::new().await;
    world.inject_fault(json!({"operation": "create", "fault": "status", "status": 400, "code": "PARAM_ERROR"})).await;
    let refused = world.create("o-1", "k-1").await;
    let problem = refused.json();
    assert_eq!(
        (refused.status, &problem["code"], &problem["money_state"]),
        (402, &"declined".into(), &"not_moved".into()),
        "{problem}"
    );
    assert_eq!(problem["provider"]["code"], "PARAM_ERROR", "{problem}");
    assert_eq!(refused.headers["content-type"], "application/problem+json");
    let again = world.create("o-1", "k-1").await;
    assert!(again.is_replayed() && again.body == refused.body, "a declined payment is replayed byte for byte");
    world.receiver.until("o-1", "payment.failed").await;
}

/// Signature after Standard Webhooks, computed independently of the gateway's code.
fn expected_signature(id: &str, timestamp: &str, body: &[u8]) -> String {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;
    let secret = BASE64_STANDARD.decode(WEBHOOK_SECRET.trim_start_matches("whsec_")).unwrap();
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &secret);
    let message = [format!("{id}.{timestamp}.").as_bytes(), body].concat();
    format!("v1,{}", BASE64_STANDARD.encode(aws_lc_rs::hmac::sign(&key, &message)))
}
