//! Tests of refunds, closes and cancels at Alipay.

use serde_json::{Value, json};

use super::app::Fixture;
use super::{CANCEL, CLOSE, PAY, PRECREATE, QUERY, code_order, number};
use crate::keygen::SandboxProvider;
use crate::tests::merchant::Receiver;

const REFUND: &str = "alipay.trade.refund";
const REFUND_QUERY: &str = "alipay.trade.fastpay.refund.query";

fn refund(request: &str, amount: &str) -> Value {
    json!({"out_trade_no": "order_1", "out_request_no": request, "refund_amount": amount})
}

fn asked(request: &str) -> Value {
    json!({"out_trade_no": "order_1", "out_request_no": request, "query_options": ["gmt_refund_pay"]})
}

#[tokio::test]
async fn refund_is_idempotent_and_reported_with_total_refunded_amount() {
    let fixture = Fixture::start().await;
    let app = &fixture.app;
    let mut receiver = Receiver::responding(&[], (200, "success")).await;
    let order = code_order(&fixture, "order_1", "281234567890123456");
    app.ask_notified(PAY, &order, &receiver.url).await.unwrap();
    receiver.next().await;
    for (content, code, change, sum) in [
        (refund("r1", "0.60"), "10000", "Y", "0.60"),
        (refund("r1", "0.60"), "10000", "N", "0.60"),
        (refund("r1", "0.50"), "ACQ.DISCORDANT_REPEAT_REQUEST", "", ""),
        (refund("r2", "0.41"), "ACQ.REASON_TRADE_REFUND_FEE_ERR", "", ""),
        (refund("r2", "0.40"), "10000", "Y", "1.00"),
    ] {
        let reply = app.ask(REFUND, &content).await.unwrap();
        assert!(reply.is_signature_valid && reply.code() == code, "{content} {reply:?}");
        let text = |field: &str| reply.object[field].as_str().unwrap_or_default();
        assert_eq!((text("fund_change"), text("refund_fee")), (change, sum), "{content}");
    }
    // The notifications are independent and may arrive in either order.
    let mut notification = [receiver.next().await.1, receiver.next().await.1].map(|body| app.notification(&body));
    notification.sort_by_key(|(fields, _)| fields["out_biz_no"].clone());
    for ((fields, is_signature_valid), (number, sum, status)) in
        notification.iter().zip([("r1", "0.60", "TRADE_SUCCESS"), ("r2", "1.00", "TRADE_CLOSED")])
    {
        assert!(is_signature_valid);
        assert_eq!((fields["out_biz_no"].as_str(), fields["refund_fee"].as_str()), (number, sum));
        assert_eq!(fields["trade_status"], status);
    }
    let reply = app.ask(REFUND_QUERY, &asked("r2")).await.unwrap();
    assert_eq!(
        (&reply.object["refund_status"], &reply.object["refund_amount"]),
        (&json!("REFUND_SUCCESS"), &json!("0.40"))
    );
    assert!(reply.object["gmt_refund_pay"].is_string());
    let reply = app.ask(REFUND_QUERY, &asked("r3")).await.unwrap();
    assert_eq!(reply.object, json!({"code": "10000", "msg": "Success"}));
    assert_eq!(app.ask(QUERY, &number("order_1")).await.unwrap().object["trade_status"], "TRADE_CLOSED");
    let order = fixture.simulator.control_get("/orders/order_1").await;
    assert_eq!((&order["executions"]["refund"], &order["arrivals"]["refund"]), (&json!(2), &json!(5)), "{order}");
}

#[tokio::test]
async fn refund_query_answers_about_console_refund_with_its_own_amount() {
    let fixture = Fixture::start().await;
    let app = &fixture.app;
    app.ask(PAY, &code_order(&fixture, "order_1", "281234567890123456")).await.unwrap();
    app.ask(REFUND, &refund("r1", "0.60")).await.unwrap();
    let console = json!({"number": "CONSOLE-1", "amount": 25});
    let (status, _) = fixture.simulator.control("POST", "/orders/order_1/refund_in_console", console).await;
    assert_eq!(status, 200);
    let reply = app.ask(REFUND_QUERY, &asked("CONSOLE-1")).await.unwrap();
    let [status, amount] = ["refund_status", "refund_amount"].map(|field| &reply.object[field]);
    assert_eq!((status, amount), (&json!("REFUND_SUCCESS"), &json!("0.25")));
}

#[tokio::test]
async fn control_api_finishes_processing_refund() {
    let fixture = Fixture::with(SandboxProvider::ALIPAY, |options| options.refund_auto = false).await;
    let app = &fixture.app;
    app.ask(PAY, &code_order(&fixture, "order_1", "281234567890123456")).await.unwrap();
    let reply = app.ask(REFUND, &refund("r1", "1")).await.unwrap();
    assert_eq!((&reply.object["fund_change"], &reply.object["refund_fee"]), (&json!("N"), &json!("0.00")));
    let reply = app.ask(REFUND_QUERY, &asked("r1")).await.unwrap();
    assert_eq!((&reply.object["out_request_no"], reply.object.get("refund_status")), (&json!("r1"), None));
    let (status, order) = fixture.simulator.control("POST", "/refunds/r1/finish", Value::Null).await;
    assert_eq!((status, &order["refunds"]["r1"]["status"]), (200, &json!("SUCCESS")));
    let reply = app.ask(REFUND_QUERY, &asked("r1")).await.unwrap();
    assert_eq!(reply.object["refund_status"], "REFUND_SUCCESS");
}

#[tokio::test]
async fn cancel_closes_waiting_and_refunds_paid_trade_once_and_close_closes_open_trade() {
    let fixture = Fixture::start().await;
    let app = &fixture.app;
    let reply = app.ask(CANCEL, &number("nothing")).await.unwrap();
    assert_eq!((reply.code(), &reply.object["retry_flag"], reply.object.get("action")), ("10000", &json!("N"), None));

    app.ask(PAY, &code_order(&fixture, "waiting", "281234567890120001")).await.unwrap();
    app.ask(PAY, &code_order(&fixture, "paid", "281234567890123456")).await.unwrap();
    for (name, action) in [("waiting", "close"), ("paid", "refund")] {
        for _ in 0..2 {
            let reply = app.ask(CANCEL, &number(name)).await.unwrap();
            assert_eq!((reply.code(), &reply.object["action"]), ("10000", &json!(action)));
        }
        assert_eq!(app.ask(QUERY, &number(name)).await.unwrap().object["trade_status"], "TRADE_CLOSED");
        let order = fixture.simulator.control_get(&format!("/orders/{name}")).await;
        assert_eq!((&order["executions"]["cancel"], &order["arrivals"]["cancel"]), (&json!(1), &json!(2)), "{order}");
    }

    app.ask(PRECREATE, &app.order("code")).await.unwrap();
    fixture.simulator.control("POST", "/orders/code/scan", Value::Null).await;
    assert_eq!(app.ask(CLOSE, &number("code")).await.unwrap().code(), "10000");
    assert_eq!(app.ask(QUERY, &number("code")).await.unwrap().object["trade_status"], "TRADE_CLOSED");
    assert_eq!(app.ask(PRECREATE, &app.order("code")).await.unwrap().code(), "ACQ.TRADE_HAS_CLOSE");
    assert_eq!(fixture.simulator.control("POST", "/orders/code/pay", Value::Null).await.0, 409);
}
