//! Tests of the WeChat Pay APIv2 simulator over real sockets.

mod refunds;
mod shop;

use serde_json::{Value, json};

use self::shop::{Fixture, Parameters, fields};
use super::NOWHERE;
use super::merchant::Receiver;

const MICROPAY: &str = "/pay/micropay";
const CLOSE: &str = "/pay/closeorder";
const ACKNOWLEDGED: &str =
    "<xml><return_code><![CDATA[SUCCESS]]></return_code><return_msg><![CDATA[OK]]></return_msg></xml>";

fn with(mut parameters: Parameters, name: &str, value: &str) -> Parameters {
    parameters.insert(name.to_owned(), value.to_owned());
    parameters
}

#[tokio::test]
async fn duplicate_order_is_created_once_and_response_uses_sign_type_of_request() {
    let fixture = Fixture::start().await;
    let shop = &fixture.shop;
    for kind in ["", "MD5", "HMAC-SHA256"] {
        let number = format!("order-{kind}");
        let order = with(shop.order(&number, NOWHERE), "sign_type", kind);
        for _ in 0..2 {
            let reply = shop.create(&order).await.unwrap();
            assert!(reply.is_signature_valid && reply.code() == "SUCCESS", "{reply:?}");
            assert!(reply.get("code_url").starts_with("weixin://wxpay/bizpayurl?pr="), "{reply:?}");
            assert!(reply.get("prepay_id").starts_with("wx"), "{reply:?}");
            assert_eq!(
                (reply.get("mch_id"), reply.get("appid")),
                (shop.files.mchid.as_str(), shop.files.appid.as_str())
            );
        }
        let reply = shop.query(&number).await.unwrap();
        assert_eq!((reply.get("trade_state"), reply.get("total_fee")), ("NOTPAY", ""));
        fixture.pay(&number).await;
        let paid = shop.query(&number).await.unwrap();
        assert_eq!(
            (paid.get("trade_state"), paid.get("total_fee"), paid.get("trade_type")),
            ("SUCCESS", "100", "NATIVE")
        );
        let by_id = fields([("transaction_id", paid.get("transaction_id")), ("out_trade_no", "another")]);
        assert_eq!(shop.ask("/pay/orderquery", &by_id).await.unwrap().get("out_trade_no"), number);
        let seen = fixture.simulator.control_get(&format!("/orders/{number}")).await;
        assert_eq!((&seen["created"], &seen["arrivals"]["create"]), (&json!(1), &json!(2)), "{seen}");
        assert_eq!(seen["product"], "native");
    }
}

#[tokio::test]
async fn each_trade_type_has_its_own_fields() {
    let fixture = Fixture::start().await;
    let shop = &fixture.shop;
    let scene = r#"{"h5_info":{"type":"Wap","wap_url":"https://shop.example.com","wap_name":"茶"}}"#;
    for (trade_type, needed, value, means) in [
        ("JSAPI", "openid", "o1", "prepay_id"),
        ("NATIVE", "product_id", "p1", "code_url"),
        ("MWEB", "scene_info", scene, "mweb_url"),
        ("APP", "", "", "prepay_id"),
    ] {
        let mut order = with(shop.order(trade_type, NOWHERE), "trade_type", trade_type);
        order.remove("product_id");
        if !needed.is_empty() {
            let reply = shop.create(&order).await.unwrap();
            assert!(reply.is_signature_valid && reply.code() == "LACK_PARAMS", "{reply:?}");
            order = with(order, needed, value);
        }
        let reply = shop.create(&order).await.unwrap();
        assert!(reply.code() == "SUCCESS" && !reply.get(means).is_empty(), "{reply:?}");
        fixture.pay(trade_type).await;
        assert_eq!(shop.query(trade_type).await.unwrap().get("trade_type"), trade_type);
    }
}

