//! Shapes that public reports describe, each as it was written there.

use super::*;

fn notified(body: &str) -> Result<Event, Error> {
    provider().decode_notification(Verified::assertion(Bytes::from(body.to_owned()), "k"))
}

/// lokielse/omnipay-unionpay#21, #24, #36, shima-park/unionpay#1: the key, the environment or the certificate is another.
#[test]
fn refused_signature_in_english_or_chinese_is_our_credentials_whatever_was_asked() {
    for message in ["[9100004]Signature verification failed", "验证签名失败[9100004]", ""] {
        for operation in operations() {
            let body = format!("respCode=11&respMsg={message}");
            let unsigned = provider().decode_unsigned_error(&operation, StatusCode::OK, body.as_bytes());
            assert_eq!(unsigned.code(), "unauthorized", "{message} {operation:?}");
            assert!(unsigned.is_channel_failure() && unsigned.provably_not_executed());
        }
    }
}

/// lokielse/omnipay-unionpay#37: `respCode` 00 beside a refused card. It is the answer to a query, and no payment.
#[test]
fn message_with_code_00_and_a_failed_trade_is_no_success() {
    let told = with(said("00"), "origRespCode", "66");
    let query = decode_at(&Operation::Query(order("page")), &told, ORDERED.unsigned_abs()).unwrap();
    assert_eq!(query.status, Status::Pending, "the payer may take another card");
    let barcode = decode(&Operation::Query(order("barcode")), &told).unwrap();
    assert_eq!((barcode.status, barcode.reason.map(|word| word.code).as_deref()), (Status::Failed, Some("66")));
    let body = format!(
        "txnType=01&merId={MER_ID}&orderId={NUMBER}&txnTime={ORDERED_TEXT}&txnAmt=6800&respCode=00&origRespCode=66"
    );
    assert_eq!(notified(&body).unwrap().outcome, None, "a notification only makes the gateway ask");
}

/// lokielse/omnipay-unionpay#19, #22: a refund under the payment's own number is "重复交易[2010002]".
#[test]
fn repeated_number_is_asked_about_and_a_refund_has_a_number_of_its_own() {
    let twice = with(with(with(said("12"), "respMsg", "重复交易[2010002]"), "orderId", REFUND_NUMBER), "txnAmt", "300");
    assert!(matches!(decode(&Operation::Refund(refund()), &twice), Err(Error::Conflict(_))));
    let encoded = signing(|with| provider().encode(&Operation::Refund(refund()), with)).unwrap();
    let Encoded::Send(request) = encoded else { panic!("nothing to send") };
    let body = String::from_utf8(request.body().to_vec()).unwrap();
    assert!(body.contains(&format!("orderId={REFUND_NUMBER}")) && body.contains(&format!("origQryId={QUERY_ID}")));
}

/// UnionPay's door answers a form that it cannot place with a bare sentence and HTTP 200 or 400.
#[test]
fn bare_sentence_of_the_door_decides_nothing() {
    for operation in operations() {
        for (status, body) in [(200, "Invalid request."), (400, "Invalid request."), (200, ""), (200, "0")] {
            let said =
                provider().decode_unsigned_error(&operation, StatusCode::from_u16(status).unwrap(), body.as_bytes());
            assert_eq!(said.code(), "unclear", "{status} {body}");
        }
    }
}
