//! Every code of the official lists, and every form of a refusal: its error, what a breaker counts and whether a retry
//! is allowed.

use std::collections::BTreeSet;

use super::super::super::answer_codes::{Interface, bare};
use super::super::codes::ROWS;
use super::*;

/// Operations with the names of their interfaces.
fn interfaces() -> Vec<(&'static str, Operation)> {
    let scanned = Order { method: Method::parse("wechat.codepay").unwrap(), ..order() };
    let pays = ["native", "jsapi", "h5", "app"].map(|name| (name, Operation::Pay(pay(&format!("wechat.{name}")))));
    let others = [
        ("codepay", Operation::Pay(pay("wechat.codepay"))),
        ("query", Operation::Query(order())),
        ("close", Operation::Close(order())),
        ("reverse", Operation::Close(scanned)),
        ("refund", Operation::Refund(refund())),
        ("refundquery", Operation::QueryRefund(refund())),
    ];
    pays.into_iter().chain(others).collect()
}

fn moves_money(interface: &str) -> bool {
    ["codepay", "reverse", "refund"].contains(&interface)
}

fn signed(operation: &Operation, status: u16, body: &Value) -> Result<Outcome, Error> {
    let status = StatusCode::from_u16(status).unwrap();
    signing(|with| provider().decode(operation, status, verified(body.to_string()), with))
}

fn unsigned(operation: &Operation, status: u16, body: &Value) -> Error {
    provider().decode_unsigned_error(operation, StatusCode::from_u16(status).unwrap(), body.to_string().as_bytes())
}

const PAY: &str = "native jsapi h5 app codepay";
const PREPAY: &str = "native jsapi h5 app";
const END: &str = "close reverse";
const REST: &str = "query refundquery";

/// Results of a signed refusal: interfaces, HTTP status, codes as in the official lists, name of the error.
const LISTED: &[(&[&str], u16, &str, &str)] = &[
    (
        &[PAY, END, REST, "refund"],
        403,
        "ACCOUNT_ERROR APPID_MCHID_NOT_MATCH ERROR INVALID_REQUEST INVALID_TRANSACTIONID MCH_NOT_EXISTS NO_AUTH \
         OPENID_MISMATCH PARAM_ERROR RULE_LIMIT USER_ACCOUNT_ABNORMAL USER_NOT_EXIST USER_NOT_EXISTS",
        "declined",
    ),
    (&[PAY, END, REST, "refund"], 500, "INVALID_TRANSACTIONID OPENID_MISMATCH", "declined"),
    (
        &[PAY],
        403,
        "AUTH_CODE_ERROR AUTH_CODE_EXPIRE AUTH_CODE_INVALID NOT_ENOUGH NOTSUPORTCARD TRADE_ERROR",
        "declined",
    ),
    (
        &[PAY, END, REST, "refund"],
        403,
        "BIZERR_NEED_RETRY FREQUENCY_LIMITED FREQUENCY_LIMIT_EXCEED RATELIMIT_EXCEEDED REQUEST_BLOCKED",
        "provider_busy",
    ),
    (&["refund"], 403, "NOT_ENOUGH", "provider_busy"),
    (&[PAY, END, REST, "refund"], 429, "SOMETHING_NEW", "provider_busy"),
    (
        &[PAY, END, REST, "refund"],
        400,
        "ALREADY_EXISTS ORDER_CLOSED ORDER_PAID ORDER_REVERSED OUT_TRADE_NO_USED RESOURCE_ALREADY_EXISTS",
        "conflict",
    ),
    (&[END, REST, "refund"], 403, "TRADE_ERROR", "conflict"),
    (&[END], 202, "USERPAYING", "provider_busy"),
    (&[PAY, END, REST, "refund"], 404, "ORDER_NOT_EXIST REFUND_NOT_EXISTS RESOURCE_NOT_EXISTS", "not_found"),
    (&[PAY, END, REST, "refund"], 500, "BANK_ERROR SYSTEM_ERROR", "unclear"),
    (&[PAY, END, REST, "refund"], 404, "NOT_FOUND", "unclear"),
    (&[PREPAY, REST, "refund"], 202, "USERPAYING", "unclear"),
    (&[PREPAY, REST, "refund"], 400, "USERPAYING", "conflict"),
    (&[PAY, END, REST, "refund"], 401, "SIGN_ERROR SOMETHING_NEW PARAM_ERROR", "unauthorized"),
    (&[PAY, END, REST, "refund"], 403, "SIGN_ERROR", "unauthorized"),
    // Codes that no list contains.
    (&[PAY, END, REST, "refund"], 403, "SOMETHING_NEW", "unlisted_refusal"),
    (&[END, REST, "refund"], 400, "AUTH_CODE_EXPIRE", "unlisted_refusal"),
    // A failed server is trusted only if it reports overload.
    (&[PAY, END, REST, "refund"], 500, "SOMETHING_NEW PARAM_ERROR NO_AUTH ORDER_PAID ORDER_NOT_EXIST", "unclear"),
    (&[PAY, END, REST, "refund"], 500, "FREQUENCY_LIMITED", "provider_busy"),
];

