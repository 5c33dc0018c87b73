//! Notifications trigger a query.

use super::*;
use crate::payment::Refunded;

fn decode(fields: &Fields) -> Result<Event, Error> {
    provider().decode_notification(Verified::assertion(Bytes::from(fields.write(Codec::Form).unwrap()), "k"))
}

#[test]
fn every_notification_triggers_query() {
    for code in ["00", "A6", "01", "61", "05", "zz"] {
        let event = decode(&with(answer_fields(code), "txnType", "01")).unwrap();
        assert_eq!((event.order_number.as_str(), event.refund_number, event.outcome), (NUMBER, None, None), "{code}");
    }
    let refund = with(with(answer_fields("00"), "txnType", "04"), "orderId", REFUND_NUMBER);
    let event = decode(&with(refund.clone(), "reqReserved", NUMBER)).unwrap();
    assert_eq!((event.order_number.as_str(), event.refund_number.as_deref()), (NUMBER, Some(REFUND_NUMBER)));
    assert!(is_unclear(&decode(&refund)), "of which payment?");
    assert_eq!(decode(&with(answer_fields("00"), "txnType", "99")).unwrap().refund_number, None);
}

/// A notified refund made through the gateway is queried. For other refunds the notification's content is used.
#[test]
fn notification_of_external_refund_is_decoded() {
    for (code, refunded) in [
        ("00", Refunded::Part(cny(300))),
        ("A6", Refunded::Part(cny(300))),
        ("01", Refunded::Failed),
        ("64", Refunded::Failed),
        ("05", Refunded::Open),
        ("04", Refunded::Open),
        ("zz", Refunded::Open),
    ] {
        for kind in ["04", "31"] {
            let refund =
                with(with(with(answer_fields(code), "txnType", kind), "orderId", REFUND_NUMBER), "txnAmt", "300");
            let event = decode(&with(refund, "reqReserved", NUMBER)).unwrap();
            assert_eq!((event.outcome, event.refunded), (None, Some(refunded)), "{code}");
        }
    }
    assert_eq!(decode(&with(answer_fields("00"), "txnType", "01")).unwrap().refunded, None, "it is about the payment");
}

#[test]
fn unusable_notification_is_rejected() {
    let right = with(answer_fields("00"), "txnType", "01");
    assert!(is_mismatch(&decode(&with(right.clone(), "merId", "777290058110049"))));
    for name in ["merId", "orderId", "txnTime", "txnType", "respCode"] {
        assert!(is_unclear(&decode(&with(right.clone(), name, ""))), "{name}");
    }
    for kind in ["00", "02", "31", "76", "x"] {
        assert!(is_unclear(&decode(&with(right.clone(), "txnType", kind))), "{kind}");
    }
}

#[test]
fn notification_is_acknowledged_by_http_status() {
    let answer = |accepted| {
        let response = provider().acknowledge(accepted);
        (response.status().as_u16(), response.into_body())
    };
    assert_eq!(answer(true), (200, Bytes::from("ok")));
    assert_eq!(answer(false), (400, Bytes::from("fail")));
    assert_eq!(provider().account(), MER_ID);
    assert!(provider().published_keys().is_none());
}
