//! Decoding and rejection of notifications.

use super::*;

fn notification_form(changes: &[(&str, &str)]) -> Fields {
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

fn decode_with(provider: &Alipay, changes: &[(&str, &str)]) -> Result<Event, Error> {
    provider.decode_notification(verified(form::write(&notification_form(changes))))
}

fn decode(changes: &[(&str, &str)]) -> Result<Event, Error> {
    decode_with(&provider(), changes)
}

#[test]
fn every_notified_status_is_decoded() {
    for (trade_status, status) in [
        ("WAIT_BUYER_PAY", Status::Pending),
        ("TRADE_SUCCESS", Status::Succeeded),
        ("TRADE_FINISHED", Status::Succeeded),
        ("TRADE_CLOSED", Status::Closed),
    ] {
        let event = decode(&[("trade_status", trade_status), ("refund_fee", "0.00"), ("gmt_refund", "")]).unwrap();
        let outcome = event.outcome.unwrap();
        assert_eq!((outcome.status, outcome.amount), (status, Some(cny(6800))), "{trade_status}");
        assert_eq!((event.order_number.as_str(), event.refund_number), (NUMBER, None));
    }
    assert!(is_unclear(&decode(&[("trade_status", "")])));
    // A rejected notification is repeated for a day, so an unknown status is accepted and settled by a query.
    for trade_status in ["PAID", "TRADE_PENDING"] {
        let event = decode(&[("trade_status", trade_status)]).unwrap();
        assert_eq!(
            (event.order_number.as_str(), event.outcome, event.refunded),
            (NUMBER, None, None),
            "{trade_status}"
        );
    }
}

#[test]
fn refund_notification_triggers_query_and_never_closes_payment() {
    for trade_status in ["TRADE_SUCCESS", "TRADE_CLOSED", "TRADE_FINISHED", "NEW"] {
        for (name, value) in [("refund_fee", "3.00"), ("gmt_refund", "2023-11-15 06:20:00.1"), ("refund_fee", "x")] {
            let part = decode(&[("trade_status", trade_status), (name, value), ("out_biz_no", REFUND)]).unwrap();
            assert_eq!((part.outcome, part.refund_number.as_deref()), (None, Some(REFUND)), "{trade_status} {name}");
            let whole = decode(&[("trade_status", trade_status), (name, value)]).unwrap();
            assert_eq!((whole.outcome, whole.refund_number), (None, None), "{trade_status} {name}");
        }
    }
    let closed = decode(&[("trade_status", "TRADE_CLOSED"), ("gmt_payment", "2023-11-15 06:13:25")]).unwrap();
    assert_eq!(closed.outcome, None);
}

#[test]
fn refund_notification_reports_sum_of_all_refunds() {
    let refunded = |changes: &[(&str, &str)]| decode(changes).unwrap().refunded;
    assert_eq!(refunded(&[]), None);
    assert_eq!(refunded(&[("refund_fee", "0.00")]), None);
    let part = [("refund_fee", "3.00"), ("gmt_refund", "2023-11-15 06:20:00.1"), ("out_biz_no", "CONSOLE-1")];
    assert_eq!(refunded(&part), Some(Refunded::Total(cny(300))));
    let whole = [("trade_status", "TRADE_CLOSED"), ("gmt_payment", "2023-11-15 06:13:25")];
    assert_eq!(refunded(&whole), Some(Refunded::Total(cny(6800))), "closed after it was paid: all of it went back");
}

#[test]
fn unusable_notification_error_contains_order_number() {
    let provider = provider_of("app_id = \"2021000000000001\"\nseller_id = \"2088000000000001\"", &[]);
    for (changes, why) in [
        ([("seller_id", "")], "the notification has no `seller_id`"),
        ([("seller_id", "2088000000000002")], "`seller_id` does not match"),
    ] {
        let result = decode_with(&provider, &changes).unwrap_err().to_string();
        assert!(result.contains(why) && result.contains(NUMBER), "{result}");
    }
    let result = decode(&[("out_trade_no", "a\nb"), ("trade_status", "")]).unwrap_err().to_string();
    assert!(result.contains("order number unknown"), "{result}");
}

#[test]
fn duplicate_notification_has_same_event_id() {
    let id = |changes: &[(&str, &str)]| decode(changes).unwrap().id;
    assert_eq!(id(&[("notify_id", "1")]), id(&[("notify_id", "2"), ("notify_time", "later")]));
    let refunds = [[("refund_fee", "3.00"), ("out_biz_no", "a")], [("refund_fee", "6.00"), ("out_biz_no", "b")]];
    assert_ne!(id(&refunds[0]), id(&refunds[1]));
    assert_ne!(id(&refunds[0]), id(&[]));
    assert_ne!(id(&[]), id(&[("trade_status", "WAIT_BUYER_PAY")]));
}

#[test]
fn notification_for_another_account_or_of_another_type_is_rejected() {
    assert!(is_mismatch(&decode(&[("app_id", "2021000000000002")])));
    let provider = provider_of("app_id = \"2021000000000001\"\nseller_id = \"2088000000000001\"", &[]);
    assert!(decode_with(&provider, &[]).is_ok());
    assert!(is_mismatch(&decode_with(&provider, &[("seller_id", "2088000000000002")])));
    assert!(is_unclear(&decode_with(&provider, &[("seller_id", "")])));
    for name in ["app_id", "notify_type", "out_trade_no", "trade_no", "trade_status", "total_amount"] {
        assert!(is_unclear(&decode(&[(name, "")])), "{name}");
    }
    for (name, value) in [("notify_type", "dut_user_sign"), ("total_amount", "68.001"), ("total_amount", "-1")] {
        assert!(is_unclear(&decode(&[(name, value)])), "{value}");
    }
}

#[test]
fn accepted_notification_is_acknowledged_with_success() {
    let result = provider().acknowledge(true);
    assert_eq!((result.status(), result.body().as_ref()), (StatusCode::OK, b"success".as_slice()));
    let result = provider().acknowledge(false);
    assert!(result.status() != StatusCode::OK && result.body().as_ref() != b"success");
}
