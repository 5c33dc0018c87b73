//! APIv2's error codes (`err_code`), sorted by what they say of the money.

use crate::error::{Error, Word};
use crate::payment::Kind;

/// What a code means.
#[derive(Clone, Copy)]
enum Class {
    /// It may have been done: ask.
    Unclear,
    /// It was not done: the same again, later.
    Busy,
    /// The order is in another state: ask, and adopt it.
    Conflict,
    /// There is no such order or refund.
    Absent,
    /// Our signature was not accepted, so nothing was done.
    Unauthorized,
    /// It was not done and will not be.
    Declined,
    /// Money is missing. The payer's ends a payment; a refund waits for the merchant's, and is then asked for by the same number.
    Poor,
}

const CODES: &[(&str, Class)] = &[
    ("SYSTEMERROR", Class::Unclear),
    ("BANKERROR", Class::Unclear),
    ("USERPAYING", Class::Unclear), // the payer is typing the password
    ("BIZERR_NEED_RETRY", Class::Unclear),
    ("FREQUENCY_LIMITED", Class::Busy),
    ("FREQUENCY_LIMIT", Class::Busy),
    ("INVALID_REQ_TOO_MUCH", Class::Busy),
    ("ORDERPAID", Class::Conflict),
    ("ORDERCLOSED", Class::Conflict),
    ("ORDERREVERSED", Class::Conflict),
    ("OUT_TRADE_NO_USED", Class::Conflict), // the same number with other parameters
    ("TRADE_STATE_ERROR", Class::Conflict),
    ("ORDERNOTEXIST", Class::Absent),
    ("REFUNDNOTEXIST", Class::Absent),
    ("NOAUTH", Class::Declined),
    ("NOTENOUGH", Class::Poor),
    ("NOTSUPORTCARD", Class::Declined),
    ("AUTHCODEEXPIRE", Class::Declined),
    ("AUTH_CODE_ERROR", Class::Declined),
    ("AUTH_CODE_INVALID", Class::Declined),
    ("BUYER_MISMATCH", Class::Declined),
    ("TRADE_ERROR", Class::Declined),
    ("INVALID_REQUEST", Class::Declined),
    ("PARAM_ERROR", Class::Declined),
    ("LACK_PARAMS", Class::Declined),
    ("SIGNERROR", Class::Unauthorized),
    ("XML_FORMAT_ERROR", Class::Declined),
    ("REQUIRE_POST_METHOD", Class::Declined),
    ("POST_DATA_EMPTY", Class::Declined),
    ("NOT_UTF8", Class::Declined),
    ("APPID_NOT_EXIST", Class::Declined),
    ("MCHID_NOT_EXIST", Class::Declined),
    ("APPID_MCHID_NOT_MATCH", Class::Declined),
    ("TRADE_OVERDUE", Class::Declined),
    ("USER_ACCOUNT_ABNORMAL", Class::Declined),
    ("INVALID_TRANSACTIONID", Class::Declined),
    ("ERROR", Class::Declined),
    ("ACCOUNTERROR", Class::Declined),
    ("RULELIMIT", Class::Declined),
];

/// What a verified `result_code` FAIL says. Of a code that is not in the table nothing is concluded.
pub(super) fn refusal(kind: Kind, word: Word) -> Error {
    let class = CODES.iter().find(|(code, _)| *code == word.code).map_or(Class::Unclear, |(_, class)| *class);
    match class {
        Class::Unclear => Error::Unclear { why: "it answered with an error".to_owned(), word: Some(word) },
        Class::Busy => Error::Busy(word),
        Class::Poor if kind == Kind::Refund => Error::Busy(word),
        Class::Conflict => Error::Conflict(word),
        Class::Absent => Error::Absent(word),
        Class::Unauthorized => Error::Unauthorized(word),
        Class::Declined | Class::Poor => Error::Declined(word),
    }
}
