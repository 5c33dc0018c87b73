//! WeChat Pay's error codes, sorted by what they say of the money.

use http::StatusCode;
use serde::Deserialize;

use crate::error::{Error, Word};
use crate::payment::{Kind, Operation};

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

/// Codes are written without `_`, because WeChat Pay writes them with and without.
const CODES: &[(&str, Class)] = &[
    ("SYSTEMERROR", Class::Unclear),
    ("BANKERROR", Class::Unclear),
    ("USERPAYING", Class::Unclear), // the payer is typing the password
    ("FREQUENCYLIMITED", Class::Busy),
    ("RATELIMITEXCEEDED", Class::Busy),
    ("REQUESTBLOCKED", Class::Busy),
    ("ORDERPAID", Class::Conflict),
    ("OUTTRADENOUSED", Class::Conflict), // the same number with other parameters
    ("ORDERCLOSED", Class::Conflict),
    ("TRADEERROR", Class::Conflict),
    ("ORDERNOTEXIST", Class::Absent),
    ("RESOURCENOTEXISTS", Class::Absent), // a refund
    ("MCHNOTEXISTS", Class::Declined),    // the account is wrong: that says nothing about the order
    ("PARAMERROR", Class::Declined),
    ("INVALIDREQUEST", Class::Declined),
    ("APPIDMCHIDNOTMATCH", Class::Declined),
    ("SIGNERROR", Class::Unauthorized), // the key, the certificate's serial number, or our clock
    ("NOAUTH", Class::Declined),
    ("RULELIMIT", Class::Declined),
    ("ACCOUNTERROR", Class::Declined),
    ("USERACCOUNTABNORMAL", Class::Declined),
    ("OPENIDMISMATCH", Class::Declined),
    ("INVALIDTRANSACTIONID", Class::Declined),
    ("NOTENOUGH", Class::Poor),
];

#[derive(Deserialize)]
struct Refusal {
    code: String,
    #[serde(default)]
    message: String,
}

/// What an error answer says that carries no signature. It can turn an order away that nobody can pay yet, but what moves
/// money by itself is not given up on its word.
pub(super) fn unsigned(operation: &Operation, status: StatusCode, body: &[u8]) -> Error {
    let moves_money = match operation {
        Operation::Pay(pay) => pay.order.method.is_scanned(),
        other => other.kind() == Kind::Refund,
    };
    match refusal(operation.kind(), status, body) {
        Error::Declined(word) | Error::Absent(word) if moves_money => {
            Error::Unclear { why: "it refused without a signature".to_owned(), word: Some(word) }
        }
        said => said,
    }
}

/// What an error answer says. Only a code that is known to be final is; of all others, and of an answer that is not in
/// WeChat Pay's form and so came from something on the way, nothing is concluded about the money.
pub(super) fn refusal(kind: Kind, status: StatusCode, body: &[u8]) -> Error {
    let refusal =
        (status.is_client_error() || status.is_server_error()).then(|| serde_json::from_slice::<Refusal>(body));
    let Some(Ok(Refusal { code, message })) = refusal else {
        return Error::unclear(format!("it answered HTTP {} in an unknown form", status.as_u16()));
    };
    let bare = code.replace('_', "");
    let known = CODES.iter().find(|(name, _)| *name == bare).map(|(_, class)| *class);
    let class = match known {
        Some(Class::Poor) if kind == Kind::Refund => Class::Busy,
        Some(class) => class,
        None if status == StatusCode::TOO_MANY_REQUESTS => Class::Busy,
        None => Class::Unclear,
    };
    // A word about the order out of a broken machine is none; that it is overburdened is.
    let class = if status.is_server_error() && !matches!(class, Class::Busy) { Class::Unclear } else { class };
    let word = Word { code, message };
    match class {
        Class::Unclear => Error::Unclear { why: format!("it answered HTTP {}", status.as_u16()), word: Some(word) },
        Class::Busy => Error::Busy(word),
        Class::Conflict => Error::Conflict(word),
        Class::Absent => Error::Absent(word),
        Class::Unauthorized => Error::Unauthorized(word),
        Class::Declined | Class::Poor => Error::Declined(word),
    }
}
