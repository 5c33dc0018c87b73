//! Decoding of answers, and rejection of answers about another order.

use super::*;
use crate::provider::alipay::request::service;

fn decode_with(provider: &Alipay, operation: &Operation, content: &str) -> Result<Outcome, Error> {
    let name = service(operation).unwrap().replace('.', "_");
    let body = format!(r#"{{"{name}_response":{content}}}"#);
    signing(|with| provider.decode(operation, StatusCode::OK, verified(body), with))
}

fn decode(operation: &Operation, content: &Value) -> Result<Outcome, Error> {
    decode_with(&provider(), operation, &content.to_string())
}

fn trade(status: &str) -> Value {
    json!({"code": "10000", "msg": "Success", "out_trade_no": NUMBER, "trade_no": "42", "trade_status": status,
           "total_amount": "68.00"})
}

#[test]
fn every_trade_status_is_decoded() {
    for (method, trade_status, paid, status) in [
        ("alipay.qr", "WAIT_BUYER_PAY", false, Status::Pending),
        ("alipay.qr", "TRADE_SUCCESS", true, Status::Succeeded),
        ("alipay.qr", "TRADE_SUCCESS", false, Status::Succeeded),
        ("alipay.qr", "TRADE_FINISHED", true, Status::Succeeded),
        ("alipay.qr", "TRADE_CLOSED", false, Status::Closed),
        ("alipay.qr", "TRADE_CLOSED", true, Status::Succeeded),
        ("alipay.barcode", "TRADE_CLOSED", true, Status::Closed),
    ] {
        let paid = if paid { "2023-11-15 06:13:25" } else { "" };
        let outcome =
            decode(&Operation::Query(order(method)), &with(trade(trade_status), "send_pay_date", paid)).unwrap();
        assert_eq!((outcome.status, outcome.amount), (status, Some(cny(6800))), "{method} {trade_status}");
        assert_eq!(outcome.at.is_some(), !paid.is_empty());
        assert_eq!(outcome.provider_id.as_deref(), Some("42"));
    }
    let query = Operation::Query(order("alipay.qr"));
    for (name, other) in
        [("out_trade_no", json!("T")), ("total_amount", json!("68.01")), ("total_amount", json!(68.01))]
    {
        for trade_status in ["TRADE_SUCCESS", "WAIT_BUYER_PAY", "TRADE_CLOSED"] {
            assert!(
                is_mismatch(&decode(&query, &with(trade(trade_status), name, other.clone()))),
                "{trade_status} {name}"
            );
        }
    }
    assert!(decode(&query, &with(trade("TRADE_SUCCESS"), "total_amount", 68)).is_ok(), "a number is read too");
    for bad in [json!("68.001"), json!("-68.00"), json!("6.8e1"), json!([]), json!("")] {
        assert!(is_unclear(&decode(&query, &with(trade("TRADE_SUCCESS"), "total_amount", bad))));
    }
    for name in ["total_amount", "trade_status", "out_trade_no"] {
        assert!(is_unclear(&decode(&query, &without(trade("TRADE_SUCCESS"), name))), "{name}");
    }
    for trade_status in ["", "TRADE_PENDING", "trade_success"] {
        assert!(is_unclear(&decode(&query, &trade(trade_status))), "{trade_status}");
    }
    let twice =
        trade("TRADE_SUCCESS").to_string().replace("\"trade_no\"", "\"trade_status\":\"TRADE_SUCCESS\",\"trade_no\"");
    assert!(is_unclear(&decode_with(&provider(), &query, &twice)), "a member that comes twice");
}

#[test]
fn scanned_payment_succeeds_or_awaits_password() {
    let operation = Operation::Pay(pay("alipay.barcode"));
    let paid = with(without(trade(""), "trade_status"), "gmt_payment", "2023-11-15 06:13:25");
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
fn close_closes_order_and_cancellation_is_decoded_by_action() {
    let close = Operation::Close(order("alipay.qr"));
    assert_eq!(decode(&close, &trade("")).unwrap().status, Status::Closed);
    assert!(is_mismatch(&decode(&close, &with(trade(""), "out_trade_no", "T"))));
    assert!(is_unclear(&decode(&close, &without(trade(""), "out_trade_no"))));
    let cancel = Operation::Close(order("alipay.barcode"));
    let result =
        |flag: &str, action: &str| decode(&cancel, &with(with(trade(""), "retry_flag", flag), "action", action));
    assert_eq!(result("N", "close").unwrap().status, Status::Closed);
    assert_eq!(result("N", "refund").unwrap().status, Status::Closed);
    for action in ["close", ""] {
        assert!(result("Y", action).unwrap().needs_reversal, "the channel is well: {action}");
    }
    assert!(matches!(result("N", ""), Err(Error::NotFound(_))), "there is no trade to cancel");
    for (flag, action) in [("", "close"), ("N", "other")] {
        assert!(is_unclear(&result(flag, action)), "{flag} {action}");
    }
}

#[test]
fn refund_succeeds_only_if_funds_changed_and_numbers_match() {
    let operation = Operation::Refund(refund());
    let result = |change: &str, sum: &str| {
        decode(&operation, &with(with(trade(""), "fund_change", change), "refund_fee", sum))
            .map(|outcome| outcome.status)
    };
    assert_eq!(result("Y", "3.00"), Ok(Status::Succeeded));
    assert_eq!(result("Y", "68.00"), Ok(Status::Succeeded), "the sum of several");
    for sum in ["3.00", "0.00"] {
        let Err(Error::Conflict(provider_error)) = result("N", sum) else { panic!("only a query decides") };
        assert_eq!(provider_error.code, "fund_change=N");
    }
    assert!(is_mismatch(&result("Y", "2.99")) && is_mismatch(&result("Y", "68.01")));
    assert!(is_unclear(&result("", "3.00")) && is_unclear(&result("y", "3.00")) && is_unclear(&result("Y", "x")));
    assert!(is_mismatch(&decode(&operation, &with(with(trade(""), "fund_change", "Y"), "out_trade_no", "T"))));

    let query = Operation::QueryRefund(refund());
    let trade = json!({"code": "10000", "msg": "Success", "out_trade_no": NUMBER, "trade_no": "42", "out_request_no": REFUND,
                      "total_amount": "68.00", "refund_amount": "3.00", "refund_status": "REFUND_SUCCESS"});
    let outcome = decode(&query, &trade).unwrap();
    assert_eq!((outcome.status, outcome.amount), (Status::Succeeded, Some(cny(300))));
    for (name, other) in
        [("out_trade_no", "T"), ("out_request_no", "R"), ("total_amount", "68.01"), ("refund_amount", "2.99")]
    {
        assert!(is_mismatch(&decode(&query, &with(trade.clone(), name, other))), "{name}");
    }
    let elsewhere = Operation::QueryRefund(Refund { made_elsewhere: true, amount: cny(6800), ..refund() });
    assert_eq!(decode(&elsewhere, &trade).unwrap().amount, Some(cny(300)), "only Alipay knows its amount");
    assert!(is_mismatch(&decode(&elsewhere, &with(trade.clone(), "refund_amount", "68.01"))));
    for name in ["out_request_no", "refund_amount", "out_trade_no"] {
        assert!(is_unclear(&decode(&query, &without(trade.clone(), name))), "{name}");
    }
    for (trade_status, status) in [("REFUND_PROCESSING", Status::Pending), ("REFUND_FAIL", Status::Failed)] {
        assert_eq!(decode(&query, &with(trade.clone(), "refund_status", trade_status)).unwrap().status, status);
    }
    assert!(is_unclear(&decode(&query, &with(trade.clone(), "refund_status", "REFUND_CLOSED"))));
    let dated = with(without(trade.clone(), "refund_status"), "gmt_refund_pay", "2023-11-15 06:20:00");
    assert!(is_unclear(&decode(&query, &dated)), "it has a time, so it may have been made");
    let nothing = json!({"code": "10000", "msg": "Success", "out_trade_no": NUMBER, "trade_no": "42"});
    assert!(matches!(decode(&query, &nothing), Err(Error::NotFound(_))));
}

#[test]
fn refund_query_without_status_is_not_found() {
    let query = Operation::QueryRefund(refund());
    let known = json!({"code": "10000", "msg": "Success", "out_trade_no": NUMBER, "trade_no": "42",
                       "out_request_no": REFUND, "total_amount": "68.00", "refund_amount": "3.00"});
    for content in [known.clone(), with(known.clone(), "refund_status", ""), json!({"code": "10000", "msg": "Success"})]
    {
        assert!(matches!(decode(&query, &content), Err(Error::NotFound(_))), "{content}");
    }
    assert!(is_mismatch(&decode(&query, &with(known, "refund_amount", "2.99"))), "it is about another refund");
}

#[test]
fn nonexistent_order_is_closed_after_expiry() {
    let content = json!({"code": "40004", "msg": "m", "sub_code": "ACQ.TRADE_NOT_EXIST", "sub_msg": "交易不存在"});
    let end = NOW - 600;
    let at = |seconds: u64| Some(jiff::Timestamp::from_second(i64::try_from(seconds).unwrap()).unwrap());
    for method in ["alipay.qr", "alipay.page", "alipay.jsapi", "alipay.barcode"] {
        for (expires_at, is_past) in [(None, false), (at(end), false), (at(end - 1), true), (at(NOW + 1), false)] {
            let order = Order { expires_at, ..order(method) };
            let ends = is_past && method != "alipay.barcode";
            let result = decode(&Operation::Query(order.clone()), &content);
            let expected = if ends { Ok(Outcome::of(Status::Closed)) } else { result.clone() };
            assert_eq!((result.is_ok(), &result), (ends, &expected), "{method} {expires_at:?}");
            let close = decode(&Operation::Close(order), &content);
            assert!(matches!(close, Err(Error::NotFound(_))), "a close is decided by a clock that may be wrong");
        }
    }
    assert!(provider().default_expiry().is_some(), "an order without an end gets one");
}

#[test]
fn query_of_jsapi_trade_restores_lost_action() {
    let query = |method: &str, trade_status: &str| {
        decode(&Operation::Query(order(method)), &trade(trade_status)).unwrap().action
    };
    let params = [("tradeNO".to_owned(), "42".to_owned())].into();
    assert_eq!(query("alipay.jsapi", "WAIT_BUYER_PAY"), Some(NextAction::Jsapi { params }));
    assert_eq!(query("alipay.jsapi", "TRADE_SUCCESS"), None);
    assert_eq!(query("alipay.qr", "WAIT_BUYER_PAY"), None);
}

#[test]
fn answer_to_another_request_or_with_error_status_is_unclear() {
    let query = Operation::Query(order("alipay.qr"));
    let decode = |name: &str, status: u16| {
        let body = format!(r#"{{"{name}":{}}}"#, trade("TRADE_SUCCESS"));
        let status = StatusCode::from_u16(status).unwrap();
        signing(|with| provider().decode(&query, status, verified(body), with))
    };
    assert!(decode("alipay_trade_query_response", 200).is_ok());
    assert!(is_unclear(&decode("alipay_trade_query_response", 500)));
    for name in ["alipay_trade_pay_response", "error_response", "_response", "alipay_trade_query"] {
        assert!(is_unclear(&decode(name, 200)), "{name}");
    }
}

#[test]
fn encrypted_answer_is_verified_then_decrypted() {
    let vector = &vectors()["response_encrypted"];
    let provider = provider_of("app_id = \"1\"", &[("aes", AES.as_bytes())]);
    let body = Bytes::from(vector["body"].as_str().unwrap().to_owned());
    let verified = provider.verify(Source::Answer, &HeaderMap::new(), body, &keyring(), NOW).unwrap();
    let query = Operation::Query(Order { number: "T20231115000001".to_owned(), ..order("alipay.qr") });
    // The vector's plain text is not an answer to a query: it has no code.
    assert!(is_unclear(&signing(|with| provider.decode(&query, StatusCode::OK, verified, with))));
    let sealed = provider.account.sealer.as_ref().unwrap().seal(&trade("TRADE_SUCCESS").to_string()).unwrap();
    let query = Operation::Query(order("alipay.qr"));
    let content = Value::from(sealed).to_string();
    assert_eq!(decode_with(&provider, &query, &content).unwrap().status, Status::Succeeded);
    assert!(is_unclear(&decode_with(&super::provider(), &query, &content)), "without the key");
    assert!(is_unclear(&decode_with(&provider, &query, "\"AAAA\"")));
}
