//! The sandbox as UnionPay, over real sockets.

mod bills;
mod keys;
mod refunds;
mod shop;
mod signatures;

use serde_json::{Value, json};

use self::shop::{Fields, Town, encoded};
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

fn app_order(town: &Town, number: &str) -> Fields {
    town.shop.order("0101", "000201", number, NOWHERE)
}

fn code_order(town: &Town, number: &str, code: &str) -> Fields {
    with(town.shop.order("0106", "000000", number, NOWHERE), "qrNo", code)
}

#[tokio::test]
async fn tokens_and_codes_are_given_and_nothing_is_known_before_the_payer_begins() {
    for provider in [
        SandboxProvider::Unionpay,
        SandboxProvider::UnionpaySha256,
        SandboxProvider::UnionpaySm3,
        SandboxProvider::UnionpaySm2,
    ] {
        let town = Town::with(provider, |_| {}).await;
        let shop = &town.shop;
        for (path, order, field) in [
            (APP, with(app_order(&town, "order001"), "reqReserved", "a b+c%20"), "tn"),
            (BACK, shop.order("0107", "000000", "order002", NOWHERE), "qrCode"),
        ] {
            let told = shop.ask(path, order.clone()).await.unwrap();
            assert!(told.believed && told.code() == "00" && !told.get(field).is_empty(), "{told:?}");
            let certified = matches!(provider, SandboxProvider::Unionpay | SandboxProvider::UnionpaySm2);
            assert_eq!(told.text.contains("-----BEGIN CERTIFICATE-----\r\n"), certified);
            // Pairs are not encoded.
            assert_eq!(told.get("respMsg"), "成功[0000000]");
            assert_eq!(told.get("reqReserved"), order.get("reqReserved").map(String::as_str).unwrap_or_default());
            let number = &order["orderId"];
            let told = shop.query(&order).await;
            assert!(told.believed && told.code() == "34", "{told:?}");
            town.world.control("POST", &format!("/orders/{number}/scan"), Value::Null).await;
            assert_eq!(shop.query(&order).await.get("origRespCode"), "05");
            town.pay(number).await;
            let told = shop.query(&order).await;
            assert!(told.believed, "{told:?}");
            let known = ["respCode", "origRespCode", "txnAmt", "settleAmt"].map(|name| told.get(name));
            assert_eq!(known, ["00", "00", "100", "100"]);
            assert_eq!(told.get("queryId").len(), 21);
            // Whose time is another is another order.
            assert_eq!(shop.query(&with(order, "txnTime", "20200101000000")).await.code(), "34");
        }
    }
}

#[tokio::test]
async fn browsers_bring_their_forms_as_often_as_they_are_loaded() {
    let town = Town::start().await;
    let order = with(app_order(&town, "order001"), "frontUrl", "https://shop.example.com/thanks");
    for _ in 0..2 {
        let told = town.shop.ask("frontTransReq", order.clone()).await.unwrap();
        assert!(told.text.contains("<b>100</b>") && told.text.contains("<b>00</b>"), "{told:?}");
    }
    let dearer = town.shop.ask("frontTransReq", with(order.clone(), "txnAmt", "101")).await.unwrap();
    assert!(dearer.text.contains("<b>12</b>"), "{dearer:?}");
    let known = town.world.told("/orders/order001").await;
    assert_eq!((&known["created"], &known["product"], &known["amount"]), (&json!(1), &json!("page"), &json!(100)));
    town.pay("order001").await;
    assert_eq!(town.shop.query(&order).await.get("origRespCode"), "00");
}

#[tokio::test]
async fn what_the_original_refuses_is_refused_with_a_signature() {
    let town = Town::start().await;
    let shop = &town.shop;
    assert_eq!(shop.ask(APP, app_order(&town, "order001")).await.unwrap().code(), "00");
    let order = |name, value| with(app_order(&town, "order002"), name, value);
    for (fields, code) in [
        (app_order(&town, "order001"), "12"),
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
        let told = shop.ask(APP, fields).await.unwrap();
        assert!(told.believed && told.code() == code, "{code} {told:?}");
    }
    let order = town.world.told("/orders/order001").await;
    assert_eq!((&order["created"], &order["arrivals"]["create"]), (&json!(1), &json!(2)), "{order}");
}

