//! The sandbox as Alipay, over real sockets.

mod app;
mod refunds;
mod v3;

use std::sync::Arc;

use serde_json::{Value, json};

use self::app::Town;
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

fn code_order(town: &Town, number: &str, code: &str) -> Value {
    let mut order = town.app.order(number);
    order["scene"] = json!("bar_code");
    order["auth_code"] = json!(code);
    order
}

#[tokio::test]
async fn a_code_is_no_trade_before_it_is_scanned() {
    for provider in [SandboxProvider::Alipay, SandboxProvider::AlipayCertificates] {
        let town = Town::with(provider, |_| {}).await;
        let told = town.app.ask(PRECREATE, &town.app.order("order_1")).await.unwrap();
        assert!(told.believed && told.text.contains("\"https:\\/\\/qr.alipay.com\\/bax"), "{told:?}");
        let sn = town.app.account.get("certificates").map(|sn| sn["alipay_cert_sn"].as_str().unwrap());
        assert_eq!(sn.is_some_and(|sn| told.text.contains(sn)), sn.is_some());
        for method in [QUERY, CLOSE] {
            let told = town.app.ask(method, &number("order_1")).await.unwrap();
            assert!(told.believed && told.code() == "ACQ.TRADE_NOT_EXIST", "{told:?}");
        }
        town.world.control("POST", "/orders/order_1/scan", Value::Null).await;
        let told = town.app.ask(QUERY, &number("order_1")).await.unwrap();
        assert_eq!(told.object["trade_status"], "WAIT_BUYER_PAY");
        town.pay("order_1").await;
        let told = town.app.ask(QUERY, &json!({"trade_no": told.object["trade_no"]})).await.unwrap();
        assert_eq!(told.object["trade_status"], "TRADE_SUCCESS");
        assert_eq!((&told.object["total_amount"], &told.object["out_trade_no"]), (&json!("1.00"), &json!("order_1")));
        assert_eq!(town.app.ask(CLOSE, &number("order_1")).await.unwrap().code(), "ACQ.REASON_TRADE_STATUS_INVALID");
    }
}

#[tokio::test]
async fn a_neighbour_at_wechat_still_needs_its_certificate() {
    let mut town = Town::start().await;
    let merchant = &mut town.world.merchant;
    assert_eq!(merchant.query("order-1").await.unwrap().status, 404);
    merchant.tls.client_auth_cert_resolver = Arc::new(NoCertificate);
    let answer = merchant.query("order-1").await.unwrap();
    assert_eq!((answer.status, answer.json()["code"].as_str()), (403, Some("NO_AUTH")));
    assert_eq!(town.world.told("/stats").await["wrong_identities"], 1);
    // Nor is one provider's merchant known to the other.
    let mut parameters = town.app.parameters(QUERY, &number("order_1"));
    parameters.insert("app_id".to_owned(), town.world.merchant.files.mchid.clone());
    let told = town.app.send(town.app.sign(parameters)).await.unwrap();
    assert_eq!(told.code(), "isv.invalid-app-id");
}

#[tokio::test]
async fn what_is_not_signed_rightly_is_refused_without_a_signature() {
    let town = Town::start().await;
    let app = &town.app;
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
        let told = app.send(parameters).await.unwrap();
        assert!(told.text.starts_with("{\"error_response\":") && !told.believed, "{told:?}");
        assert_eq!(told.code(), code, "{told:?}");
    }
    assert_eq!(town.world.told("/orders").await, json!([]));
    assert_eq!(town.world.told("/stats").await["bad_signatures"], 13);
}

#[tokio::test]
async fn what_the_original_refuses_is_refused_with_a_signature() {
    let town = Town::start().await;
    let app = &town.app;
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
        let told = app.ask(PRECREATE, &order).await.unwrap();
        assert!(told.believed && told.code() == code, "{order} {told:?}");
    }
    assert_eq!(app.ask(PRECREATE, &app.order("order_1")).await.unwrap().code(), "10000");
    let order = town.world.told("/orders/order_1").await;
    assert_eq!((&order["created"], &order["arrivals"]["create"]), (&json!(1), &json!(7)), "{order}");
}

#[tokio::test]
async fn payment_codes_pay_at_once_or_wait_or_are_declined() {
    let town = Town::start().await;
    let app = &town.app;
    let order = code_order(&town, "order_1", "281234567890123456");
    let told = app.ask(PAY, &order).await.unwrap();
    assert!(told.believed, "{told:?}");
    assert_eq!((told.code(), &told.object["receipt_amount"]), ("10000", &json!("1.00")));
    // The same once more takes nothing more.
    assert_eq!(app.ask(PAY, &order).await.unwrap().code(), "ACQ.TRADE_HAS_SUCCESS");
    let known = town.world.told("/orders/order_1").await;
    assert_eq!((&known["created"], &known["arrivals"]["create"]), (&json!(1), &json!(2)), "{known}");

    let order = code_order(&town, "order_2", "281234567890120001");
    for _ in 0..2 {
        assert_eq!(app.ask(PAY, &order).await.unwrap().code(), "10003");
    }
    assert_eq!(app.ask(QUERY, &number("order_2")).await.unwrap().object["trade_status"], "WAIT_BUYER_PAY");
    town.pay("order_2").await;
    assert_eq!(app.ask(QUERY, &number("order_2")).await.unwrap().object["trade_status"], "TRADE_SUCCESS");

    for (code, refusal) in [
        ("281234567890120002", "ACQ.BUYER_BALANCE_NOT_ENOUGH"),
        ("281234567890123456", "ACQ.PAYMENT_AUTH_CODE_INVALID"),
        ("991234567890123456", "ACQ.PAYMENT_AUTH_CODE_INVALID"),
    ] {
        assert_eq!(app.ask(PAY, &code_order(&town, "order_3", code)).await.unwrap().code(), refusal);
    }
    assert_eq!(app.ask(QUERY, &number("order_3")).await.unwrap().code(), "ACQ.TRADE_NOT_EXIST");
}

