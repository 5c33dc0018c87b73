//! Every code of the official lists, and every form of a refusal: its error, what a breaker counts and whether a retry
//! is allowed.

use std::collections::BTreeSet;

use super::super::super::answer_codes::{Class, Interface};
use super::super::errors::{CODES, MESSAGE_TABLES, class_of_message};
use super::*;

/// Operations with the names of their interfaces.
fn operations() -> Vec<(&'static str, Operation)> {
    let order = |method: &str| {
        let Operation::Pay(pay) = golden::pay(method) else { panic!() };
        pay.order
    };
    vec![
        ("unifiedorder", golden::pay("wechat.native")),
        ("micropay", golden::pay("wechat.codepay")),
        ("orderquery", Operation::Query(order("wechat.native"))),
        ("closeorder", Operation::Close(order("wechat.native"))),
        ("reverse", Operation::Close(order("wechat.codepay"))),
        ("refund", Operation::Refund(golden::refund("wechat.native"))),
        ("refundquery", Operation::QueryRefund(golden::refund("wechat.native"))),
    ]
}

const PAY: &str = "unifiedorder micropay";
const END: &str = "closeorder reverse";
const REST: &str = "orderquery refundquery";

/// Results of a signed `err_code`: interfaces, codes as in the official lists, name of the error.
const LISTED: &[(&[&str], &str, &str)] = &[
    (
        &[PAY, END, REST, "refund"],
        "ACCOUNTERROR APPID_MCHID_NOT_MATCH APPID_NOT_EXIST AUTH_CODE_ERROR AUTHCODEEXPIRE AUTH_CODE_INVALID BUYER_MISMATCH \
         ERROR INVALID_REQUEST INVALID_TRANSACTIONID LACK_PARAMS MCHID_NOT_EXIST NOAUTH NOTSUPORTCARD NOTSUPPORTCARD NOT_UTF8 \
         PARAM_ERROR POST_DATA_EMPTY REQUIRE_POST_METHOD RULELIMIT TRADE_OVERDUE USER_ACCOUNT_ABNORMAL XML_FORMAT_ERROR",
        "declined",
    ),
    (&[PAY], "NOTENOUGH TRADE_ERROR", "declined"),
    (&["reverse"], "REVERSE_EXPIRE", "declined"),
    (
        &[PAY, END, REST, "refund"],
        "BIZERR_NEED_RETRY FREQUENCY_LIMIT FREQUENCY_LIMITED INVALID_REQ_TOO_MUCH ORDER_NOT_READY",
        "provider_busy",
    ),
    (&["refund"], "NOTENOUGH", "provider_busy"),
    (
        &[PAY, END, REST, "refund"],
        "ORDERCLOSED ORDERPAID ORDERREVERSED OUT_TRADE_NO_USED TRADE_STATE_ERROR",
        "conflict",
    ),
    (&["refund"], "REFUND_FEE_MISMATCH", "conflict"),
    (&[END, REST, "refund"], "TRADE_ERROR", "conflict"),
    (&[END], "USERPAYING", "provider_busy"),
    (&[PAY, END, REST, "refund"], "ORDERNOTEXIST REFUNDNOTEXIST", "not_found"),
    (&[PAY, END, REST, "refund"], "BANKERROR SYSTEMERROR", "unclear"),
    (&["unifiedorder", REST, "refund"], "USERPAYING", "conflict"),
    (&[PAY, END, REST, "refund"], "CERT_ERROR SIGNERROR", "unauthorized"),
    // Codes that no list contains.
    (&[PAY, END, REST, "refund"], "SOMETHING_NEW REFUND_LOCKED", "unlisted_refusal"),
    (&[PAY, END, REST], "REFUND_FEE_MISMATCH", "unlisted_refusal"),
];

fn refused(operation: &Operation, code: &str) -> Error {
    let fields = [("result_code", "FAIL"), ("err_code", code), ("err_code_des", "余额不足"), ("recall", "N")];
    answered(operation, &fields).unwrap_err()
}