#[tokio::test]
async fn bodies_may_be_json_with_the_same_signature() {
    let town = Town::start().await;
    let fields = town.shop.sign(app_order(&town, "order001"));
    let told = town.shop.exchange(APP, "application/json;charset=UTF-8", json!(fields).to_string()).await.unwrap();
    assert!(told.text.starts_with('{') && told.believed && told.get("tn").len() == 21, "{told:?}");
}

#[tokio::test]
async fn scanned_codes_pay_at_once_or_wait_or_are_declined() {
    let town = Town::start().await;
    let shop = &town.shop;
    let order = code_order(&town, "order001", "6221234567890123456");
    let told = shop.ask(BACK, order.clone()).await.unwrap();
    // Taken is not paid: the answer names no result.
    assert!(told.believed && told.code() == "00" && told.get("origRespCode").is_empty(), "{told:?}");
    assert_eq!(shop.query(&order).await.get("origRespCode"), "00");
    assert_eq!(shop.ask(BACK, order).await.unwrap().code(), "12");

    let order = code_order(&town, "order002", "6221234567890120001");
    assert_eq!(shop.ask(BACK, order.clone()).await.unwrap().code(), "00");
    assert_eq!(shop.query(&order).await.get("origRespCode"), "05");
    town.pay("order002").await;
    assert_eq!(shop.query(&order).await.get("origRespCode"), "00");

    let poor = code_order(&town, "order003", "6221234567890120002");
    assert_eq!(shop.ask(BACK, poor.clone()).await.unwrap().code(), "64");
    assert_eq!(shop.query(&poor).await.get("origRespCode"), "64");
    for code in ["6221234567890123456", "9921234567890123456", "62"] {
        assert_eq!(shop.ask(BACK, code_order(&town, "order004", code)).await.unwrap().code(), "86", "{code}");
    }
    assert_eq!(shop.query(&code_order(&town, "order004", "")).await.code(), "34");
}

