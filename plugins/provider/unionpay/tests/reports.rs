//! Messages from public bug reports, unchanged.

use super::*;

fn notified(body: &str) -> Result<Event, Error> {
    provider().decode_notification(Verified::assertion(Bytes::from(body.to_owned()), "k"))
}

/// lokielse/omnipay-unionpay#21, #24, #36, shima-park/unionpay#1: the key, the environment or the certificate is wrong.
#[test]
fn rejected_signature_in_english_or_chinese_is_unauthorized() {
    for message in ["[9100004]Signature verification failed", "验证签名失败[9100004]", ""] {
        for operation in operations() {
            let body = format!("respCode=11&respMsg={message}");
            let unsigned = provider().decode_unsigned_error(&operation, StatusCode::OK, body.as_bytes());
            assert_eq!(unsigned.code(), "unauthorized", "{message} {operation:?}");
            assert!(unsigned.is_channel_failure() && unsigned.provably_not_executed());
        }
    }
}

/// lokielse/omnipay-unionpay#37: `respCode` 00 beside a refused card. It answers the query; the payment failed.
#[test]
fn code_00_with_failed_trade_is_not_success() {
    let answer = with(answer_fields("00"), "origRespCode", "66");
    let query = decode_at(&Operation::Query(order("page")), &answer, ORDERED.unsigned_abs()).unwrap();
    assert_eq!(query.status, Status::Pending, "the payer may take another card");
    let barcode = decode(&Operation::Query(order("barcode")), &answer).unwrap();
    assert_eq!(
        (barcode.status, barcode.reason.map(|provider_error| provider_error.code).as_deref()),
        (Status::Failed, Some("66"))
    );
    let body = format!(
        "txnType=01&merId={MER_ID}&orderId={NUMBER}&txnTime={ORDERED_TEXT}&txnAmt=6800&respCode=00&origRespCode=66"
    );
    assert_eq!(notified(&body).unwrap().outcome, None, "a notification only triggers a query");
}

/// lokielse/omnipay-unionpay#19, #22: a refund under the payment's own number is "重复交易[2010002]".
#[test]
fn duplicate_number_is_conflict_and_refund_has_its_own_number() {
    let twice = with(
        with(with(answer_fields("12"), "respMsg", "重复交易[2010002]"), "orderId", REFUND_NUMBER),
        "txnAmt",
        "300",
    );
    assert!(matches!(decode(&Operation::Refund(refund()), &twice), Err(Error::Conflict(_))));
    let encoded = signing(|with| provider().encode(&Operation::Refund(refund()), with)).unwrap();
    let Encoded::Send(request) = encoded else { panic!("nothing to send") };
    let body = String::from_utf8(request.body().to_vec()).unwrap();
    assert!(body.contains(&format!("orderId={REFUND_NUMBER}")) && body.contains(&format!("origQryId={QUERY_ID}")));
}

/// UnionPay's front end answers a malformed form with a plain sentence and HTTP 200 or 400.
#[test]
fn plain_text_error_is_unclear() {
    for operation in operations() {
        for (status, body) in [(200, "Invalid request."), (400, "Invalid request."), (200, ""), (200, "0")] {
            let answer_fields =
                provider().decode_unsigned_error(&operation, StatusCode::from_u16(status).unwrap(), body.as_bytes());
            assert_eq!(answer_fields.code(), "unclear", "{status} {body}");
        }
    }
}