#[test]
fn every_listed_code_is_classified_in_every_interface() {
    let mut seen = BTreeSet::new();
    for (interfaces, codes, expected) in LISTED {
        for (name, operation) in operations()
            .iter()
            .filter(|(name, _)| interfaces.iter().any(|names| names.split(' ').any(|it| it == *name)))
        {
            for code in codes.split_whitespace() {
                seen.insert(table::bare(code));
                let error = refused(operation, code);
                assert_eq!(error.code(), *expected, "{name} {code}");
                let provider_error = error.provider_error().unwrap();
                assert_eq!(
                    (provider_error.code.as_str(), provider_error.message.as_str()),
                    (code, "余额不足"),
                    "{name} {code}"
                );
                let is_ill = matches!(*expected, "unclear" | "unauthorized");
                assert_eq!(error.is_channel_failure(), is_ill, "what a breaker counts: {name} {code}");
                let is_released = matches!(*expected, "provider_busy" | "unauthorized");
                assert_eq!(error.provably_not_executed(), is_released, "the same key sends again: {name} {code}");
            }
        }
    }
    let untested: Vec<_> = CODES
        .iter()
        .filter(|(code, _, interfaces)| *interfaces != [Interface::Bill] && !seen.contains(*code))
        .collect();
    assert!(untested.is_empty(), "{untested:?}");
    // The payer is entering the password: the payment is in progress.
    let typing = [("result_code", "FAIL"), ("err_code", "USERPAYING")];
    assert_eq!(answered(&golden::pay("wechat.codepay"), &typing).unwrap().status, Status::Pending);
}

/// An unsigned refusal leaves requests that move money open, and ends orders that nobody can pay yet.
#[test]
fn unsigned_refusal_never_ends_a_request_that_moves_money() {
    let result = |operation: &Operation, code: &str| {
        let body = format!(
            "<xml><return_code>SUCCESS</return_code><result_code>FAIL</result_code><err_code>{code}</err_code></xml>"
        );
        provider().decode_unsigned_error(operation, StatusCode::OK, body.as_bytes())
    };
    for (name, operation) in operations() {
        let moves = ["micropay", "reverse", "refund"].contains(&name);
        assert_eq!(result(&operation, "NOAUTH").code(), if moves { "unclear" } else { "declined" }, "{name}");
        assert_eq!(result(&operation, "ORDERNOTEXIST").code(), "unclear", "{name}");
        assert_eq!(result(&operation, "NOAUTH").provider_error().unwrap().code, "NOAUTH");
        assert_eq!(result(&operation, "SIGNERROR").code(), "unauthorized", "{name}");
        assert_eq!(result(&operation, "FREQUENCY_LIMITED").code(), "provider_busy", "{name}");
        assert_eq!(result(&operation, "SOMETHING_NEW").code(), "unclear", "{name}");
        assert_eq!(result(&operation, "SYSTEMERROR").code(), "unclear", "{name}");
    }
    let done = b"<xml><return_code>SUCCESS</return_code><result_code>SUCCESS</result_code></xml>";
    let error = provider().decode_unsigned_error(&golden::pay("wechat.native"), StatusCode::OK, done);
    assert_eq!((error.code(), error.provider_error()), ("unclear", None));
}

fn protocol_error(code: &str, message: &str) -> String {
    format!("<xml><return_code><![CDATA[{code}]]></return_code><return_msg><![CDATA[{message}]]></return_msg></xml>")
}