#[test]
fn every_listed_code_is_classified_in_every_interface() {
    let mut seen = BTreeSet::new();
    for (names, status, codes, expected) in LISTED {
        let named = |name: &str| names.iter().any(|names| names.split(' ').any(|it| it == name));
        for (name, operation) in interfaces().iter().filter(|(name, _)| named(name)) {
            for code in codes.split_whitespace().flat_map(|code| [code.to_owned(), code.replace('_', "")]) {
                seen.insert(bare(&code));
                let body = json!({"code": code, "message": "余额不足", "detail": {"field": "x"}});
                let error = signed(operation, *status, &body).unwrap_err();
                assert_eq!(error.code(), *expected, "{name} {status} {code}");
                if *status == 202 && *expected == "unclear" {
                    continue;
                }
                let provider_error = error.provider_error().unwrap();
                assert_eq!(
                    (provider_error.code.as_str(), provider_error.message.as_str()),
                    (code.as_str(), "余额不足"),
                    "{name}"
                );
                let is_ill = matches!(*expected, "unclear" | "unauthorized");
                assert_eq!(error.is_channel_failure(), is_ill, "what a breaker counts: {name} {status} {code}");
                let is_released = matches!(*expected, "provider_busy" | "unauthorized");
                assert_eq!(error.provably_not_executed(), is_released, "the same key sends again: {name} {code}");
            }
        }
    }
    let untested: Vec<_> =
        ROWS.iter().filter(|(code, _, interfaces)| *interfaces != [Interface::Bill] && !seen.contains(*code)).collect();
    assert!(untested.is_empty(), "{untested:?}");
    for status in [200, 202, 400, 403] {
        let typing = json!({"code": "USERPAYING", "message": "需要用户输入支付密码"});
        let outcome = signed(&Operation::Pay(pay("wechat.codepay")), status, &typing).unwrap();
        assert_eq!((outcome.status, outcome.needs_reversal), (Status::Pending, false), "{status}");
    }
}

#[test]
fn unsigned_refusal_never_ends_a_request_that_moves_money() {
    for (name, operation) in interfaces() {
        let result = |status, code: &str| unsigned(&operation, status, &json!({"code": code, "message": "m"})).code();
        for code in ["PARAM_ERROR", "RULE_LIMIT", "ACCOUNT_ERROR", "NO_AUTH"] {
            assert_eq!(result(403, code), if moves_money(name) { "unclear" } else { "declined" }, "{name} {code}");
        }
        for code in ["RESOURCE_NOT_EXISTS", "ORDER_NOT_EXIST"] {
            let is_open = moves_money(name) || name == "refundquery";
            assert_eq!(result(404, code), if is_open { "unclear" } else { "not_found" }, "{name} {code}");
        }
        assert_eq!(result(403, "ORDER_PAID"), "conflict", "{name}");
        assert_eq!(result(403, "FREQUENCY_LIMITED"), "provider_busy", "{name}");
        assert_eq!(result(401, "SIGN_ERROR"), "unauthorized", "{name}");
        assert_eq!(result(403, "SOMETHING_NEW"), "unclear", "{name}");
        assert_eq!(result(200, "PARAM_ERROR"), "unclear", "an unsigned 2xx is never a refusal: {name}");
    }
    let poor = |operation: &Operation| unsigned(operation, 403, &json!({"code": "NOT_ENOUGH", "message": "m"})).code();
    assert_eq!(poor(&Operation::Refund(refund())), "provider_busy");
    assert_eq!(poor(&Operation::Pay(pay("wechat.codepay"))), "unclear");
}

