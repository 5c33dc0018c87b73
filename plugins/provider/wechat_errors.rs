//! Meanings of WeChat Pay's error codes, for both of its APIs. Each API has a table of its own; this module looks codes up and
//! makes errors of them.

use crate::error::{Error, Word};
use crate::payment::Operation;

/// The interface that an error code comes from. One code may mean different things in different interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interface {
    /// Create an order that the payer has yet to pay.
    Prepay,
    /// Charge a scanned payment code.
    Scan,
    Query,
    Close,
    /// Cancel a scanned payment: close it, or give the money back.
    Reverse,
    Refund,
    RefundQuery,
    Bill,
}

impl Interface {
    pub(super) fn of(operation: &Operation) -> Self {
        match operation {
            Operation::Pay(pay) if pay.order.method.is_scanned() => Self::Scan,
            Operation::Pay(_) => Self::Prepay,
            Operation::Query(_) => Self::Query,
            Operation::Close(order) if order.method.is_scanned() => Self::Reverse,
            Operation::Close(_) => Self::Close,
            Operation::Refund(_) => Self::Refund,
            Operation::QueryRefund(_) => Self::RefundQuery,
        }
    }

    /// Whether a request moves money by itself, so that an unsigned refusal must not end it.
    pub(super) fn moves_money(self) -> bool {
        matches!(self, Self::Scan | Self::Reverse | Self::Refund)
    }
}

/// The interfaces that make a payment.
pub(super) const PAY: &[Interface] = &[Interface::Prepay, Interface::Scan];
/// The interfaces that end a payment.
pub(super) const END: &[Interface] = &[Interface::Close, Interface::Reverse];
pub(super) const REFUND: &[Interface] = &[Interface::Refund];
pub(super) const REVERSE: &[Interface] = &[Interface::Reverse];
pub(super) const BILL: &[Interface] = &[Interface::Bill];
pub(super) const EVERY: &[Interface] = &[
    Interface::Prepay,
    Interface::Scan,
    Interface::Query,
    Interface::Close,
    Interface::Reverse,
    Interface::Refund,
    Interface::RefundQuery,
    Interface::Bill,
];

/// The meaning of an error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// It was not done and never will be.
    Final,
    /// It was not done. Send the same request later.
    Later,
    /// The order is in another state. Query it and adopt that state.
    State,
    /// The order or refund does not exist.
    Absent,
    /// It may have been done. Query it.
    Query,
    /// The channel's signature, key or certificate was not accepted, and nothing was done.
    Credentials,
}

/// One row of a table: a code as [`bare`] writes it, its class, and the interfaces in which it has that class.
pub(super) type Row = (&'static str, Class, &'static [Interface]);

/// A code without the `_` and spaces that WeChat Pay writes in some places and leaves out in others, in capitals.
pub(super) fn bare(code: &str) -> String {
    code.replace(['_', ' '], "").to_ascii_uppercase()
}

/// Returns the class of a code in an interface; `None` for a code that is not in the table.
pub(super) fn class(table: &[Row], code: &str, interface: Interface) -> Option<Class> {
    let code = bare(code);
    let mut rows = table.iter().filter(|(name, ..)| *name == code);
    rows.find(|(_, _, interfaces)| interfaces.contains(&interface)).map(|(_, class, _)| *class)
}

/// Returns the error for a refusal. `why` says what happened where the money's fate stays open.
///
/// An unsigned refusal can end an order that nobody can pay yet, but nothing that moves money by itself.
pub(super) fn error(class: Option<Class>, interface: Interface, is_signed: bool, word: Word, why: String) -> Error {
    match class {
        None if is_signed => Error::UnlistedRefusal(word),
        None | Some(Class::Query) => Error::Unclear { why, word: Some(word) },
        Some(Class::Final | Class::Absent) if !is_signed && interface.moves_money() => {
            Error::Unclear { why: "it refused without a signature".to_owned(), word: Some(word) }
        }
        // A refund that is called absent frees its amount for another one.
        Some(Class::Absent) if !is_signed && matches!(interface, Interface::RefundQuery) => {
            Error::Unclear { why: "it called the refund absent without a signature".to_owned(), word: Some(word) }
        }
        Some(Class::Final) => Error::Declined(word),
        Some(Class::Later) => Error::Busy(word),
        Some(Class::State) => Error::Conflict(word),
        Some(Class::Absent) => Error::Absent(word),
        Some(Class::Credentials) => Error::Unauthorized(word),
    }
}
