//! Tests of the Alipay simulator over real sockets.

mod app;
mod refunds;
mod v3;

use std::sync::Arc;

use serde_json::{Value, json};

use self::app::Fixture;
use super::faults::NoCertificate;
use super::merchant::Receiver;
use crate::keygen::SandboxProvider;

const PRECREATE: &str = "alipay.trade.precreate";
const PAY: &str = "alipay.trade.pay";
const QUERY: &str = "alipay.trade.query";
const CLOSE: &str = "alipay.trade.close";
const CANCEL: &str = "alipay.trade.cancel";

fn number(number: &str) -> Value {
    json!({"out_trade_no": number})
}

fn code_order(fixture: &Fixture, number: &str, code: &str) -> Value {
    let mut order = fixture.app.order(number);
    order["scene"] = json!("bar_code");
    order["auth_code"] = json!(code);
    order
}

#[tokio::test]
async fn precreated_trade_does_not_exist_before_its_code_is_scanned() {
    for provider in [SandboxProvider::ALIPAY, SandboxProvider::ALIPAY_CERTIFICATES] {
        let fixture = Fixture::with(provider, |_| {}).await;
        let reply = fixture.app.ask(PRECREATE, &fixture.app.order("order_1")).await.unwrap();
        assert!(reply.is_signature_valid && reply.text.contains("\"https:\\/\\/qr.alipay.com\\/bax"), "{reply:?}");
        let sn = fixture.app.account.get("certificates").map(|sn| sn["alipay_cert_sn"].as_str().unwrap());
        assert_eq!(sn.is_some_and(|sn| reply.text.contains(sn)), sn.is_some());
        for method in [QUERY, CLOSE] {
            let reply = fixture.app.ask(method, &number("order_1")).await.unwrap();
            assert!(reply.is_signature_valid && reply.code() == "ACQ.TRADE_NOT_EXIST", "{reply:?}");
        }
        fixture.simulator.control("POST", "/orders/order_1/scan", Value::Null).await;
        let reply = fixture.app.ask(QUERY, &number("order_1")).await.unwrap();
        assert_eq!(reply.object["trade_status"], "WAIT_BUYER_PAY");
        fixture.pay("order_1").await;
        let reply = fixture.app.ask(QUERY, &json!({"trade_no": reply.object["trade_no"]})).await.unwrap();
        assert_eq!(reply.object["trade_status"], "TRADE_SUCCESS");
        assert_eq!((&reply.object["total_amount"], &reply.object["out_trade_no"]), (&json!("1.00"), &json!("order_1")));
        assert_eq!(fixture.app.ask(CLOSE, &number("order_1")).await.unwrap().code(), "ACQ.REASON_TRADE_STATUS_INVALID");
    }
}

#[tokio::test]
async fn wechat_account_on_shared_listener_still_requires_client_certificate() {
    let mut fixture = Fixture::start().await;
    let merchant = &mut fixture.simulator.merchant;
    assert_eq!(merchant.query("order-1").await.unwrap().status, 404);
    merchant.tls.client_auth_cert_resolver = Arc::new(NoCertificate);
    let answer = merchant.query("order-1").await.unwrap();
    assert_eq!((answer.status, answer.json()["code"].as_str()), (403, Some("NO_AUTH")));
    assert_eq!(fixture.simulator.control_get("/stats").await["wrong_identities"], 1);
    // A merchant of one provider is unknown to the other.
    let mut parameters = fixture.app.parameters(QUERY, &number("order_1"));
    parameters.insert("app_id".to_owned(), fixture.simulator.merchant.files.mchid.clone());
    let reply = fixture.app.send(fixture.app.sign(parameters)).await.unwrap();
    assert_eq!(reply.code(), "isv.invalid-app-id");
}

#[tokio::test]
async fn request_with_invalid_signature_is_rejected_unsigned() {
    let fixture = Fixture::start().await;
    let app = &fixture.app;
    let good = || app.parameters(PRECREATE, &app.order("order_1"));
    let with = |name: &str, value: &str| {
        let mut parameters = good();
        parameters.insert(name.to_owned(), value.to_owned());
        app.sign(parameters)
    };
    let altered = |name: &str, value: &str| {
        let mut parameters = app.sign(good());
        parameters.insert(name.to_owned(), value.to_owned());
        parameters
    };
    let dearer = app.order("order_1").to_string().replace("1.00", "0.01");
    for (parameters, code) in [
        (altered("sign", "c2lnbg=="), "isv.invalid-signature"),
        (altered("biz_content", &dearer), "isv.invalid-signature"),
        (altered("notify_url", "https://evil.example/"), "isv.invalid-signature"),
        (altered("sign", ""), "isv.missing-signature"),
        (with("timestamp", "2023-11-15 06:13:20"), "isv.invalid-timestamp"),
        (with("timestamp", "yesterday"), "isv.invalid-timestamp"),
        (with("app_id", "2021000000000001"), "isv.invalid-app-id"),
        (with("sign_type", "RSA"), "isv.invalid-signature-type"),
        (with("charset", "GBK"), "isv.invalid-charset"),
        (with("version", "2.0"), "isv.invalid-version"),
        (with("method", "alipay.trade.dance"), "isv.invalid-method"),
        (with("app_cert_sn", "0"), "isv.invalid-app-cert-sn"),
        (with("surprise", "1"), "isv.invalid-parameter"),
    ] {
        let reply = app.send(parameters).await.unwrap();
        assert!(reply.text.starts_with("{\"error_response\":") && !reply.is_signature_valid, "{reply:?}");
        assert_eq!(reply.code(), code, "{reply:?}");
    }
    assert_eq!(fixture.simulator.control_get("/orders").await, json!([]));
    assert_eq!(fixture.simulator.control_get("/stats").await["bad_signatures"], 13);
}

