//! Every code of the official lists: its class, the reported error, what a breaker counts and whether a retry is
//! allowed.

use super::*;
use crate::provider::alipay::codes::{Class, Interface};
use crate::provider::alipay::gateway_codes;
use crate::provider::alipay::request::service;

/// Consequences of a class. The HTTP response for each error is tested in the gateway.
struct Consequences {
    /// Code of the error.
    error: &'static str,
    /// True if a breaker counts it.
    is_failure: bool,
    /// True if the same request may be sent again. Otherwise, unless declined, the order is queried.
    is_not_executed: bool,
}

fn consequences(class: Class) -> Consequences {
    let row = |error, is_failure, is_not_executed| Consequences { error, is_failure, is_not_executed };
    match class {
        // 202 unknown, then queries.
        Class::Unclear => row("unclear", true, false),
        // 503 provider_busy, same_key.
        Class::Busy => row("provider_busy", false, true),
        // 202 unknown, then queries; the channel is healthy.
        Class::Conflict => row("conflict", false, false),
        Class::Absent => row("not_found", false, false),
        // 503 channel_credentials_rejected, same_key; the breaker opens for everybody.
        Class::Unauthorized => row("unauthorized", true, true),
        // 402 declined, new_key.
        Class::Declined => row("declined", false, false),
    }
}

fn check(result: &Error, class: Class, code: &str) {
    let expected = consequences(class);
    assert_eq!(result.code(), expected.error, "{code}");
    assert_eq!(result.is_channel_failure(), expected.is_failure, "{code}");
    assert_eq!(result.provably_not_executed(), expected.is_not_executed, "{code}");
    assert_eq!(result.provider_error().unwrap().code, code);
}

fn of(interface: Interface) -> Option<Operation> {
    Some(match interface {
        Interface::Pay => Operation::Pay(pay("alipay.barcode")),
        Interface::Query => Operation::Query(order("alipay.qr")),
        Interface::Close => Operation::Close(order("alipay.qr")),
        Interface::Cancel => Operation::Close(order("alipay.barcode")),
        Interface::Refund => Operation::Refund(refund()),
        Interface::RefundQuery => Operation::QueryRefund(refund()),
        Interface::Bill => return None,
    })
}

fn form_error(operation: &Operation, content: &Value) -> Error {
    let name = service(operation).unwrap().replace('.', "_");
    let body = answered(&format!("{name}_response"), &content.to_string());
    let verified = provider().verify(Source::Answer, &HeaderMap::new(), body.into(), &keyring(), NOW).unwrap();
    signing(|with| provider().decode(operation, StatusCode::OK, verified, with)).unwrap_err()
}

fn v3_error(operation: &Operation, status: u16, code: &str) -> Error {
    let body = json!({"code": code, "message": "m", "links": [{"link": "https://open.alipay.com"}]}).to_string();
    let headers = super::v3::headers(&body);
    let verified = super::v3::v3("").verify(Source::Answer, &headers, body.into(), &keyring(), NOW).unwrap();
    let status = StatusCode::from_u16(status).unwrap();
    signing(|with| super::v3::v3("").decode(operation, status, verified, with)).unwrap_err()
}

#[test]
fn every_business_code_is_classified_in_both_protocols() {
    let mut checked = 0;
    for interface in Interface::ALL {
        let Some(operation) = of(interface) else { continue };
        for (bare, class, lists) in interface.list() {
            assert!(!lists.is_empty());
            checked += 1;
            let code = format!("ACQ.{bare}");
            let content = json!({"code": "40004", "msg": "Business Failed", "sub_code": code, "sub_msg": "m"});
            check(&form_error(&operation, &content), *class, &code);
            check(&v3_error(&operation, 400, &code), *class, &code);
        }
        for (bare, class, _) in interface.list() {
            assert_eq!(interface.class(bare), Some(*class), "{bare}: without a prefix");
            assert_eq!(interface.class(&format!("AQC.{bare}")), Some(*class), "{bare}: misspelled");
        }
    }
    let listed = |interface: &Interface| interface.list().len();
    let expected: usize = Interface::ALL.iter().filter(|interface| of(**interface).is_some()).map(listed).sum();
    assert_eq!(checked, expected, "every listed code");
}

