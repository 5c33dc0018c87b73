//! The sandbox as WeChat Pay's APIv2, over real sockets.

mod refunds;
mod shop;

use serde_json::{Value, json};

use self::shop::{Parameters, Town, fields};
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
async fn an_order_is_made_once_and_answers_are_signed_as_the_request_was() {
    let town = Town::start().await;
    let shop = &town.shop;
    for kind in ["", "MD5", "HMAC-SHA256"] {
        let number = format!("order-{kind}");
        let order = with(shop.order(&number, NOWHERE), "sign_type", kind);
        for _ in 0..2 {
            let told = shop.create(&order).await.unwrap();
            assert!(told.believed && told.code() == "SUCCESS", "{told:?}");
            assert!(told.get("code_url").starts_with("weixin://wxpay/bizpayurl?pr="), "{told:?}");
            assert!(told.get("prepay_id").starts_with("wx"), "{told:?}");
            assert_eq!((told.get("mch_id"), told.get("appid")), (shop.files.mchid.as_str(), shop.files.appid.as_str()));
        }
        let told = shop.query(&number).await.unwrap();
        assert_eq!((told.get("trade_state"), told.get("total_fee")), ("NOTPAY", ""));
        town.pay(&number).await;
        let paid = shop.query(&number).await.unwrap();
        assert_eq!(
            (paid.get("trade_state"), paid.get("total_fee"), paid.get("trade_type")),
            ("SUCCESS", "100", "NATIVE")
        );
        let by_id = fields([("transaction_id", paid.get("transaction_id")), ("out_trade_no", "another")]);
        assert_eq!(shop.ask("/pay/orderquery", &by_id).await.unwrap().get("out_trade_no"), number);
        let seen = town.world.told(&format!("/orders/{number}")).await;
        assert_eq!((&seen["created"], &seen["arrivals"]["create"]), (&json!(1), &json!(2)), "{seen}");
        assert_eq!(seen["product"], "native");
    }
}

#[tokio::test]
async fn each_way_to_pay_has_its_own_fields() {
    let town = Town::start().await;
    let shop = &town.shop;
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
            let told = shop.create(&order).await.unwrap();
            assert!(told.believed && told.code() == "LACK_PARAMS", "{told:?}");
            order = with(order, needed, value);
        }
        let told = shop.create(&order).await.unwrap();
        assert!(told.code() == "SUCCESS" && !told.get(means).is_empty(), "{told:?}");
        town.pay(trade_type).await;
        assert_eq!(shop.query(trade_type).await.unwrap().get("trade_type"), trade_type);
    }
}

#[tokio::test]
async fn what_is_not_understood_is_refused_without_a_signature() {
    let town = Town::start().await;
    let shop = &town.shop;
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
        (signed("mch_id", &town.world.merchant.files.mchid), "商户号mch_id不存在"),
        (signed("appid", "wx0000000000000000"), "appid和mch_id不匹配"),
        (signed("sub_mch_id", "1900000001"), "sub_mch_id与mch_id不匹配"),
    ] {
        let told = shop.send("/pay/unifiedorder", &parameters).await.unwrap();
        assert!(told.status == 200 && !told.fields.contains_key("sign"), "{told:?}");
        assert!(told.get("return_code") == "FAIL" && told.code().starts_with(message), "{message} {told:?}");
    }
    assert_eq!(town.world.told("/stats").await["bad_signatures"], 10);
    assert_eq!(town.world.told("/orders").await, json!([]));

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
async fn what_the_original_refuses_is_refused_with_a_signature() {
    let town = Town::start().await;
    let shop = &town.shop;
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
        let told = shop.create(&with(shop.order("order-1", NOWHERE), name, value)).await.unwrap();
        assert!(told.believed && told.code() == code, "{name}={value} {told:?}");
    }
    let late = with(shop.order("order-2", NOWHERE), "time_expire", "20200101000000");
    assert_eq!(shop.create(&late).await.unwrap().code(), "PARAM_ERROR");
    for path in ["/pay/orderquery", CLOSE] {
        let told = shop.ask(path, &fields([("out_trade_no", "never-was")])).await.unwrap();
        assert!(told.believed && told.code() == "ORDERNOTEXIST", "{told:?}");
    }
    let told = shop.ask("/pay/orderquery", &fields([])).await.unwrap();
    assert_eq!(told.code(), "LACK_PARAMS");

    for _ in 0..2 {
        assert_eq!(shop.ask(CLOSE, &fields([("out_trade_no", "order-1")])).await.unwrap().code(), "SUCCESS");
    }
    assert_eq!(shop.query("order-1").await.unwrap().get("trade_state"), "CLOSED");
    assert_eq!(shop.create(&shop.order("order-1", NOWHERE)).await.unwrap().code(), "ORDERCLOSED");
    let order = town.world.told("/orders/order-1").await;
    assert_eq!((&order["executions"]["close"], &order["arrivals"]["close"]), (&json!(1), &json!(2)), "{order}");

    shop.create(&shop.order("order-3", NOWHERE)).await.unwrap();
    town.pay("order-3").await;
    assert_eq!(shop.create(&shop.order("order-3", NOWHERE)).await.unwrap().code(), "ORDERPAID");
    assert_eq!(shop.ask(CLOSE, &fields([("out_trade_no", "order-3")])).await.unwrap().code(), "ORDERPAID");
}