#[tokio::test]
async fn browsers_and_apps_bring_their_orders_themselves() {
    let town = Town::start().await;
    let app = &town.app;
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
        let told = if name == "app" { app.send(parameters).await } else { app.browse(parameters).await }.unwrap();
        assert_eq!(told.text.contains("<b>1.00</b>"), matches!(name, "page" | "wap"), "{told:?}");
        assert_eq!(told.object["trade_no"].is_string(), matches!(name, "app" | "jsapi"), "{told:?}");
        town.pay(name).await;
        assert_eq!(town.world.told(&format!("/orders/{name}")).await["product"], name);
        assert_eq!(app.ask(QUERY, &number(name)).await.unwrap().object["trade_status"], "TRADE_SUCCESS");
    }
}

#[tokio::test]
async fn a_payment_is_told_until_the_answer_is_success() {
    let town = Town::start().await;
    let answers = [(500, "success"), (200, "SUCCESS"), (200, "success\n"), (204, "")];
    let mut receiver = Receiver::saying(&answers, (200, "success")).await;
    town.app.ask_notified(PRECREATE, &town.app.order("order_1"), &receiver.url).await.unwrap();
    town.pay("order_1").await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        let (headers, body) = receiver.next().await;
        assert_eq!(headers["content-type"], "application/x-www-form-urlencoded; charset=utf-8");
        let (fields, believed) = town.app.news(&body);
        assert!(believed, "{fields:?}");
        for (name, value) in [
            ("trade_status", "TRADE_SUCCESS"),
            ("out_trade_no", "order_1"),
            ("total_amount", "1.00"),
            ("app_id", &town.app.files.appid),
            ("seller_id", &town.app.files.mchid),
            ("subject", "测试 a+b \"}"),
        ] {
            assert_eq!(fields[name], value);
        }
        ids.push(fields["notify_id"].clone());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1);
    let acknowledged = |order: &Value| order["notifications"][0]["acknowledged"] == true;
    let order = town.world.until("/orders/order_1", acknowledged).await;
    assert_eq!(order["notifications"][0]["attempts"].as_array().unwrap().len(), 5);

    for tamper in ["body", "signature", "stale", "amount", "account"] {
        town.world.control("POST", "/orders/order_1/notify", json!({"tamper": tamper})).await;
        let (fields, believed) = town.app.news(&receiver.next().await.1);
        assert_eq!(believed, !matches!(tamper, "body" | "signature"), "{tamper}");
        assert_eq!(fields["total_amount"] == "1.01", tamper == "amount");
        assert_eq!(fields["app_id"] != town.app.files.appid, tamper == "account");
    }
    let refused = town.world.control("POST", "/orders/order_1/notify", json!({"tamper": "serial"})).await;
    assert_eq!(refused.0, 409);
}

#[tokio::test]
async fn faults_spoil_answers_and_cut_connections() {
    let town = Town::start().await;
    let (app, world) = (&town.app, &town.world);
    for (name, fault, arrivals, created) in
        [("unread", "cut_unread", 0, 0), ("before", "cut_before", 1, 0), ("after", "cut_after", 1, 1)]
    {
        world.fault(json!({"operation": "create", "fault": fault, "number": name})).await;
        app.ask(PRECREATE, &app.order(name)).await.unwrap_err();
        assert_eq!(app.ask(PRECREATE, &app.order(name)).await.unwrap().code(), "10000");
        let order = world.told(&format!("/orders/{name}")).await;
        assert_eq!((&order["created"], &order["arrivals"]["create"]), (&json!(1), &json!(arrivals + 1)), "{order}");
        assert_eq!(order["executions"]["create"], 1, "{fault} {created}");
    }
    town.pay("after").await;
    let good = app.ask(QUERY, &number("after")).await.unwrap().object;
    for fault in ["unsigned", "wrong_signature", "garbage", "other_amount", "other_account", "status"] {
        let order =
            json!({"operation": "query", "fault": fault, "number": "after", "status": 200, "code": "SYSTEM_ERROR"});
        world.fault(order).await;
        let told = app.ask(QUERY, &number("after")).await.unwrap();
        assert_eq!(told.believed, matches!(fault, "other_amount" | "other_account" | "status"), "{told:?}");
        match fault {
            "other_amount" => assert_eq!(told.object["total_amount"], "1.01"),
            "other_account" => assert_eq!(told.object["out_trade_no"], "somebody_elses_order"),
            "status" => assert_eq!(told.code(), "ACQ.SYSTEM_ERROR"),
            "garbage" => assert_eq!((told.status, told.object), (200, Value::Null)),
            _ => assert_eq!(told.object, good),
        }
    }
    for (code, text) in [("isp.unknow-error", "{\"error_response\""), ("40005", "{\"error_response\""), ("", "<html>")]
    {
        world.fault(json!({"operation": "query", "fault": "status", "code": code})).await;
        let told = app.ask(QUERY, &number("after")).await.unwrap();
        assert!(told.status == 500 && told.text.starts_with(text) && !told.believed, "{told:?}");
    }
}
