//! Error codes and messages of APIv2, with the errors that they are converted to.

use http::StatusCode;

use super::super::answer_codes::{self as table, BILL, Class, CodeRow, END, EVERY, Interface, PAY, REFUND, REVERSE};
use super::xml::{self, Fields};
use crate::error::{Error, ProviderError};

/// Codes (`err_code`, in bills also `return_msg` and `error_code`) of the official lists of `unifiedorder`, `micropay`,
/// `orderquery`, `closeorder`, `reverse`, `refund`, `refundquery`, `downloadbill` and `downloadfundflow`. A code of one
/// list is accepted in every interface, because the platform uses more codes than it lists.
pub(super) const CODES: &[CodeRow] = &[
    // Not executed, and final.
    ("ACCOUNTERROR", Class::Final, EVERY), // not in a v2 list, but in each of v3's
    ("APPIDMCHIDNOTMATCH", Class::Final, EVERY), // unifiedorder, micropay
    ("APPIDNOTEXIST", Class::Final, EVERY), // unifiedorder, micropay, refund, refundquery
    ("AUTHCODEERROR", Class::Final, EVERY), // micropay
    ("AUTHCODEEXPIRE", Class::Final, EVERY), // micropay
    ("AUTHCODEINVALID", Class::Final, EVERY), // micropay
    ("BUYERMISMATCH", Class::Final, EVERY), // micropay
    ("DATAFORMATERROR", Class::Final, BILL), // downloadbill
    ("ERROR", Class::Final, EVERY),        // refund: the reason is in the description
    ("INVALIDBILLTYPE", Class::Final, BILL), // downloadbill
    ("INVALIDREQUEST", Class::Final, EVERY), // unifiedorder, micropay, reverse, refund
    ("INVALIDTRANSACTIONID", Class::Final, EVERY), // reverse, refund, refundquery
    ("LACKPARAMS", Class::Final, EVERY),   // unifiedorder, micropay
    ("MCHIDNOTEXIST", Class::Final, EVERY), // unifiedorder, micropay, refund, refundquery
    ("MISSINGPARAMETER", Class::Final, BILL), // downloadbill
    ("NOAUTH", Class::Final, EVERY),       // unifiedorder, micropay, refund
    ("NOTENOUGH", Class::Final, PAY),      // unifiedorder, micropay: the payer's money
    ("NOTSUPORTCARD", Class::Final, EVERY), // micropay, spelt so
    ("NOTSUPPORTCARD", Class::Final, EVERY), // the same, spelt right
    ("NOTUTF8", Class::Final, EVERY),      // unifiedorder, micropay
    ("PARAMERROR", Class::Final, EVERY),   // micropay, reverse, refund, refundquery
    ("POSTDATAEMPTY", Class::Final, EVERY), // unifiedorder
    ("REQUIREPOSTMETHOD", Class::Final, EVERY), // all but the queries
    ("REVERSEEXPIRE", Class::Final, REVERSE), // reverse: more than seven days old
    ("RULELIMIT", Class::Final, EVERY),    // micropay
    ("TRADEERROR", Class::Final, PAY),     // micropay: the payment failed for a business reason
    ("TRADEOVERDUE", Class::Final, EVERY), // refund: more than a year old
    ("USERACCOUNTABNORMAL", Class::Final, EVERY), // refund: the payer's account was closed
    ("XMLFORMATERROR", Class::Final, EVERY), // all but the queries
    // Not executed: send the same request later.
    ("BILLCREATING", Class::Later, BILL),        // downloadbill
    ("BIZERRNEEDRETRY", Class::Later, EVERY),    // refund: refused for concurrency, "same parameters again"
    ("COMPRESSGZIPERROR", Class::Later, BILL),   // downloadbill
    ("FREQUENCYLIMIT", Class::Later, EVERY),     // not listed: a spelling of the next one
    ("FREQUENCYLIMITED", Class::Later, EVERY),   // refund
    ("INVALIDREQTOOMUCH", Class::Later, EVERY),  // refund: blocked for a minute
    ("NOTENOUGH", Class::Later, EVERY),          // refund: the merchant's money, which is topped up
    ("ORDERNOTREADY", Class::Later, EVERY),      // refund: the order is being processed
    ("UNCOMPRESSGZIPERROR", Class::Later, BILL), // downloadbill
    // Another state: query and adopt it.
    ("ORDERCLOSED", Class::State, EVERY),    // unifiedorder, micropay, closeorder
    ("ORDERPAID", Class::State, EVERY),      // unifiedorder, micropay, closeorder
    ("ORDERREVERSED", Class::State, EVERY),  // micropay
    ("OUTTRADENOUSED", Class::State, EVERY), // unifiedorder, micropay: the same number with other parameters
    ("REFUNDFEEMISMATCH", Class::State, REFUND), // refund: the same number with another amount
    ("TRADEERROR", Class::State, EVERY),     // reverse
    ("TRADESTATEERROR", Class::State, EVERY), // closeorder, refund
    ("USERPAYING", Class::Later, END),       // reverse: the payer is typing the password
    ("USERPAYING", Class::State, EVERY),     // micropay
    // The order, refund or bill does not exist.
    ("20002", Class::Absent, BILL),           // downloadbill, `error_code`
    ("NOBILLEXIST", Class::Absent, BILL),     // downloadbill, downloadfundflow
    ("ORDERNOTEXIST", Class::Absent, EVERY),  // orderquery, closeorder, reverse, refund
    ("REFUNDNOTEXIST", Class::Absent, EVERY), // refundquery
    // The request may have been executed: query.
    ("BANKERROR", Class::Query, EVERY),   // micropay
    ("SYSTEMERROR", Class::Query, EVERY), // every list
    // Our key or certificate is invalid.
    ("CERTERROR", Class::Credentials, EVERY), // refund, reverse: the API certificate
    ("SIGNERROR", Class::Credentials, EVERY), // every list
];

