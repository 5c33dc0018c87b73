//! Error codes of APIv3, with the errors that they are converted to.

use http::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use super::super::wechat_errors::{self as table, BILL, Class, END, EVERY, Interface, PAY, Row, bare};
use crate::error::{Error, ProviderError};

/// Codes of the official lists: the list shared by all interfaces, those of create, query, close and reverse (which are
/// the same), of refund and refund query, and of bills.
pub(super) const CODES: &[Row] = &[
    // Not executed, and final.
    ("ACCOUNTERROR", Class::Final, EVERY),       // create 403: the payer's account
    ("APPIDMCHIDNOTMATCH", Class::Final, EVERY), // create 400
    ("AUTHCODEERROR", Class::Final, PAY),        // micropay of APIv2
    ("AUTHCODEEXPIRE", Class::Final, PAY),       // shared: the scanned code is too old
    ("AUTHCODEINVALID", Class::Final, PAY),      // shared: the scanned code is none
    ("ERROR", Class::Final, EVERY),              // shared: the reason is in the message
    ("INVALIDREQUEST", Class::Final, EVERY),     // every list, 400
    ("INVALIDTRANSACTIONID", Class::Final, EVERY), // create 500
    ("MCHNOTEXISTS", Class::Final, EVERY),       // create 400, refund 404: says nothing about the order
    ("NOAUTH", Class::Final, EVERY),             // every list, 403
    ("NOTENOUGH", Class::Final, PAY),            // create 403: the payer's money
    ("NOTSUPORTCARD", Class::Final, PAY),        // micropay of APIv2, spelt so
    ("OPENIDMISMATCH", Class::Final, EVERY),     // create 500
    ("PARAMERROR", Class::Final, EVERY),         // every list, 400
    ("RULELIMIT", Class::Final, EVERY),          // create 403
    ("TRADEERROR", Class::Final, PAY),           // create 403: the payment failed for a business reason
    ("USERACCOUNTABNORMAL", Class::Final, EVERY), // refund 403: the payer's account was closed
    ("USERNOTEXIST", Class::Final, EVERY),       // shared: the payer's account was closed
    ("USERNOTEXISTS", Class::Final, EVERY),      // shared: the openid is wrong
    // Not executed: send the same request later.
    ("BIZERRNEEDRETRY", Class::Later, EVERY), // refund: refused for concurrency, "same parameters again"
    ("FREQUENCYLIMITED", Class::Later, EVERY), // every list, 429
    ("FREQUENCYLIMITEXCEED", Class::Later, EVERY), // shared, 429
    ("NOTENOUGH", Class::Later, EVERY),       // refund 403: the merchant's money, which is topped up
    ("RATELIMITEXCEEDED", Class::Later, EVERY), // shared, 429
    ("REQUESTBLOCKED", Class::Later, EVERY),  // refund 403
    ("STATEMENTCREATING", Class::Later, BILL), // bills 400
    // Another state: query and adopt it.
    ("ALREADYEXISTS", Class::State, EVERY),         // shared
    ("ORDERCLOSED", Class::State, EVERY),           // create 400
    ("ORDERPAID", Class::State, EVERY),             // shared, 400
    ("ORDERREVERSED", Class::State, EVERY),         // shared, 400
    ("OUTTRADENOUSED", Class::State, EVERY),        // create 403: the same number with other parameters
    ("RESOURCEALREADYEXISTS", Class::State, EVERY), // shared, 400
    ("TRADEERROR", Class::State, EVERY),            // close 403
    ("USERPAYING", Class::Later, END),              // close 202: the payer is typing the password
    ("USERPAYING", Class::State, EVERY),            // create 202
    // The order, refund or bill does not exist.
    ("NOSTATEMENTEXIST", Class::Absent, BILL),   // bills 400
    ("ORDERNOTEXIST", Class::Absent, EVERY),     // create 404
    ("REFUNDNOTEXISTS", Class::Absent, EVERY),   // shared, 404
    ("RESOURCENOTEXISTS", Class::Absent, EVERY), // refund 404
    // The request may have been executed: query.
    ("BANKERROR", Class::Query, EVERY),   // create 500
    ("NOTFOUND", Class::Query, EVERY),    // shared, 404: the address may be the one that does not exist
    ("SYSTEMERROR", Class::Query, EVERY), // every list, 500
    // Our key, certificate or clock is invalid.
    ("SIGNERROR", Class::Credentials, EVERY), // every list, 401
];

