//! Giving back, reversing, and the day's bill at APIv2.

use serde_json::{Value, json};

use super::shop::{Parameters, Town, fields};
use super::{ACKNOWLEDGED, MICROPAY, with};
use crate::sandbox::tests::NOWHERE;
use crate::sandbox::tests::merchant::Receiver;

const REFUND: &str = "/secapi/pay/refund";
const REFUND_QUERY: &str = "/pay/refundquery";
const REVERSE: &str = "/secapi/pay/reverse";

fn refund(number: &str, amount: &str, total: &str) -> Parameters {
    fields([("out_trade_no", "order-1"), ("out_refund_no", number), ("refund_fee", amount), ("total_fee", total)])
}

#[tokio::test]
async fn refunds_are_accepted_once_and_told_of_hidden() {
    let town = Town::start().await;
    let shop = &town.shop;
    let mut receiver = Receiver::saying(&[], (200, ACKNOWLEDGED)).await;
    let with_url = |parameters: Parameters| with(parameters, "notify_url", &receiver.url);
    assert_eq!(shop.ask(REFUND, &refund("r1", "60", "100")).await.unwrap().code(), "ORDERNOTEXIST");
    shop.create(&shop.order("order-1", NOWHERE)).await.unwrap();
    assert_eq!(shop.ask(REFUND, &refund("r1", "60", "100")).await.unwrap().code(), "TRADE_STATE_ERROR");
    // Before it is paid, nobody was told this number.
    let order = town.world.told("/orders/order-1").await;
    let mut unknown = with(refund("r1", "60", "100"), "transaction_id", order["transaction_id"].as_str().unwrap());
    unknown.remove("out_trade_no");
    assert_eq!(shop.ask(REFUND, &unknown).await.unwrap().code(), "ORDERNOTEXIST");
    town.world.control("POST", "/orders/order-1/pay", json!({"notify": false})).await;
    for (parameters, code) in [
        (with_url(refund("r1", "60", "100")), "SUCCESS"),
        (with_url(refund("r1", "60", "100")), "SUCCESS"),
        (with_url(refund("r1", "50", "100")), "INVALID_REQUEST"),
        (refund("r2", "40", "90"), "INVALID_REQUEST"),
        (refund("r2", "41", "100"), "ERROR"),
        (refund("r2", "40", "100"), "SUCCESS"),
    ] {
        let told = shop.ask(REFUND, &parameters).await.unwrap();
        assert!(told.believed && told.code() == code, "{parameters:?} {told:?}");
        assert_eq!(told.get("refund_id").is_empty(), code != "SUCCESS");
    }
    let (seen, hidden) = shop.refund_news(&receiver.next().await.1);
    assert!(!seen.contains_key("sign") && seen["return_code"] == "SUCCESS", "{seen:?}");
    assert_eq!((&seen["mch_id"], &seen["appid"]), (&shop.files.mchid, &shop.files.appid));
    let hidden = hidden.unwrap();
    for (name, value) in
        [("out_refund_no", "r1"), ("out_trade_no", "order-1"), ("refund_fee", "60"), ("refund_status", "SUCCESS")]
    {
        assert_eq!(hidden[name], value);
    }
    assert_eq!(hidden["success_time"].len(), "2023-11-15 06:20:25".len());

    let told = shop.ask(REFUND_QUERY, &fields([("out_trade_no", "order-1")])).await.unwrap();
    assert_eq!((told.get("refund_count"), told.get("out_refund_no_0"), told.get("out_refund_no_1")), ("2", "r1", "r2"));
    for (name, value) in [("out_refund_no", "r2"), ("refund_id", told.get("refund_id_1"))] {
        // Whatever names the order is less exact.
        let named = fields([(name, value), ("out_trade_no", "never-was")]);
        let told = shop.ask(REFUND_QUERY, &named).await.unwrap();
        assert_eq!((told.get("refund_count"), told.get("refund_fee_0")), ("1", "40"), "{told:?}");
        assert_eq!(told.get("refund_status_0"), "SUCCESS");
    }
    let told = shop.ask(REFUND_QUERY, &fields([("out_trade_no", "order-1"), ("offset", "1")])).await.unwrap();
    assert_eq!((told.get("refund_count"), told.get("out_refund_no_0")), ("1", "r2"));
    assert_eq!(shop.ask(REFUND_QUERY, &fields([("out_refund_no", "r3")])).await.unwrap().code(), "REFUNDNOTEXIST");
    assert_eq!(shop.query("order-1").await.unwrap().get("trade_state"), "REFUND");
    let order = town.world.told("/orders/order-1").await;
    assert_eq!((&order["executions"]["refund"], &order["arrivals"]["refund"]), (&json!(2), &json!(9)), "{order}");
    assert_eq!(order["refunds"]["r2"]["arrivals"], json!({"refund": 3, "refund_query": 2}), "{order}");

    for tamper in ["body", "signature", "amount", "account"] {
        town.world.control("POST", "/refunds/r1/notify", json!({"tamper": tamper})).await;
        let (seen, hidden) = shop.refund_news(&receiver.next().await.1);
        assert_eq!(hidden.is_some(), matches!(tamper, "amount" | "account"), "{tamper}");
        assert_eq!(hidden.is_some_and(|hidden| hidden["refund_fee"] == "61"), tamper == "amount");
        assert_eq!(seen["mch_id"] != shop.files.mchid, tamper == "account");
    }
}