/// The code is PARAM_ERROR, as for an error of the caller.
#[test]
fn rejected_key_is_unauthorized_whatever_its_code() {
    for (code, message, detail) in [
        ("PARAM_ERROR", "平台证书序列号Wechatpay-Serial错误", Value::Null),
        ("PARAM_ERROR", "参数错误", json!({"location": "header", "field": "Wechatpay-Serial", "value": "X"})),
        ("PARAM_ERROR", "商户证书序列号有误。请使用签名私钥匹配的证书序列号", Value::Null),
        ("INVALID_REQUEST", "微信支付公钥ID错误", Value::Null),
        ("PARAM_ERROR", "Http头Authorization值格式错误，请参考《微信支付商户REST API签名规则》", json!("x")),
    ] {
        let body = json!({"code": code, "message": message, "detail": detail});
        for (name, operation) in interfaces() {
            for error in [unsigned(&operation, 400, &body), signed(&operation, 400, &body).unwrap_err()] {
                assert_eq!(error.code(), "unauthorized", "{name} {message}");
                assert_eq!(error.provider_error().unwrap().message, message);
            }
        }
    }
}

/// The official texts of INVALID_REQUEST and ERROR name several causes. The message identifies the cause.
#[test]
fn code_with_several_causes_is_classified_by_message() {
    for (message, prepaid) in [
        ("系统繁忙，请稍后重试", "unclear"),
        ("内部错误", "unclear"),
        ("服务不可用", "unclear"),
        ("操作过于频繁", "provider_busy"),
        ("201 商户订单号重复", "conflict"),
        ("无效请求", "declined"),
    ] {
        for (name, operation) in interfaces() {
            for code in ["INVALID_REQUEST", "ERROR"] {
                let body = json!({"code": code, "message": message});
                let is_other = code == "ERROR" && prepaid == "conflict";
                let expected = if is_other { "declined" } else { prepaid };
                assert_eq!(signed(&operation, 400, &body).unwrap_err().code(), expected, "{name} {code} {message}");
            }
            let other = json!({"code": "PARAM_ERROR", "message": message});
            assert_eq!(signed(&operation, 400, &other).unwrap_err().code(), "declined", "{name} {message}");
        }
    }
}

#[test]
fn error_in_unknown_format_is_unclear() {
    let write = Operation::Refund(refund());
    for body in ["", "<html>", "{}", "[]", r#"{"code":5}"#, r#"{"message":"m"}"#] {
        for status in [400, 401, 403, 404, 429, 500, 503] {
            let result =
                provider().decode_unsigned_error(&write, StatusCode::from_u16(status).unwrap(), body.as_bytes());
            assert_eq!(result, Error::unclear(format!("HTTP {status} answer in an unknown format")));
        }
    }
}

/// `detail` has many formats, and none of them hides the code.
#[test]
fn refusal_is_decoded_with_any_detail() {
    for detail in [
        json!({"location": null, "value": ["/body/payer/openid"]}),
        json!({"field": "/amount/currency", "value": "XYZ", "issue": "Currency code is invalid", "location": "body"}),
        json!({"field": 7}),
        json!([{"issue": "x"}]),
        json!("x"),
        Value::Null,
    ] {
        let body = json!({"code": "PARAM_ERROR", "detail": detail, "message": "请求中含有未在API文档中定义的参数"});
        let error = unsigned(&Operation::Pay(pay("wechat.jsapi")), 400, &body);
        assert!(
            matches!(&error, Error::Declined(provider_error) if provider_error.code == "PARAM_ERROR"),
            "{detail}: {error}"
        );
    }
}
