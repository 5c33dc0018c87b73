//! Tests of the UnionPay simulator over real sockets.

mod bills;
mod keys;
mod refunds;
mod shop;
mod signatures;

use serde_json::{Value, json};

use self::shop::{Fields, Fixture, encoded};
use super::merchant::Receiver;
use crate::keygen::SandboxProvider;

const NOWHERE: &str = "http://127.0.0.1:9/notify/main";
const BACK: &str = "backTransReq";
const APP: &str = "appTransReq";

fn with(mut fields: Fields, name: &str, value: &str) -> Fields {
    fields.insert(name.to_owned(), value.to_owned());
    fields.retain(|_, value| !value.is_empty());
    fields
}

fn app_order(fixture: &Fixture, number: &str) -> Fields {
    fixture.shop.order("0101", "000201", number, NOWHERE)
}

fn code_order(fixture: &Fixture, number: &str, code: &str) -> Fields {
    with(fixture.shop.order("0106", "000000", number, NOWHERE), "qrNo", code)
}

#[tokio::test]
async fn app_and_qr_orders_are_unknown_before_the_payer_begins() {
    for provider in [
        SandboxProvider::UNIONPAY,
        SandboxProvider::UNIONPAY_SHA256,
        SandboxProvider::UNIONPAY_SM3,
        SandboxProvider::UNIONPAY_SM2,
    ] {
        let fixture = Fixture::with(provider, |_| {}).await;
        let shop = &fixture.shop;
        for (path, order, field) in [
            (APP, with(app_order(&fixture, "order001"), "reqReserved", "a b+c%20"), "tn"),
            (BACK, shop.order("0107", "000000", "order002", NOWHERE), "qrCode"),
        ] {
            let reply = shop.ask(path, order.clone()).await.unwrap();
            assert!(reply.is_signature_valid && reply.code() == "00" && !reply.get(field).is_empty(), "{reply:?}");
            let certified = matches!(provider, SandboxProvider::UNIONPAY | SandboxProvider::UNIONPAY_SM2);
            assert_eq!(reply.text.contains("-----BEGIN CERTIFICATE-----\r\n"), certified);
            // The pairs of a response are not encoded.
            assert_eq!(reply.get("respMsg"), "成功[0000000]");
            assert_eq!(reply.get("reqReserved"), order.get("reqReserved").map(String::as_str).unwrap_or_default());
            let number = &order["orderId"];
            let reply = shop.query(&order).await;
            assert!(reply.is_signature_valid && reply.code() == "34", "{reply:?}");
            fixture.simulator.control("POST", &format!("/orders/{number}/scan"), Value::Null).await;
            assert_eq!(shop.query(&order).await.get("origRespCode"), "05");
            fixture.pay(number).await;
            let reply = shop.query(&order).await;
            assert!(reply.is_signature_valid, "{reply:?}");
            let known = ["respCode", "origRespCode", "txnAmt", "settleAmt"].map(|name| reply.get(name));
            assert_eq!(known, ["00", "00", "100", "100"]);
            assert_eq!(reply.get("queryId").len(), 21);
            // A query with another time refers to another order.
            assert_eq!(shop.query(&with(order, "txnTime", "20200101000000")).await.code(), "34");
        }
    }
}

#[tokio::test]
async fn browser_form_is_accepted_again_after_page_reload() {
    let fixture = Fixture::start().await;
    let order = with(app_order(&fixture, "order001"), "frontUrl", "https://shop.example.com/thanks");
    for _ in 0..2 {
        let reply = fixture.shop.ask("frontTransReq", order.clone()).await.unwrap();
        assert!(reply.text.contains("<b>100</b>") && reply.text.contains("<b>00</b>"), "{reply:?}");
    }
    let dearer = fixture.shop.ask("frontTransReq", with(order.clone(), "txnAmt", "101")).await.unwrap();
    assert!(dearer.text.contains("<b>12</b>"), "{dearer:?}");
    let known = fixture.simulator.control_get("/orders/order001").await;
    assert_eq!((&known["created"], &known["product"], &known["amount"]), (&json!(1), &json!("page"), &json!(100)));
    fixture.pay("order001").await;
    assert_eq!(fixture.shop.query(&order).await.get("origRespCode"), "00");
}