/// Compares with the number of codes in the official lists, so that none gets lost.
#[test]
fn code_lists_are_complete_without_duplicates() {
    let pay = Interface::Pay.list();
    let count = |letter: char| pay.iter().filter(|(_, _, lists)| lists.contains(letter)).count();
    assert_eq!([count('p'), count('q'), count('c'), count('w')], [98, 40, 49, 23]);
    let lengths = [Interface::Refund, Interface::Cancel, Interface::Close, Interface::Query, Interface::Bill]
        .map(|interface| interface.list().iter().filter(|(_, _, lists)| *lists != "older").count());
    // The list of cancellations has SYSTEM_ERROR twice, once misspelled.
    assert_eq!(lengths, [31, 8, 6, 4, 8]);
    let names: Vec<_> = gateway_codes::ALL.iter().map(|(name, _)| *name).collect();
    assert!(names.len() >= 96, "{}", names.len());
    let lists = Interface::ALL.map(|interface| interface.list().iter().map(|(name, ..)| *name).collect::<Vec<_>>());
    for list in lists.into_iter().chain([names]) {
        let once: std::collections::BTreeSet<_> = list.iter().collect();
        assert_eq!(once.len(), list.len());
    }
}

#[test]
fn every_gateway_code_is_classified_with_and_without_prefix_and_signature() {
    let mut checked = 0;
    for (name, class) in gateway_codes::ALL {
        for interface in Interface::ALL {
            let Some(operation) = of(interface) else { continue };
            // An unsigned answer never ends a refund.
            let unsigned = match class {
                Class::Declined if interface == Interface::Refund => Class::Unclear,
                class => *class,
            };
            for prefix in ["", "isv.", "aop."] {
                let code = format!("{prefix}{name}");
                check(&v3_error(&operation, 400, &code), *class, &code);
                checked += 1;
                let body = json!({"code": code, "message": "m"}).to_string();
                let result =
                    super::v3::v3("").decode_unsigned_error(&operation, StatusCode::BAD_REQUEST, body.as_bytes());
                check(&result, unsigned, &code);
                for number in ["20001", "40001", "40002", "40003", "40006"] {
                    let content = json!({"code": number, "msg": "m", "sub_code": code, "sub_msg": "m"});
                    check(&form_error(&operation, &content), *class, &code);
                    let own = format!("{}_response", service(&operation).unwrap().replace('.', "_"));
                    for envelope in ["error_response", &own] {
                        let body = format!("{{\"{envelope}\":{content}}}");
                        check(
                            &provider().decode_unsigned_error(&operation, StatusCode::OK, body.as_bytes()),
                            unsigned,
                            &code,
                        );
                    }
                }
            }
        }
    }
    let operations = Interface::ALL.into_iter().filter_map(of).count();
    assert_eq!(checked, gateway_codes::ALL.len() * operations * 3, "every code, operation and prefix");
}

/// Codes that no list contains yet are recognized as credential errors by their parts.
#[test]
fn credential_error_is_never_unclear_or_declined() {
    for name in
        ["app-cert-revoked", "invalid-cert-chain", "signature-too-old", "invalid-encrypt-length", "illegal-app-id"]
    {
        for operation in operations() {
            let content = json!({"code": "40002", "msg": "m", "sub_code": format!("isv.{name}"), "sub_msg": "m"});
            check(&form_error(&operation, &content), Class::Unauthorized, &format!("isv.{name}"));
            let body = format!("{{\"error_response\":{content}}}");
            let result = provider().decode_unsigned_error(&operation, StatusCode::OK, body.as_bytes());
            check(&result, Class::Unauthorized, &format!("isv.{name}"));
            let result = provider().decode_unsigned_error(&operation, StatusCode::BAD_GATEWAY, body.as_bytes());
            assert_eq!(result.code(), "unclear", "a failed server is not trusted");
        }
    }
}

