//! Tests of refunds, same-day cancellations and reversals at UnionPay.

use serde_json::{Value, json};

use super::shop::{Fields, Fixture};
use super::{APP, BACK, app_order, code_order, with};
use crate::keygen::SandboxProvider;
use crate::tests::merchant::Receiver;

/// Creates a paid order. Returns UnionPay's number of it.
async fn paid(fixture: &Fixture, number: &str) -> (Fields, String) {
    let order = app_order(fixture, number);
    fixture.shop.ask(APP, order.clone()).await.unwrap();
    fixture.simulator.control("POST", &format!("/orders/{number}/pay"), json!({"notify": false})).await;
    let query_id = fixture.shop.query(&order).await.get("queryId").to_owned();
    (order, query_id)
}

#[tokio::test]
async fn refund_with_duplicate_number_or_above_balance_is_rejected() {
    let fixture = Fixture::start().await;
    let shop = &fixture.shop;
    let mut receiver = Receiver::responding(&[], (200, "ok")).await;
    let (order, original) = paid(&fixture, "order001").await;
    let refund = |number: &str, original: &str, amount: &str| {
        with(shop.back("0400", "000201", number, original, amount), "backUrl", &receiver.url)
    };
    let first = refund("refund01", &original, "60");
    for (fields, code) in [
        (refund("refund00", &"1".repeat(21), "60"), "35"),
        (first.clone(), "00"),
        (first.clone(), "12"),
        (refund("order001", &original, "1"), "12"),
        (refund("refund02", &original, "41"), "36"),
        (with(refund("refund02", &original, "40"), "bizType", "000000"), "36"),
        (refund("refund02", &original, "40"), "00"),
        (refund("refund03", &original, "1"), "36"),
    ] {
        let reply = shop.ask(BACK, fields).await.unwrap();
        assert!(reply.is_signature_valid && reply.code() == code, "{code} {reply:?}");
    }
    // The notifications are independent and may arrive in either order.
    let mut notification = [receiver.next().await.1, receiver.next().await.1].map(|body| shop.notification(&body));
    notification.sort_by_key(|(fields, _)| fields["orderId"].clone());
    for ((fields, is_signature_valid), (number, amount)) in
        notification.iter().zip([("refund01", "60"), ("refund02", "40")])
    {
        assert!(is_signature_valid);
        let names = ["orderId", "txnAmt", "txnType", "respCode"].map(|name| fields[name].as_str());
        assert_eq!(names, [number, amount, "04", "00"]);
    }
    let reply = shop.query(&first).await;
    assert_eq!((reply.get("origRespCode"), reply.get("txnAmt")), ("00", "60"));
    // The payment does not change.
    assert_eq!(shop.query(&order).await.get("origRespCode"), "00");
    let order = fixture.simulator.control_get("/orders/order001").await;
    assert_eq!((&order["state"], &order["executions"]["refund"]), (&json!("REFUND"), &json!(2)), "{order}");
    assert_eq!(order["refunds"]["refund01"]["arrivals"], json!({"refund": 2, "refund_query": 1}), "{order}");
}

#[tokio::test]
async fn control_api_finishes_processing_refund() {
    let fixture = Fixture::with(SandboxProvider::UNIONPAY, |options| options.refund_auto = false).await;
    let (_, original) = paid(&fixture, "order001").await;
    for (number, status, code) in [("refund01", "CLOSED", "01"), ("refund02", "ABNORMAL", "04")] {
        let refund = fixture.shop.back("0400", "000201", number, &original, "50");
        assert_eq!(fixture.shop.ask(BACK, refund.clone()).await.unwrap().code(), "00");
        assert_eq!(fixture.shop.query(&refund).await.get("origRespCode"), "05");
        fixture.simulator.control("POST", &format!("/refunds/{number}/finish"), json!({"status": status})).await;
        assert_eq!(fixture.shop.query(&refund).await.get("origRespCode"), code);
    }
    // A failed refund does not reduce the balance.
    let rest = fixture.shop.back("0400", "000201", "refund03", &original, "51");
    assert_eq!(fixture.shop.ask(BACK, rest).await.unwrap().code(), "36");
}

#[tokio::test]
async fn same_day_cancellation_refunds_everything_once() {
    let fixture = Fixture::start().await;
    let shop = &fixture.shop;
    let (_, original) = paid(&fixture, "order001").await;
    let undo = |number: &str, amount: &str| shop.back("3100", "000201", number, &original, amount);
    let whole = undo("undo0001", "100");
    for (fields, code) in [(undo("undo0001", "99"), "36"), (whole.clone(), "00"), (undo("undo0002", "100"), "45")] {
        assert_eq!(shop.ask(BACK, fields).await.unwrap().code(), code);
    }
    assert_eq!(shop.query(&whole).await.get("origRespCode"), "00");
    assert_eq!(fixture.simulator.control_get("/orders/order001").await["executions"]["cancel"], 1);
}

#[tokio::test]
async fn reversal_ends_scanned_order_in_every_state() {
    let fixture = Fixture::start().await;
    let shop = &fixture.shop;
    for (number, end, by_original) in [("order001", "3456", false), ("order002", "0001", true)] {
        let order = code_order(&fixture, number, &format!("622{number:0>12}{end}").replace("order", "00000"));
        assert_eq!(shop.ask(BACK, order.clone()).await.unwrap().code(), "00", "{order:?}");
        let mut reverse = shop.request("9901", "000000", if by_original { "reverse2" } else { number });
        if by_original {
            reverse = with(with(reverse, "origOrderId", number), "origTxnTime", &order["txnTime"]);
        } else {
            reverse = with(reverse, "txnTime", &order["txnTime"]);
        }
        for code in ["00", "46"] {
            assert_eq!(shop.ask(BACK, reverse.clone()).await.unwrap().code(), code);
        }
        assert_eq!(shop.query(&order).await.get("origRespCode"), "01");
        let (status, _) = fixture.simulator.control("POST", &format!("/orders/{number}/pay"), Value::Null).await;
        assert_eq!(status, 409);
        assert_eq!(fixture.simulator.control_get(&format!("/orders/{number}")).await["executions"]["cancel"], 1);
    }
    let (order, _) = paid(&fixture, "order003").await;
    let reverse = with(shop.request("9901", "000201", "order003"), "txnTime", &order["txnTime"]);
    assert_eq!(shop.ask(BACK, reverse).await.unwrap().code(), "35");
}