#[tokio::test]
async fn invalid_requests_are_rejected_with_signed_error_codes() {
    let fixture = Fixture::start().await;
    let shop = &fixture.shop;
    assert_eq!(shop.ask(APP, app_order(&fixture, "order001")).await.unwrap().code(), "00");
    let order = |name, value| with(app_order(&fixture, "order002"), name, value);
    for (fields, code) in [
        (app_order(&fixture, "order001"), "12"),
        (order("orderId", "short"), "10"),
        (order("orderId", "order-002"), "10"),
        (order("txnAmt", "1.00"), "10"),
        (order("txnAmt", ""), "13"),
        (order("currencyCode", "840"), "10"),
        (order("txnTime", "20200101000000"), "10"),
        (order("payTimeout", "20200101000000"), "10"),
        (order("backUrl", "shop.example.com"), "10"),
        (order("backUrl", ""), "13"),
        (order("channelType", "07"), "10"),
        (order("bizType", "000000"), "10"),
        (order("accessType", "1"), "10"),
        (order("surprise", "1"), "10"),
    ] {
        let reply = shop.ask(APP, fields).await.unwrap();
        assert!(reply.is_signature_valid && reply.code() == code, "{code} {reply:?}");
    }
    let order = fixture.simulator.control_get("/orders/order001").await;
    assert_eq!((&order["created"], &order["arrivals"]["create"]), (&json!(1), &json!(2)), "{order}");
}

#[tokio::test]
async fn json_request_with_the_form_signature_is_accepted() {
    let fixture = Fixture::start().await;
    let fields = fixture.shop.sign(app_order(&fixture, "order001"));
    let reply = fixture.shop.exchange(APP, "application/json;charset=UTF-8", json!(fields).to_string()).await.unwrap();
    assert!(reply.text.starts_with('{') && reply.is_signature_valid && reply.get("tn").len() == 21, "{reply:?}");
}

#[tokio::test]
async fn scanned_code_is_paid_or_waits_for_password_or_is_declined() {
    let fixture = Fixture::start().await;
    let shop = &fixture.shop;
    let order = code_order(&fixture, "order001", "6221234567890123456");
    let reply = shop.ask(BACK, order.clone()).await.unwrap();
    // The response confirms only the acceptance, not the result.
    assert!(reply.is_signature_valid && reply.code() == "00" && reply.get("origRespCode").is_empty(), "{reply:?}");
    assert_eq!(shop.query(&order).await.get("origRespCode"), "00");
    assert_eq!(shop.ask(BACK, order).await.unwrap().code(), "12");

    let order = code_order(&fixture, "order002", "6221234567890120001");
    assert_eq!(shop.ask(BACK, order.clone()).await.unwrap().code(), "00");
    assert_eq!(shop.query(&order).await.get("origRespCode"), "05");
    fixture.pay("order002").await;
    assert_eq!(shop.query(&order).await.get("origRespCode"), "00");

    let poor = code_order(&fixture, "order003", "6221234567890120002");
    assert_eq!(shop.ask(BACK, poor.clone()).await.unwrap().code(), "64");
    assert_eq!(shop.query(&poor).await.get("origRespCode"), "64");
    for code in ["6221234567890123456", "9921234567890123456", "62"] {
        assert_eq!(shop.ask(BACK, code_order(&fixture, "order004", code)).await.unwrap().code(), "86", "{code}");
    }
    assert_eq!(shop.query(&code_order(&fixture, "order004", "")).await.code(), "34");
}

#[tokio::test]
async fn payment_notification_is_repeated_until_status_200() {
    let fixture = Fixture::start().await;
    let shop = &fixture.shop;
    let mut receiver = Receiver::responding(&[(500, "ok"), (204, "")], (200, "whatever")).await;
    shop.ask(APP, with(app_order(&fixture, "order001"), "backUrl", &receiver.url)).await.unwrap();
    fixture.pay("order001").await;
    for _ in 0..3 {
        let (headers, body) = receiver.next().await;
        assert_eq!(headers["content-type"], shop::FORM);
        let (fields, is_signature_valid) = shop.notification(&body);
        assert!(is_signature_valid, "{fields:?}");
        for (name, value) in [
            ("respCode", "00"),
            ("respMsg", "成功[0000000]"),
            ("orderId", "order001"),
            ("txnAmt", "100"),
            ("settleAmt", "100"),
            ("merId", &shop.files.mchid),
            ("txnType", "01"),
            ("signMethod", "01"),
        ] {
            assert_eq!(fields[name], value);
        }
    }
    let acknowledged = |order: &Value| order["notifications"][0]["acknowledged"] == true;
    let order = fixture.simulator.until("/orders/order001", acknowledged).await;
    assert_eq!(order["notifications"][0]["attempts"].as_array().unwrap().len(), 3);

    for tamper in ["body", "signature", "amount", "account"] {
        fixture.simulator.control("POST", "/orders/order001/notify", json!({"tamper": tamper})).await;
        let (fields, is_signature_valid) = shop.notification(&receiver.next().await.1);
        assert_eq!(is_signature_valid, !matches!(tamper, "body" | "signature"), "{tamper}");
        assert_eq!(fields["txnAmt"] == "101", tamper == "amount");
        assert_eq!(fields["merId"] != shop.files.mchid, tamper == "account");
    }
    for tamper in ["serial", "stale", "signtest"] {
        let refused = fixture.simulator.control("POST", "/orders/order001/notify", json!({"tamper": tamper})).await;
        assert_eq!(refused.0, 409);
    }
}

