//! Tests of the sandbox over real sockets: WeChat Pay v3 and common behaviour.
#![allow(clippy::unwrap_used, clippy::panic)]

mod alipay;
mod faults;
mod merchant;
mod unionpay;
mod wechat_v2;

use serde_json::{Value, json};

use self::merchant::{Merchant, Receiver, TestSandbox};
use super::Options;
use crate::keygen::sandbox_channel;

const NOWHERE: &str = "http://127.0.0.1:9/notify/main";

#[tokio::test]
async fn native_order_is_created_once_and_response_is_signed_with_the_requested_platform_key() {
    let simulator = TestSandbox::start().await;
    let merchant = &simulator.merchant;
    let answer = merchant.create(&merchant.order("order-1", NOWHERE)).await.unwrap();
    assert_eq!(answer.status, 200);
    assert!(answer.json()["code_url"].as_str().unwrap().starts_with("weixin://wxpay/bizpayurl?pr="));
    assert!(merchant.verifies(&answer.headers, &answer.body));
    assert_eq!(answer.headers["wechatpay-serial"], merchant.public_key_id.as_str());
    assert!(answer.headers["request-id"].to_str().unwrap().ends_with("-0"));

    let mut old = merchant.request("POST", "/v3/pay/transactions/native", &merchant.order("order-1", NOWHERE));
    old.headers.retain(|(name, _)| *name != "wechatpay-serial");
    let answer = merchant.send(old).await.unwrap();
    assert!(merchant.verifies(&answer.headers, &answer.body));
    assert_ne!(answer.headers["wechatpay-serial"], merchant.public_key_id.as_str());

    // The second request is identical: no second order is created.
    let order = simulator.control_get("/orders/order-1").await;
    assert_eq!((&order["created"], &order["arrivals"]["create"]), (&json!(1), &json!(2)), "{order}");
}

#[tokio::test]
async fn jsapi_app_and_h5_orders_have_their_own_fields_and_responses() {
    let simulator = TestSandbox::start().await;
    let merchant = &simulator.merchant;
    for (product, field, extra) in [
        ("jsapi", "prepay_id", json!({"payer": {"openid": "o1"}})),
        ("app", "prepay_id", json!({})),
        ("h5", "h5_url", json!({"scene_info": {"payer_client_ip": "1.2.3.4", "h5_info": {"type": "Wap"}}})),
    ] {
        let mut order = merchant.order(&format!("order-{product}"), NOWHERE);
        order.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let uri = format!("/v3/pay/transactions/{product}");
        let answer = merchant.send(merchant.request("POST", &uri, &order)).await.unwrap();
        assert!(answer.json()[field].is_string(), "{product}: {answer:?}");
    }
}