#[tokio::test]
async fn a_payment_is_told_until_the_status_is_200() {
    let town = Town::start().await;
    let shop = &town.shop;
    let mut receiver = Receiver::saying(&[(500, "ok"), (204, "")], (200, "whatever")).await;
    shop.ask(APP, with(app_order(&town, "order001"), "backUrl", &receiver.url)).await.unwrap();
    town.pay("order001").await;
    for _ in 0..3 {
        let (headers, body) = receiver.next().await;
        assert_eq!(headers["content-type"], shop::FORM);
        let (fields, believed) = shop.news(&body);
        assert!(believed, "{fields:?}");
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
    let order = town.world.until("/orders/order001", acknowledged).await;
    assert_eq!(order["notifications"][0]["attempts"].as_array().unwrap().len(), 3);

    for tamper in ["body", "signature", "amount", "account"] {
        town.world.control("POST", "/orders/order001/notify", json!({"tamper": tamper})).await;
        let (fields, believed) = shop.news(&receiver.next().await.1);
        assert_eq!(believed, !matches!(tamper, "body" | "signature"), "{tamper}");
        assert_eq!(fields["txnAmt"] == "101", tamper == "amount");
        assert_eq!(fields["merId"] != shop.files.mchid, tamper == "account");
    }
    for tamper in ["serial", "stale", "signtest"] {
        let refused = town.world.control("POST", "/orders/order001/notify", json!({"tamper": tamper})).await;
        assert_eq!(refused.0, 409);
    }
}

#[tokio::test]
async fn only_a_scanned_code_tells_of_failure() {
    let town = Town::start().await;
    let shop = &town.shop;
    let mut receiver = Receiver::saying(&[], (200, "ok")).await;
    let order = code_order(&town, "order001", "6221234567890120001");
    shop.ask(BACK, with(order, "backUrl", &receiver.url)).await.unwrap();
    shop.ask(APP, with(app_order(&town, "order002"), "backUrl", &receiver.url)).await.unwrap();
    town.world.control("POST", "/orders/order002/scan", Value::Null).await;
    for (number, status) in [("order001", 200), ("order002", 409)] {
        let waiting = town.world.control("POST", &format!("/orders/{number}/notify"), Value::Null).await;
        assert_eq!(waiting.0, 409);
        town.world.control("POST", &format!("/orders/{number}/fail"), Value::Null).await;
        let told = town.world.control("POST", &format!("/orders/{number}/notify"), Value::Null).await;
        assert_eq!(told.0, status, "{told:?}");
    }
    let (fields, believed) = shop.news(&receiver.next().await.1);
    assert!(believed && fields["respCode"] == "01" && !fields.contains_key("accNo"), "{fields:?}");
}

#[tokio::test]
async fn faults_spoil_answers_and_cut_connections() {
    let town = Town::start().await;
    let (shop, world) = (&town.shop, &town.world);
    for (number, fault, arrivals, again) in
        [("order001", "cut_unread", 0, "00"), ("order002", "cut_before", 1, "00"), ("order003", "cut_after", 1, "12")]
    {
        world.fault(json!({"operation": "create", "fault": fault, "number": number})).await;
        shop.ask(APP, app_order(&town, number)).await.unwrap_err();
        assert_eq!(shop.ask(APP, app_order(&town, number)).await.unwrap().code(), again);
        let order = world.told(&format!("/orders/{number}")).await;
        assert_eq!((&order["created"], &order["arrivals"]["create"]), (&json!(1), &json!(arrivals + 1)), "{order}");
    }
    let order = app_order(&town, "order004");
    shop.ask(APP, order.clone()).await.unwrap();
    town.pay("order004").await;
    let good = shop.query(&order).await;
    for fault in ["unsigned", "wrong_signature", "garbage", "other_amount", "other_account", "status"] {
        let scripted = json!({"operation": "query", "fault": fault, "number": "order004", "status": 200, "code": "03"});
        world.fault(scripted).await;
        let told = shop.query(&order).await;
        assert_eq!(told.believed, matches!(fault, "other_amount" | "other_account" | "status"), "{told:?}");
        match fault {
            "other_amount" => assert_eq!((told.get("txnAmt"), told.get("settleAmt")), ("101", "101")),
            "other_account" => assert_eq!(told.get("orderId"), "somebodyelsesorder"),
            "status" => assert_eq!((told.code(), told.get("origRespCode")), ("03", "")),
            "garbage" => assert_eq!((told.status, told.text.as_str()), (200, "<html>OK</html>")),
            _ => assert_eq!(told.get("queryId"), good.get("queryId")),
        }
    }
    for (code, text) in [("SYSTEM_ERROR", "accessType=0&"), ("", "<html>")] {
        world.fault(json!({"operation": "query", "fault": "status", "code": code})).await;
        let told = shop.query(&order).await;
        assert!(told.status == 500 && told.text.starts_with(text) && told.believed != code.is_empty(), "{told:?}");
    }
    world.fault(json!({"operation": "query", "fault": "trade_code", "code": "61"})).await;
    let told = shop.query(&order).await;
    let said = ["respCode", "origRespCode", "txnAmt", "settleAmt"].map(|name| told.get(name));
    assert_eq!((told.believed, said), (true, ["00", "61", "100", ""]), "{told:?}");
    // A page can be cut too.
    world.fault(json!({"operation": "create", "fault": "cut_before"})).await;
    let fields = shop.sign(app_order(&town, "order005"));
    shop.exchange("frontTransReq", shop::FORM, encoded(&fields)).await.unwrap_err();
}
