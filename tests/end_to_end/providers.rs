//! Every provider and method in one table: create, replay, notify, refund; lost connections; bad signatures; forgeries.

use futures_util::future::join_all;
use serde_json::{Value, json};

use std::net::SocketAddr;
use std::path::Path;

use tollgate_sandbox::keygen::SandboxProvider;

use crate::harness::{World, WorldOptions, force_breaker, payment_body, until};

/// One payment method of one provider.
struct Row {
    provider: &'static str,
    method: &'static str,
    /// JSON object with the payer data that the method needs.
    payer: &'static str,
    /// The `type` of the action; empty for scanned codes.
    action: &'static str,
    /// Who sends the payment to the provider.
    sent_by: SentBy,
}

#[derive(PartialEq)]
enum SentBy {
    /// The gateway, by a provider call.
    Gateway,
    /// The payer's device, with a signed link, form or order string.
    Payer,
}

const fn row(provider: &'static str, method: &'static str, payer: &'static str, action: &'static str) -> Row {
    Row { provider, method, payer, action, sent_by: SentBy::Gateway }
}

/// Row of a method whose signed request the payer's device sends to the provider.
const fn payer_row(provider: &'static str, method: &'static str, action: &'static str) -> Row {
    Row { sent_by: SentBy::Payer, ..row(provider, method, "{}", action) }
}