#[test]
fn numeric_code_decides_if_sub_code_is_unknown() {
    let write = Operation::Pay(pay("alipay.qr"));
    let result = |number: &str, name: &str| {
        let content = json!({"code": number, "msg": "m", "sub_code": name, "sub_msg": "m"});
        form_error(&write, &content).code()
    };
    for (number, name, expected) in [
        ("20000", "isp.unknow-error", "unclear"),
        ("20000", "isv.invalid-signature", "unclear"),
        ("20001", "aop.something-new", "unauthorized"),
        ("20001", "", "unauthorized"),
        ("40001", "isv.something-new", "declined"),
        ("40002", "", "declined"),
        ("40003", "", "unlisted_refusal"),
        ("40003", "isv.something-new", "unlisted_refusal"),
        ("40004", "", "unlisted_refusal"),
        ("40004", "ACQ.BRAND_NEW", "unlisted_refusal"),
        ("40004", "ACQ.BEYOND_PER_RECEIPT", "unlisted_refusal"),
        ("40004", "isv.app-cert-expired", "unauthorized"),
        ("40005", "isv.something-new", "provider_busy"),
        ("40006", "isv.something-new", "declined"),
        ("40009", "isv.something-new", "unlisted_refusal"),
        ("50000", "ACQ.PAYMENT_FAIL", "unclear"),
        ("10001", "ACQ.PAYMENT_FAIL", "unclear"),
        ("", "ACQ.PAYMENT_FAIL", "unclear"),
    ] {
        assert_eq!(result(number, name), expected, "{number} {name}");
    }
    let content = json!({"code": "40004", "msg": "m", "sub_code": "ACQ.BRAND_NEW", "sub_msg": "m"});
    let unlisted = form_error(&write, &content);
    assert!(!unlisted.is_channel_failure() && !unlisted.provably_not_executed());
}

#[test]
fn unsigned_refusal_of_interface_is_unclear() {
    let content = |number: &str| json!({"code": number, "msg": "m", "sub_code": "ACQ.TRADE_NOT_EXIST", "sub_msg": "m"});
    for operation in
        [Operation::Pay(pay("alipay.qr")), Operation::Refund(refund()), Operation::Query(order("alipay.qr"))]
    {
        let own = format!("{}_response", service(&operation).unwrap().replace('.', "_"));
        for number in ["10000", "10003", "20000", "40003", "40004"] {
            let result = |name: &str| {
                let body = format!("{{\"{name}\":{}}}", content(number));
                provider().decode_unsigned_error(&operation, StatusCode::OK, body.as_bytes())
            };
            assert_eq!(result(&own).code(), "unclear", "{number}");
            assert_eq!(result(&own).provider_error().unwrap().code, "ACQ.TRADE_NOT_EXIST", "its code is passed on");
            assert_eq!(result("error_response").code(), "unclear", "{number}");
        }
        let other = format!("{{\"alipay_trade_close_response\":{}}}", content("40002"));
        for body in
            ["", "<html>", "{}", "[]", "{\"error_response\":5}", "{\"error_response\":{\"code\":40002}}", &other]
        {
            assert_eq!(
                provider().decode_unsigned_error(&operation, StatusCode::OK, body.as_bytes()).code(),
                "unclear",
                "{body}"
            );
        }
    }
}