#[tokio::test]
async fn scanned_code_is_paid_or_user_paying_or_declined_and_can_be_reversed() {
    let simulator = TestSandbox::start().await;
    let merchant = &simulator.merchant;
    let (mchid, appid) = (&merchant.files.mchid, &merchant.files.appid);
    let order = |number: &str, code: &str| {
        json!({"appid": appid, "mchid": mchid, "description": "tea", "out_trade_no": number,
               "amount": {"total": 100, "currency": "CNY"}, "payer": {"auth_code": code},
               "scene_info": {"store_info": {"out_id": "0001"}}})
    };
    let ask = async |uri: &str, body: &Value| {
        let answer = merchant.send(merchant.request("POST", uri, body)).await.unwrap();
        assert!(merchant.verifies(&answer.headers, &answer.body), "{answer:?}");
        (answer.status, answer.json())
    };
    let scan = async |number: &str, code: &str| ask("/v3/pay/transactions/codepay", &order(number, code)).await;
    let (status, paid) = scan("order-1", "131234567890121000").await;
    assert_eq!((status, &paid["trade_state"], &paid["trade_type"]), (200, &json!("SUCCESS"), &json!("MICROPAY")));
    assert_eq!(paid["amount"]["total"], 100);
    assert_eq!(scan("order-1", "131234567890121000").await.1["code"], "ORDERPAID");
    let known = simulator.control_get("/orders/order-1").await;
    assert_eq!((&known["created"], &known["notifications"]), (&json!(1), &json!([])), "a till is never notified");

    for _ in 0..2 {
        let (status, waits) = scan("order-2", "131234567890120001").await;
        assert_eq!((status, &waits["code"]), (202, &json!("USERPAYING")));
    }
    assert_eq!(merchant.query("order-2").await.unwrap().json()["trade_state"], "USERPAYING");
    assert_eq!(merchant.close("order-2").await.unwrap().json()["code"], "INVALID_REQUEST");

    for (number, code, refusal) in [
        ("order-3", "131234567890120002", "NOT_ENOUGH"),
        ("order-4", "131234567890121000", "INVALID_REQUEST"),
        ("order-4", "161234567890121000", "PARAM_ERROR"),
    ] {
        assert_eq!(scan(number, code).await.1["code"], refusal);
    }
    let mut nowhere = order("order-4", "131234567890122000");
    nowhere["scene_info"]["store_info"] = json!({});
    assert_eq!(ask("/v3/pay/transactions/codepay", &nowhere).await.1["code"], "PARAM_ERROR");
    assert_eq!(merchant.query("order-3").await.unwrap().json()["trade_state"], "PAYERROR");
    assert_eq!(merchant.query("order-4").await.unwrap().json()["code"], "ORDER_NOT_EXIST");

    let whose = json!({"appid": appid, "mchid": mchid});
    let reverse = async |number: &str, body: &Value| {
        ask(&format!("/v3/pay/transactions/out-trade-no/{number}/reverse"), body).await
    };
    for number in ["order-1", "order-2", "order-2"] {
        assert_eq!(reverse(number, &whose).await.0, 204);
        assert_eq!(merchant.query(number).await.unwrap().json()["trade_state"], "REVOKED");
    }
    assert_eq!(reverse("order-1", &json!({"mchid": mchid})).await.1["code"], "PARAM_ERROR");
    assert_eq!(reverse("order-9", &whose).await.1["code"], "ORDER_NOT_EXIST");
    merchant.create(&merchant.order("order-5", NOWHERE)).await.unwrap();
    assert_eq!(reverse("order-5", &whose).await.1["code"], "INVALID_REQUEST");
    let reversed = simulator.control_get("/orders/order-2").await;
    assert_eq!(
        (&reversed["executions"]["cancel"], &reversed["arrivals"]["cancel"]),
        (&json!(1), &json!(2)),
        "{reversed}"
    );
}

#[tokio::test]
async fn request_with_invalid_signature_is_rejected() {
    let simulator = TestSandbox::start().await;
    let merchant = &simulator.merchant;
    let uri = "/v3/pay/transactions/native";
    let unsent = || merchant.request("POST", uri, &merchant.order("order-1", NOWHERE));
    let mut wrong = Vec::new();
    for change in 0..5 {
        let mut unsent = unsent();
        match change {
            0 => unsent.salt = "x",
            1 => unsent.timestamp -= 301,
            2 => unsent.serial = "7".repeat(40),
            3 => unsent.mchid = "1".to_owned(),
            _ => unsent.nonce = "not-alphanumeric".to_owned(),
        }
        wrong.push(unsent);
    }
    for unsent in wrong {
        let answer = merchant.send(unsent).await.unwrap();
        assert_eq!((answer.status, answer.json()["code"].as_str()), (401, Some("SIGN_ERROR")), "{answer:?}");
    }
    assert_eq!(simulator.control_get("/orders").await, json!([]));

    let (mut first, mut again) = (unsent(), unsent());
    first.nonce = "SameNonce".to_owned();
    again.nonce = "SameNonce".to_owned();
    assert_eq!(merchant.send(first).await.unwrap().status, 200);
    let answer = merchant.send(again).await.unwrap();
    assert_eq!((answer.status, answer.json()["detail"]["field"].as_str()), (401, Some("nonce_str")));
    let stats = simulator.control_get("/stats").await;
    assert_eq!((&stats["bad_signatures"], &stats["replayed_nonces"]), (&json!(6), &json!(1)), "{stats}");

    for header in ["accept", "content-type", "user-agent"] {
        let mut unsent = unsent();
        unsent.headers.retain(|(name, _)| *name != header);
        let answer = merchant.send(unsent).await.unwrap();
        assert_eq!((answer.status, answer.json()["code"].as_str()), (400, Some("PARAM_ERROR")), "{header}");
    }
}

