//! Alipay's codes, sorted by what they say of the money.

use crate::error::{Error, Word};

/// What a code means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// It may have been done: ask.
    Unclear,
    /// It was not done: the same again, later.
    Busy,
    /// The order is in another state: ask, and adopt it.
    Conflict,
    /// There is no such order or refund.
    Absent,
    /// It was not done and will not be.
    Declined,
}

/// By `sub_code` where there is one, else by `code`; a `*` stands for any end.
pub(super) const CODES: &[(&str, Class)] = &[
    ("20000", Class::Unclear), // the service is not there for the moment
    ("isp.unknow-error", Class::Unclear),
    ("aop.unknow-error", Class::Unclear),
    ("ACQ.SYSTEM_ERROR", Class::Unclear),
    ("AQC.SYSTEM_ERROR", Class::Unclear),              // so written by Alipay too
    ("ACQ.DISCORDANT_REPEAT_REQUEST", Class::Unclear), // a refund's number with another amount
    ("40005", Class::Busy),
    ("isv.app-call-limited", Class::Busy),
    ("isv.method-call-limited", Class::Busy),
    ("ACQ.TRADE_HAS_SUCCESS", Class::Conflict),
    ("ACQ.TRADE_HAS_CLOSE", Class::Conflict),
    ("ACQ.TRADE_HAS_FINISHED", Class::Conflict),
    ("ACQ.CONTEXT_INCONSISTENT", Class::Conflict), // the same number with other parameters
    ("ACQ.TRADE_STATUS_ERROR", Class::Conflict),
    ("ACQ.REASON_TRADE_STATUS_INVALID", Class::Conflict),
    ("ACQ.REASON_ILLEGAL_STATUS", Class::Conflict),
    ("ACQ.TRADE_CANCEL_TIME_OUT", Class::Conflict), // too late to cancel: refund
    ("ACQ.TRADE_NOT_EXIST", Class::Absent),         // also before the payer scans
    ("20001", Class::Declined),                     // the partner's token
    ("40001", Class::Declined),
    ("40002", Class::Declined),
    ("40006", Class::Declined),
    ("ACQ.PAYMENT_AUTH_CODE_INVALID", Class::Declined),
    ("ACQ.BUYER_BALANCE_NOT_ENOUGH", Class::Declined),
    ("ACQ.BUYER_BANKCARD_BALANCE_NOT_ENOUGH", Class::Declined),
    ("ACQ.ERROR_BALANCE_PAYMENT_DISABLE", Class::Declined),
    ("ACQ.PAYMENT_FAIL", Class::Declined),
    ("ACQ.PAYMENT_REQUEST_HAS_RISK", Class::Declined),
    ("ACQ.NO_PAYMENT_INSTRUMENTS_AVAILABLE", Class::Declined),
    ("ACQ.BUYER_SELLER_EQUAL", Class::Declined),
    ("ACQ.TRADE_BUYER_NOT_MATCH", Class::Declined),
    ("ACQ.BUYER_ENABLE_STATUS_FORBID", Class::Declined),
    ("ACQ.BUYER_PAYMENT_AMOUNT_DAY_LIMIT_ERROR", Class::Declined),
    ("ACQ.BUYER_PAYMENT_AMOUNT_MONTH_LIMIT_ERROR", Class::Declined),
    ("ACQ.BEYOND_PAY_RESTRICTION", Class::Declined),
    ("ACQ.BEYOND_PER_RECEIPT_*", Class::Declined),
    ("ACQ.TOTAL_FEE_EXCEED", Class::Declined),
    ("ACQ.EXIST_FORBIDDEN_WORD", Class::Declined),
    ("ACQ.ACCESS_FORBIDDEN", Class::Declined),
    ("ACQ.PARTNER_ERROR", Class::Declined),
    ("ACQ.INVALID_PARAMETER", Class::Declined),
    ("ACQ.INVALID_STORE_ID", Class::Declined),
    ("ACQ.SELLER_BEEN_BLOCKED", Class::Declined),
    ("ACQ.MERCHANT_STATUS_NOT_NORMAL", Class::Declined),
    ("ACQ.MERCHANT_AGREEMENT_*", Class::Declined),
    ("ACQ.USER_FACE_PAYMENT_SWITCH_OFF", Class::Declined),
    ("ACQ.MOBILE_PAYMENT_SWITCH_OFF", Class::Declined),
    ("ACQ.PULL_MOBILE_CASHIER_FAIL", Class::Declined),
    ("ACQ.NOW_TIME_AFTER_EXPIRE_TIME_ERROR", Class::Declined),
    ("ACQ.NOT_CERTIFIED_USER", Class::Declined),
    ("ACQ.SELLER_BALANCE_NOT_ENOUGH", Class::Declined), // a refund, until the account has been topped up
    ("ACQ.REFUND_AMT_NOT_EQUAL_TOTAL", Class::Declined),
    ("ACQ.REASON_TRADE_REFUND_FEE_ERR", Class::Declined),
    ("ACQ.REASON_TRADE_BEEN_FREEZEN", Class::Declined),
    ("ACQ.TRADE_NOT_ALLOW_REFUND", Class::Declined),
    ("ACQ.CANCEL_NOT_ALLOWED", Class::Declined),
];

/// What a signed answer other than a success says. Of a code that is not in the table nothing is concluded.
pub(super) fn refusal(code: &str, sub_code: Option<&str>, message: String) -> Error {
    let is = |known: &str, wanted: &str| match known.strip_suffix('*') {
        Some(start) => wanted.starts_with(start),
        None => known == wanted,
    };
    let find = |wanted: &str| CODES.iter().find(|(known, _)| is(known, wanted)).map(|(_, class)| *class);
    // The gateway refuses (`40002`) with details without number: there the code alone is enough.
    let class = match sub_code {
        Some(sub_code) => find(sub_code).or_else(|| find(code)),
        None => find(code),
    };
    let word = Word { code: sub_code.unwrap_or(code).to_owned(), message };
    match class.unwrap_or(Class::Unclear) {
        Class::Unclear => Error::Unclear { why: format!("it answered with code {code}"), word: Some(word) },
        Class::Busy => Error::Busy(word),
        Class::Conflict => Error::Conflict(word),
        Class::Absent => Error::Absent(word),
        Class::Declined => Error::Declined(word),
    }
}
