//! `respCode`, sorted by what it says of the money.

/// What a code means, of a request (`respCode`) or of the order that was asked about (`origRespCode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Done.
    Success,
    /// Money moved, but not as it should: a person must look.
    Odd,
    /// Taken on, or not known: ask.
    Open,
    /// It was not done: the same again, later.
    Busy,
    /// The same number was there before: ask, and adopt it.
    Conflict,
    /// There is no such order.
    Absent,
    /// It was not done and will not be.
    Declined,
}

const CODES: &[(&str, Class)] = &[
    ("00", Class::Success),
    ("A6", Class::Success), // with a defect: the money moved
    ("42", Class::Odd),     // debited after the time to pay was over
    ("74", Class::Odd),     // debited, its write-off unknown
    ("75", Class::Odd),     // debited, its write-off failed
    ("03", Class::Open),    // timed out
    ("04", Class::Open),    // state unknown
    ("05", Class::Open),    // taken on
    ("70", Class::Open),    // the cardholder was redirected
    ("83", Class::Open),    // the issuer is at it
    ("99", Class::Open),
    ("06", Class::Open), // busy: it may have been done, so ask before anything is sent again
    ("02", Class::Busy), // closed
    ("37", Class::Busy), // too often
    ("39", Class::Busy), // out of hours
    ("12", Class::Conflict),
    ("45", Class::Conflict), // refunded or undone before
    ("46", Class::Conflict), // reversed before
    ("34", Class::Absent),
    ("01", Class::Declined),
    ("10", Class::Declined), // form
    ("11", Class::Declined), // signature
    ("13", Class::Declined), // a field is missing
    ("14", Class::Declined),
    ("30", Class::Declined),
    ("31", Class::Declined), // the merchant's state
    ("32", Class::Declined), // no permission
    ("33", Class::Declined), // over the limit
    ("35", Class::Declined), // the original is missing or in another state
    ("36", Class::Declined), // does not agree with the original
    ("38", Class::Declined), // risk
    ("40", Class::Declined),
    ("41", Class::Declined),
    ("43", Class::Declined),
    ("44", Class::Declined),
    ("60", Class::Declined),
    ("61", Class::Declined),
    ("62", Class::Declined),
    ("63", Class::Declined),
    ("64", Class::Declined),
    ("65", Class::Declined),
    ("66", Class::Declined),
    ("67", Class::Declined),
    ("68", Class::Declined),
    ("69", Class::Declined),
    ("71", Class::Declined),
    ("72", Class::Declined),
    ("73", Class::Declined),
    ("76", Class::Declined),
    ("77", Class::Declined),
    ("78", Class::Declined),
    ("79", Class::Declined),
    ("80", Class::Declined),
    ("81", Class::Declined),
    ("82", Class::Declined),
];

/// Of a code that is not in the table nothing is concluded.
pub(super) fn class(code: &str) -> Class {
    CODES.iter().find(|(known, _)| *known == code).map_or(Class::Open, |(_, class)| *class)
}