#[test]
fn message_about_our_key_or_certificate_is_unauthorized() {
    for message in [
        "签名错误",
        "签名错误，请检查后再试",
        "签名失败",
        "签名校验失败，请检查后重试",
        "签名验证失败",
        "验签失败",
        "签名不正确",
        "证书已过期",
        "商户证书不合法",
        "证书校验错误",
        "certificate not match",
        "商户号未设置API密钥",
        "SIGN ERROR",
        "invalid signature",
    ] {
        for code in ["FAIL", "PARAM_ERROR", "SIGNERROR", "SYSTEMERROR", ""] {
            for (name, operation) in operations() {
                let body = protocol_error(code, message);
                let error = provider().decode_unsigned_error(&operation, StatusCode::OK, body.as_bytes());
                assert!(
                    matches!(&error, Error::Unauthorized(provider_error) if provider_error.message == message),
                    "{name} {code} {error}"
                );
            }
        }
    }
    for page in ["No required SSL certificate was sent", "The SSL certificate error"] {
        let html = format!("<html><head><title>400 {page}</title></head><body><hr>nginx</body></html>");
        for (name, operation) in operations() {
            let result = |status| provider().decode_unsigned_error(&operation, status, html.as_bytes()).code();
            assert_eq!(result(StatusCode::BAD_REQUEST), "unauthorized", "{name} {page}");
            assert_eq!(result(StatusCode::BAD_GATEWAY), "unclear", "{name} {page}");
        }
    }
}

#[test]
fn rejected_order_is_declined_and_request_that_moves_money_is_unclear() {
    for (message, prepaid) in [
        ("appid和mch_id不匹配", "declined"),
        ("appid不存在", "declined"),
        ("商户号mch_id不存在", "declined"),
        ("商户号该产品权限未开通，请前往商户平台>产品中心检查后重试", "declined"),
        ("受理关系不存在", "declined"),
        ("XML格式错误", "declined"),
        ("缺少参数", "declined"),
        ("Something that nobody has seen", "declined"),
        ("", "declined"),
        ("系统繁忙，请稍后再试", "unclear"),
        ("系统超时", "unclear"),
        ("内部错误", "unclear"),
        ("服务不可用，请重试", "unclear"),
        ("服务暂时不可用", "unclear"),
        ("服务器开小差了", "unclear"),
        ("网络异常", "unclear"),
        ("当前人数较多，请稍候重试", "unclear"),
        ("SYSTEM ERROR", "unclear"),
        ("system busy", "unclear"),
        ("Internal Server Error", "unclear"),
        ("Service Unavailable", "unclear"),
        ("request timeout", "unclear"),
        ("please try again later", "unclear"),
        ("请求过于频繁", "provider_busy"),
        ("触发限流", "provider_busy"),
        ("too many requests", "provider_busy"),
        ("商户号不可用", "declined"),
        ("time_expire must be later than time_start", "declined"),
        ("该订单已支付", "conflict"),
        ("201 商户订单号重复", "conflict"),
    ] {
        let body = protocol_error("FAIL", message);
        for (name, operation) in operations() {
            let error = provider().decode_unsigned_error(&operation, StatusCode::OK, body.as_bytes());
            assert_eq!(error.provider_error().unwrap().message, message, "{name}");
            if name == "unifiedorder" {
                assert_eq!(error.code(), prepaid, "{message}");
            } else if ["micropay", "reverse", "refund"].contains(&name) {
                let expected = if prepaid == "declined" { "unclear" } else { prepaid };
                assert_eq!(error.code(), expected, "{name} {message}");
                assert!(error.to_string().contains(message), "the error contains the message: {error}");
                assert!(!matches!(error, Error::Declined(_) | Error::NotFound(_)), "{name} {message}");
            }
            let broken = provider().decode_unsigned_error(&operation, StatusCode::BAD_GATEWAY, body.as_bytes());
            let is_final = matches!(broken, Error::Declined(_) | Error::NotFound(_) | Error::Conflict(_));
            assert!(!is_final, "a failed server is not trusted about the order: {name} {message}");
        }
    }
    // Every row is matched by one of its own messages, and no message means that the order does not exist.
    for (parts, class) in MESSAGE_TABLES.into_iter().flatten() {
        assert_eq!(class_of_message(&parts.concat()), Some(*class), "{parts:?}");
        assert_ne!(*class, Class::Absent, "{parts:?}");
    }
}