/// Samples of public reports and of the official documentation, written independently of the tables.
#[test]
fn reported_codes_are_classified() {
    let (write, back) = (Operation::Pay(pay("alipay.barcode")), Operation::Refund(refund()));
    let v3 = |operation: &Operation, code: &str| {
        let body = json!({"code": code, "message": "m", "links": []}).to_string();
        super::v3::v3("").decode_unsigned_error(operation, StatusCode::BAD_REQUEST, body.as_bytes()).code()
    };
    for code in "invalid-app-id invalid-signature missing-timestamp illegal-timestamp app-cert-expired app-cert-not-exist \
                 invalid-alipay-root-cert-sn unsupported-expired-app-key-sign app-key-security-risk missing-encrypt-key \
                 app-auth-token-time-out invalid-app-auth-token auth-token-time-out missing-signature-config \
                 decryption-error-unknown illegal-client-ip"
        .split_whitespace()
    {
        for operation in operations() {
            assert_eq!(v3(&operation, code), "unauthorized", "{code}");
        }
    }
    for code in ["app-call-limited", "method-call-limited"] {
        assert_eq!([v3(&write, code), v3(&back, code)], ["provider_busy"; 2], "{code}");
    }
    for code in ["insufficient-isv-permissions", "invalid-parameter", "invalid-method", "insufficient-user-permissions"]
    {
        assert_eq!([v3(&write, code), v3(&back, code)], ["declined", "unclear"], "{code}");
    }
    let form = |operation: &Operation, code: &str| {
        let content = json!({"code": "40004", "msg": "m", "sub_code": format!("ACQ.{code}"), "sub_msg": "m"});
        form_error(operation, &content).code()
    };
    for code in
        ["BUYER_BANKCARD_DECLINED", "BUYER_NOT_EXIST", "PRODUCT_AMOUNT_LIMIT_ERROR", "PAYMENT_AUTH_CODE_INVALID"]
    {
        assert_eq!(form(&write, code), "declined", "{code}");
    }
    for code in "REFUND_FEE_ERROR NOT_ALLOW_PARTIAL_REFUND BUYER_NOT_EXIST TRADE_SETTLE_ERROR REFUND_CHARGE_ERROR \
                 TRADE_STATUS_ERROR TRADE_HAS_FINISHED"
        .split_whitespace()
    {
        assert_eq!(form(&back, code), "declined", "{code}");
    }
    let close = Operation::Close(order("alipay.qr"));
    for (operation, code, class) in [
        (&write, "SYSTEM_ERROR", "unclear"),
        (&write, "TRADE_HAS_SUCCESS", "conflict"),
        (&write, "TRADE_STATUS_ERROR", "conflict"),
        (&write, "REASON_TRADE_STATUS_INVALID", "conflict"),
        (&close, "REASON_TRADE_STATUS_INVALID", "conflict"),
        (&close, "TRADE_NOT_EXIST", "not_found"),
        (&back, "SYSTEM_ERROR", "unclear"),
        (&back, "SELLER_BALANCE_NOT_ENOUGH", "provider_busy"),
        (&back, "DISCORDANT_REPEAT_REQUEST", "conflict"),
        (&back, "ANOTHER_NEW_ONE", "unlisted_refusal"),
    ] {
        assert_eq!(form(operation, code), class, "{code}");
    }
}

/// `isp.` names are failures of Alipay, whatever the number beside them.
#[test]
fn unlisted_isp_name_is_unclear() {
    let operation = Operation::Pay(pay("alipay.qr"));
    for number in ["20000", "40001", "40002", "40003", "40004", "40006"] {
        for name in ["isp.unknow-error", "isp.remote-connection-timeout", "isp.invalid-response"] {
            let content =
                json!({"code": number, "msg": "Service Currently Unavailable", "sub_code": name, "sub_msg": "m"});
            assert_eq!(form_error(&operation, &content).code(), "unclear", "{number} {name}");
        }
    }
    assert_eq!(v3_error(&operation, 400, "isp.remote-connection-timeout").code(), "unclear");
    assert_eq!(v3_error(&operation, 400, "isv.something-new").code(), "declined", "an error in our request");
}
