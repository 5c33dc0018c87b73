//! Alipay's codes, sorted by what they say of the money.

use http::StatusCode;
use serde::Deserialize;

use super::super::text::Text;
use super::answer::given;
use super::envelope::Envelope;
use crate::error::{Error, Word};
use crate::payment::Kind;

/// What a code means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// It may have been done: ask.
    Unclear,
    /// It was not done: the same again, later.
    Busy,
    /// The order is in another state: ask, and adopt it.
    Conflict,
    /// There is no such order.
    Absent,
    /// Our signature, key or certificate was not accepted, so nothing was done.
    Unauthorized,
    /// It was not done and will not be.
    Declined,
}

/// By the gateway, before or instead of the interface that was called. `40004` hands over to [`CODES`].
const GATEWAY: &[(&str, Class)] = &[
    ("20000", Class::Unclear),  // service unavailable; isp.*, aop.*
    ("20001", Class::Declined), // the token of partner mode
    ("40001", Class::Declined), // a parameter is missing
    ("40002", Class::Declined), // a parameter is wrong
    ("40005", Class::Busy),     // called too often
    ("40006", Class::Declined), // no permission
];

/// By the gateway too, as the `sub_code` of 40001, 40002 and 40006, and as the code in the v3 protocol: it looks at the
/// signature before it passes anything on.
const SIGNATURES: &[&str] = &[
    "isv.invalid-signature",
    "isv.invalid-signature-*",
    "isv.missing-signature",
    "isv.missing-signature-*", // also that no key was uploaded for the app
    "isv.*-cert-sn",
    "isv.invalid-timestamp", // our clock
    "isv.invalid-app-id",
    "isv.decryption-error-*", // the key for contents
    "isv.invalid-encrypt*",
];

/// By the interface, as `sub_code` without `ACQ.`.
const CODES: &[(&str, Class)] = &[
    ("SYSTEM_ERROR", Class::Unclear), // a refund or a cancellation is sent again as it was
    ("DISCORDANT_REPEAT_REQUEST", Class::Unclear), // a refund of this number with another amount
    ("TRADE_HAS_SUCCESS", Class::Conflict),
    ("TRADE_HAS_CLOSE", Class::Conflict),
    ("TRADE_HAS_FINISHED", Class::Conflict),
    ("TRADE_STATUS_ERROR", Class::Conflict),
    ("REASON_TRADE_STATUS_INVALID", Class::Conflict),
    ("REASON_ILLEGAL_STATUS", Class::Conflict),
    ("CONTEXT_INCONSISTENT", Class::Conflict), // the same number with other parameters
    ("TRADE_CANCEL_TIME_OUT", Class::Conflict), // older than a day: only a refund is left
    ("TRADE_NOT_EXIST", Class::Absent),        // also a code that nobody has scanned yet
    ("PAYMENT_AUTH_CODE_INVALID", Class::Declined),
    ("BUYER_BALANCE_NOT_ENOUGH", Class::Declined),
    ("BUYER_BANKCARD_BALANCE_NOT_ENOUGH", Class::Declined),
    ("ERROR_BALANCE_PAYMENT_DISABLE", Class::Declined),
    ("PAYMENT_FAIL", Class::Declined),
    ("PAYMENT_REQUEST_HAS_RISK", Class::Declined),
    ("NO_PAYMENT_INSTRUMENTS_AVAILABLE", Class::Declined),
    ("BUYER_SELLER_EQUAL", Class::Declined),
    ("TRADE_BUYER_NOT_MATCH", Class::Declined),
    ("BUYER_ENABLE_STATUS_FORBID", Class::Declined),
    ("BUYER_PAYMENT_AMOUNT_*_LIMIT_ERROR", Class::Declined),
    ("BEYOND_PAY_RESTRICTION", Class::Declined),
    ("BEYOND_PER_RECEIPT_*RESTRICTION", Class::Declined),
    ("TOTAL_FEE_EXCEED", Class::Declined),
    ("EXIST_FORBIDDEN_WORD", Class::Declined),
    ("ACCESS_FORBIDDEN", Class::Declined),
    ("PARTNER_ERROR", Class::Declined),
    ("INVALID_PARAMETER", Class::Declined),
    ("INVALID_STORE_ID", Class::Declined),
    ("SELLER_BEEN_BLOCKED", Class::Declined),
    ("MERCHANT_STATUS_NOT_NORMAL", Class::Declined),
    ("MERCHANT_AGREEMENT_*", Class::Declined),
    ("USER_FACE_PAYMENT_SWITCH_OFF", Class::Declined),
    ("MOBILE_PAYMENT_SWITCH_OFF", Class::Declined),
    ("PULL_MOBILE_CASHIER_FAIL", Class::Declined),
    ("NOW_TIME_AFTER_EXPIRE_TIME_ERROR", Class::Declined),
    ("NOT_CERTIFIED_USER", Class::Declined),
    ("SELLER_BALANCE_NOT_ENOUGH", Class::Busy), // what is given back waits for money, and keeps its number
    ("REFUND_AMT_NOT_EQUAL_TOTAL", Class::Declined),
    ("REASON_TRADE_REFUND_FEE_ERR", Class::Declined),
    ("REASON_TRADE_BEEN_FREEZEN", Class::Declined),
    ("TRADE_NOT_ALLOW_REFUND", Class::Declined),
    ("CANCEL_NOT_ALLOWED", Class::Declined),
];