#[tokio::test]
async fn invalid_requests_are_rejected_with_wechats_error_codes() {
    let simulator = TestSandbox::start().await;
    let merchant = &simulator.merchant;
    let good = merchant.order("order-1", NOWHERE);
    let changed = |pointer: &str, name: &str, value: Value| {
        let mut order = good.clone();
        order.pointer_mut(pointer).unwrap()[name] = value;
        order
    };
    merchant.create(&good).await.unwrap();
    for (order, status, code) in [
        (changed("", "surprise", json!(1)), 400, "PARAM_ERROR"),
        (changed("", "time_expire", json!("2020-01-01T00:00:00+08:00")), 400, "PARAM_ERROR"),
        (changed("", "appid", json!("wx0000000000000000")), 400, "APPID_MCHID_NOT_MATCH"),
        (changed("/amount", "total", json!(101)), 403, "OUT_TRADE_NO_USED"),
    ] {
        let answer = merchant.create(&order).await.unwrap();
        assert_eq!((answer.status, answer.json()["code"].as_str()), (status, Some(code)), "{order}");
        assert!(merchant.verifies(&answer.headers, &answer.body), "errors are signed too");
    }
    let answer = merchant.query("never-was").await.unwrap();
    assert_eq!((answer.status, answer.json()["code"].as_str()), (404, Some("ORDER_NOT_EXIST")));

    let answer = merchant.close("order-1").await.unwrap();
    assert_eq!((answer.status, answer.body.len()), (204, 0));
    assert!(merchant.verifies(&answer.headers, b""));
    assert_eq!(merchant.close("order-1").await.unwrap().status, 204);
    assert_eq!(merchant.create(&good).await.unwrap().json()["code"], "ORDER_CLOSED");
    assert_eq!(merchant.query("order-1").await.unwrap().json()["trade_state"], "CLOSED");
    let order = simulator.control_get("/orders/order-1").await;
    assert_eq!((&order["executions"]["close"], &order["arrivals"]["close"]), (&json!(1), &json!(2)), "{order}");
}

#[tokio::test]
async fn payment_notification_is_repeated_until_acknowledged() {
    let simulator = TestSandbox::start().await;
    let merchant = &simulator.merchant;
    let mut receiver = Receiver::start(&[500, 500, 204]).await;
    merchant.create(&merchant.order("order-1", &receiver.url)).await.unwrap();
    assert_eq!(merchant.query("order-1").await.unwrap().json()["trade_state"], "NOTPAY");
    let (status, _) = simulator.control("POST", "/orders/order-1/pay", json!({"openid": "payer"})).await;
    assert_eq!(status, 200);
    for _ in 0..3 {
        let (headers, body) = receiver.next().await;
        assert!(merchant.verifies(&headers, &body));
        assert_eq!(headers["content-type"], "application/json");
        let notification: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(notification["event_type"], "TRANSACTION.SUCCESS");
        let payment: Value = serde_json::from_slice(&merchant.open(&notification["resource"])).unwrap();
        assert_eq!(payment["out_trade_no"], "order-1");
        assert_eq!(payment["amount"]["total"], 100);
        assert_eq!(payment["payer"]["openid"], "payer");
        assert_eq!(payment, merchant.query("order-1").await.unwrap().json());
    }
    let order = simulator.until("/orders/order-1", |order| order["notifications"][0]["acknowledged"] == true).await;
    assert_eq!(order["notifications"][0]["attempts"].as_array().unwrap().len(), 3);
    assert!(receiver.is_empty());

    assert_eq!(merchant.close("order-1").await.unwrap().json()["code"], "ORDERPAID");
    let again = merchant.create(&merchant.order("order-1", &receiver.url)).await.unwrap();
    assert_eq!(again.json()["code"], "ORDERPAID");
    let id = order["transaction_id"].as_str().unwrap();
    let uri = format!("/v3/pay/transactions/id/{id}?mchid={}", merchant.files.mchid);
    let by_id = merchant.send(merchant.request("GET", &uri, &Value::Null)).await.unwrap();
    assert_eq!(by_id.json()["trade_state"], "SUCCESS");
}