/// Message fragments (`return_msg`) about our key, certificate or address, for requests that were rejected without a
/// code. The first row whose fragments all occur in the message applies. These rows are tried first, then
/// [`table::PLATFORM_FAILURES`], then [`OTHER_MESSAGES`].
const CREDENTIALS: &[(&[&str], Class)] = &[
    // The API key: 签名错误, 签名校验失败, 签名验证不通过, 验签失败, 缺少签名, sign check error, 缺少参数sign.
    (&["签名"], Class::Credentials),
    (&["验签"], Class::Credentials),
    (&["sign"], Class::Credentials),
    (&["IP地址"], Class::Credentials), // 此IP地址不允许调用接口: this machine's address is in no list of the merchant's
    (&["密钥"], Class::Credentials),   // none is set, or it is no longer valid
    // The API certificate: 证书已过期, 商户证书不合法, 证书校验错误, certificate not match.
    (&["证书"], Class::Credentials),
    (&["certificate"], Class::Credentials),
];

/// Message fragments about the order, the account and the format. No message means that an order does not exist: that
/// requires a code.
const OTHER_MESSAGES: &[(&[&str], Class)] = &[
    // The order.
    (&["已支付"], Class::State),
    (&["已关闭"], Class::State),
    (&["处理中"], Class::State),
    (&["重复"], Class::State), // 商户订单号重复
    // Account and permission.
    (&["appid"], Class::Final), // appid和mch_id不匹配, appid不存在, sub_appid与appid不匹配
    (&["mch_id"], Class::Final),
    (&["mchid"], Class::Final),
    (&["商户号"], Class::Final),
    (&["权限"], Class::Final),
    (&["受理"], Class::Final), // a service provider without this merchant
    // The request format.
    (&["参数"], Class::Final), // 缺少参数, 参数格式校验错误
    (&["XML"], Class::Final),
    (&["POST"], Class::Final),
    (&["编码"], Class::Final),
    (&["格式"], Class::Final),
];

/// Tables of message fragments, in the order in which they are tried.
pub(super) const MESSAGE_TABLES: [&[(&[&str], Class)]; 3] = [CREDENTIALS, table::PLATFORM_FAILURES, OTHER_MESSAGES];

/// Messages in the HTML pages of the proxy before the platform, which checks the client certificate: nothing was
/// executed.
const CERTIFICATE_ERROR_PAGES: &[&str] = &["No required SSL certificate was sent", "The SSL certificate error"];