/// By the gateway in the v3 protocol, which has no numbers for them.
const DOOR: &[(&str, Class)] =
    &[("isv.app-call-limited", Class::Busy), ("isv.method-call-limited", Class::Busy), ("isv.*", Class::Declined)];

/// The head of every content.
#[derive(Deserialize)]
pub(super) struct Head<'a> {
    #[serde(borrow)]
    pub(super) code: Text<'a>,
    #[serde(borrow)]
    pub(super) msg: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) sub_code: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) sub_msg: Option<Text<'a>>,
}

impl Head<'_> {
    /// What its code says; of an unknown one nothing is concluded.
    pub(super) fn error(&self) -> Error {
        let class = match &*self.code {
            "40004" => self.sub_code.as_deref().map_or(Class::Unclear, business),
            _ => self.gateway(),
        };
        class.error(self.word())
    }

    /// What the gateway's own code says.
    fn gateway(&self) -> Class {
        match class(GATEWAY, &self.code) {
            Class::Declined if self.sub_code.as_deref().is_some_and(is_about_signature) => Class::Unauthorized,
            class => class,
        }
    }

    /// The finer code where there is one.
    pub(super) fn word(&self) -> Word {
        Word {
            code: given(&self.sub_code).unwrap_or(&self.code).to_owned(),
            message: given(&self.sub_msg).or(given(&self.msg)).unwrap_or_default().to_owned(),
        }
    }
}

/// `ACQ.SYSTEM_ERROR` also comes misspelled.
fn business(sub_code: &str) -> Class {
    let bare = sub_code.strip_prefix("ACQ.").or(sub_code.strip_prefix("AQC."));
    bare.map_or(Class::Unclear, |bare| class(CODES, bare))
}

fn class(table: &[(&str, Class)], code: &str) -> Class {
    table.iter().find(|(known, _)| is_named(code, known)).map_or(Class::Unclear, |(_, class)| *class)
}

fn is_about_signature(code: &str) -> bool {
    SIGNATURES.iter().any(|known| is_named(code, known))
}

/// A `*` in a table stands for any part of a name.
fn is_named(code: &str, known: &str) -> bool {
    match known.split_once('*') {
        Some((start, end)) => code.strip_prefix(start).is_some_and(|rest| rest.ends_with(end)),
        None => known == code,
    }
}

impl Class {
    fn error(self, word: Word) -> Error {
        match self {
            Self::Unclear => {
                Error::Unclear { why: "it answered without saying what it did".to_owned(), word: Some(word) }
            }
            Self::Busy => Error::Busy(word),
            Self::Conflict => Error::Conflict(word),
            Self::Absent => Error::Absent(word),
            Self::Unauthorized => Error::Unauthorized(word),
            Self::Declined => Error::Declined(word),
        }
    }
}

/// What an unsigned answer says. Only the gateway's own refusals come so, as `error_response`, and the host's TLS identity
/// stands behind them: it can have turned a payment away at the door, but no refund is given up on its word. One that was
/// not begun because of our signature is given back: sent again, it has the same number.
pub(super) fn unsigned(kind: Kind, status: StatusCode, body: &[u8]) -> Error {
    let envelope = Envelope::read(body).filter(|envelope| envelope.name == "error_response");
    let head = envelope.and_then(|envelope| serde_json::from_str::<Head<'_>>(envelope.value).ok());
    let Some(head) = head.filter(|_| !status.is_server_error()) else {
        return Error::unclear(format!("it answered HTTP {} without a signature", status.as_u16()));
    };
    let class = match head.gateway() {
        Class::Unauthorized => Class::Unauthorized,
        _ if kind == Kind::Refund => Class::Unclear,
        class => class,
    };
    class.error(head.word())
}

/// An error of the v3 protocol: the interface's codes by the same names, and the gateway's by their finer ones.
#[derive(Deserialize)]
struct Plain {
    code: String,
    #[serde(default)]
    message: String,
}

/// What an error answer of the v3 protocol says. Unsigned, it can answer a question or turn a payment away at the door;
/// of the fate of money that was asked for, only a signed one tells. To whom the signature is wrong Alipay cannot sign.
pub(super) fn v3(kind: Kind, status: StatusCode, body: &[u8], signed: bool) -> Error {
    let is_error = status.is_client_error() || status.is_server_error();
    let Some(Ok(Plain { code, message })) = is_error.then(|| serde_json::from_slice(body)) else {
        return Error::unclear(format!("it answered HTTP {} in an unknown form", status.as_u16()));
    };
    let at_the_door = class(DOOR, &code);
    let class = match (at_the_door, kind) {
        (Class::Declined, _) if is_about_signature(&code) => Class::Unauthorized,
        (Class::Unclear, Kind::Pay | Kind::Refund) if !signed => Class::Unclear,
        (Class::Unclear, _) => business(&code),
        (_, Kind::Refund) if !signed => Class::Unclear,
        (door, _) => door,
    };
    class.error(Word { code, message })
}
