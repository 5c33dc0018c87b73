//! Decoding of answers, and rejection of answers about another order.

use super::*;

fn decode(operation: &Operation, status: u16, body: &Value) -> Result<Outcome, Error> {
    let reply = verified(if body.is_null() { String::new() } else { body.to_string() });
    signing(|with| provider().decode(operation, StatusCode::from_u16(status).unwrap(), reply, with))
}

fn refund_state(status: &str) -> Value {
    json!({"refund_id": "50", "out_refund_no": "R1", "out_trade_no": NUMBER, "status": status,
           "amount": {"total": 6800, "refund": 300, "currency": "CNY"}})
}

fn is_unclear(result: &Result<Outcome, Error>) -> bool {
    matches!(result, Err(Error::Unclear { provider_error: None, .. }))
}

#[test]
fn payer_parameters_match_published_signature() {
    let vectors = vectors();
    let provider = provider_of("1230000109", "wx2421b1c4370ec43b");
    let stamp = Stamp { unix_time: 1_554_208_460, nonce: NONCE.to_owned() };
    let body = r#"{"prepay_id":"wx201410272009395522657a690389285100"}"#;
    for (method, vector, field) in [("wechat.jsapi", "paysign_jsapi", "paySign"), ("wechat.app", "paysign_app", "sign")]
    {
        let operation = Operation::Pay(pay(method));
        let decode = |with: Signing<'_>| {
            provider.decode(&operation, StatusCode::OK, verified(body), Signing { stamp: &stamp, ..with })
        };
        let outcome = signing(decode).unwrap();
        let Some(NextAction::Jsapi { params } | NextAction::App { params }) = outcome.action else {
            panic!("no parameters")
        };
        assert_eq!(params[field], vectors[vector]["signature"].as_str().unwrap());
    }
}

#[test]
fn signer_failure_after_order_creation_is_unclear() {
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
    let reply = verified(r#"{"prepay_id":"wx1"}"#);
    let operation = Operation::Pay(pay("wechat.app"));
    let decode =
        |with: Signing<'_>| provider().decode(&operation, StatusCode::OK, reply, Signing { signer: &Broken, ..with });
    assert!(is_unclear(&signing(decode)));
}

#[test]
fn every_trade_state_is_decoded() {
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
        let outcome = decode(&query, 200, &order_state(state)).unwrap();
        assert_eq!((outcome.status, outcome.amount), (status, Some(cny(6800))), "{state}");
        assert_eq!(outcome.at.unwrap().to_string(), "2023-11-14T22:13:25.123Z");
    }
    let scanned = Operation::Query(Order { method: Method::parse("wechat.codepay").unwrap(), ..order() });
    for (state, status, needs_reversal) in [
        ("PAYERROR", Status::Pending, true),
        ("SUCCESS", Status::Succeeded, false),
        ("USERPAYING", Status::Pending, false),
        ("REVOKED", Status::Closed, false),
    ] {
        let outcome = decode(&scanned, 200, &order_state(state)).unwrap();
        assert_eq!((outcome.status, outcome.needs_reversal), (status, needs_reversal), "scanned, {state}");
    }
    let answered = decode(&Operation::Pay(pay("wechat.codepay")), 200, &order_state("PAYERROR")).unwrap();
    assert!(answered.needs_reversal, "in the answer to the payment itself");
    for state in ["", "success", "PAID"] {
        assert!(is_unclear(&decode(&query, 200, &order_state(state))), "{state}");
    }
    assert!(is_unclear(&decode(&query, 200, &without(order_state("SUCCESS"), "amount"))));
    assert!(is_unclear(&decode(&query, 200, &without(order_state("SUCCESS"), "trade_state"))));
    assert!(decode(&query, 200, &without(order_state("NOTPAY"), "amount")).is_ok());
    for (pointer, other) in [
        ("/mchid", json!("1234567892")),
        ("/appid", json!("wx")),
        ("/out_trade_no", json!("T")),
        ("/amount/total", json!(6801)),
        ("/amount/currency", json!("USD")),
        ("/amount/currency", json!("yuan")),
    ] {
        for state in ["SUCCESS", "NOTPAY", "CLOSED"] {
            let state = with(order_state(state), pointer, other.clone());
            assert!(is_mismatch(&decode(&query, 200, &state)), "{state} {pointer}");
        }
    }
    assert!(is_unclear(&decode(&query, 200, &with(order_state("SUCCESS"), "/amount/total", json!(-6800)))));
}

#[test]
fn every_refund_status_is_decoded() {
    for operation in [Operation::Refund(refund()), Operation::QueryRefund(refund())] {
        for (refund_status, status) in [
            ("PROCESSING", Status::Pending),
            ("ABNORMAL", Status::Pending),
            ("SUCCESS", Status::Succeeded),
            ("CLOSED", Status::Failed),
        ] {
            let outcome = decode(&operation, 200, &refund_state(refund_status)).unwrap();
            assert_eq!((outcome.status, outcome.amount), (status, Some(cny(300))), "{refund_status}");
            assert_eq!(outcome.provider_id.as_deref(), Some("50"));
            assert_eq!(outcome.needs_review.is_some(), refund_status == "ABNORMAL");
        }
        assert!(is_unclear(&decode(&operation, 200, &refund_state("DONE"))));
        assert!(is_unclear(&decode(&operation, 200, &without(refund_state("SUCCESS"), "amount"))));
        for (pointer, other) in [
            ("/out_refund_no", json!("R2")),
            ("/out_trade_no", json!("T")),
            ("/amount/total", json!(6801)),
            ("/amount/refund", json!(299)),
            ("/amount/currency", json!("USD")),
        ] {
            assert!(is_mismatch(&decode(&operation, 200, &with(refund_state("SUCCESS"), pointer, other))), "{pointer}");
        }
    }
}

#[test]
fn answer_with_missing_field_is_unclear() {
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
