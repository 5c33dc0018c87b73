//! Meanings of WeChat Pay's error codes, for both of its APIs. Each API has a table of its own; this module looks codes up and
//! makes errors of them.

use crate::error::{Error, ProviderError};
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

/// Sentences of the platform about itself, in answers without a code or with a code that has several causes. A sentence belongs
/// to the first row of which it has all parts.
pub(super) const TROUBLE: &[(&[&str], Class)] = &[
    // Too many requests: not done.
    (&["频率"], Class::Later),
    (&["频繁"], Class::Later),
    (&["限流"], Class::Later),
    (&["frequency"], Class::Later),
    (&["too many"], Class::Later),
    (&["rate limit"], Class::Later),
    // The platform failed: it may have been done, as with SYSTEMERROR.
    (&["系统"], Class::Query), // 系统繁忙, 系统错误, 系统超时, 系统异常
    (&["内部错误"], Class::Query),
    (&["内部异常"], Class::Query),
    (&["服务", "不可用"], Class::Query),
    (&["服务异常"], Class::Query),
    (&["服务器"], Class::Query),
    (&["繁忙"], Class::Query),
    (&["稍后"], Class::Query),
    (&["稍候"], Class::Query),
    (&["超时"], Class::Query),
    (&["网络"], Class::Query),
    (&["维护"], Class::Query),
    (&["system"], Class::Query),
    (&["internal"], Class::Query),
    (&["unavailable"], Class::Query),
    (&["busy"], Class::Query),
    (&["timeout"], Class::Query),
    (&["timed out"], Class::Query),
    (&["try", "later"], Class::Query),
];

/// Returns the class of a sentence of the platform about itself; `None` for any other sentence.
pub(super) fn trouble(text: &str) -> Option<Class> {
    sentence(TROUBLE, text)
}

/// Returns the class of the first row of which a sentence has all parts, in capitals or not.
pub(super) fn sentence(table: &[(&[&str], Class)], text: &str) -> Option<Class> {
    let text = text.to_ascii_lowercase();
    let holds = |part: &&str| text.contains(&part.to_ascii_lowercase());
    table.iter().find(|(parts, _)| parts.iter().all(holds)).map(|(_, class)| *class)
}

/// Whether a code's official text names several causes, so that its description tells which one it is.
pub(super) fn has_several_causes(code: &str) -> bool {
    ["INVALIDREQUEST", "ERROR"].contains(&bare(code).as_str())
}

/// Returns the error for a refusal. `why` says what happened where the money's fate stays open.
///
/// An unsigned refusal can end an order that nobody can pay yet, but nothing that moves money by itself.
pub(super) fn error(
    class: Option<Class>,
    interface: Interface,
    is_signed: bool,
    word: ProviderError,
    why: String,
) -> Error {
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
        Some(Class::Later) => Error::ProviderBusy(word),
        Some(Class::State) => Error::Conflict(word),
        Some(Class::Absent) => Error::NotFound(word),
        Some(Class::Credentials) => Error::Unauthorized(word),
    }
}
