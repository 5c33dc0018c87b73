//! Tests of refunds, reversals and bills of APIv2.

use serde_json::{Value, json};

use super::shop::{Fixture, Parameters, fields};
use super::{ACKNOWLEDGED, MICROPAY, with};
use crate::tests::NOWHERE;
use crate::tests::merchant::Receiver;

const REFUND: &str = "/secapi/pay/refund";
const REFUND_QUERY: &str = "/pay/refundquery";
const REVERSE: &str = "/secapi/pay/reverse";

fn refund(number: &str, amount: &str, total: &str) -> Parameters {
    fields([("out_trade_no", "order-1"), ("out_refund_no", number), ("refund_fee", amount), ("total_fee", total)])
}

#[tokio::test]
async fn refund_is_idempotent_and_its_notification_is_encrypted() {
    let fixture = Fixture::start().await;
    let shop = &fixture.shop;
    let mut receiver = Receiver::responding(&[], (200, ACKNOWLEDGED)).await;
    let with_url = |parameters: Parameters| with(parameters, "notify_url", &receiver.url);
    assert_eq!(shop.ask(REFUND, &refund("r1", "60", "100")).await.unwrap().code(), "ORDERNOTEXIST");
    shop.create(&shop.order("order-1", NOWHERE)).await.unwrap();
    assert_eq!(shop.ask(REFUND, &refund("r1", "60", "100")).await.unwrap().code(), "TRADE_STATE_ERROR");
    // The transaction number is not valid before the payment.
    let order = fixture.simulator.control_get("/orders/order-1").await;
    let mut unknown = with(refund("r1", "60", "100"), "transaction_id", order["transaction_id"].as_str().unwrap());
    unknown.remove("out_trade_no");
    assert_eq!(shop.ask(REFUND, &unknown).await.unwrap().code(), "ORDERNOTEXIST");
    fixture.simulator.control("POST", "/orders/order-1/pay", json!({"notify": false})).await;
    for (parameters, code) in [
        (with_url(refund("r1", "60", "100")), "SUCCESS"),
        (with_url(refund("r1", "60", "100")), "SUCCESS"),
        (with_url(refund("r1", "50", "100")), "INVALID_REQUEST"),
        (refund("r2", "40", "90"), "INVALID_REQUEST"),
        (refund("r2", "41", "100"), "ERROR"),
        (refund("r2", "40", "100"), "SUCCESS"),
    ] {
        let reply = shop.ask(REFUND, &parameters).await.unwrap();
        assert!(reply.is_signature_valid && reply.code() == code, "{parameters:?} {reply:?}");
        assert_eq!(reply.get("refund_id").is_empty(), code != "SUCCESS");
    }
    let (seen, hidden) = shop.refund_notification(&receiver.next().await.1);
    assert!(!seen.contains_key("sign") && seen["return_code"] == "SUCCESS", "{seen:?}");
    assert_eq!((&seen["mch_id"], &seen["appid"]), (&shop.files.mchid, &shop.files.appid));
    let hidden = hidden.unwrap();
    for (name, value) in
        [("out_refund_no", "r1"), ("out_trade_no", "order-1"), ("refund_fee", "60"), ("refund_status", "SUCCESS")]
    {
        assert_eq!(hidden[name], value);
    }
    assert_eq!(hidden["success_time"].len(), "2023-11-15 06:20:25".len());

    let reply = shop.ask(REFUND_QUERY, &fields([("out_trade_no", "order-1")])).await.unwrap();
    assert_eq!(
        (reply.get("refund_count"), reply.get("out_refund_no_0"), reply.get("out_refund_no_1")),
        ("2", "r1", "r2")
    );
    for (name, value) in [("out_refund_no", "r2"), ("refund_id", reply.get("refund_id_1"))] {
        // The refund id takes precedence over the order number.
        let named = fields([(name, value), ("out_trade_no", "never-was")]);
        let reply = shop.ask(REFUND_QUERY, &named).await.unwrap();
        assert_eq!((reply.get("refund_count"), reply.get("refund_fee_0")), ("1", "40"), "{reply:?}");
        assert_eq!(reply.get("refund_status_0"), "SUCCESS");
    }
    let reply = shop.ask(REFUND_QUERY, &fields([("out_trade_no", "order-1"), ("offset", "1")])).await.unwrap();
    assert_eq!((reply.get("refund_count"), reply.get("out_refund_no_0")), ("1", "r2"));
    assert_eq!(shop.ask(REFUND_QUERY, &fields([("out_refund_no", "r3")])).await.unwrap().code(), "REFUNDNOTEXIST");
    assert_eq!(shop.query("order-1").await.unwrap().get("trade_state"), "REFUND");
    let order = fixture.simulator.control_get("/orders/order-1").await;
    assert_eq!((&order["executions"]["refund"], &order["arrivals"]["refund"]), (&json!(2), &json!(9)), "{order}");
    assert_eq!(order["refunds"]["r2"]["arrivals"], json!({"refund": 3, "refund_query": 2}), "{order}");

    for tamper in ["body", "signature", "amount", "account"] {
        fixture.simulator.control("POST", "/refunds/r1/notify", json!({"tamper": tamper})).await;
        let (seen, hidden) = shop.refund_notification(&receiver.next().await.1);
        assert_eq!(hidden.is_some(), matches!(tamper, "amount" | "account"), "{tamper}");
        assert_eq!(hidden.is_some_and(|hidden| hidden["refund_fee"] == "61"), tamper == "amount");
        assert_eq!(seen["mch_id"] != shop.files.mchid, tamper == "account");
    }
}