#[tokio::test]
async fn refund_is_idempotent_and_rejected_above_the_balance() {
    let simulator = TestSandbox::start().await;
    let merchant = &simulator.merchant;
    let mut receiver = Receiver::start(&[]).await;
    let refund = |number: &str, amount: u64| {
        json!({"out_trade_no": "order-1", "out_refund_no": number, "notify_url": receiver.url,
               "amount": {"refund": amount, "total": 100, "currency": "CNY"}})
    };
    let (all, part, rest) = (refund("refund-2", 60), refund("refund-1", 60), refund("refund-2", 40));
    let changed = refund("refund-1", 50);
    merchant.create(&merchant.order("order-1", NOWHERE)).await.unwrap();
    assert_eq!(merchant.refund(&part).await.unwrap().json()["code"], "RESOURCE_NOT_EXISTS");
    simulator.control("POST", "/orders/order-1/pay", json!({"notify": false})).await;

    let answer = merchant.refund(&part).await.unwrap();
    assert_eq!((answer.status, answer.json()["status"].as_str()), (200, Some("PROCESSING")));
    let (headers, body) = receiver.next().await;
    assert!(merchant.verifies(&headers, &body));
    let notification: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(notification["event_type"], "REFUND.SUCCESS");
    let notification: Value = serde_json::from_slice(&merchant.open(&notification["resource"])).unwrap();
    assert_eq!((&notification["refund_status"], &notification["amount"]["refund"]), (&json!("SUCCESS"), &json!(60)));

    assert_eq!(merchant.refund(&part).await.unwrap().json()["status"], "SUCCESS", "the same number is the same refund");
    assert_eq!(merchant.refund(&changed).await.unwrap().json()["code"], "PARAM_ERROR");
    assert_eq!(merchant.refund(&all).await.unwrap().json()["code"], "INVALID_REQUEST");
    assert_eq!(merchant.refund(&rest).await.unwrap().status, 200);
    let uri = "/v3/refund/domestic/refunds/refund-2";
    let queried = merchant.send(merchant.request("GET", uri, &Value::Null)).await.unwrap();
    assert_eq!(queried.json()["status"], "SUCCESS");
    assert_eq!(merchant.query("order-1").await.unwrap().json()["trade_state"], "REFUND");
    let order = simulator.control_get("/orders/order-1").await;
    assert_eq!((&order["executions"]["refund"], &order["arrivals"]["refund"]), (&json!(2), &json!(6)), "{order}");
    assert_eq!(order["refunds"]["refund-1"]["arrivals"]["refund"], 4, "{order}");
}

#[tokio::test]
async fn control_api_finishes_processing_refunds() {
    let simulator = TestSandbox::with(|options| options.refund_auto = false).await;
    let merchant = &simulator.merchant;
    merchant.create(&merchant.order("order-1", NOWHERE)).await.unwrap();
    simulator.control("POST", "/orders/order-1/pay", json!({"notify": false})).await;
    let amount = json!({"refund": 100, "total": 100, "currency": "CNY"});
    let body = |number: &str| json!({"out_trade_no": "order-1", "out_refund_no": number, "amount": amount});
    merchant.refund(&body("refund-1")).await.unwrap();
    let finish = simulator.control("POST", "/refunds/refund-1/finish", json!({"status": "CLOSED"})).await;
    assert_eq!(finish.1["refunds"]["refund-1"]["status"], "CLOSED");
    assert_eq!(merchant.refund(&body("refund-2")).await.unwrap().status, 200, "a closed refund gave nothing back");
    assert_eq!(simulator.control("POST", "/refunds/refund-1/finish", Value::Null).await.0, 409);
}

#[tokio::test]
async fn platform_certificates_are_returned_encrypted() {
    let simulator = TestSandbox::start().await;
    let merchant = &simulator.merchant;
    let answer = merchant.send(merchant.request("GET", "/v3/certificates", &Value::Null)).await.unwrap();
    assert!(merchant.verifies(&answer.headers, &answer.body));
    let pem = merchant.open(&answer.json()["data"][0]["encrypt_certificate"]);
    assert_eq!(pem, std::fs::read(merchant.files.account.join("platform_cert.pem")).unwrap());
}

#[tokio::test]
async fn request_with_client_certificate_of_another_account_is_rejected() {
    let directory = tempfile::tempdir().unwrap();
    let main = sandbox_channel(directory.path(), "main", "127.0.0.1:8443").unwrap();
    let east = sandbox_channel(directory.path(), "east", "127.0.0.1:8443").unwrap();
    let sandbox = super::Sandbox::start(Options::new([directory.path().to_owned()])).await.unwrap();
    let mut main = Merchant::new(main, sandbox.address());
    let east = Merchant::new(east, sandbox.address());
    let simulator = TestSandbox { merchant: Merchant::new(main.files.clone(), sandbox.address()), sandbox, directory };
    for merchant in [&main, &east] {
        assert_eq!(merchant.create(&merchant.order("order-1", NOWHERE)).await.unwrap().status, 200);
    }
    assert_eq!(simulator.control("GET", "/orders/order-1", Value::Null).await.0, 409);
    assert_eq!(simulator.control_get(&format!("/orders/order-1?mchid={}", east.files.mchid)).await["state"], "NOTPAY");

    main.tls = east.tls.clone();
    assert_eq!(main.query("order-1").await.unwrap().json()["code"], "NO_AUTH");
    assert_eq!(simulator.control_get("/stats").await["wrong_identities"], 1);
}
