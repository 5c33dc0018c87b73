//! What each word of an answer means, and that another order's answer is refused.

use super::*;

fn decode(operation: &Operation, status: u16, body: &Value) -> Result<Outcome, Error> {
    let reply = vouched(if body.is_null() { String::new() } else { body.to_string() });
    signing(|with| provider().decode(operation, StatusCode::from_u16(status).unwrap(), reply, with))
}

fn refund_news(status: &str) -> Value {
    json!({"refund_id": "50", "out_refund_no": "R1", "out_trade_no": NUMBER, "status": status,
           "amount": {"total": 6800, "refund": 300, "currency": "CNY"}})
}

fn is_unclear(result: &Result<Outcome, Error>) -> bool {
    matches!(result, Err(Error::Unclear { word: None, .. }))
}

#[test]
fn payers_parameters_are_signed_as_published() {
    let vectors = vectors();
    let provider = provider_of("1230000109", "wx2421b1c4370ec43b");
    let stamp = Stamp { unix_time: 1_554_208_460, nonce: NONCE.to_owned() };
    let body = r#"{"prepay_id":"wx201410272009395522657a690389285100"}"#;
    for (method, vector, field) in [("wechat.jsapi", "paysign_jsapi", "paySign"), ("wechat.app", "paysign_app", "sign")]
    {
        let operation = Operation::Pay(pay(method));
        let decode = |with: Signing<'_>| {
            provider.decode(&operation, StatusCode::OK, vouched(body), Signing { stamp: &stamp, ..with })
        };
        let outcome = signing(decode).unwrap();
        let Some(Action::Jsapi { params } | Action::App { params }) = outcome.action else { panic!("no parameters") };
        assert_eq!(params[field], vectors[vector]["signature"].as_str().unwrap());
    }
}