#[tokio::test]
async fn invalid_requests_are_rejected_with_signed_error_codes() {
    let fixture = Fixture::start().await;
    let app = &fixture.app;
    app.ask(PRECREATE, &app.order("order_1")).await.unwrap();
    let changed = |name: &str, value: Value| {
        let mut order = app.order("order_1");
        order[name] = value;
        order
    };
    for (order, code) in [
        (changed("total_amount", json!("1.01")), "ACQ.CONTEXT_INCONSISTENT"),
        (changed("total_amount", json!(1.0)), "ACQ.INVALID_PARAMETER"),
        (changed("total_amount", json!("1.001")), "ACQ.INVALID_PARAMETER"),
        (changed("out_trade_no", json!("order-1")), "ACQ.INVALID_PARAMETER"),
        (changed("notify_url", json!("https://example.com/")), "ACQ.INVALID_PARAMETER"),
        (changed("seller_id", json!("2088000000000000")), "ACQ.CONTEXT_INCONSISTENT"),
    ] {
        let reply = app.ask(PRECREATE, &order).await.unwrap();
        assert!(reply.is_signature_valid && reply.code() == code, "{order} {reply:?}");
    }
    assert_eq!(app.ask(PRECREATE, &app.order("order_1")).await.unwrap().code(), "10000");
    let order = fixture.simulator.control_get("/orders/order_1").await;
    assert_eq!((&order["created"], &order["arrivals"]["create"]), (&json!(1), &json!(7)), "{order}");
}

#[tokio::test]
async fn payment_code_is_paid_or_waits_for_password_or_is_declined() {
    let fixture = Fixture::start().await;
    let app = &fixture.app;
    let order = code_order(&fixture, "order_1", "281234567890123456");
    let reply = app.ask(PAY, &order).await.unwrap();
    assert!(reply.is_signature_valid, "{reply:?}");
    assert_eq!((reply.code(), &reply.object["receipt_amount"]), ("10000", &json!("1.00")));
    // A repeated request charges nothing more.
    assert_eq!(app.ask(PAY, &order).await.unwrap().code(), "ACQ.TRADE_HAS_SUCCESS");
    let known = fixture.simulator.control_get("/orders/order_1").await;
    assert_eq!((&known["created"], &known["arrivals"]["create"]), (&json!(1), &json!(2)), "{known}");

    let order = code_order(&fixture, "order_2", "281234567890120001");
    for _ in 0..2 {
        assert_eq!(app.ask(PAY, &order).await.unwrap().code(), "10003");
    }
    assert_eq!(app.ask(QUERY, &number("order_2")).await.unwrap().object["trade_status"], "WAIT_BUYER_PAY");
    fixture.pay("order_2").await;
    assert_eq!(app.ask(QUERY, &number("order_2")).await.unwrap().object["trade_status"], "TRADE_SUCCESS");

    for (code, refusal) in [
        ("281234567890120002", "ACQ.BUYER_BALANCE_NOT_ENOUGH"),
        ("281234567890123456", "ACQ.PAYMENT_AUTH_CODE_INVALID"),
        ("991234567890123456", "ACQ.PAYMENT_AUTH_CODE_INVALID"),
    ] {
        assert_eq!(app.ask(PAY, &code_order(&fixture, "order_3", code)).await.unwrap().code(), refusal);
    }
    assert_eq!(app.ask(QUERY, &number("order_3")).await.unwrap().code(), "ACQ.TRADE_NOT_EXIST");
}

#[tokio::test]
async fn page_and_app_orders_are_created_by_browser_and_app() {
    let fixture = Fixture::start().await;
    let app = &fixture.app;
    for (method, code, name) in [
        ("alipay.trade.page.pay", "FAST_INSTANT_TRADE_PAY", "page"),
        ("alipay.trade.wap.pay", "QUICK_WAP_WAY", "wap"),
        ("alipay.trade.app.pay", "QUICK_MSECURITY_PAY", "app"),
        ("alipay.trade.create", "JSAPI_PAY", "jsapi"),
    ] {
        let mut order = app.order(name);
        order["product_code"] = json!(code);
        if name == "jsapi" {
            assert_eq!(app.ask(method, &order).await.unwrap().code(), "ACQ.INVALID_PARAMETER");
            order["buyer_id"] = json!("2088102116773037");
        }
        let parameters = app.sign(app.parameters(method, &order));
        let reply = if name == "app" { app.send(parameters).await } else { app.browse(parameters).await }.unwrap();
        assert_eq!(reply.text.contains("<b>1.00</b>"), matches!(name, "page" | "wap"), "{reply:?}");
        assert_eq!(reply.object["trade_no"].is_string(), matches!(name, "app" | "jsapi"), "{reply:?}");
        fixture.pay(name).await;
        assert_eq!(fixture.simulator.control_get(&format!("/orders/{name}")).await["product"], name);
        assert_eq!(app.ask(QUERY, &number(name)).await.unwrap().object["trade_status"], "TRADE_SUCCESS");
    }
}