#[tokio::test]
async fn malformed_request_is_rejected_unsigned() {
    let fixture = Fixture::start().await;
    let shop = &fixture.shop;
    let good = || shop.order("order-1", NOWHERE);
    let altered = |name: &str, value: &str| with(shop.signed(good()), name, value);
    let signed = |name: &str, value: &str| shop.signed(with(good(), name, value));
    for (parameters, message) in [
        (altered("total_fee", "1"), "签名错误"),
        (altered("surprise", "1"), "签名错误"),
        (altered("sign", &shop.signed(good())["sign"].to_lowercase()), "签名错误"),
        (altered("sign", ""), "缺少参数sign"),
        (altered("sign_type", "HMAC-SHA256"), "签名错误"),
        (signed("sign_type", "RSA"), "签名类型"),
        (signed("mch_id", "1900000000"), "商户号mch_id不存在"),
        (signed("mch_id", &fixture.simulator.merchant.files.mchid), "商户号mch_id不存在"),
        (signed("appid", "wx0000000000000000"), "appid和mch_id不匹配"),
        (signed("sub_mch_id", "1900000001"), "sub_mch_id与mch_id不匹配"),
    ] {
        let reply = shop.send("/pay/unifiedorder", &parameters).await.unwrap();
        assert!(reply.status == 200 && !reply.fields.contains_key("sign"), "{reply:?}");
        assert!(reply.get("return_code") == "FAIL" && reply.code().starts_with(message), "{message} {reply:?}");
    }
    assert_eq!(fixture.simulator.control_get("/stats").await["bad_signatures"], 10);
    assert_eq!(fixture.simulator.control_get("/orders").await, json!([]));

    for (method, body, message) in [
        ("GET", "", "请使用post方法"),
        ("POST", "", "post数据为空"),
        ("POST", "{}", "XML格式错误"),
        ("POST", "<!DOCTYPE xml [<!ENTITY e SYSTEM \"file:///etc/passwd\">]><xml><a>&e;</a></xml>", "XML格式错误"),
    ] {
        let (status, text) = shop.exchange(method, "/pay/orderquery", body.to_owned()).await.unwrap();
        assert!(status == 200 && text.contains("FAIL") && text.contains(message), "{text}");
    }
    assert_eq!(shop.exchange("POST", "/pay/dance", String::new()).await.unwrap().0, 404);
}

#[tokio::test]
async fn invalid_requests_are_rejected_with_signed_error_codes() {
    let fixture = Fixture::start().await;
    let shop = &fixture.shop;
    shop.create(&shop.order("order-1", NOWHERE)).await.unwrap();
    for (name, value, code) in [
        ("total_fee", "101", "OUT_TRADE_NO_USED"),
        ("product_id", "p2", "OUT_TRADE_NO_USED"),
        ("total_fee", "1.00", "PARAM_ERROR"),
        ("total_fee", "0", "PARAM_ERROR"),
        ("out_trade_no", "order 1", "PARAM_ERROR"),
        ("out_trade_no", "0123456789012345678901234567890123", "PARAM_ERROR"),
        ("notify_url", "https://shop.example.com/?a=1", "PARAM_ERROR"),
        ("spbill_create_ip", "here", "PARAM_ERROR"),
        ("fee_type", "USD", "PARAM_ERROR"),
        ("surprise", "1", "PARAM_ERROR"),
        ("trade_type", "MICROPAY", "PARAM_ERROR"),
        ("detail", "no JSON", "PARAM_ERROR"),
    ] {
        let reply = shop.create(&with(shop.order("order-1", NOWHERE), name, value)).await.unwrap();
        assert!(reply.is_signature_valid && reply.code() == code, "{name}={value} {reply:?}");
    }
    let late = with(shop.order("order-2", NOWHERE), "time_expire", "20200101000000");
    assert_eq!(shop.create(&late).await.unwrap().code(), "PARAM_ERROR");
    for path in ["/pay/orderquery", CLOSE] {
        let reply = shop.ask(path, &fields([("out_trade_no", "never-was")])).await.unwrap();
        assert!(reply.is_signature_valid && reply.code() == "ORDERNOTEXIST", "{reply:?}");
    }
    let reply = shop.ask("/pay/orderquery", &fields([])).await.unwrap();
    assert_eq!(reply.code(), "LACK_PARAMS");

    for _ in 0..2 {
        assert_eq!(shop.ask(CLOSE, &fields([("out_trade_no", "order-1")])).await.unwrap().code(), "SUCCESS");
    }
    assert_eq!(shop.query("order-1").await.unwrap().get("trade_state"), "CLOSED");
    assert_eq!(shop.create(&shop.order("order-1", NOWHERE)).await.unwrap().code(), "ORDERCLOSED");
    let order = fixture.simulator.control_get("/orders/order-1").await;
    assert_eq!((&order["executions"]["close"], &order["arrivals"]["close"]), (&json!(1), &json!(2)), "{order}");

    shop.create(&shop.order("order-3", NOWHERE)).await.unwrap();
    fixture.pay("order-3").await;
    assert_eq!(shop.create(&shop.order("order-3", NOWHERE)).await.unwrap().code(), "ORDERPAID");
    assert_eq!(shop.ask(CLOSE, &fields([("out_trade_no", "order-3")])).await.unwrap().code(), "ORDERPAID");
}