#[tokio::test]
async fn control_api_finishes_processing_refund() {
    let fixture = Fixture::with("", |options| options.refund_auto = false).await;
    let shop = &fixture.shop;
    shop.ask(MICROPAY, &shop.scanned("order-1", "131234567890123456")).await.unwrap();
    for (number, status, reply) in [("r1", "ABNORMAL", "CHANGE"), ("r2", "CLOSED", "REFUNDCLOSE")] {
        assert_eq!(shop.ask(REFUND, &refund(number, "50", "100")).await.unwrap().code(), "SUCCESS");
        let asked = fields([("out_refund_no", number)]);
        assert_eq!(shop.ask(REFUND_QUERY, &asked).await.unwrap().get("refund_status_0"), "PROCESSING");
        let finished =
            fixture.simulator.control("POST", &format!("/refunds/{number}/finish"), json!({"status": status})).await;
        assert_eq!(finished.0, 200);
        assert_eq!(shop.ask(REFUND_QUERY, &asked).await.unwrap().get("refund_status_0"), reply);
    }
    // The remaining balance can be refunded.
    assert_eq!(shop.ask(REFUND, &refund("r3", "50", "100")).await.unwrap().code(), "SUCCESS");
}

#[tokio::test]
async fn refund_without_client_certificate_is_rejected() {
    let mut fixture = Fixture::start().await;
    fixture.shop.tls = fixture.simulator.merchant.tls.clone();
    let reply = fixture.shop.ask(REFUND, &refund("r1", "60", "100")).await.unwrap();
    assert_eq!(reply.code(), "商户号与API证书不一致");
    fixture.shop.forget_certificate();
    for path in [REFUND, REVERSE] {
        let reply = fixture.shop.ask(path, &refund("r1", "60", "100")).await.unwrap();
        assert!(reply.status == 400 && reply.text.contains("No required SSL certificate"), "{reply:?}");
    }
    assert_eq!(fixture.simulator.control_get("/stats").await["wrong_identities"], 3);
    let order = fixture.shop.order("order-1", NOWHERE);
    assert_eq!(fixture.shop.create(&order).await.unwrap().code(), "SUCCESS", "where none is asked for none is needed");
}

#[tokio::test]
async fn reversal_ends_order_of_scanned_code() {
    let fixture = Fixture::start().await;
    let shop = &fixture.shop;
    for (number, code) in
        [("waiting", "131234567890120001"), ("paid", "131234567890123456"), ("poor", "131234567890120002")]
    {
        shop.ask(MICROPAY, &shop.scanned(number, code)).await.unwrap();
        let named = fields([("out_trade_no", number)]);
        for _ in 0..2 {
            let reply = shop.ask(REVERSE, &named).await.unwrap();
            assert!(reply.is_signature_valid && reply.code() == "SUCCESS" && reply.get("recall") == "N", "{reply:?}");
        }
        assert_eq!(shop.query(number).await.unwrap().get("trade_state"), "REVOKED");
        let again = shop.ask(MICROPAY, &shop.scanned(number, code)).await.unwrap();
        assert_eq!(again.code(), "ORDERREVERSED");
        let order = fixture.simulator.control_get(&format!("/orders/{number}")).await;
        assert_eq!((&order["executions"]["cancel"], &order["arrivals"]["cancel"]), (&json!(1), &json!(2)), "{order}");
        assert_eq!(fixture.simulator.control("POST", &format!("/orders/{number}/pay"), Value::Null).await.0, 409);
    }
    let reply = shop.ask(REVERSE, &fields([("out_trade_no", "never-was")])).await.unwrap();
    assert_eq!((reply.code(), reply.get("recall")), ("ORDERNOTEXIST", "N"));
    shop.create(&shop.order("order-1", NOWHERE)).await.unwrap();
    assert_eq!(shop.ask(REVERSE, &fields([("out_trade_no", "order-1")])).await.unwrap().code(), "INVALID_REQUEST");

    fixture
        .simulator
        .fault(json!({"operation": "cancel", "fault": "status", "status": 200, "code": "USERPAYING"}))
        .await;
    let reply = shop.ask(REVERSE, &fields([("out_trade_no", "paid")])).await.unwrap();
    assert_eq!((reply.code(), reply.get("recall")), ("USERPAYING", "Y"));
}