const TABLE: &[Row] = &[
    row("wechat-v3", "wechat.native", "{}", "qr"),
    row("wechat-v3", "wechat.jsapi", r#"{"openid": "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o"}"#, "jsapi"),
    row("wechat-v3", "wechat.h5", r#"{"client_ip": "203.0.113.9"}"#, "redirect"),
    row("wechat-v3", "wechat.app", "{}", "app"),
    row("wechat-v2", "wechat.native", "{}", "qr"),
    row("wechat-v2", "wechat.jsapi", r#"{"openid": "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o"}"#, "jsapi"),
    row("wechat-v2", "wechat.h5", r#"{"client_ip": "203.0.113.9"}"#, "redirect"),
    row("wechat-v2", "wechat.app", "{}", "app"),
    row("alipay", "alipay.qr", "{}", "qr"),
    row("alipay", "alipay.jsapi", r#"{"buyer_id": "2088102116773037"}"#, "jsapi"),
    payer_row("alipay", "alipay.page", "redirect"),
    payer_row("alipay", "alipay.wap", "redirect"),
    payer_row("alipay", "alipay.app", "app"),
    row("alipay-v3", "alipay.qr", "{}", "qr"),
    row("alipay-v3", "alipay.jsapi", r#"{"buyer_id": "2088102116773037"}"#, "jsapi"),
    payer_row("alipay-v3", "alipay.page", "redirect"),
    row("unionpay", "unionpay.app", "{}", "app"),
    row("unionpay", "unionpay.qr", "{}", "qr"),
    payer_row("unionpay", "unionpay.page", "form"),
    row("unionpay-sm2", "unionpay.app", "{}", "app"),
    row("unionpay-sm2", "unionpay.qr", "{}", "qr"),
    payer_row("unionpay-sm2", "unionpay.page", "form"),
];

/// Runs `work` for every row: sequentially per provider in a world of its own, the worlds concurrently.
async fn for_each_row(work: impl AsyncFn(&World, &Row, &str)) {
    let all = TABLE.chunk_by(|one, next| one.provider == next.provider).map(async |rows| {
        let world = World::for_provider(rows[0].provider).await;
        for row in rows {
            work(&world, row, &row.method.replace('.', "-")).await;
        }
    });
    join_all(all).await;
}

impl Row {
    fn order(&self, order: &str) -> Value {
        let mut body = payment_body(order);
        body["method"] = self.method.into();
        body["payer"] = serde_json::from_str(self.payer).unwrap();
        body["return_url"] = "https://shop.example.com/thanks?order=1".into();
        body
    }
}

async fn create(world: &World, row: &Row, order: &str) -> crate::harness::Answer {
    world.signed_request("POST", "/v1/payments", Some(&format!("pay-{order}")), &row.order(order)).await
}

/// Creates the payment and, where the payer's device sends it, opens the action.
async fn create_and_open(world: &World, row: &Row, order: &str) -> crate::harness::Answer {
    let answer = create(world, row, order).await;
    if row.sent_by == SentBy::Payer {
        world.open(&answer.json()["action"]).await;
    }
    answer
}

/// Expects the event of a paid order, then refunds a part.
async fn expect_success_then_refund(world: &World, row: &Row, order: &str) {
    let event = world.receiver.until(order, "payment.succeeded").await.json();
    assert_eq!(event["data"]["payment"]["money_state"], "moved", "{event}");
    let refund = json!({"refund_id": "r-1", "amount": {"value": 300, "currency": "CNY"}, "reason": "退款"});
    let path = format!("/v1/payments/{order}/refunds");
    let refunded = world.signed_request("POST", &path, Some(&format!("refund-{order}")), &refund).await;
    assert_eq!(refunded.status, 201, "{}: {:?}", row.method, refunded.body);
    world.receiver.until(order, "refund.succeeded").await;
    let payment = world.payment(order).await;
    assert_eq!((&payment["status"], &payment["refunded"]), (&json!("succeeded"), &json!(300)), "{payment}");
    let seen = world.provider_order(order).await;
    assert_eq!((&seen["arrivals"]["create"], &seen["executions"]["refund"]), (&json!(1), &json!(1)), "{seen}");
}

#[tokio::test]
async fn payment_is_created_replayed_notified_and_refunded() {
    for_each_row(async |world, row, order| {
        let answer = create_and_open(world, row, order).await;
        let payment = answer.json();
        assert_eq!(answer.status, 201, "{}: {payment}", row.method);
        assert_eq!(
            (&payment["status"], &payment["action"]["type"]),
            (&json!("pending"), &json!(row.action)),
            "{payment}"
        );
        let again = create(world, row, order).await;
        assert!(again.is_replayed() && again.body == answer.body, "{}: {:?}", row.method, again.body);

        world.pay(order).await;
        expect_success_then_refund(world, row, order).await;
    })
    .await;
}

/// Variants with one shared key instead of certificates, and with JSON bodies.
#[tokio::test]
async fn unionpay_sha256_sm3_and_json_pay_and_refund() {
    let in_json = |conf: &Path, _| {
        let file = conf.join("channels/main.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace("[account]\n", "[account]\ncodec = \"json\"\n")).unwrap();
    };
    for (provider, edit) in [
        (SandboxProvider::UNIONPAY_SHA256, (|_, _| {}) as fn(&Path, SocketAddr)),
        (SandboxProvider::UNIONPAY_SM3, |_, _| {}),
        (SandboxProvider::UNIONPAY_SM3, in_json),
    ] {
        let world = World::with(WorldOptions { provider, edit, ..WorldOptions::default() }).await;
        let row = row("unionpay", "unionpay.app", "{}", "app");
        assert_eq!(create(&world, &row, "o-1").await.json()["action"]["type"], row.action);
        world.pay("o-1").await;
        expect_success_then_refund(&world, &row, "o-1").await;
    }
}

/// Adds lines to the channel's `[account]` and to the sandbox's record of the account.
fn extend_account(conf: &Path, account: &str, known: &str) {
    let edit = |name: &str, from: &str, to: &str| {
        let file = conf.join("channels").join(name);
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(&file, text.replacen(from, to, 1)).unwrap();
    };
    edit("main.toml", "[account]\n", &format!("[account]\n{account}\n"));
    edit("main/sandbox.toml", "\nprovider = ", &format!("\n{known}\nprovider = "));
}

/// UnionPay undoes a full payment on its clearing day. The test fails if it runs across 23:00 in Beijing.
#[tokio::test]
async fn unionpay_undoes_full_payment_on_clearing_day() {
    let edit: fn(&Path, SocketAddr) = |conf, _| extend_account(conf, "undo = true", "");
    let world =
        World::with(WorldOptions { provider: SandboxProvider::UNIONPAY, edit, ..WorldOptions::default() }).await;
    create(&world, &row("unionpay", "unionpay.app", "{}", "app"), "o-1").await;
    world.pay("o-1").await;
    world.receiver.until("o-1", "payment.succeeded").await;
    let refund = json!({"refund_id": "r-1", "amount": {"value": 1000, "currency": "CNY"}});
    let undone = world.signed_request("POST", "/v1/payments/o-1/refunds", Some("k-r"), &refund).await;
    assert_eq!(undone.status, 201, "{}", undone.json());
    world.receiver.until("o-1", "refund.succeeded").await;
    assert_eq!(world.payment("o-1").await["refunded"], 1000);
}

/// A service provider sends the sub-merchant's ids or its authorization token with every call.
#[tokio::test]
async fn service_provider_pays_and_refunds_for_sub_merchant() {
    const SUB: &str = "sub_mchid = \"1900000109\"\nsub_appid = \"wx8888888888888888\"";
    let with_sub: fn(&Path, SocketAddr) = |conf, _| extend_account(conf, SUB, SUB);
    let with_token: fn(&Path, SocketAddr) = |conf, _| {
        let token = "app_auth_token = \"201510BBaabdb44d8fd04607abf8d5931ec75D84\"";
        extend_account(conf, token, token);
    };
    for (provider, edit, row) in [
        (SandboxProvider::WECHAT_V3, with_sub, row("wechat-v3", "wechat.jsapi", "{\"openid\":\"o1\"}", "jsapi")),
        (SandboxProvider::WECHAT_V2, with_sub, row("wechat-v2", "wechat.jsapi", "{\"openid\":\"o1\"}", "jsapi")),
        (SandboxProvider::ALIPAY, with_token, row("alipay", "alipay.qr", "{}", "qr")),
    ] {
        let world = World::with(WorldOptions { provider, edit, ..WorldOptions::default() }).await;
        let made = create(&world, &row, "o-1").await;
        assert_eq!(made.json()["action"]["type"], row.action, "{}", made.json());
        world.pay("o-1").await;
        expect_success_then_refund(&world, &row, "o-1").await;
        // Alipay does not know an order before its code is scanned, so it cannot be closed at once.
        if row.provider == "alipay" {
            continue;
        }
        create(&world, &row, "o-2").await;
        let closed = world.signed_request("POST", "/v1/payments/o-2/close", Some("close"), &Value::Null).await;
        assert_eq!(closed.json()["status"], "closed", "{}", closed.json());
    }
}

#[tokio::test]
async fn unclear_response_is_unknown_then_resolved_and_never_resent() {
    for_each_row(async |world, row, order| {
        if row.sent_by == SentBy::Payer {
            return;
        }
        let orders =
            ["cut_after", "wrong_signature", "unsigned", "garbage"].map(|fault| (fault, format!("{order}-{fault}")));
        // The failures would open the breaker.
        force_breaker(&world.gateway, "closed").await;
        for (fault, order) in &orders {
            world
                .inject_fault(json!({"operation": "create", "fault": fault, "number": World::provider_order_no(order)}))
                .await;
            let answer = create(world, row, order).await;
            assert_eq!(answer.status, 202, "{} {fault}: {:?}", row.method, answer.body);
            let payment = answer.json();
            assert_eq!(
                (&payment["status"], &payment["action"]),
                (&json!("unknown"), &Value::Null),
                "{fault}: {payment}"
            );
        }
        // Waits for all orders together: an order that was not scanned is not found at some providers until the grace period ends.
        for (fault, order) in &orders {
            let payment = until(&format!("{} {fault} is resolved", row.method), || async {
                let payment = world.payment(order).await;
                (payment["status"] != "unknown").then_some(payment.clone()).ok_or(payment)
            })
            .await;
            assert_eq!(payment["money_state"], "not_moved", "{fault}: {payment}");
            create(world, row, order).await;
            world.assert_created_once(order).await;
        }
    })
    .await;
}

#[tokio::test]
async fn forged_or_altered_notification_is_rejected() {
    for_each_row(async |world, row, order| {
        create_and_open(world, row, order).await;
        let path = format!("/orders/{}", World::provider_order_no(order));
        world.sandbox_control("POST", &format!("{path}/pay"), json!({"notify": false})).await;
        for (count, tamper) in ["body", "signature", "amount", "account"].iter().enumerate() {
            world.sandbox_control("POST", &format!("{path}/notify"), json!({"tamper": tamper})).await;
            let seen = until(&format!("{} {tamper} was answered", row.method), || async {
                let seen = world.provider_order(order).await;
                let all = seen["notifications"].as_array().cloned().unwrap_or_default();
                let attempts = all.iter().flat_map(|one| one["attempts"].as_array().cloned()).flatten();
                let answered = attempts.filter(|attempt| attempt["status"].is_u64()).count();
                if answered > count { Ok(seen) } else { Err(seen) }
            })
            .await;
            assert_eq!(seen["notifications"][count]["acknowledged"], false, "{} {tamper}: {seen}", row.method);
        }
        let events = world.receiver.events_of(order);
        assert!(
            !events.iter().any(|event| event.json()["type"] == "payment.succeeded"),
            "{} {}",
            row.method,
            world.provider_order(order).await
        );
        world.sandbox_control("POST", &format!("{path}/notify"), json!({})).await;
        world.receiver.until(order, "payment.succeeded").await;
    })
    .await;
}

/// A refund without funds is not executed and keeps its number, so the same request can be retried.
#[tokio::test]
async fn refund_without_funds_is_provider_busy_and_same_request_retries() {
    for (row, status, code) in [
        (row("wechat-v3", "wechat.native", "{}", "qr"), 403, "NOT_ENOUGH"),
        (row("wechat-v2", "wechat.native", "{}", "qr"), 200, "NOTENOUGH"),
        (row("alipay", "alipay.qr", "{}", "qr"), 200, "ACQ.SELLER_BALANCE_NOT_ENOUGH"),
        (row("alipay-v3", "alipay.qr", "{}", "qr"), 400, "ACQ.SELLER_BALANCE_NOT_ENOUGH"),
    ] {
        let world = World::for_provider(row.provider).await;
        create(&world, &row, "o-1").await;
        world.pay("o-1").await;
        world.receiver.until("o-1", "payment.succeeded").await;
        world.inject_fault(json!({"operation": "refund", "fault": "status", "status": status, "code": code})).await;
        let refund = json!({"refund_id": "r-1", "amount": {"value": 300, "currency": "CNY"}});
        let request_refund =
            async || world.signed_request("POST", "/v1/payments/o-1/refunds", Some("k-r"), &refund).await;
        let poor = request_refund().await;
        let problem = poor.json();
        assert_eq!((poor.status, &problem["code"]), (503, &json!("provider_busy")), "{} {problem}", row.provider);
        assert_eq!(
            (&problem["retryable"], &problem["money_state"]),
            (&json!("same_key"), &json!("not_moved")),
            "{problem}"
        );
        assert_eq!(problem["provider"]["code"], code, "{problem}");
        let made = request_refund().await;
        assert_eq!(made.status, 201, "{} {:?}", row.provider, made.body);
        world.receiver.until("o-1", "refund.succeeded").await;
        let seen = world.provider_order("o-1").await;
        let refunds = seen["refunds"].as_object().unwrap();
        let arrivals: Vec<_> = refunds.values().map(|refund| &refund["arrivals"]["refund"]).collect();
        assert_eq!(arrivals, [&json!(2)], "{seen}");
    }
}

mod scanned_codes;
mod unionpay;
mod wechat;
