//! Giving back, undoing and reversing at UnionPay.

use serde_json::{Value, json};

use super::shop::{Fields, Town};
use super::{APP, BACK, app_order, code_order, with};
use crate::keygen::SandboxProvider;
use crate::sandbox::tests::merchant::Receiver;

/// A paid order, and UnionPay's number of it.
async fn paid(town: &Town, number: &str) -> (Fields, String) {
    let order = app_order(town, number);
    town.shop.ask(APP, order.clone()).await.unwrap();
    town.world.control("POST", &format!("/orders/{number}/pay"), json!({"notify": false})).await;
    let query_id = town.shop.query(&order).await.get("queryId").to_owned();
    (order, query_id)
}

#[tokio::test]
async fn refunds_have_numbers_of_their_own_and_never_exceed_what_was_paid() {
    let town = Town::start().await;
    let shop = &town.shop;
    let mut receiver = Receiver::saying(&[], (200, "ok")).await;
    let (order, original) = paid(&town, "order001").await;
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
        let told = shop.ask(BACK, fields).await.unwrap();
        assert!(told.believed && told.code() == code, "{code} {told:?}");
    }
    // They travel apart, and may arrive in either order.
    let mut news = [receiver.next().await.1, receiver.next().await.1].map(|body| shop.news(&body));
    news.sort_by_key(|(fields, _)| fields["orderId"].clone());
    for ((fields, believed), (number, amount)) in news.iter().zip([("refund01", "60"), ("refund02", "40")]) {
        assert!(believed);
        let names = ["orderId", "txnAmt", "txnType", "respCode"].map(|name| fields[name].as_str());
        assert_eq!(names, [number, amount, "04", "00"]);
    }
    let told = shop.query(&first).await;
    assert_eq!((told.get("origRespCode"), told.get("txnAmt")), ("00", "60"));
    // The payment stays what it was.
    assert_eq!(shop.query(&order).await.get("origRespCode"), "00");
    let order = town.world.told("/orders/order001").await;
    assert_eq!((&order["state"], &order["executions"]["refund"]), (&json!("REFUND"), &json!(2)), "{order}");
    assert_eq!(order["refunds"]["refund01"]["arrivals"], json!({"refund": 2, "refund_query": 1}), "{order}");
}

#[tokio::test]
async fn a_slow_refund_is_finished_by_the_control_api() {
    let town = Town::with(SandboxProvider::Unionpay, |options| options.refund_auto = false).await;
    let (_, original) = paid(&town, "order001").await;
    for (number, status, code) in [("refund01", "CLOSED", "01"), ("refund02", "ABNORMAL", "04")] {
        let refund = town.shop.back("0400", "000201", number, &original, "50");
        assert_eq!(town.shop.ask(BACK, refund.clone()).await.unwrap().code(), "00");
        assert_eq!(town.shop.query(&refund).await.get("origRespCode"), "05");
        town.world.control("POST", &format!("/refunds/{number}/finish"), json!({"status": status})).await;
        assert_eq!(town.shop.query(&refund).await.get("origRespCode"), code);
    }
    // What failed gave nothing back.
    let rest = town.shop.back("0400", "000201", "refund03", &original, "51");
    assert_eq!(town.shop.ask(BACK, rest).await.unwrap().code(), "36");
}

#[tokio::test]
async fn undoing_gives_back_all_once() {
    let town = Town::start().await;
    let shop = &town.shop;
    let (_, original) = paid(&town, "order001").await;
    let undo = |number: &str, amount: &str| shop.back("3100", "000201", number, &original, amount);
    let whole = undo("undo0001", "100");
    for (fields, code) in [(undo("undo0001", "99"), "36"), (whole.clone(), "00"), (undo("undo0002", "100"), "45")] {
        assert_eq!(shop.ask(BACK, fields).await.unwrap().code(), code);
    }
    assert_eq!(shop.query(&whole).await.get("origRespCode"), "00");
    assert_eq!(town.world.told("/orders/order001").await["executions"]["cancel"], 1);
}

#[tokio::test]
async fn reversing_ends_what_was_scanned_whatever_became_of_it() {
    let town = Town::start().await;
    let shop = &town.shop;
    for (number, end, by_original) in [("order001", "3456", false), ("order002", "0001", true)] {
        let order = code_order(&town, number, &format!("622{number:0>12}{end}").replace("order", "00000"));
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
        let (status, _) = town.world.control("POST", &format!("/orders/{number}/pay"), Value::Null).await;
        assert_eq!(status, 409);
        assert_eq!(town.world.told(&format!("/orders/{number}")).await["executions"]["cancel"], 1);
    }
    let (order, _) = paid(&town, "order003").await;
    let reverse = with(shop.request("9901", "000201", "order003"), "txnTime", &order["txnTime"]);
    assert_eq!(shop.ask(BACK, reverse).await.unwrap().code(), "35");
}
