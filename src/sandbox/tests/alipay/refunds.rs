//! Giving back, closing and cancelling at Alipay.

use serde_json::{Value, json};

use super::app::Town;
use super::{CANCEL, CLOSE, PAY, PRECREATE, QUERY, code_order, number};
use crate::keygen::SandboxProvider;
use crate::sandbox::tests::merchant::Receiver;

const REFUND: &str = "alipay.trade.refund";
const REFUND_QUERY: &str = "alipay.trade.fastpay.refund.query";

fn refund(request: &str, amount: &str) -> Value {
    json!({"out_trade_no": "order_1", "out_request_no": request, "refund_amount": amount})
}

fn asked(request: &str) -> Value {
    json!({"out_trade_no": "order_1", "out_request_no": request, "query_options": ["gmt_refund_pay"]})
}

#[tokio::test]
async fn refunds_are_told_in_sums_and_made_once() {
    let town = Town::start().await;
    let app = &town.app;
    let mut receiver = Receiver::saying(&[], (200, "success")).await;
    let order = code_order(&town, "order_1", "281234567890123456");
    app.ask_notified(PAY, &order, &receiver.url).await.unwrap();
    receiver.next().await;
    for (content, code, change, sum) in [
        (refund("r1", "0.60"), "10000", "Y", "0.60"),
        (refund("r1", "0.60"), "10000", "N", "0.60"),
        (refund("r1", "0.50"), "ACQ.DISCORDANT_REPEAT_REQUEST", "", ""),
        (refund("r2", "0.41"), "ACQ.REASON_TRADE_REFUND_FEE_ERR", "", ""),
        (refund("r2", "0.40"), "10000", "Y", "1.00"),
    ] {
        let told = app.ask(REFUND, &content).await.unwrap();
        assert!(told.believed && told.code() == code, "{content} {told:?}");
        let text = |field: &str| told.object[field].as_str().unwrap_or_default();
        assert_eq!((text("fund_change"), text("refund_fee")), (change, sum), "{content}");
    }
    // They travel apart, and may arrive in either order.
    let mut news = [receiver.next().await.1, receiver.next().await.1].map(|body| app.news(&body));
    news.sort_by_key(|(fields, _)| fields["out_biz_no"].clone());
    for ((fields, believed), (number, sum, status)) in
        news.iter().zip([("r1", "0.60", "TRADE_SUCCESS"), ("r2", "1.00", "TRADE_CLOSED")])
    {
        assert!(believed);
        assert_eq!((fields["out_biz_no"].as_str(), fields["refund_fee"].as_str()), (number, sum));
        assert_eq!(fields["trade_status"], status);
    }
    let told = app.ask(REFUND_QUERY, &asked("r2")).await.unwrap();
    assert_eq!(
        (&told.object["refund_status"], &told.object["refund_amount"]),
        (&json!("REFUND_SUCCESS"), &json!("0.40"))
    );
    assert!(told.object["gmt_refund_pay"].is_string());
    let told = app.ask(REFUND_QUERY, &asked("r3")).await.unwrap();
    assert_eq!(told.object, json!({"code": "10000", "msg": "Success"}));
    assert_eq!(app.ask(QUERY, &number("order_1")).await.unwrap().object["trade_status"], "TRADE_CLOSED");
    let order = town.world.told("/orders/order_1").await;
    assert_eq!((&order["executions"]["refund"], &order["arrivals"]["refund"]), (&json!(2), &json!(5)), "{order}");
}

#[tokio::test]
async fn a_slow_refund_is_finished_by_the_control_api() {
    let town = Town::with(SandboxProvider::Alipay, |options| options.refund_auto = false).await;
    let app = &town.app;
    app.ask(PAY, &code_order(&town, "order_1", "281234567890123456")).await.unwrap();
    let told = app.ask(REFUND, &refund("r1", "1")).await.unwrap();
    assert_eq!((&told.object["fund_change"], &told.object["refund_fee"]), (&json!("N"), &json!("0.00")));
    let told = app.ask(REFUND_QUERY, &asked("r1")).await.unwrap();
    assert_eq!((&told.object["out_request_no"], told.object.get("refund_status")), (&json!("r1"), None));
    let (status, order) = town.world.control("POST", "/refunds/r1/finish", Value::Null).await;
    assert_eq!((status, &order["refunds"]["r1"]["status"]), (200, &json!("SUCCESS")));
    let told = app.ask(REFUND_QUERY, &asked("r1")).await.unwrap();
    assert_eq!(told.object["refund_status"], "REFUND_SUCCESS");
}

#[tokio::test]
async fn cancelling_closes_or_gives_back_or_does_nothing_and_closing_only_closes() {
    let town = Town::start().await;
    let app = &town.app;
    let told = app.ask(CANCEL, &number("nothing")).await.unwrap();
    assert_eq!((told.code(), &told.object["retry_flag"], told.object.get("action")), ("10000", &json!("N"), None));

    app.ask(PAY, &code_order(&town, "waiting", "281234567890120001")).await.unwrap();
    app.ask(PAY, &code_order(&town, "paid", "281234567890123456")).await.unwrap();
    for (name, action) in [("waiting", "close"), ("paid", "refund")] {
        for _ in 0..2 {
            let told = app.ask(CANCEL, &number(name)).await.unwrap();
            assert_eq!((told.code(), &told.object["action"]), ("10000", &json!(action)));
        }
        assert_eq!(app.ask(QUERY, &number(name)).await.unwrap().object["trade_status"], "TRADE_CLOSED");
        let order = town.world.told(&format!("/orders/{name}")).await;
        assert_eq!((&order["executions"]["cancel"], &order["arrivals"]["cancel"]), (&json!(1), &json!(2)), "{order}");
    }

    app.ask(PRECREATE, &app.order("code")).await.unwrap();
    town.world.control("POST", "/orders/code/scan", Value::Null).await;
    assert_eq!(app.ask(CLOSE, &number("code")).await.unwrap().code(), "10000");
    assert_eq!(app.ask(QUERY, &number("code")).await.unwrap().object["trade_status"], "TRADE_CLOSED");
    assert_eq!(app.ask(PRECREATE, &app.order("code")).await.unwrap().code(), "ACQ.TRADE_HAS_CLOSE");
    assert_eq!(town.world.control("POST", "/orders/code/pay", Value::Null).await.0, 409);
}
