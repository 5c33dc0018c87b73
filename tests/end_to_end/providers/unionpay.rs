//! UnionPay's response codes: the merchant's error code, whether a retry is sent, what the breaker counts.

use tollgate_harness::merchant::provider_number;

use super::*;
use crate::harness::{SHOP, send, signed_headers};

const QR: Row = row("unionpay", "unionpay.qr", "{}", "qr");

/// The breaker opens after two failures.
fn eager(conf: &Path, _: SocketAddr) {
    let file = conf.join("channels/main.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let (head, _) = text.split_once("request_volume_threshold").unwrap();
    let breaker = "request_volume_threshold = 2\nrolling_window = \"60s\"\nsleep_window = \"60s\"\n";
    std::fs::write(&file, format!("{head}{breaker}")).unwrap();
}

/// Fault: a signed response with this `respCode` instead of an execution.
fn refusal(operation: &str, code: &str, number: String) -> Value {
    json!({"operation": operation, "fault": "status", "status": 200, "code": code, "number": number})
}

async fn refused(world: &World, order: &str, code: &str) -> crate::harness::Answer {
    world.inject_fault(refusal("create", code, World::provider_order_no(order))).await;
    create(world, &QR, order).await
}

#[tokio::test]
async fn unionpay_codes_map_to_error_codes_and_open_no_breaker() {
    let world =
        World::with(WorldOptions { provider: SandboxProvider::UNIONPAY, edit: eager, ..WorldOptions::default() }).await;
    for (code, status, problem, retryable) in [
        ("61", 402, "declined", "new_key"),
        ("32", 402, "declined", "new_key"),
        ("37", 503, "provider_busy", "same_key"),
        ("39", 503, "provider_busy", "same_key"),
    ] {
        let order = format!("o-{code}");
        let answer = refused(&world, &order, code).await;
        assert_eq!((answer.status, &answer.json()["code"]), (status, &json!(problem)), "{code}: {}", answer.json());
        assert_eq!(
            (&answer.json()["retryable"], &answer.json()["provider"]["code"]),
            (&json!(retryable), &json!(code))
        );
        let again = create(&world, &QR, &order).await;
        let is_made = again.status == 201;
        assert_eq!(is_made, retryable == "same_key", "{code}: {}", again.json());
    }
    // Unlisted codes, after which the order number is used up: queried, never resent.
    for code in ["97", "B1", "12"] {
        let order = format!("o-{code}");
        let answer = refused(&world, &order, code).await;
        assert_eq!((answer.status, &answer.json()["status"]), (202, &json!("unknown")), "{code}: {}", answer.json());
    }
    let page = json!({"order_id": "o-page", "amount": {"value": 1000, "currency": "CNY"}, "description": "茶",
                      "method": "unionpay.page"});
    let unfit = world.signed_request("POST", "/v1/payments", Some("k-page"), &page).await;
    assert_eq!((unfit.status, &unfit.json()["code"]), (400, &json!("unsupported_by_provider")), "{}", unfit.json());
    assert!(unfit.json()["detail"].as_str().unwrap().contains("`return_url` is needed"), "{}", unfit.json());
    for code in ["97", "B1", "12"] {
        let order = format!("o-{code}");
        let payment = world.until_status(&order, "failed").await;
        assert_eq!(payment["money_state"], "not_moved", "{payment}");
        create(&world, &QR, &order).await;
        assert_eq!(world.provider_order(&order).await["arrivals"]["create"], 1, "{code} is sent once");
    }
    // A key rejection is unsigned and still recognized.
    let mut fault = refusal("create", "11", World::provider_order_no("o-11"));
    fault["unsigned"] = true.into();
    world.inject_fault(fault).await;
    let answer = create(&world, &QR, "o-11").await;
    assert_eq!(
        (answer.status, &answer.json()["code"]),
        (503, &json!("channel_credentials_rejected")),
        "{}",
        answer.json()
    );
    assert_eq!((&answer.json()["retryable"], &answer.json()["provider"]["code"]), (&json!("same_key"), &json!("11")));
}

/// A payer whose card is declined may use another one, so no failure is final before payTimeout.
#[tokio::test]
async fn unionpay_failure_before_pay_timeout_stays_pending_and_missing_refund_fails() {
    let world = World::for_provider("unionpay").await;
    create(&world, &QR, "o-1").await;
    let path = format!("/orders/{}/scan", World::provider_order_no("o-1"));
    world.sandbox_control("POST", &path, Value::Null).await;
    for code in ["61", "04", "97"] {
        world.inject_fault(json!({"operation": "query", "fault": "trade_code", "code": code})).await;
        let mut headers = signed_headers(&SHOP, "GET", "/v1/payments/o-1", b"");
        headers.push(("cache-control", "no-cache".to_owned()));
        let answer =
            send("GET", &format!("http://{}/v1/payments/o-1", world.gateway.listen), &headers, b"").await.unwrap();
        assert_eq!(answer.json()["status"], "pending", "{code}: {}", answer.json());
    }
    assert_eq!(world.sandbox_control("GET", "/faults", Value::Null).await, json!([]), "each code was queried");
    world.pay("o-1").await;
    world.receiver.until("o-1", "payment.succeeded").await;
    let refund = json!({"refund_id": "r-1", "amount": {"value": 300, "currency": "CNY"}});
    let number = provider_number(&["shop", "o-1", "r-1"]);
    world.inject_fault(refusal("refund", "04", number)).await;
    let answer = world.signed_request("POST", "/v1/payments/o-1/refunds", Some("k-r"), &refund).await;
    assert_eq!((answer.status, &answer.json()["status"]), (202, &json!("unknown")), "{}", answer.json());
    world.receiver.until("o-1", "refund.failed").await;
    assert_eq!(world.payment("o-1").await["refunded"], 0);
    let whole = json!({"refund_id": "r-2", "amount": {"value": 1000, "currency": "CNY"}});
    let again = world.signed_request("POST", "/v1/payments/o-1/refunds", Some("k-r2"), &whole).await;
    assert_eq!(again.status, 201, "the amount is refundable again: {}", again.json());
    world.receiver.until("o-1", "refund.succeeded").await;
}