#[tokio::test]
async fn payment_code_is_paid_or_waits_for_password_or_is_declined() {
    let fixture = Fixture::start().await;
    let shop = &fixture.shop;
    let order = shop.scanned("order-1", "131234567890123456");
    let reply = shop.ask(MICROPAY, &order).await.unwrap();
    assert!(reply.is_signature_valid && reply.code() == "SUCCESS", "{reply:?}");
    assert_eq!((reply.get("total_fee"), reply.get("trade_type")), ("100", "MICROPAY"));
    assert!(!reply.get("transaction_id").is_empty() && !reply.get("time_end").is_empty(), "{reply:?}");
    // A repeated request charges nothing more.
    assert_eq!(shop.ask(MICROPAY, &order).await.unwrap().code(), "ORDERPAID");
    let known = fixture.simulator.control_get("/orders/order-1").await;
    assert_eq!((&known["created"], &known["arrivals"]["create"]), (&json!(1), &json!(2)), "{known}");
    assert_eq!(known["notifications"], json!([]), "a till is never notified");

    let order = shop.scanned("order-2", "131234567890120001");
    for _ in 0..2 {
        assert_eq!(shop.ask(MICROPAY, &order).await.unwrap().code(), "USERPAYING");
    }
    assert_eq!(shop.query("order-2").await.unwrap().get("trade_state"), "USERPAYING");
    assert_eq!(shop.ask(CLOSE, &fields([("out_trade_no", "order-2")])).await.unwrap().code(), "INVALID_REQUEST");
    fixture.pay("order-2").await;
    assert_eq!(shop.query("order-2").await.unwrap().get("trade_state"), "SUCCESS");

    for (number, code, refusal) in [
        ("order-3", "131234567890120002", "NOTENOUGH"),
        ("order-4", "131234567890123456", "AUTHCODEEXPIRE"),
        ("order-4", "281234567890123456", "AUTH_CODE_INVALID"),
        ("order-4", "13123456789012345", "AUTH_CODE_INVALID"),
    ] {
        assert_eq!(shop.ask(MICROPAY, &shop.scanned(number, code)).await.unwrap().code(), refusal);
    }
    assert_eq!(shop.query("order-3").await.unwrap().get("trade_state"), "PAYERROR");
    assert_eq!(shop.query("order-4").await.unwrap().code(), "ORDERNOTEXIST");
}

#[tokio::test]
async fn payment_notification_is_repeated_until_documented_acknowledgement() {
    let fixture = Fixture::start().await;
    let shop = &fixture.shop;
    let spaced = "<xml>\n<return_code><![CDATA[SUCCESS]]></return_code></xml>";
    let answers = [(500, ACKNOWLEDGED), (200, spaced), (200, "success"), (204, "")];
    let mut receiver = Receiver::responding(&answers, (200, ACKNOWLEDGED)).await;
    let order = with(shop.order("order-1", &receiver.url), "sign_type", "HMAC-SHA256");
    shop.create(&with(order, "attach", "a & b")).await.unwrap();
    fixture.pay("order-1").await;
    for _ in 0..5 {
        let (headers, body) = receiver.next().await;
        assert_eq!(headers["content-type"], "text/xml");
        let (notification, is_signature_valid) = shop.notification(&body, "HMAC-SHA256");
        assert!(is_signature_valid, "{notification:?}");
        for (name, value) in [
            ("return_code", "SUCCESS"),
            ("result_code", "SUCCESS"),
            ("out_trade_no", "order-1"),
            ("total_fee", "100"),
            ("attach", "a & b"),
            ("appid", &shop.files.appid),
            ("mch_id", &shop.files.mchid),
        ] {
            assert_eq!(notification[name], value);
        }
    }
    let acknowledged = |order: &Value| order["notifications"][0]["acknowledged"] == true;
    let order = fixture.simulator.until("/orders/order-1", acknowledged).await;
    assert_eq!(order["notifications"][0]["attempts"].as_array().unwrap().len(), 5);

    for tamper in ["body", "signature", "amount", "account"] {
        fixture.simulator.control("POST", "/orders/order-1/notify", json!({"tamper": tamper})).await;
        let (notification, is_signature_valid) = shop.notification(&receiver.next().await.1, "HMAC-SHA256");
        assert_eq!(is_signature_valid, !matches!(tamper, "body" | "signature"), "{tamper}");
        assert_eq!(notification["total_fee"] == "101", tamper == "amount");
        assert_eq!(notification["mch_id"] != shop.files.mchid, tamper == "account");
    }
    for wrong in [json!({"tamper": "serial"}), json!({"tamper": "stale"}), json!({"key": "certificate"})] {
        assert_eq!(fixture.simulator.control("POST", "/orders/order-1/notify", wrong).await.0, 409);
    }
}