#[test]
fn a_signer_that_fails_after_the_order_was_made_does_not_say_that_nothing_was_sent() {
    struct Broken;
    impl Signer for Broken {
        fn key_id(&self) -> &str {
            "k"
        }
        fn sign(&self, _: &[u8]) -> Result<Vec<u8>, Error> {
            Err(Error::NotSent("broken".to_owned()))
        }
        fn is_slow(&self) -> bool {
            false
        }
    }
    let reply = vouched(r#"{"prepay_id":"wx1"}"#);
    let operation = Operation::Pay(pay("wechat.app"));
    let decode =
        |with: Signing<'_>| provider().decode(&operation, StatusCode::OK, reply, Signing { signer: &Broken, ..with });
    assert!(is_unclear(&signing(decode)));
}

#[test]
fn every_trade_state_has_its_meaning() {
    let query = Operation::Query(order());
    for (state, status) in [
        ("SUCCESS", Status::Succeeded),
        ("REFUND", Status::Succeeded),
        ("NOTPAY", Status::Pending),
        ("USERPAYING", Status::Pending),
        ("ACCEPT", Status::Pending),
        ("CLOSED", Status::Closed),
        ("REVOKED", Status::Closed),
        ("PAYERROR", Status::Failed),
    ] {
        let outcome = decode(&query, 200, &order_news(state)).unwrap();
        assert_eq!((outcome.status, outcome.amount), (status, Some(cny(6800))), "{state}");
        assert_eq!(outcome.at.unwrap().to_string(), "2023-11-14T22:13:25.123Z");
    }
    for state in ["", "success", "PAID"] {
        assert!(is_unclear(&decode(&query, 200, &order_news(state))), "{state}");
    }
    assert!(is_unclear(&decode(&query, 200, &without(order_news("SUCCESS"), "amount"))));
    assert!(is_unclear(&decode(&query, 200, &without(order_news("SUCCESS"), "trade_state"))));
    assert!(decode(&query, 200, &without(order_news("NOTPAY"), "amount")).is_ok());
    for (pointer, other) in [
        ("/mchid", json!("1234567892")),
        ("/appid", json!("wx")),
        ("/out_trade_no", json!("T")),
        ("/amount/total", json!(6801)),
        ("/amount/currency", json!("USD")),
        ("/amount/currency", json!("yuan")),
    ] {
        for state in ["SUCCESS", "NOTPAY", "CLOSED"] {
            let news = with(order_news(state), pointer, other.clone());
            assert!(is_mismatch(&decode(&query, 200, &news)), "{state} {pointer}");
        }
    }
    assert!(is_unclear(&decode(&query, 200, &with(order_news("SUCCESS"), "/amount/total", json!(-6800)))));
}

#[test]
fn every_refund_status_has_its_meaning() {
    for operation in [Operation::Refund(refund()), Operation::QueryRefund(refund())] {
        for (word, status) in [
            ("PROCESSING", Status::Pending),
            ("ABNORMAL", Status::Pending),
            ("SUCCESS", Status::Succeeded),
            ("CLOSED", Status::Failed),
        ] {
            let outcome = decode(&operation, 200, &refund_news(word)).unwrap();
            assert_eq!((outcome.status, outcome.amount), (status, Some(cny(300))), "{word}");
            assert_eq!(outcome.provider_id.as_deref(), Some("50"));
            assert_eq!(outcome.needs_person.is_some(), word == "ABNORMAL");
        }
        assert!(is_unclear(&decode(&operation, 200, &refund_news("DONE"))));
        assert!(is_unclear(&decode(&operation, 200, &without(refund_news("SUCCESS"), "amount"))));
        for (pointer, other) in [
            ("/out_refund_no", json!("R2")),
            ("/out_trade_no", json!("T")),
            ("/amount/total", json!(6801)),
            ("/amount/refund", json!(299)),
            ("/amount/currency", json!("USD")),
        ] {
            assert!(is_mismatch(&decode(&operation, 200, &with(refund_news("SUCCESS"), pointer, other))), "{pointer}");
        }
    }
}

#[test]
fn an_answer_that_does_not_say_it_is_unclear() {
    for (method, wrong) in [
        ("wechat.native", json!({"prepay_id": "wx1"})),
        ("wechat.native", json!({"code_url": ""})),
        ("wechat.jsapi", json!({"code_url": "weixin://"})),
        ("wechat.app", json!({})),
        ("wechat.h5", json!({"h5_url": null})),
        ("wechat.h5", json!([])),
        ("wechat.h5", Value::Null),
    ] {
        assert!(is_unclear(&decode(&Operation::Pay(pay(method)), 200, &wrong)), "{method} {wrong}");
    }
    assert!(is_unclear(&decode(&Operation::Close(order()), 200, &Value::Null)));
    assert!(is_unclear(&decode(&Operation::Query(order()), 204, &Value::Null)));
}

#[test]
fn every_code_of_the_specification_has_its_class() {
    type Make = fn(Word) -> Error;
    let unclear =
        |status: u16| move |word| Error::Unclear { why: format!("it answered HTTP {status}"), word: Some(word) };
    let rows: [(u16, &str, Make); 6] = [
        (429, "FREQUENCY_LIMITED RATELIMIT_EXCEEDED REQUEST_BLOCKED", Error::Busy),
        (400, "ORDER_PAID OUT_TRADE_NO_USED ORDER_CLOSED TRADE_ERROR", Error::Conflict),
        (404, "ORDER_NOT_EXIST RESOURCE_NOT_EXISTS", Error::Absent),
        (
            400,
            "PARAM_ERROR INVALID_REQUEST APPID_MCHID_NOT_MATCH NO_AUTH RULE_LIMIT ACCOUNT_ERROR \
             USER_ACCOUNT_ABNORMAL OPENID_MISMATCH INVALID_TRANSACTIONID MCH_NOT_EXISTS",
            Error::Declined,
        ),
        (401, "SIGN_ERROR", Error::Unauthorized),
        (500, "SYSTEM_ERROR BANK_ERROR", |_| Error::unclear("")),
    ];
    let operations = operations();
    for (status, codes, make) in rows {
        for code in codes.split_whitespace().flat_map(|code| [code.to_owned(), code.replace('_', "")]) {
            // The code decides, unless the machine that says it is broken.
            for status in [status, 400, 403, 404, 500] {
                let body = json!({"code": code, "message": "余额不足", "detail": {"field": "x"}});
                let word = Word { code: code.clone(), message: "余额不足".to_owned() };
                let is_broken = status == 500 && !codes.starts_with("FREQUENCY");
                let expected =
                    if is_broken || codes.starts_with("SYSTEM") { unclear(status)(word) } else { make(word) };
                for operation in &operations {
                    assert_eq!(decode(operation, status, &body), Err(expected.clone()), "{code} {status}");
                }
            }
        }
    }
}

#[test]
fn a_refund_waits_for_money_and_a_payment_does_not() {
    for (operation, code) in [
        (Operation::Refund(refund()), "provider_busy"),
        (Operation::Pay(pay("wechat.codepay")), "declined"),
        (Operation::Pay(pay("wechat.native")), "declined"),
    ] {
        for word in ["NOT_ENOUGH", "NOTENOUGH"] {
            let said = decode(&operation, 403, &json!({"code": word, "message": "余额不足"}));
            assert_eq!(said.unwrap_err().code(), code, "{word}");
        }
    }
}

#[test]
fn what_moves_money_by_itself_is_not_given_up_on_an_unsigned_word() {
    let said = |operation: &Operation, code: &str| {
        let body = json!({"code": code, "message": "m"}).to_string();
        provider().refusal(operation, StatusCode::FORBIDDEN, body.as_bytes()).code()
    };
    for operation in [Operation::Refund(refund()), Operation::Pay(pay("wechat.codepay"))] {
        for code in ["PARAM_ERROR", "RULE_LIMIT", "ACCOUNT_ERROR", "RESOURCE_NOT_EXISTS", "ORDER_NOT_EXIST"] {
            assert_eq!(said(&operation, code), "unclear", "{code}");
        }
        assert_eq!(said(&operation, "FREQUENCY_LIMITED"), "provider_busy");
        assert_eq!(said(&operation, "ORDER_PAID"), "conflict");
    }
    assert_eq!(said(&Operation::Refund(refund()), "NOT_ENOUGH"), "provider_busy");
    assert_eq!(said(&Operation::Pay(pay("wechat.codepay")), "NOT_ENOUGH"), "unclear");
    // Nobody can pay yet what gave nobody anything to pay with, and a question moves nothing.
    assert_eq!(said(&Operation::Pay(pay("wechat.native")), "PARAM_ERROR"), "declined");
    assert_eq!(said(&Operation::QueryRefund(refund()), "RESOURCE_NOT_EXISTS"), "absent");
}

#[test]
fn nothing_is_concluded_of_an_unknown_code_or_form() {
    let code = |operation: &Operation, status: u16| {
        let body = br#"{"code":"BRAND_NEW","message":"m"}"#;
        provider().refusal(operation, StatusCode::from_u16(status).unwrap(), body).code()
    };
    let (write, query) = (Operation::Refund(refund()), Operation::QueryRefund(refund()));
    for status in [200, 302, 400, 403, 404, 408, 409, 500, 502] {
        assert_eq!((code(&write, status), code(&query, status)), ("unclear", "unclear"), "{status}");
    }
    assert_eq!((code(&write, 429), code(&query, 429)), ("provider_busy", "provider_busy"));
    for body in ["", "<html>", "{}", "[]", r#"{"code":5}"#, r#"{"message":"m"}"#] {
        for status in [400, 401, 403, 404, 429, 500, 503] {
            let said = provider().refusal(&write, StatusCode::from_u16(status).unwrap(), body.as_bytes());
            assert_eq!(said, Error::unclear(format!("it answered HTTP {status} in an unknown form")));
        }
    }
    let said = provider().refusal(&write, StatusCode::OK, br#"{"code":"PARAM_ERROR","message":"m"}"#);
    assert_eq!(said.code(), "unclear", "an unsigned 2xx never says no");
}