#[tokio::test]
async fn bill_lists_transactions_of_the_day_or_returns_an_error() {
    let fixture = Fixture::start().await;
    let shop = &fixture.shop;
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::fixed(jiff::tz::offset(8)));
    let bill = |day: &jiff::Zoned| fields([("bill_date", &day.strftime("%Y%m%d").to_string()), ("bill_type", "ALL")]);
    shop.ask(MICROPAY, &shop.scanned("order-1", "131234567890123456")).await.unwrap();
    shop.ask(REFUND, &refund("r1", "60", "100")).await.unwrap();
    let reply = shop.ask("/pay/downloadbill", &bill(&today)).await.unwrap();
    // Around midnight the transactions may belong to the previous day.
    let yesterday = today.yesterday().unwrap();
    let lines: Vec<_> = reply.text.lines().collect();
    assert_eq!(lines.len(), 5, "{reply:?}");
    for line in &lines[..3] {
        assert_eq!(line.split(',').count(), 27, "{line}");
    }
    assert!(lines[1].contains(",`order-1,") && lines[1].contains(",`1.00,"), "{reply:?}");
    assert!(lines[2].contains(",`r1,`0.60,"), "{reply:?}");
    assert_eq!(lines[4], "`2,`1.00,`0.60,`0.00,`0.00000,`1.00,`0.60");
    let reply = shop.ask("/pay/downloadbill", &bill(&yesterday)).await.unwrap();
    assert_eq!((reply.code(), reply.get("error_code"), reply.is_signature_valid), ("No Bill Exist", "20002", false));
}

/// Request for the fund-flow bill: over mutual TLS, with HMAC-SHA256.
#[tokio::test]
async fn fund_flow_bill_requires_client_certificate_and_hmac_sha256() {
    let mut fixture = Fixture::start().await;
    let bill = |sign_type: &str, account: &str| {
        let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::fixed(jiff::tz::offset(8)));
        let day = today.strftime("%Y%m%d").to_string();
        fields([("bill_date", &*day), ("account_type", account), ("sign_type", sign_type)])
    };
    const FUND_FLOW: &str = "/pay/downloadfundflow";
    fixture.shop.ask(MICROPAY, &fixture.shop.scanned("order-1", "131234567890123456")).await.unwrap();
    fixture.shop.ask(REFUND, &refund("r1", "60", "100")).await.unwrap();
    let reply = fixture.shop.ask(FUND_FLOW, &bill("HMAC-SHA256", "Basic")).await.unwrap();
    assert!(reply.text.contains("`收入,`1.00,`1.00,") && reply.text.contains("`支出,`0.60,`0.40,"), "{reply:?}");
    for (sign_type, account, code) in [
        ("HMAC-SHA256", "Fees", "NO_BILL_EXIST"),
        ("MD5", "Basic", "PARAM_ERROR"),
        ("HMAC-SHA256", "BASIC", "PARAM_ERROR"),
    ] {
        let reply = fixture.shop.ask(FUND_FLOW, &bill(sign_type, account)).await.unwrap();
        assert_eq!(reply.get("err_code"), code, "{reply:?}");
    }
    let mut forged = fixture.shop.signed(bill("HMAC-SHA256", "Basic"));
    forged.insert("sign".to_owned(), "0".repeat(64));
    assert_eq!(fixture.shop.send(FUND_FLOW, &forged).await.unwrap().get("return_code"), "FAIL");
    fixture.shop.forget_certificate();
    assert_eq!(fixture.shop.ask(FUND_FLOW, &bill("HMAC-SHA256", "Basic")).await.unwrap().status, 400);
}