/// A signed `return_code` FAIL comes from the platform itself, so it may end requests that move money, but not with an
/// unknown message.
#[test]
fn signed_rejection_is_declined_only_with_known_message() {
    let result = |message: &str| {
        let fail = [("return_code", "FAIL"), ("return_msg", message)];
        answered(&golden::pay("wechat.codepay"), &fail).unwrap_err().code()
    };
    assert_eq!(result("appid和mch_id不匹配"), "declined");
    assert_eq!(result("Something that nobody has seen"), "unlisted_refusal");
}

#[test]
fn signed_failure_without_account_ids_is_classified_by_code() {
    let nameless = |code: &str| {
        let fields = [("return_code", "SUCCESS"), ("result_code", "FAIL"), ("err_code", code)];
        let body = signed(&fields);
        let verified = verify(Source::Answer, body.as_bytes()).unwrap();
        let stamp = super::super::super::Stamp { unix_time: NOW, nonce: String::new() };
        let with = Signing { signer: &*crate::signer::none(), keys: &Keyring::default(), stamp: &stamp };
        let Operation::Pay(pay) = golden::pay("wechat.native") else { panic!() };
        provider().decode(&Operation::Close(pay.order), StatusCode::OK, verified, with).unwrap_err().code()
    };
    assert_eq!(nameless("SYSTEMERROR"), "unclear");
    assert_eq!(nameless("NOAUTH"), "declined");
    assert_eq!(nameless("ORDERNOTEXIST"), "not_found");
    let neither = queried("wechat.native", &[("result_code", "")]).unwrap_err();
    assert_eq!((neither.code(), neither.provider_error()), ("unclear", None), "neither done nor refused");
    // An id in the message must be ours, and a success must contain all of them.
    let fail = [("result_code", "FAIL"), ("err_code", "ORDERNOTEXIST")];
    for (name, other) in [("appid", "wx1"), ("mch_id", "1")] {
        let error = queried("wechat.native", &[&fail[..], &[(name, other)]].concat()).unwrap_err();
        assert_eq!(error.code(), "mismatch", "{name}");
        assert_eq!(queried("wechat.native", &[&fail[..], &[(name, "")]].concat()).unwrap_err().code(), "not_found");
        let nameless = queried("wechat.native", &[(name, "")]).unwrap_err();
        assert_eq!(nameless.code(), "unclear", "no other {name} is named: {nameless}");
    }
}

/// The official texts of INVALID_REQUEST and ERROR name several causes. The description identifies the cause.
#[test]
fn code_with_several_causes_is_classified_by_description() {
    for (name, operation) in operations() {
        let cases = [
            ("系统繁忙，请稍后再试", "unclear"),
            ("内部错误", "unclear"),
            ("请求过于频繁", "provider_busy"),
            ("该订单已支付", "conflict"),
            ("累计退款金额大于支付金额", "declined"),
        ];
        for (words, expected) in cases {
            for code in ["INVALID_REQUEST", "ERROR"] {
                let fields = [("result_code", "FAIL"), ("err_code", code), ("err_code_des", words), ("recall", "N")];
                assert_eq!(answered(&operation, &fields).unwrap_err().code(), expected, "{name} {code} {words}");
            }
        }
        for (words, expected) in [
            ("201 商户订单号重复", "conflict"),
            ("证书校验错误", "unauthorized"),
            ("调用频率过高", "provider_busy"),
            ("x", "declined"),
        ] {
            let fields =
                [("result_code", "FAIL"), ("err_code", "INVALID_REQUEST"), ("err_code_des", words), ("recall", "N")];
            assert_eq!(answered(&operation, &fields).unwrap_err().code(), expected, "{name} {words}");
        }
    }
}

#[test]
fn every_message_about_the_signature_is_unauthorized() {
    for words in [
        "签名验证不通过",
        "签名不合法",
        "缺少签名",
        "验签不通过",
        "缺少sign参数",
        "sign check error",
        "此IP地址不允许调用接口",
    ] {
        assert_eq!(class_of_message(words), Some(Class::Credentials), "{words}");
    }
}
