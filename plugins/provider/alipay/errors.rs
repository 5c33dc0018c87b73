//! Error answers: which part of an answer is trusted, and its meaning.

use http::StatusCode;
use serde::Deserialize;

use super::super::text::{Text, given};
use super::codes::{Class, Interface};
use super::envelope::Envelope;
use super::gateway_codes::{by_name, by_number};
use super::readable::readable;
use crate::error::{Error, ProviderError};

/// Head of every content in the form protocol.
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
    /// Returns the error for the code of a verified answer.
    pub(super) fn error(&self, interface: Interface) -> Error {
        let sub_code = given(&self.sub_code);
        let class = match &*self.code {
            "40004" => sub_code.and_then(|code| interface.class(code).or_else(|| by_name(code))),
            number => by_number(number, sub_code),
        };
        match class {
            Some(class) => error(class, self.provider_error()),
            None if self.code.starts_with('4') => Error::UnlistedRefusal(self.provider_error()),
            // Numbers outside 4xxxx are no refusals.
            None => error(Class::Unclear, self.provider_error()),
        }
    }

    /// Returns the provider error, with the sub code if there is one.
    pub(super) fn provider_error(&self) -> ProviderError {
        ProviderError {
            code: given(&self.sub_code).unwrap_or(&self.code).to_owned(),
            message: given(&self.sub_msg).or(given(&self.msg)).unwrap_or_default().to_owned(),
        }
    }
}

fn error(class: Class, provider_error: ProviderError) -> Error {
    match class {
        Class::Unclear => Error::Unclear {
            why: "the answer does not contain the result".to_owned(),
            provider_error: Some(provider_error),
        },
        Class::Busy => Error::ProviderBusy(provider_error),
        Class::Conflict => Error::Conflict(provider_error),
        Class::Absent => Error::NotFound(provider_error),
        Class::Unauthorized => Error::Unauthorized(provider_error),
        Class::Declined => Error::Declined(provider_error),
    }
}

/// Returns the class that may be trusted from an unsigned refusal of the gateway.
///
/// The gateway cannot sign for an app that it does not know; the host's TLS identity authenticates it. An unsigned
/// refusal releases a refund's claim for a retry under the same number. It never marks a refund as failed.
fn trusted_if_unsigned(interface: Interface, class: Class) -> Class {
    match class {
        Class::Unauthorized | Class::Busy => class,
        _ if interface == Interface::Refund => Class::Unclear,
        class => class,
    }
}

/// Returns the error for an unsigned answer of the form protocol. The gateway writes its refusals as `error_response`,
/// or in the envelope of the called interface.
pub(super) fn unsigned(interface: Interface, service: &str, status: StatusCode, body: &[u8]) -> Error {
    let unsigned_answer = || Error::unclear(format!("unsigned HTTP {} answer", status.as_u16()));
    let text = readable(body);
    let is_expected = |name: &str| {
        name == "error_response" || name.strip_suffix("_response").is_some_and(|name| is_member_of(service, name))
    };
    let envelope = Envelope::read(&text).filter(|envelope| is_expected(envelope.name));
    let head = envelope.and_then(|envelope| serde_json::from_str::<Head<'_>>(envelope.value).ok());
    let Some(head) = head.filter(|_| !status.is_server_error()) else { return unsigned_answer() };
    // A refusal by the interface is signed. Without a signature only its code is passed on.
    let class = by_number(&head.code, given(&head.sub_code)).unwrap_or(Class::Unclear);
    error(trusted_if_unsigned(interface, class), head.provider_error())
}

/// Returns whether the name is the interface's name with `_` for each `.`.
pub(super) fn is_member_of(service: &str, name: &str) -> bool {
    service.bytes().map(|byte| if byte == b'.' { b'_' } else { byte }).eq(name.bytes())
}

/// Error of the v3 protocol: the names of interfaces and of the gateway, without numbers.
#[derive(Deserialize)]
struct V3Error {
    code: String,
    #[serde(default)]
    message: String,
}

/// Returns the error for an error answer of the v3 protocol.
///
/// The gateway signs none of its refusals. An unsigned error may answer a query. Only a signed one may decide a payment
/// or a refund.
pub(super) fn v3(interface: Interface, status: StatusCode, body: &[u8], signed: bool) -> Error {
    let is_error = status.is_client_error() || status.is_server_error();
    let Some(Ok(V3Error { code, message })) = is_error.then(|| serde_json::from_str(&readable(body))) else {
        return Error::unclear(format!("HTTP {} answer in an unknown format", status.as_u16()));
    };
    let (gateway_class, interface_class) = (by_name(&code), interface.class(&code));
    let provider_error = ProviderError { code, message };
    match (gateway_class, interface_class) {
        (Some(class), _) if signed => error(class, provider_error),
        (None, Some(class)) if signed => error(class, provider_error),
        // A 5xx status means a failed server, whose code is not trusted.
        (None, None) if signed && status.is_client_error() => Error::UnlistedRefusal(provider_error),
        (Some(class), _) if status.is_client_error() => error(trusted_if_unsigned(interface, class), provider_error),
        // A refund reported as absent releases its amount for another refund.
        (None, Some(Class::Absent)) if matches!(interface, Interface::RefundQuery) => {
            error(Class::Unclear, provider_error)
        }
        (None, Some(class)) if !interface.moves_money() => error(class, provider_error),
        _ => error(Class::Unclear, provider_error),
    }
}
