//! UnionPay's answer codes: what a merchant hears of each class, what is sent next, and what a breaker counts.

use tollgate_plugins::payment::provider_number;

use super::*;
use crate::harness::{SHOP, send, signed as sign_as};

const QR: Row = row("unionpay", "unionpay.qr", "{}", "qr");

/// Two failures open this breaker.
fn eager(conf: &Path, _: SocketAddr) {
    let file = conf.join("channels/main.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let (head, _) = text.split_once("request_volume_threshold").unwrap();
    let breaker = "request_volume_threshold = 2\nrolling_window = \"60s\"\nsleep_window = \"60s\"\n";
    std::fs::write(&file, format!("{head}{breaker}")).unwrap();
}

/// A signed answer with this `respCode` instead of an execution.
fn refusal(operation: &str, code: &str, number: String) -> Value {
    json!({"operation": operation, "fault": "status", "status": 200, "code": code, "number": number})
}

async fn refused(world: &World, order: &str, code: &str) -> crate::harness::Answer {
    world.fault(refusal("create", code, World::number(order))).await;
    create(world, &QR, order).await
}

#[tokio::test]
async fn unionpay_codes_map_to_error_codes_and_open_no_breaker() {
    let world =
        World::with(WorldOptions { provider: SandboxProvider::Unionpay, edit: eager, ..WorldOptions::default() }).await;
    for (code, status, problem, retryable) in [
        ("61", 402, "declined", "new_key"),
        ("32", 402, "declined", "new_key"),
        ("37", 503, "provider_busy", "same_key"),
        ("39", 503, "provider_busy", "same_key"),
    ] {
        let order = format!("o-{code}");
        let told = refused(&world, &order, code).await;
        assert_eq!((told.status, &told.json()["code"]), (status, &json!(problem)), "{code}: {}", told.json());
        assert_eq!((&told.json()["retryable"], &told.json()["provider"]["code"]), (&json!(retryable), &json!(code)));
        let again = create(&world, &QR, &order).await;
        let is_made = again.status == 201;
        assert_eq!(is_made, retryable == "same_key", "{code}: {}", again.json());
    }
    // In no list, and the number is used: asked about, and never sent again.
    for code in ["97", "B1", "12"] {
        let order = format!("o-{code}");
        let told = refused(&world, &order, code).await;
        assert_eq!((told.status, &told.json()["status"]), (202, &json!("unknown")), "{code}: {}", told.json());
    }
    let page = json!({"order_id": "o-page", "amount": {"value": 1000, "currency": "CNY"}, "description": "茶",
                      "method": "unionpay.page"});
    let unfit = world.ask("POST", "/v1/payments", Some("k-page"), &page).await;
    assert_eq!((unfit.status, &unfit.json()["code"]), (400, &json!("unsupported_by_provider")), "{}", unfit.json());
    assert!(unfit.json()["detail"].as_str().unwrap().contains("`return_url` is needed"), "{}", unfit.json());
    for code in ["97", "B1", "12"] {
        let order = format!("o-{code}");
        let payment = world.until_status(&order, "failed").await;
        assert_eq!(payment["money_state"], "not_moved", "{payment}");
        create(&world, &QR, &order).await;
        assert_eq!(world.seen(&order).await["arrivals"]["create"], 1, "{code} is sent once");
    }
    // A key that is not accepted comes unsigned, and is heard as what it is.
    let mut fault = refusal("create", "11", World::number("o-11"));
    fault["unsigned"] = true.into();
    world.fault(fault).await;
    let told = create(&world, &QR, "o-11").await;
    assert_eq!((told.status, &told.json()["code"]), (503, &json!("channel_credentials_rejected")), "{}", told.json());
    assert_eq!((&told.json()["retryable"], &told.json()["provider"]["code"]), (&json!("same_key"), &json!("11")));
}

/// A payer whose card is refused takes another one; until the payTimeout has passed no failure is the end.
#[tokio::test]
async fn unionpay_failure_before_pay_timeout_stays_pending_and_missing_refund_fails() {
    let world = World::of("unionpay").await;
    create(&world, &QR, "o-1").await;
    let path = format!("/orders/{}/scan", World::number("o-1"));
    world.control("POST", &path, Value::Null).await;
    for code in ["61", "04", "97"] {
        world.fault(json!({"operation": "query", "fault": "trade_code", "code": code})).await;
        let mut headers = sign_as(&SHOP, "GET", "/v1/payments/o-1", b"");
        headers.push(("cache-control", "no-cache".to_owned()));
        let told =
            send("GET", &format!("http://{}/v1/payments/o-1", world.gateway.listen), &headers, b"").await.unwrap();
        assert_eq!(told.json()["status"], "pending", "{code}: {}", told.json());
    }
    assert_eq!(world.control("GET", "/faults", Value::Null).await, json!([]), "each was asked about");
    world.pay("o-1").await;
    world.receiver.until("o-1", "payment.succeeded").await;
    let refund = json!({"refund_id": "r-1", "amount": {"value": 300, "currency": "CNY"}});
    let number = provider_number(&["shop", "o-1", "r-1"]);
    world.fault(refusal("refund", "04", number)).await;
    let told = world.ask("POST", "/v1/payments/o-1/refunds", Some("k-r"), &refund).await;
    assert_eq!((told.status, &told.json()["status"]), (202, &json!("unknown")), "{}", told.json());
    world.receiver.until("o-1", "refund.failed").await;
    assert_eq!(world.payment("o-1").await["refunded"], 0);
    let whole = json!({"refund_id": "r-2", "amount": {"value": 1000, "currency": "CNY"}});
    let again = world.ask("POST", "/v1/payments/o-1/refunds", Some("k-r2"), &whole).await;
    assert_eq!(again.status, 201, "the amount is free again: {}", again.json());
    world.receiver.until("o-1", "refund.succeeded").await;
}