#[tokio::test]
async fn payment_codes_pay_at_once_or_wait_or_are_declined() {
    let town = Town::start().await;
    let shop = &town.shop;
    let order = shop.scanned("order-1", "131234567890123456");
    let told = shop.ask(MICROPAY, &order).await.unwrap();
    assert!(told.believed && told.code() == "SUCCESS", "{told:?}");
    assert_eq!((told.get("total_fee"), told.get("trade_type")), ("100", "MICROPAY"));
    assert!(!told.get("transaction_id").is_empty() && !told.get("time_end").is_empty(), "{told:?}");
    // The same once more takes nothing more.
    assert_eq!(shop.ask(MICROPAY, &order).await.unwrap().code(), "ORDERPAID");
    let known = town.world.told("/orders/order-1").await;
    assert_eq!((&known["created"], &known["arrivals"]["create"]), (&json!(1), &json!(2)), "{known}");
    assert_eq!(known["notifications"], json!([]), "a till is never notified");

    let order = shop.scanned("order-2", "131234567890120001");
    for _ in 0..2 {
        assert_eq!(shop.ask(MICROPAY, &order).await.unwrap().code(), "USERPAYING");
    }
    assert_eq!(shop.query("order-2").await.unwrap().get("trade_state"), "USERPAYING");
    assert_eq!(shop.ask(CLOSE, &fields([("out_trade_no", "order-2")])).await.unwrap().code(), "INVALID_REQUEST");
    town.pay("order-2").await;
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
async fn a_payment_is_told_until_the_answer_is_the_documented_one() {
    let town = Town::start().await;
    let shop = &town.shop;
    let spaced = "<xml>\n<return_code><![CDATA[SUCCESS]]></return_code></xml>";
    let answers = [(500, ACKNOWLEDGED), (200, spaced), (200, "success"), (204, "")];
    let mut receiver = Receiver::saying(&answers, (200, ACKNOWLEDGED)).await;
    let order = with(shop.order("order-1", &receiver.url), "sign_type", "HMAC-SHA256");
    shop.create(&with(order, "attach", "a & b")).await.unwrap();
    town.pay("order-1").await;
    for _ in 0..5 {
        let (headers, body) = receiver.next().await;
        assert_eq!(headers["content-type"], "text/xml");
        let (news, believed) = shop.news(&body, "HMAC-SHA256");
        assert!(believed, "{news:?}");
        for (name, value) in [
            ("return_code", "SUCCESS"),
            ("result_code", "SUCCESS"),
            ("out_trade_no", "order-1"),
            ("total_fee", "100"),
            ("attach", "a & b"),
            ("appid", &shop.files.appid),
            ("mch_id", &shop.files.mchid),
        ] {
            assert_eq!(news[name], value);
        }
    }
    let acknowledged = |order: &Value| order["notifications"][0]["acknowledged"] == true;
    let order = town.world.until("/orders/order-1", acknowledged).await;
    assert_eq!(order["notifications"][0]["attempts"].as_array().unwrap().len(), 5);

    for tamper in ["body", "signature", "amount", "account"] {
        town.world.control("POST", "/orders/order-1/notify", json!({"tamper": tamper})).await;
        let (news, believed) = shop.news(&receiver.next().await.1, "HMAC-SHA256");
        assert_eq!(believed, !matches!(tamper, "body" | "signature"), "{tamper}");
        assert_eq!(news["total_fee"] == "101", tamper == "amount");
        assert_eq!(news["mch_id"] != shop.files.mchid, tamper == "account");
    }
    for wrong in [json!({"tamper": "serial"}), json!({"tamper": "stale"}), json!({"key": "certificate"})] {
        assert_eq!(town.world.control("POST", "/orders/order-1/notify", wrong).await.0, 409);
    }
}

#[tokio::test]
async fn faults_spoil_answers_and_cut_connections() {
    let town = Town::start().await;
    let (shop, world) = (&town.shop, &town.world);
    for (name, fault, arrivals) in [("unread", "cut_unread", 0), ("before", "cut_before", 1), ("after", "cut_after", 1)]
    {
        world.fault(json!({"operation": "create", "fault": fault, "number": name})).await;
        shop.create(&shop.order(name, NOWHERE)).await.unwrap_err();
        let state = if fault == "cut_after" { "NOTPAY" } else { "ORDERNOTEXIST" };
        let told = shop.query(name).await.unwrap();
        assert!([told.get("trade_state"), told.code()].contains(&state), "{fault} {told:?}");
        assert_eq!(shop.create(&shop.order(name, NOWHERE)).await.unwrap().code(), "SUCCESS");
        let order = world.told(&format!("/orders/{name}")).await;
        assert_eq!((&order["created"], &order["arrivals"]["create"]), (&json!(1), &json!(arrivals + 1)), "{order}");
    }
    town.pay("after").await;
    let good = shop.query("after").await.unwrap();
    for fault in ["unsigned", "wrong_signature", "garbage", "other_amount", "other_account", "status"] {
        let script = json!({"operation": "query", "fault": fault, "number": "after", "status": 200});
        world.fault(script).await;
        let told = shop.query("after").await.unwrap();
        assert_eq!(told.believed, matches!(fault, "other_amount" | "other_account" | "status"), "{told:?}");
        match fault {
            "other_amount" => assert_eq!((told.get("total_fee"), told.get("cash_fee")), ("101", "101")),
            "other_account" => assert_ne!(told.get("mch_id"), good.get("mch_id")),
            "status" => assert_eq!(told.code(), "SYSTEMERROR"),
            "garbage" => assert_eq!((told.status, told.text.as_str()), (200, "<html>OK</html>")),
            _ => assert_eq!(told.get("trade_state"), "SUCCESS"),
        }
    }
    for (code, believed, begin) in
        [("BANKERROR", true, "<xml>"), ("FAIL", false, "<xml>"), ("", false, "<html><body>Bad Gateway")]
    {
        world.fault(json!({"operation": "query", "fault": "status", "code": code})).await;
        let told = shop.query("after").await.unwrap();
        assert!(told.status == 500 && told.text.starts_with(begin) && told.believed == believed, "{told:?}");
    }
}

#[tokio::test]
async fn a_service_provider_speaks_for_one_merchant() {
    let more = "sub_mchid = \"1900000777\"\nsub_appid = \"wx7777777777777777\"";
    let town = Town::with(more, |_| {}).await;
    let shop = &town.shop;
    let order = with(shop.order("order-1", NOWHERE), "trade_type", "JSAPI");
    let (merchant, app) = (("sub_mch_id", "1900000777"), ("sub_appid", "wx7777777777777777"));
    for (given, code) in [
        (vec![("sub_openid", "o1")], "sub_mch_id与mch_id不匹配"),
        (vec![("sub_openid", "o1"), merchant, ("sub_appid", "wx0")], "sub_mch_id与sub_appid不匹配"),
        (vec![("sub_openid", "o1"), merchant], "LACK_PARAMS"),
        (vec![("sub_openid", "o1"), merchant, app], "SUCCESS"),
    ] {
        let order = given.iter().fold(order.clone(), |order, (name, value)| with(order, name, value));
        let told = shop.create(&order).await.unwrap();
        assert_eq!(told.code(), code, "{told:?}");
    }
    town.pay("order-1").await;
    let query = fields([("out_trade_no", "order-1"), merchant]);
    let told = shop.ask("/pay/orderquery", &query).await.unwrap();
    assert!(told.believed, "{told:?}");
    assert_eq!((told.get("sub_mch_id"), told.get("sub_appid")), (merchant.1, app.1));
}