#[tokio::test]
async fn a_slow_refund_is_finished_by_the_control_api() {
    let town = Town::with("", |options| options.refund_auto = false).await;
    let shop = &town.shop;
    shop.ask(MICROPAY, &shop.scanned("order-1", "131234567890123456")).await.unwrap();
    for (number, status, told) in [("r1", "ABNORMAL", "CHANGE"), ("r2", "CLOSED", "REFUNDCLOSE")] {
        assert_eq!(shop.ask(REFUND, &refund(number, "50", "100")).await.unwrap().code(), "SUCCESS");
        let asked = fields([("out_refund_no", number)]);
        assert_eq!(shop.ask(REFUND_QUERY, &asked).await.unwrap().get("refund_status_0"), "PROCESSING");
        let finished =
            town.world.control("POST", &format!("/refunds/{number}/finish"), json!({"status": status})).await;
        assert_eq!(finished.0, 200);
        assert_eq!(shop.ask(REFUND_QUERY, &asked).await.unwrap().get("refund_status_0"), told);
    }
    // What was not given back can be asked for again.
    assert_eq!(shop.ask(REFUND, &refund("r3", "50", "100")).await.unwrap().code(), "SUCCESS");
}

#[tokio::test]
async fn money_goes_back_only_to_who_shows_the_certificate() {
    let mut town = Town::start().await;
    town.shop.tls = town.world.merchant.tls.clone();
    let told = town.shop.ask(REFUND, &refund("r1", "60", "100")).await.unwrap();
    assert_eq!(told.code(), "商户号与API证书不一致");
    town.shop.forget_certificate();
    for path in [REFUND, REVERSE] {
        let told = town.shop.ask(path, &refund("r1", "60", "100")).await.unwrap();
        assert!(told.status == 400 && told.text.contains("No required SSL certificate"), "{told:?}");
    }
    assert_eq!(town.world.told("/stats").await["wrong_identities"], 3);
    let order = town.shop.order("order-1", NOWHERE);
    assert_eq!(town.shop.create(&order).await.unwrap().code(), "SUCCESS", "where none is asked for none is needed");
}

#[tokio::test]
async fn reversing_ends_what_a_till_began() {
    let town = Town::start().await;
    let shop = &town.shop;
    for (number, code) in
        [("waiting", "131234567890120001"), ("paid", "131234567890123456"), ("poor", "131234567890120002")]
    {
        shop.ask(MICROPAY, &shop.scanned(number, code)).await.unwrap();
        let named = fields([("out_trade_no", number)]);
        for _ in 0..2 {
            let told = shop.ask(REVERSE, &named).await.unwrap();
            assert!(told.believed && told.code() == "SUCCESS" && told.get("recall") == "N", "{told:?}");
        }
        assert_eq!(shop.query(number).await.unwrap().get("trade_state"), "REVOKED");
        let again = shop.ask(MICROPAY, &shop.scanned(number, code)).await.unwrap();
        assert_eq!(again.code(), "ORDERREVERSED");
        let order = town.world.told(&format!("/orders/{number}")).await;
        assert_eq!((&order["executions"]["cancel"], &order["arrivals"]["cancel"]), (&json!(1), &json!(2)), "{order}");
        assert_eq!(town.world.control("POST", &format!("/orders/{number}/pay"), Value::Null).await.0, 409);
    }
    let told = shop.ask(REVERSE, &fields([("out_trade_no", "never-was")])).await.unwrap();
    assert_eq!((told.code(), told.get("recall")), ("ORDERNOTEXIST", "N"));
    shop.create(&shop.order("order-1", NOWHERE)).await.unwrap();
    assert_eq!(shop.ask(REVERSE, &fields([("out_trade_no", "order-1")])).await.unwrap().code(), "INVALID_REQUEST");

    town.world.fault(json!({"operation": "cancel", "fault": "status", "status": 200, "code": "USERPAYING"})).await;
    let told = shop.ask(REVERSE, &fields([("out_trade_no", "paid")])).await.unwrap();
    assert_eq!((told.code(), told.get("recall")), ("USERPAYING", "Y"));
}

