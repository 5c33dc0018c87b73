//! Meanings of error codes, for WeChat Pay's two APIs and the v3 scheme. Each provider has its own table; this module looks
//! codes up and converts them to errors.

use crate::error::{Error, ProviderError};
use crate::payment::Operation;

/// Interface that an error code comes from. One code may have different meanings in different interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interface {
    /// Creates an order that the payer has yet to pay.
    Prepay,
    /// Charges a scanned payment code.
    Scan,
    Query,
    Close,
    /// Cancels a scanned payment: closes the order, or refunds it if it was paid.
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

    /// Returns whether a request moves money by itself. An unsigned refusal must not end such a request.
    pub(super) fn moves_money(self) -> bool {
        matches!(self, Self::Scan | Self::Reverse | Self::Refund)
    }
}

/// Interfaces that create a payment.
pub(super) const PAY: &[Interface] = &[Interface::Prepay, Interface::Scan];
/// Interfaces that end a payment.
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

/// Meaning of an error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// The request was not executed and never will be.
    Final,
    /// The request was not executed. The same request may be sent later.
    Later,
    /// The order is in another state. Query the order and adopt that state.
    State,
    /// The order or refund does not exist.
    Absent,
    /// The request may have been executed. Query the order.
    Query,
    /// The channel's signature, key or certificate was rejected, and nothing was executed.
    Credentials,
}

/// Row of a code table: a code normalized by [`bare`], its class, and the interfaces in which it has that class.
pub(super) type CodeRow = (&'static str, Class, &'static [Interface]);

/// Normalizes a code: capitals, without `_` and spaces, which the official lists write inconsistently.
pub(super) fn bare(code: &str) -> String {
    code.replace(['_', ' '], "").to_ascii_uppercase()
}

/// Returns the class of a code in an interface; `None` for a code that is not in the table.
pub(super) fn class(table: &[CodeRow], code: &str, interface: Interface) -> Option<Class> {
    let code = bare(code);
    let mut rows = table.iter().filter(|(name, ..)| *name == code);
    rows.find(|(_, _, interfaces)| interfaces.contains(&interface)).map(|(_, class, _)| *class)
}

/// Message fragments by which the platform reports its own failure, for answers without a code or with a code that has
/// several causes. The first row whose fragments all occur in the message applies.
pub(super) const PLATFORM_FAILURES: &[(&[&str], Class)] = &[
    // Rate limit: the request was not executed.
    (&["频率"], Class::Later),
    (&["频繁"], Class::Later),
    (&["限流"], Class::Later),
    (&["frequency"], Class::Later),
    (&["too many"], Class::Later),
    (&["rate limit"], Class::Later),
    // Failure of the platform: the request may have been executed, as with SYSTEMERROR.
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

/// Returns the class of a message in which the platform reports its own failure; `None` for any other message.
pub(super) fn platform_failure(text: &str) -> Option<Class> {
    class_of_message(PLATFORM_FAILURES, text)
}

/// Returns the class of the first row whose fragments all occur in the message, ignoring case.
pub(super) fn class_of_message(table: &[(&[&str], Class)], text: &str) -> Option<Class> {
    let text = text.to_ascii_lowercase();
    let occurs = |part: &&str| text.contains(&part.to_ascii_lowercase());
    table.iter().find(|(parts, _)| parts.iter().all(occurs)).map(|(_, class)| *class)
}

/// Returns whether the official text of a code names several causes, so that only the description identifies the cause.
pub(super) fn has_several_causes(code: &str) -> bool {
    ["INVALIDREQUEST", "ERROR"].contains(&bare(code).as_str())
}

/// Returns the error for a refusal. `why` describes what happened, for refusals that leave the outcome unknown.
///
/// An unsigned refusal may end an order that nobody can pay yet, but never a request that moves money by itself.
pub(super) fn error(
    class: Option<Class>,
    interface: Interface,
    is_signed: bool,
    provider_error: ProviderError,
    why: String,
) -> Error {
    match class {
        None if is_signed => Error::UnlistedRefusal(provider_error),
        None | Some(Class::Query) => Error::Unclear { why, provider_error: Some(provider_error) },
        Some(Class::Final | Class::Absent) if !is_signed && interface.moves_money() => {
            Error::Unclear { why: "unsigned refusal".to_owned(), provider_error: Some(provider_error) }
        }
        // A refund reported as absent releases its amount for another refund.
        Some(Class::Absent) if !is_signed && matches!(interface, Interface::RefundQuery) => Error::Unclear {
            why: "unsigned answer that the refund does not exist".to_owned(),
            provider_error: Some(provider_error),
        },
        Some(Class::Final) => Error::Declined(provider_error),
        Some(Class::Later) => Error::ProviderBusy(provider_error),
        Some(Class::State) => Error::Conflict(provider_error),
        Some(Class::Absent) => Error::NotFound(provider_error),
        Some(Class::Credentials) => Error::Unauthorized(provider_error),
    }
}
