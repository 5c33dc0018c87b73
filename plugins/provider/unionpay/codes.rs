//! UnionPay's answer codes, sorted by what they say of the money.

use crate::error::{Error, Word};
use crate::payment::Status;

/// What `respCode` says of the request that it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// It was taken.
    Taken,
    /// It may have been done: ask.
    Unclear,
    /// It was not done: the same again, later.
    Busy,
    /// The order is in another state: ask, and adopt it.
    Conflict,
    /// There is no such order.
    Absent,
    /// Our signature or certificate was not accepted, so nothing was done.
    Unauthorized,
    /// It was not done and will not be.
    Declined,
}

/// What `origRespCode` says of the trade that was asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trade {
    Succeeded,
    /// The money moved, and a person must see to what else is said.
    Look(&'static str),
    Pending,
    Failed,
    /// It is not known.
    Absent,
    /// It says nothing of the trade.
    Silent,
}

const PARTLY: &str = "UnionPay says that it succeeded with a defect (A6): compare its statement with what was sold";
const LATE: &str = "the payer was debited after the payment's time had passed (42): deliver or give the money back";
const WRITTEN_OFF: &str = "the payer was debited and the booking is unknown (74): ask UnionPay";
const NOT_WRITTEN_OFF: &str = "the payer was debited and the booking failed (75): deliver or give the money back";

use Said::{Absent, Busy, Conflict, Declined, Taken, Unauthorized, Unclear};
use Trade::{Failed, Look, Pending, Silent, Succeeded};

/// "验证签名失败": by the key, or by a certificate that does not stand for the merchant.
const SIGNATURE: &str = "11";

/// From the first code to the last one, both included. A code that is not here says nothing: ask.
const CODES: &[(&str, &str, Said, Trade)] = &[
    ("00", "00", Taken, Succeeded),
    ("A6", "A6", Taken, Look(PARTLY)),
    ("01", "01", Declined, Failed),
    ("02", "02", Busy, Failed), // the system is closed
    ("03", "04", Unclear, Pending),
    ("05", "05", Unclear, Pending), // accepted
    ("06", "06", Unclear, Pending), // busy; whether it was done is not said
    ("10", "10", Declined, Failed), // format
    (SIGNATURE, SIGNATURE, Unauthorized, Failed),
    ("12", "12", Conflict, Silent), // the number was used: the order there says what became of it
    ("13", "14", Declined, Failed),
    ("30", "33", Declined, Failed),
    ("34", "34", Absent, Trade::Absent),
    ("35", "35", Conflict, Failed), // the original is missing or in another state
    ("36", "36", Declined, Failed),
    ("37", "37", Busy, Pending), // asked too often
    ("38", "38", Declined, Failed),
    ("39", "39", Busy, Failed), // out of hours
    ("40", "41", Declined, Failed),
    ("42", "42", Unclear, Look(LATE)),
    ("43", "44", Declined, Failed),
    ("45", "46", Conflict, Failed), // the original was given back, undone or reversed already
    ("60", "69", Declined, Failed),
    ("70", "70", Unclear, Pending), // the cardholder is on the bank's page
    ("71", "73", Declined, Failed),
    ("74", "74", Unclear, Look(WRITTEN_OFF)),
    ("75", "75", Unclear, Look(NOT_WRITTEN_OFF)),
    ("76", "82", Declined, Failed),
    ("83", "83", Unclear, Pending), // the card's bank works on it
    ("84", "98", Declined, Failed), // rules of promotions and codes
    ("99", "99", Unclear, Pending),
];

fn find(code: &str) -> Option<(Said, Trade)> {
    let is_number = code.len() == 2 && code.bytes().all(|byte| byte.is_ascii_digit());
    let row = CODES.iter().find(|(first, last, ..)| match is_number {
        true => (*first..=*last).contains(&code),
        false => *first == code,
    });
    row.map(|(_, _, said, trade)| (*said, *trade))
}

pub(super) fn said(code: &str) -> Said {
    find(code).map_or(Unclear, |(said, _)| said)
}

pub(super) fn trade(code: &str) -> Trade {
    find(code).map_or(Silent, |(_, trade)| trade)
}

impl Trade {
    /// The status, and why a person must look; nothing where it gives none.
    pub(super) fn status(self) -> Option<(Status, Option<String>)> {
        match self {
            Self::Succeeded => Some((Status::Succeeded, None)),
            Self::Look(why) => Some((Status::Succeeded, Some(why.to_owned()))),
            Self::Pending => Some((Status::Pending, None)),
            Self::Failed => Some((Status::Failed, None)),
            Self::Absent | Self::Silent => None,
        }
    }
}

/// The error for a write that was not taken; nothing when it was.
pub(super) fn refusal(code: &str, word: impl FnOnce() -> Word) -> Option<Error> {
    match said(code) {
        Taken => None,
        Unclear => Some(unclear(word())),
        Busy => Some(Error::Busy(word())),
        Conflict => Some(Error::Conflict(word())),
        Absent => Some(Error::Absent(word())),
        Unauthorized => Some(Error::Unauthorized(word())),
        Declined => Some(Error::Declined(word())),
    }
}

/// Whether a till's payment or a refund was taken on and goes on by itself: to be asked about.
pub(super) fn is_accepted(code: &str) -> bool {
    matches!(code, "05" | "70" | "83")
}

/// The error for a question that was not answered: whatever was wrong with the question, it says nothing of the trade.
pub(super) fn unanswered(code: &str, word: impl FnOnce() -> Word) -> Option<Error> {
    match said(code) {
        Taken => None,
        Busy => Some(Error::Busy(word())),
        Absent => Some(Error::Absent(word())),
        Unauthorized => Some(Error::Unauthorized(word())),
        Unclear | Conflict | Declined => Some(unclear(word())),
    }
}

/// The error in an answer without a signature. Whose own signature is wrong is nobody for UnionPay, and it may not know with
/// what to sign for him; nothing else that comes so is believed.
pub(super) fn unsigned(code: &str, message: &str) -> Option<Error> {
    (said(code) == Unauthorized).then(|| Error::Unauthorized(word(code, message)))
}

pub(super) fn unclear(word: Word) -> Error {
    Error::Unclear { why: format!("it answered with the code {}", word.code), word: Some(word) }
}

pub(super) fn word(code: &str, message: &str) -> Word {
    Word { code: code.to_owned(), message: message.to_owned() }
}