#[tokio::test]
async fn a_bill_lists_the_day_or_says_that_there_is_none() {
    let town = Town::start().await;
    let shop = &town.shop;
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::fixed(jiff::tz::offset(8)));
    let bill = |day: &jiff::Zoned| fields([("bill_date", &day.strftime("%Y%m%d").to_string()), ("bill_type", "ALL")]);
    shop.ask(MICROPAY, &shop.scanned("order-1", "131234567890123456")).await.unwrap();
    shop.ask(REFUND, &refund("r1", "60", "100")).await.unwrap();
    let told = shop.ask("/pay/downloadbill", &bill(&today)).await.unwrap();
    // At midnight it may be yesterday's.
    let yesterday = today.yesterday().unwrap();
    let lines: Vec<_> = told.text.lines().collect();
    assert_eq!(lines.len(), 5, "{told:?}");
    for line in &lines[..3] {
        assert_eq!(line.split(',').count(), 27, "{line}");
    }
    assert!(lines[1].contains(",`order-1,") && lines[1].contains(",`1.00,"), "{told:?}");
    assert!(lines[2].contains(",`r1,`0.60,"), "{told:?}");
    assert_eq!(lines[4], "`2,`1.00,`0.60,`0.00,`0.00000,`1.00,`0.60");
    let told = shop.ask("/pay/downloadbill", &bill(&yesterday)).await.unwrap();
    assert_eq!((told.code(), told.get("error_code"), told.believed), ("No Bill Exist", "20002", false));
}

/// Of the account's own funds, over mutual TLS and for one way to sign.
#[tokio::test]
async fn a_bill_of_funds_is_more_particular() {
    let mut town = Town::start().await;
    let bill = |sign_type: &str, account: &str| {
        let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::fixed(jiff::tz::offset(8)));
        let day = today.strftime("%Y%m%d").to_string();
        fields([("bill_date", &*day), ("account_type", account), ("sign_type", sign_type)])
    };
    const FUND_FLOW: &str = "/pay/downloadfundflow";
    town.shop.ask(MICROPAY, &town.shop.scanned("order-1", "131234567890123456")).await.unwrap();
    town.shop.ask(REFUND, &refund("r1", "60", "100")).await.unwrap();
    let told = town.shop.ask(FUND_FLOW, &bill("HMAC-SHA256", "Basic")).await.unwrap();
    assert!(told.text.contains("`收入,`1.00,`1.00,") && told.text.contains("`支出,`0.60,`0.40,"), "{told:?}");
    for (sign_type, account, code) in [
        ("HMAC-SHA256", "Fees", "NO_BILL_EXIST"),
        ("MD5", "Basic", "PARAM_ERROR"),
        ("HMAC-SHA256", "BASIC", "PARAM_ERROR"),
    ] {
        let told = town.shop.ask(FUND_FLOW, &bill(sign_type, account)).await.unwrap();
        assert_eq!(told.get("err_code"), code, "{told:?}");
    }
    let mut forged = town.shop.signed(bill("HMAC-SHA256", "Basic"));
    forged.insert("sign".to_owned(), "0".repeat(64));
    assert_eq!(town.shop.send(FUND_FLOW, &forged).await.unwrap().get("return_code"), "FAIL");
    town.shop.forget_certificate();
    assert_eq!(town.shop.ask(FUND_FLOW, &bill("HMAC-SHA256", "Basic")).await.unwrap().status, 400);
}