#[tokio::test]
async fn payment_notification_is_repeated_until_response_is_success() {
    let fixture = Fixture::start().await;
    let answers = [(500, "success"), (200, "SUCCESS"), (200, "success\n"), (204, "")];
    let mut receiver = Receiver::responding(&answers, (200, "success")).await;
    fixture.app.ask_notified(PRECREATE, &fixture.app.order("order_1"), &receiver.url).await.unwrap();
    fixture.pay("order_1").await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        let (headers, body) = receiver.next().await;
        assert_eq!(headers["content-type"], "application/x-www-form-urlencoded; charset=utf-8");
        let (fields, is_signature_valid) = fixture.app.notification(&body);
        assert!(is_signature_valid, "{fields:?}");
        for (name, value) in [
            ("trade_status", "TRADE_SUCCESS"),
            ("out_trade_no", "order_1"),
            ("total_amount", "1.00"),
            ("app_id", &fixture.app.files.appid),
            ("seller_id", &fixture.app.files.mchid),
            ("subject", "测试 a+b \"}"),
        ] {
            assert_eq!(fields[name], value);
        }
        ids.push(fields["notify_id"].clone());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1);
    let acknowledged = |order: &Value| order["notifications"][0]["acknowledged"] == true;
    let order = fixture.simulator.until("/orders/order_1", acknowledged).await;
    assert_eq!(order["notifications"][0]["attempts"].as_array().unwrap().len(), 5);

    for tamper in ["body", "signature", "stale", "amount", "account"] {
        fixture.simulator.control("POST", "/orders/order_1/notify", json!({"tamper": tamper})).await;
        let (fields, is_signature_valid) = fixture.app.notification(&receiver.next().await.1);
        assert_eq!(is_signature_valid, !matches!(tamper, "body" | "signature"), "{tamper}");
        assert_eq!(fields["total_amount"] == "1.01", tamper == "amount");
        assert_eq!(fields["app_id"] != fixture.app.files.appid, tamper == "account");
    }
    let refused = fixture.simulator.control("POST", "/orders/order_1/notify", json!({"tamper": "serial"})).await;
    assert_eq!(refused.0, 409);
}

#[tokio::test]
async fn scripted_faults_change_responses_and_cut_connections() {
    let fixture = Fixture::start().await;
    let (app, simulator) = (&fixture.app, &fixture.simulator);
    for (name, fault, arrivals, created) in
        [("unread", "cut_unread", 0, 0), ("before", "cut_before", 1, 0), ("after", "cut_after", 1, 1)]
    {
        simulator.fault(json!({"operation": "create", "fault": fault, "number": name})).await;
        app.ask(PRECREATE, &app.order(name)).await.unwrap_err();
        assert_eq!(app.ask(PRECREATE, &app.order(name)).await.unwrap().code(), "10000");
        let order = simulator.control_get(&format!("/orders/{name}")).await;
        assert_eq!((&order["created"], &order["arrivals"]["create"]), (&json!(1), &json!(arrivals + 1)), "{order}");
        assert_eq!(order["executions"]["create"], 1, "{fault} {created}");
    }
    fixture.pay("after").await;
    let good = app.ask(QUERY, &number("after")).await.unwrap().object;
    for fault in ["unsigned", "wrong_signature", "garbage", "other_amount", "other_account", "status"] {
        let order =
            json!({"operation": "query", "fault": fault, "number": "after", "status": 200, "code": "SYSTEM_ERROR"});
        simulator.fault(order).await;
        let reply = app.ask(QUERY, &number("after")).await.unwrap();
        assert_eq!(reply.is_signature_valid, matches!(fault, "other_amount" | "other_account" | "status"), "{reply:?}");
        match fault {
            "other_amount" => assert_eq!(reply.object["total_amount"], "1.01"),
            "other_account" => assert_eq!(reply.object["out_trade_no"], "somebody_elses_order"),
            "status" => assert_eq!(reply.code(), "ACQ.SYSTEM_ERROR"),
            "garbage" => assert_eq!((reply.status, reply.object), (200, Value::Null)),
            _ => assert_eq!(reply.object, good),
        }
    }
    for (code, text) in [("isp.unknow-error", "{\"error_response\""), ("40005", "{\"error_response\""), ("", "<html>")]
    {
        simulator.fault(json!({"operation": "query", "fault": "status", "code": code})).await;
        let reply = app.ask(QUERY, &number("after")).await.unwrap();
        assert!(reply.status == 500 && reply.text.starts_with(text) && !reply.is_signature_valid, "{reply:?}");
    }
}