#[tokio::test]
async fn failed_payment_is_notified_only_for_scanned_codes() {
    let fixture = Fixture::start().await;
    let shop = &fixture.shop;
    let mut receiver = Receiver::responding(&[], (200, "ok")).await;
    let order = code_order(&fixture, "order001", "6221234567890120001");
    shop.ask(BACK, with(order, "backUrl", &receiver.url)).await.unwrap();
    shop.ask(APP, with(app_order(&fixture, "order002"), "backUrl", &receiver.url)).await.unwrap();
    fixture.simulator.control("POST", "/orders/order002/scan", Value::Null).await;
    for (number, status) in [("order001", 200), ("order002", 409)] {
        let waiting = fixture.simulator.control("POST", &format!("/orders/{number}/notify"), Value::Null).await;
        assert_eq!(waiting.0, 409);
        fixture.simulator.control("POST", &format!("/orders/{number}/fail"), Value::Null).await;
        let reply = fixture.simulator.control("POST", &format!("/orders/{number}/notify"), Value::Null).await;
        assert_eq!(reply.0, status, "{reply:?}");
    }
    let (fields, is_signature_valid) = shop.notification(&receiver.next().await.1);
    assert!(is_signature_valid && fields["respCode"] == "01" && !fields.contains_key("accNo"), "{fields:?}");
}

#[tokio::test]
async fn scripted_faults_change_responses_and_cut_connections() {
    let fixture = Fixture::start().await;
    let (shop, simulator) = (&fixture.shop, &fixture.simulator);
    for (number, fault, arrivals, again) in
        [("order001", "cut_unread", 0, "00"), ("order002", "cut_before", 1, "00"), ("order003", "cut_after", 1, "12")]
    {
        simulator.fault(json!({"operation": "create", "fault": fault, "number": number})).await;
        shop.ask(APP, app_order(&fixture, number)).await.unwrap_err();
        assert_eq!(shop.ask(APP, app_order(&fixture, number)).await.unwrap().code(), again);
        let order = simulator.control_get(&format!("/orders/{number}")).await;
        assert_eq!((&order["created"], &order["arrivals"]["create"]), (&json!(1), &json!(arrivals + 1)), "{order}");
    }
    let order = app_order(&fixture, "order004");
    shop.ask(APP, order.clone()).await.unwrap();
    fixture.pay("order004").await;
    let good = shop.query(&order).await;
    for fault in ["unsigned", "wrong_signature", "garbage", "other_amount", "other_account", "status"] {
        let scripted = json!({"operation": "query", "fault": fault, "number": "order004", "status": 200, "code": "03"});
        simulator.fault(scripted).await;
        let reply = shop.query(&order).await;
        assert_eq!(reply.is_signature_valid, matches!(fault, "other_amount" | "other_account" | "status"), "{reply:?}");
        match fault {
            "other_amount" => assert_eq!((reply.get("txnAmt"), reply.get("settleAmt")), ("101", "101")),
            "other_account" => assert_eq!(reply.get("orderId"), "somebodyelsesorder"),
            "status" => assert_eq!((reply.code(), reply.get("origRespCode")), ("03", "")),
            "garbage" => assert_eq!((reply.status, reply.text.as_str()), (200, "<html>OK</html>")),
            _ => assert_eq!(reply.get("queryId"), good.get("queryId")),
        }
    }
    for (code, text) in [("SYSTEM_ERROR", "accessType=0&"), ("", "<html>")] {
        simulator.fault(json!({"operation": "query", "fault": "status", "code": code})).await;
        let reply = shop.query(&order).await;
        assert!(
            reply.status == 500 && reply.text.starts_with(text) && reply.is_signature_valid != code.is_empty(),
            "{reply:?}"
        );
    }
    simulator.fault(json!({"operation": "query", "fault": "trade_code", "code": "61"})).await;
    let reply = shop.query(&order).await;
    let said = ["respCode", "origRespCode", "txnAmt", "settleAmt"].map(|name| reply.get(name));
    assert_eq!((reply.is_signature_valid, said), (true, ["00", "61", "100", ""]), "{reply:?}");
    // A page request can also be cut.
    simulator.fault(json!({"operation": "create", "fault": "cut_before"})).await;
    let fields = shop.sign(app_order(&fixture, "order005"));
    shop.exchange("frontTransReq", shop::FORM, encoded(&fields)).await.unwrap_err();
}