#[tokio::test]
async fn scripted_faults_change_responses_and_cut_connections() {
    let fixture = Fixture::start().await;
    let (shop, simulator) = (&fixture.shop, &fixture.simulator);
    for (name, fault, arrivals) in [("unread", "cut_unread", 0), ("before", "cut_before", 1), ("after", "cut_after", 1)]
    {
        simulator.fault(json!({"operation": "create", "fault": fault, "number": name})).await;
        shop.create(&shop.order(name, NOWHERE)).await.unwrap_err();
        let state = if fault == "cut_after" { "NOTPAY" } else { "ORDERNOTEXIST" };
        let reply = shop.query(name).await.unwrap();
        assert!([reply.get("trade_state"), reply.code()].contains(&state), "{fault} {reply:?}");
        assert_eq!(shop.create(&shop.order(name, NOWHERE)).await.unwrap().code(), "SUCCESS");
        let order = simulator.control_get(&format!("/orders/{name}")).await;
        assert_eq!((&order["created"], &order["arrivals"]["create"]), (&json!(1), &json!(arrivals + 1)), "{order}");
    }
    fixture.pay("after").await;
    let good = shop.query("after").await.unwrap();
    for fault in ["unsigned", "wrong_signature", "garbage", "other_amount", "other_account", "status"] {
        let script = json!({"operation": "query", "fault": fault, "number": "after", "status": 200});
        simulator.fault(script).await;
        let reply = shop.query("after").await.unwrap();
        assert_eq!(reply.is_signature_valid, matches!(fault, "other_amount" | "other_account" | "status"), "{reply:?}");
        match fault {
            "other_amount" => assert_eq!((reply.get("total_fee"), reply.get("cash_fee")), ("101", "101")),
            "other_account" => assert_ne!(reply.get("mch_id"), good.get("mch_id")),
            "status" => assert_eq!(reply.code(), "SYSTEMERROR"),
            "garbage" => assert_eq!((reply.status, reply.text.as_str()), (200, "<html>OK</html>")),
            _ => assert_eq!(reply.get("trade_state"), "SUCCESS"),
        }
    }
    for (code, is_signature_valid, begin) in
        [("BANKERROR", true, "<xml>"), ("FAIL", false, "<xml>"), ("", false, "<html><body>Bad Gateway")]
    {
        simulator.fault(json!({"operation": "query", "fault": "status", "code": code})).await;
        let reply = shop.query("after").await.unwrap();
        assert!(
            reply.status == 500 && reply.text.starts_with(begin) && reply.is_signature_valid == is_signature_valid,
            "{reply:?}"
        );
    }
}

#[tokio::test]
async fn service_provider_request_must_match_its_sub_merchant() {
    let more = "sub_mchid = \"1900000777\"\nsub_appid = \"wx7777777777777777\"";
    let fixture = Fixture::with(more, |_| {}).await;
    let shop = &fixture.shop;
    let order = with(shop.order("order-1", NOWHERE), "trade_type", "JSAPI");
    let (merchant, app) = (("sub_mch_id", "1900000777"), ("sub_appid", "wx7777777777777777"));
    for (given, code) in [
        (vec![("sub_openid", "o1")], "sub_mch_id与mch_id不匹配"),
        (vec![("sub_openid", "o1"), merchant, ("sub_appid", "wx0")], "sub_mch_id与sub_appid不匹配"),
        (vec![("sub_openid", "o1"), merchant], "LACK_PARAMS"),
        (vec![("sub_openid", "o1"), merchant, app], "SUCCESS"),
    ] {
        let order = given.iter().fold(order.clone(), |order, (name, value)| with(order, name, value));
        let reply = shop.create(&order).await.unwrap();
        assert_eq!(reply.code(), code, "{reply:?}");
    }
    fixture.pay("order-1").await;
    let query = fields([("out_trade_no", "order-1"), merchant]);
    let reply = shop.ask("/pay/orderquery", &query).await.unwrap();
    assert!(reply.is_signature_valid, "{reply:?}");
    assert_eq!((reply.get("sub_mch_id"), reply.get("sub_appid")), (merchant.1, app.1));
}
