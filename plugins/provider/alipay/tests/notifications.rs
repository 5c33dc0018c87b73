//! What a notification says, and what it must not be believed.

use super::*;

fn news(changes: &[(&str, &str)]) -> Fields {
    let pairs = [
        ("app_id", "2021000000000001"),
        ("seller_id", "2088000000000001"),
        ("notify_type", "trade_status_sync"),
        ("out_trade_no", NUMBER),
        ("trade_no", "42"),
        ("trade_status", "TRADE_SUCCESS"),
        ("total_amount", "68.00"),
    ];
    pairs.iter().chain(changes).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn told_by(provider: &Alipay, changes: &[(&str, &str)]) -> Result<Event, Error> {
    provider.decode_notification(vouched(form::write(&news(changes))))
}

fn told(changes: &[(&str, &str)]) -> Result<Event, Error> {
    told_by(&provider(), changes)
}

#[test]
fn every_status_has_its_meaning() {
    for (word, status) in [
        ("WAIT_BUYER_PAY", Status::Pending),
        ("TRADE_SUCCESS", Status::Succeeded),
        ("TRADE_FINISHED", Status::Succeeded),
        ("TRADE_CLOSED", Status::Closed),
    ] {
        let event = told(&[("trade_status", word), ("refund_fee", "0.00"), ("gmt_refund", "")]).unwrap();
        let outcome = event.outcome.unwrap();
        assert_eq!((outcome.status, outcome.amount), (status, Some(cny(6800))), "{word}");
        assert_eq!((event.order_number.as_str(), event.refund_number), (NUMBER, None));
    }
    assert!(is_unclear(&told(&[("trade_status", "")])));
    // Refused, a notification is repeated for a day: an unknown status is asked about.
    for word in ["PAID", "TRADE_PENDING"] {
        let event = told(&[("trade_status", word)]).unwrap();
        assert_eq!((event.order_number.as_str(), event.outcome, event.refunded), (NUMBER, None, None), "{word}");
    }
}

#[test]
fn money_given_back_is_asked_about_and_is_no_closed_payment() {
    for word in ["TRADE_SUCCESS", "TRADE_CLOSED", "TRADE_FINISHED", "NEW"] {
        for (name, value) in [("refund_fee", "3.00"), ("gmt_refund", "2023-11-15 06:20:00.1"), ("refund_fee", "x")] {
            let part = told(&[("trade_status", word), (name, value), ("out_biz_no", REFUND)]).unwrap();
            assert_eq!((part.outcome, part.refund_number.as_deref()), (None, Some(REFUND)), "{word} {name}");
            let whole = told(&[("trade_status", word), (name, value)]).unwrap();
            assert_eq!((whole.outcome, whole.refund_number), (None, None), "{word} {name}");
        }
    }
    let closed = told(&[("trade_status", "TRADE_CLOSED"), ("gmt_payment", "2023-11-15 06:13:25")]).unwrap();
    assert_eq!(closed.outcome, None);
}

#[test]
fn refund_names_the_sum_of_all_refunds_of_the_order() {
    let refunded = |changes: &[(&str, &str)]| told(changes).unwrap().refunded;
    assert_eq!(refunded(&[]), None);
    assert_eq!(refunded(&[("refund_fee", "0.00")]), None);
    let part = [("refund_fee", "3.00"), ("gmt_refund", "2023-11-15 06:20:00.1"), ("out_biz_no", "CONSOLE-1")];
    assert_eq!(refunded(&part), Some(Refunded::Total(cny(300))));
    let whole = [("trade_status", "TRADE_CLOSED"), ("gmt_payment", "2023-11-15 06:13:25")];
    assert_eq!(refunded(&whole), Some(Refunded::Total(cny(6800))), "closed after it was paid: all of it went back");
}

#[test]
fn notification_that_cannot_be_used_names_its_order() {
    let provider = provider_of("app_id = \"2021000000000001\"\nseller_id = \"2088000000000001\"", &[]);
    for (changes, why) in [
        ([("seller_id", "")], "it names no `seller_id`"),
        ([("seller_id", "2088000000000002")], "it names another `seller_id`"),
    ] {
        let said = told_by(&provider, &changes).unwrap_err().to_string();
        assert!(said.contains(why) && said.contains(NUMBER), "{said}");
    }
    let said = told(&[("out_trade_no", "a\nb"), ("trade_status", "")]).unwrap_err().to_string();
    assert!(said.contains("order number unknown"), "{said}");
}

#[test]
fn repetitions_are_one_and_other_news_another() {
    let id = |changes: &[(&str, &str)]| told(changes).unwrap().id;
    assert_eq!(id(&[("notify_id", "1")]), id(&[("notify_id", "2"), ("notify_time", "later")]));
    let refunds = [[("refund_fee", "3.00"), ("out_biz_no", "a")], [("refund_fee", "6.00"), ("out_biz_no", "b")]];
    assert_ne!(id(&refunds[0]), id(&refunds[1]));
    assert_ne!(id(&refunds[0]), id(&[]));
    assert_ne!(id(&[]), id(&[("trade_status", "WAIT_BUYER_PAY")]));
}

#[test]
fn what_is_for_another_or_of_another_kind_is_refused() {
    assert!(is_mismatch(&told(&[("app_id", "2021000000000002")])));
    let provider = provider_of("app_id = \"2021000000000001\"\nseller_id = \"2088000000000001\"", &[]);
    assert!(told_by(&provider, &[]).is_ok());
    assert!(is_mismatch(&told_by(&provider, &[("seller_id", "2088000000000002")])));
    assert!(is_unclear(&told_by(&provider, &[("seller_id", "")])));
    for name in ["app_id", "notify_type", "out_trade_no", "trade_no", "trade_status", "total_amount"] {
        assert!(is_unclear(&told(&[(name, "")])), "{name}");
    }
    for (name, value) in [("notify_type", "dut_user_sign"), ("total_amount", "68.001"), ("total_amount", "-1")] {
        assert!(is_unclear(&told(&[(name, value)])), "{value}");
    }
}

#[test]
fn it_is_acknowledged_with_seven_bytes() {
    let said = provider().acknowledge(true);
    assert_eq!((said.status(), said.body().as_ref()), (StatusCode::OK, b"success".as_slice()));
    let said = provider().acknowledge(false);
    assert!(said.status() != StatusCode::OK && said.body().as_ref() != b"success");
}
