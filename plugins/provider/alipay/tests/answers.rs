//! What each word of an answer means, and that another order's answer is refused.

use super::*;
use crate::provider::alipay::request::service;

fn decode_with(provider: &Alipay, operation: &Operation, content: &str) -> Result<Outcome, Error> {
    let name = service(operation).unwrap().replace('.', "_");
    let body = format!(r#"{{"{name}_response":{content}}}"#);
    signing(|with| provider.decode(operation, StatusCode::OK, vouched(body), with))
}

fn decode(operation: &Operation, content: &Value) -> Result<Outcome, Error> {
    decode_with(&provider(), operation, &content.to_string())
}

fn news(status: &str) -> Value {
    json!({"code": "10000", "msg": "Success", "out_trade_no": NUMBER, "trade_no": "42", "trade_status": status,
           "total_amount": "68.00"})
}

#[test]
fn every_trade_status_has_its_meaning() {
    for (method, word, paid, status) in [
        ("alipay.qr", "WAIT_BUYER_PAY", false, Status::Pending),
        ("alipay.qr", "TRADE_SUCCESS", true, Status::Succeeded),
        ("alipay.qr", "TRADE_SUCCESS", false, Status::Succeeded),
        ("alipay.qr", "TRADE_FINISHED", true, Status::Succeeded),
        ("alipay.qr", "TRADE_CLOSED", false, Status::Closed),
        ("alipay.qr", "TRADE_CLOSED", true, Status::Succeeded),
        ("alipay.barcode", "TRADE_CLOSED", true, Status::Closed),
    ] {
        let paid = if paid { "2023-11-15 06:13:25" } else { "" };
        let outcome = decode(&Operation::Query(order(method)), &with(news(word), "send_pay_date", paid)).unwrap();
        assert_eq!((outcome.status, outcome.amount), (status, Some(cny(6800))), "{method} {word}");
        assert_eq!(outcome.at.is_some(), !paid.is_empty());
        assert_eq!(outcome.provider_id.as_deref(), Some("42"));
    }
    let query = Operation::Query(order("alipay.qr"));
    for (name, other) in
        [("out_trade_no", json!("T")), ("total_amount", json!("68.01")), ("total_amount", json!(68.01))]
    {
        for word in ["TRADE_SUCCESS", "WAIT_BUYER_PAY", "TRADE_CLOSED"] {
            assert!(is_mismatch(&decode(&query, &with(news(word), name, other.clone()))), "{word} {name}");
        }
    }
    assert!(decode(&query, &with(news("TRADE_SUCCESS"), "total_amount", 68)).is_ok(), "a number is read too");
    for bad in [json!("68.001"), json!("-68.00"), json!("6.8e1"), json!([]), json!("")] {
        assert!(is_unclear(&decode(&query, &with(news("TRADE_SUCCESS"), "total_amount", bad))));
    }
    for name in ["total_amount", "trade_status", "out_trade_no"] {
        assert!(is_unclear(&decode(&query, &without(news("TRADE_SUCCESS"), name))), "{name}");
    }
    for word in ["", "TRADE_PENDING", "trade_success"] {
        assert!(is_unclear(&decode(&query, &news(word))), "{word}");
    }
    let twice =
        news("TRADE_SUCCESS").to_string().replace("\"trade_no\"", "\"trade_status\":\"TRADE_SUCCESS\",\"trade_no\"");
    assert!(is_unclear(&decode_with(&provider(), &query, &twice)), "a member that comes twice");
}

#[test]
fn a_till_is_told_at_once_or_waits_for_the_password() {
    let operation = Operation::Pay(pay("alipay.barcode"));
    let paid = with(without(news(""), "trade_status"), "gmt_payment", "2023-11-15 06:13:25");
    assert_eq!(decode(&operation, &paid).unwrap().status, Status::Succeeded);
    for (name, other) in [("out_trade_no", "T"), ("total_amount", "0.01")] {
        assert!(is_mismatch(&decode(&operation, &with(paid.clone(), name, other))), "{name}");
        let typing = with(with(paid.clone(), "code", "10003"), name, other);
        assert!(is_mismatch(&decode(&operation, &typing)), "{name}");
    }
    for name in ["out_trade_no", "total_amount", "trade_no"] {
        assert!(is_unclear(&decode(&operation, &without(paid.clone(), name))), "{name}");
    }
    assert_eq!(decode(&operation, &json!({"code": "10003", "msg": "m"})).unwrap(), Outcome::of(Status::Pending));
    for method in ["alipay.qr", "alipay.jsapi"] {
        assert!(is_unclear(&decode(&Operation::Pay(pay(method)), &json!({"code": "10003", "out_trade_no": NUMBER}))));
        assert!(is_unclear(&decode(&Operation::Pay(pay(method)), &json!({"code": "10000", "out_trade_no": NUMBER}))));
        assert!(is_mismatch(&decode(&Operation::Pay(pay(method)), &json!({"code": "10000", "out_trade_no": "T"}))));
    }
}

#[test]
fn a_close_ends_and_a_cancellation_says_what_it_did() {
    let close = Operation::Close(order("alipay.qr"));
    assert_eq!(decode(&close, &news("")).unwrap().status, Status::Closed);
    assert!(is_mismatch(&decode(&close, &with(news(""), "out_trade_no", "T"))));
    assert!(is_unclear(&decode(&close, &without(news(""), "out_trade_no"))));
    let cancel = Operation::Close(order("alipay.barcode"));
    let said = |flag: &str, action: &str| decode(&cancel, &with(with(news(""), "retry_flag", flag), "action", action));
    assert_eq!(said("N", "close").unwrap().status, Status::Closed);
    assert_eq!(said("N", "refund").unwrap().status, Status::Closed);
    for action in ["close", ""] {
        assert!(matches!(said("Y", action), Err(Error::Conflict(_))), "the channel is well: {action}");
    }
    for (flag, action) in [("N", ""), ("", "close"), ("N", "other")] {
        assert!(is_unclear(&said(flag, action)), "{flag} {action}");
    }
}

#[test]
fn a_refund_is_what_moved_and_is_this_one() {
    let operation = Operation::Refund(refund());
    let said = |change: &str, sum: &str| {
        decode(&operation, &with(with(news(""), "fund_change", change), "refund_fee", sum))
            .map(|outcome| outcome.status)
    };
    assert_eq!(said("Y", "3.00"), Ok(Status::Succeeded));
    assert_eq!(said("Y", "68.00"), Ok(Status::Succeeded), "the sum of several");
    assert_eq!(said("N", "3.00"), Ok(Status::Pending));
    assert_eq!(said("N", "0.00"), Ok(Status::Pending));
    assert!(is_mismatch(&said("Y", "2.99")) && is_mismatch(&said("Y", "68.01")));
    assert!(is_unclear(&said("", "3.00")) && is_unclear(&said("y", "3.00")) && is_unclear(&said("Y", "x")));
    assert!(is_mismatch(&decode(&operation, &with(with(news(""), "fund_change", "Y"), "out_trade_no", "T"))));

    let query = Operation::QueryRefund(refund());
    let news = json!({"code": "10000", "msg": "Success", "out_trade_no": NUMBER, "trade_no": "42", "out_request_no": REFUND,
                      "total_amount": "68.00", "refund_amount": "3.00", "refund_status": "REFUND_SUCCESS"});
    let outcome = decode(&query, &news).unwrap();
    assert_eq!((outcome.status, outcome.amount), (Status::Succeeded, Some(cny(300))));
    for (name, other) in
        [("out_trade_no", "T"), ("out_request_no", "R"), ("total_amount", "68.01"), ("refund_amount", "2.99")]
    {
        assert!(is_mismatch(&decode(&query, &with(news.clone(), name, other))), "{name}");
    }
    for name in ["out_request_no", "refund_amount", "out_trade_no"] {
        assert!(is_unclear(&decode(&query, &without(news.clone(), name))), "{name}");
    }
    assert!(is_unclear(&decode(&query, &with(news.clone(), "refund_status", "REFUND_FAIL"))));
    assert_eq!(decode(&query, &without(news.clone(), "refund_status")).unwrap().status, Status::Pending);
    let nothing = json!({"code": "10000", "msg": "Success", "out_trade_no": NUMBER, "trade_no": "42"});
    assert!(matches!(decode(&query, &nothing), Err(Error::Absent(_))));
}

#[test]
fn every_code_of_the_specification_has_its_class() {
    type Make = fn(Word) -> Error;
    let unclear: Make = |word| Error::Unclear { why: String::new(), word: Some(word) };
    let rows: [(&str, Make); 5] = [
        ("SELLER_BALANCE_NOT_ENOUGH", Error::Busy),
        ("SYSTEM_ERROR DISCORDANT_REPEAT_REQUEST BRAND_NEW BEYOND_PER_RECEIPT", unclear),
        (
            "TRADE_HAS_SUCCESS TRADE_HAS_CLOSE CONTEXT_INCONSISTENT TRADE_STATUS_ERROR REASON_TRADE_STATUS_INVALID \
             REASON_ILLEGAL_STATUS TRADE_HAS_FINISHED TRADE_CANCEL_TIME_OUT",
            Error::Conflict,
        ),
        ("TRADE_NOT_EXIST", Error::Absent),
        (
            "PAYMENT_AUTH_CODE_INVALID BUYER_BALANCE_NOT_ENOUGH BUYER_BANKCARD_BALANCE_NOT_ENOUGH \
             ERROR_BALANCE_PAYMENT_DISABLE PAYMENT_FAIL PAYMENT_REQUEST_HAS_RISK NO_PAYMENT_INSTRUMENTS_AVAILABLE \
             BUYER_SELLER_EQUAL TRADE_BUYER_NOT_MATCH BUYER_ENABLE_STATUS_FORBID BUYER_PAYMENT_AMOUNT_DAY_LIMIT_ERROR \
             BUYER_PAYMENT_AMOUNT_MONTH_LIMIT_ERROR BEYOND_PAY_RESTRICTION BEYOND_PER_RECEIPT_RESTRICTION \
             BEYOND_PER_RECEIPT_SINGLE_RESTRICTION TOTAL_FEE_EXCEED EXIST_FORBIDDEN_WORD ACCESS_FORBIDDEN PARTNER_ERROR \
             INVALID_PARAMETER INVALID_STORE_ID SELLER_BEEN_BLOCKED MERCHANT_STATUS_NOT_NORMAL \
             MERCHANT_AGREEMENT_NOT_EXIST USER_FACE_PAYMENT_SWITCH_OFF MOBILE_PAYMENT_SWITCH_OFF \
             PULL_MOBILE_CASHIER_FAIL NOW_TIME_AFTER_EXPIRE_TIME_ERROR NOT_CERTIFIED_USER \
             REFUND_AMT_NOT_EQUAL_TOTAL REASON_TRADE_REFUND_FEE_ERR REASON_TRADE_BEEN_FREEZEN TRADE_NOT_ALLOW_REFUND \
             CANCEL_NOT_ALLOWED",
            Error::Declined,
        ),
    ];
    let word = |code: &str| Word { code: code.to_owned(), message: "余额不足".to_owned() };
    let told = |operation: &Operation, code: &str, sub_code: &str| {
        let content = json!({"code": code, "msg": "Failed", "sub_code": sub_code, "sub_msg": "余额不足"});
        match decode(operation, &content).unwrap_err() {
            Error::Unclear { word, .. } => Error::Unclear { why: String::new(), word },
            other => other,
        }
    };
    for operation in operations() {
        for (codes, make) in rows {
            for code in codes.split_whitespace().map(|code| format!("ACQ.{code}")) {
                assert_eq!(told(&operation, "40004", &code), make(word(&code)), "{code}");
            }
        }
        assert_eq!(told(&operation, "40004", "AQC.SYSTEM_ERROR"), unclear(word("AQC.SYSTEM_ERROR")));
        for code in ["20001", "40001", "40002", "40006"] {
            assert_eq!(told(&operation, code, "isv.x"), Error::Declined(word("isv.x")));
        }
        for code in SIGNATURES.split_whitespace() {
            assert_eq!(told(&operation, "40002", code), Error::Unauthorized(word(code)));
            assert_eq!(told(&operation, "20000", code).code(), "unclear", "a broken gateway says nothing: {code}");
        }
        assert_eq!(told(&operation, "40005", "isv.app-call-limited"), Error::Busy(word("isv.app-call-limited")));
        for code in ["20000", "40003", "10001", "", "50000"] {
            assert_eq!(told(&operation, code, "ACQ.PAYMENT_FAIL"), unclear(word("ACQ.PAYMENT_FAIL")), "{code}");
        }
        assert_eq!(told(&operation, "40004", ""), unclear(Word { code: "40004".to_owned(), ..word("") }));
    }
}

/// What says that our key, certificate or clock is wrong.
const SIGNATURES: &str = "isv.invalid-signature isv.invalid-signature-type isv.missing-signature isv.missing-signature-key \
                          isv.missing-signature-type isv.missing-signature-config isv.invalid-app-cert-sn isv.invalid-timestamp \
                          isv.invalid-alipay-root-cert-sn isv.missing-app-cert-sn isv.decryption-error-unknown isv.invalid-app-id";

#[test]
fn whose_signature_is_not_accepted_was_turned_away_whatever_was_asked() {
    for code in SIGNATURES.split_whitespace() {
        let body =
            format!(r#"{{"error_response":{{"code":"40002","msg":"m","sub_code":"{code}","sub_msg":"验签出错"}}}}"#);
        for operation in operations() {
            let said = provider().refusal(&operation, StatusCode::OK, body.as_bytes());
            assert_eq!(said, Error::Unauthorized(Word { code: code.to_owned(), message: "验签出错".to_owned() }));
            let broken = provider().refusal(&operation, StatusCode::BAD_GATEWAY, body.as_bytes());
            assert_eq!(broken.code(), "unclear");
        }
    }
}

#[test]
fn an_unsigned_refusal_is_believed_of_a_payment_at_the_door_only() {
    let said = |operation: &Operation, status: u16, body: &str| {
        provider().refusal(operation, StatusCode::from_u16(status).unwrap(), body.as_bytes()).code()
    };
    let error =
        |code: &str| format!(r#"{{"error_response":{{"code":"{code}","msg":"m","sub_code":"ACQ.TRADE_NOT_EXIST"}}}}"#);
    let (write, back) = (Operation::Pay(pay("alipay.qr")), Operation::Refund(refund()));
    for code in ["20001", "40001", "40002", "40006"] {
        assert_eq!(
            (said(&write, 200, &error(code)), said(&back, 200, &error(code))),
            ("declined", "unclear"),
            "{code}"
        );
        assert_eq!(said(&write, 502, &error(code)), "unclear");
    }
    assert_eq!((said(&write, 200, &error("40005")), said(&back, 200, &error("40005"))), ("provider_busy", "unclear"));
    for code in ["20000", "40003", "40004", "10000", "10003"] {
        assert_eq!(said(&write, 200, &error(code)), "unclear", "{code}");
        assert_eq!(said(&Operation::Query(order("alipay.qr")), 200, &error(code)), "unclear", "{code}");
    }
    let other = error("40002").replace("error_response", "alipay_trade_precreate_response");
    for body in ["", "<html>", "{}", "[]", r#"{"error_response":5}"#, r#"{"error_response":{"code":40002}}"#, &other] {
        assert_eq!(said(&write, 200, body), "unclear", "{body}");
    }
}

#[test]
fn an_answer_to_another_question_or_at_another_status_is_none() {
    let query = Operation::Query(order("alipay.qr"));
    let decode = |name: &str, status: u16| {
        let body = format!(r#"{{"{name}":{}}}"#, news("TRADE_SUCCESS"));
        let status = StatusCode::from_u16(status).unwrap();
        signing(|with| provider().decode(&query, status, vouched(body), with))
    };
    assert!(decode("alipay_trade_query_response", 200).is_ok());
    assert!(is_unclear(&decode("alipay_trade_query_response", 500)));
    for name in ["alipay_trade_pay_response", "error_response", "_response", "alipay_trade_query"] {
        assert!(is_unclear(&decode(name, 200)), "{name}");
    }
}

#[test]
fn an_encrypted_answer_is_verified_as_it_came_and_then_opened() {
    let vector = &vectors()["response_encrypted"];
    let provider = provider_of("app_id = \"1\"", &[("aes", AES.as_bytes())]);
    let body = Bytes::from(vector["body"].as_str().unwrap().to_owned());
    let verified = provider.verify(Source::Answer, &HeaderMap::new(), body, &keyring(), NOW).unwrap();
    let query = Operation::Query(Order { number: "T20231115000001".to_owned(), ..order("alipay.qr") });
    // The vector's plain text is no answer to a query: it has no code.
    assert!(is_unclear(&signing(|with| provider.decode(&query, StatusCode::OK, verified, with))));
    let sealed = provider.account.sealer.as_ref().unwrap().seal(&news("TRADE_SUCCESS").to_string()).unwrap();
    let query = Operation::Query(order("alipay.qr"));
    let content = Value::from(sealed).to_string();
    assert_eq!(decode_with(&provider, &query, &content).unwrap().status, Status::Succeeded);
    assert!(is_unclear(&decode_with(&super::provider(), &query, &content)), "without the key");
    assert!(is_unclear(&decode_with(&provider, &query, "\"AAAA\"")));
}