/// Final codes that the lists contain with HTTP 500. Any other final code with a 5xx status is attributed to a failed
/// server.
const FINAL_WITH_500: &[&str] = &["INVALIDTRANSACTIONID", "OPENIDMISMATCH"];

/// Message fragments about our key, or about the key that WeChat Pay is asked to sign with. Their code is PARAM_ERROR.
const CREDENTIALS: &[&str] = &["Wechatpay-Serial", "证书序列号", "公钥ID", "Authorization"];

#[derive(Deserialize)]
struct Refusal {
    code: String,
    #[serde(default)]
    message: String,
    /// Has many formats; in most of them `field` names the invalid parameter.
    #[serde(default)]
    detail: Value,
}

impl Refusal {
    /// Parses an error in WeChat Pay's format. Anything else came from an intermediary.
    fn read(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }

    fn is_about_credentials(&self) -> bool {
        let field = self.detail["field"].as_str().unwrap_or_default();
        CREDENTIALS.iter().any(|part| self.message.contains(part) || field.contains(part))
    }

    fn class(&self, interface: Interface, status: StatusCode) -> Option<Class> {
        if status == StatusCode::UNAUTHORIZED || status.is_client_error() && self.is_about_credentials() {
            return Some(Class::Credentials);
        }
        // Both messages mean OUT_TRADE_NO_USED: "201 商户订单号重复", "请求重入时，参数与首次请求时不一致".
        let is_number_used =
            bare(&self.code) == "INVALIDREQUEST" && ["重复", "首次请求"].iter().any(|part| self.message.contains(part));
        let known =
            table::class(CODES, &self.code, interface).map(|class| match table::platform_failure(&self.message) {
                _ if is_number_used => Class::State,
                Some(platform_failure) if table::has_several_causes(&self.code) => platform_failure,
                _ => class,
            });
        let is_server_failure = status.is_server_error() && !FINAL_WITH_500.contains(&bare(&self.code).as_str());
        match known {
            // A failed server is trusted only if it reports overload.
            Some(Class::Later) => known,
            _ if is_server_failure => Some(Class::Query),
            None if status == StatusCode::TOO_MANY_REQUESTS => Some(Class::Later),
            _ => known,
        }
    }
}

/// Returns the error of a verified answer with an error status.
pub(super) fn refusal(interface: Interface, status: StatusCode, body: &[u8]) -> Error {
    error(interface, status, body, true)
}

/// Returns the error of an unsigned answer with an error status.
pub(super) fn unsigned(interface: Interface, status: StatusCode, body: &[u8]) -> Error {
    error(interface, status, body, false)
}

fn error(interface: Interface, status: StatusCode, body: &[u8], is_signed: bool) -> Error {
    let is_error = status.is_client_error() || status.is_server_error();
    let Some(refusal) = Refusal::read(body).filter(|_| is_error) else {
        return Error::unclear(format!("HTTP {} answer in an unknown format", status.as_u16()));
    };
    let class = refusal.class(interface, status);
    let word = ProviderError { code: refusal.code, message: refusal.message };
    table::error(class, interface, is_signed, word, format!("HTTP {} error answer", status.as_u16()))
}

/// Returns WeChat Pay's error if the payer is entering the password. It comes with HTTP 202 and other statuses.
pub(super) fn awaiting_password(body: &[u8]) -> Option<ProviderError> {
    let Refusal { code, message, .. } = Refusal::read(body).filter(|refusal| bare(&refusal.code) == "USERPAYING")?;
    Some(ProviderError { code, message })
}