/// Returns the error of an unsigned answer. An unsigned answer may reject or postpone a request, never confirm it.
pub(super) fn unsigned(interface: Interface, status: StatusCode, body: &[u8]) -> Error {
    let Some(fields) = xml::read("xml", body) else { return html_error(status, body) };
    let error = match (text(&fields, "return_code"), text(&fields, "result_code")) {
        ("SUCCESS", "" | "SUCCESS") => Error::unclear("unsigned SUCCESS answer"),
        ("SUCCESS", _) => refusal(interface, &fields, false),
        _ => protocol_error(interface, status, &fields, false),
    };
    match error {
        // An unsigned NotFound would end a payment or a refund as if it had never existed.
        Error::NotFound(provider_error) => Error::Unclear {
            why: "unsigned answer that the order or refund does not exist".to_owned(),
            provider_error: Some(provider_error),
        },
        error => error,
    }
}

fn html_error(status: StatusCode, body: &[u8]) -> Error {
    let body = String::from_utf8_lossy(body);
    match CERTIFICATE_ERROR_PAGES
        .iter()
        .find(|class_of_message| status == StatusCode::BAD_REQUEST && body.contains(**class_of_message))
    {
        Some(class_of_message) => Error::Unauthorized(ProviderError {
            code: status.as_u16().to_string(),
            message: (*class_of_message).to_owned(),
        }),
        None => Error::unclear(format!("HTTP {} answer that is not flat XML", status.as_u16())),
    }
}

/// Returns the error of a `result_code` other than SUCCESS.
pub(super) fn refusal(interface: Interface, fields: &Fields, is_signed: bool) -> Error {
    let provider_error =
        ProviderError { code: text(fields, "err_code").to_owned(), message: text(fields, "err_code_des").to_owned() };
    let class = table::class(CODES, &provider_error.code, interface).map(|class| refine_class(class, &provider_error));
    table::error(class, interface, is_signed, provider_error, "error answer".to_owned())
}

/// Returns the class of a code whose official text names several causes: INVALID_REQUEST means
/// "商户权限异常、重复请求支付、证书错误、频率限制等". Its description identifies the cause, as in "201 商户订单号重复".
fn refine_class(class: Class, provider_error: &ProviderError) -> Class {
    let from_description = || class_of_message(&provider_error.message).filter(|class| *class != Class::Final);
    if table::has_several_causes(&provider_error.code) { from_description().unwrap_or(class) } else { class }
}

/// Returns whether the payer of a scanned code is entering the password.
pub(super) fn awaits_password(provider_error: &ProviderError) -> bool {
    table::bare(&provider_error.code) == "USERPAYING"
}

/// Returns the error of a `return_code` other than SUCCESS: the request was rejected before it was executed.
///
/// Most of these answers are unsigned and contain a message only. A prepaid order counts as not created, because the
/// payer got nothing to pay with.
pub(super) fn protocol_error(interface: Interface, status: StatusCode, fields: &Fields, is_signed: bool) -> Error {
    let code = Some(text(fields, "err_code")).filter(|code| !code.is_empty()).unwrap_or(text(fields, "return_code"));
    // WeChat Pay's own test system writes `retmsg`.
    let message = Some(text(fields, "return_msg")).filter(|error| !error.is_empty()).unwrap_or(text(fields, "retmsg"));
    // Some messages are a code themselves, as SIGN ERROR.
    let listed = || table::class(CODES, message, interface).or_else(|| table::class(CODES, code, interface));
    let known = class_of_message(message).or_else(listed);
    let class = match known {
        // With HTTP 5xx, statements about the order are ignored.
        Some(Class::Final | Class::Absent | Class::State) | None if status.is_server_error() => Some(Class::Query),
        None if interface == Interface::Prepay => Some(Class::Final),
        known => known,
    };
    let provider_error = ProviderError { code: code.to_owned(), message: message.to_owned() };
    table::error(
        class,
        interface,
        is_signed,
        provider_error,
        "the request was rejected with an unlisted message".to_owned(),
    )
}

/// Returns the class of a message without a code; `None` if no row applies.
pub(super) fn class_of_message(text: &str) -> Option<Class> {
    MESSAGE_TABLES.into_iter().find_map(|rows| table::class_of_message(rows, text))
}

fn text<'a>(fields: &'a Fields, name: &str) -> &'a str {
    fields.get(name).map_or("", String::as_str)
}
