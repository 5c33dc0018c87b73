//! Responses: unencoded `name=value` pairs, signed with the request's method; a page for browsers.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Map, Value};

use super::codes::{Fields, fen, message};
use super::signature::{SignMethod, sign};
use crate::account::unionpay::Account;
use crate::fault::FaultKind;
use crate::form::Form;

/// Encoding of request and response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    /// Form request, response of unencoded pairs.
    Form,
    /// JSON object of strings in both directions.
    Json,
    /// Form request of a browser, response of an HTML page.
    Browser,
}

/// Response before signing.
pub(super) struct Reply {
    status: u16,
    content: Content,
}

enum Content {
    Fields(Form),
    /// Page of a browser or of a proxy in front of the platform.
    Page(String),
}

/// Reason for a rejection.
pub(super) struct Refusal {
    code: &'static str,
    message: String,
}

/// Returns a rejection with the code's usual message.
pub(super) fn refused(code: &'static str) -> Refusal {
    Refusal { code, message: message(code) }
}

/// Returns a rejection with an additional reason.
pub(super) fn refused_because(code: &'static str, why: &str) -> Refusal {
    Refusal { code, message: format!("{why}[{code}00000]") }
}

/// Fields that a response copies from its request.
const COPIED_FIELDS: [&str; 17] = [
    "version",
    "encoding",
    "signMethod",
    "txnType",
    "txnSubType",
    "bizType",
    "accessType",
    "merId",
    "orderId",
    "txnTime",
    "txnAmt",
    "currencyCode",
    "origQryId",
    "reqReserved",
    "reserved",
    "settleDate",
    "fileType",
];

impl Reply {
    /// Returns the response to a valid request.
    pub(super) fn to(request: &Form, result: Result<Fields, Refusal>) -> Self {
        let mut form = Form::default();
        for name in COPIED_FIELDS {
            if let Some(value) = request.get(name) {
                form.set(name, value);
            }
        }
        match result {
            Ok(fields) => {
                form.set("respCode", "00");
                form.set("respMsg", message("00"));
                fields.into_iter().for_each(|(name, value)| form.set(name, value));
            }
            Err(refusal) => {
                form.set("respCode", refusal.code);
                form.set("respMsg", refusal.message);
            }
        }
        Self { status: 200, content: Content::Fields(form) }
    }

    /// Returns a response with this code.
    pub(super) fn coded(request: &Form, code: &str) -> Self {
        let fields = vec![("respCode", code.to_owned()), ("respMsg", message(code))];
        Self::to(request, Ok(fields))
    }

    /// Sets the code of the queried trade and removes the fields of a payment.
    pub(super) fn about_trade(mut self, code: &str) -> Self {
        if let Content::Fields(form) = &mut self.content
            && form.get("origRespCode").is_some_and(|known| known != code)
        {
            form.set("origRespCode", code);
            form.set("origRespMsg", message(code));
            ["traceTime", "traceNo", "settleDate", "settleAmt", "settleCurrencyCode"]
                .iter()
                .for_each(|name| form.set(name, ""));
        }
        self
    }

    /// Returns an HTML page.
    pub(super) fn page(status: u16, text: &str) -> Self {
        Self { status, content: Content::Page(text.to_owned()) }
    }

    pub(super) fn with_status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    /// Applies the fault to the content: another amount or account.
    pub(super) fn tampered(mut self, fault: FaultKind) -> Self {
        if let Content::Fields(form) = &mut self.content {
            match fault {
                FaultKind::OtherAmount => tamper_amounts(form),
                FaultKind::OtherAccount if form.get("orderId").is_none() => form.set("merId", "777290000000000"),
                FaultKind::OtherAccount => form.set("orderId", "somebodyelsesorder"),
                _ => {}
            }
        }
        self
    }

    /// Returns the response without a signature, for an unauthenticated sender.
    pub(super) fn sent(self, codec: Codec) -> Response<Full<Bytes>> {
        match self.content {
            Content::Page(page) => respond(self.status, HTML, page),
            Content::Fields(form) => match codec {
                Codec::Form => respond(self.status, HTML, plain(&form)),
                Codec::Json => respond(self.status, "application/json;charset=UTF-8", object(&form)),
                Codec::Browser => respond(self.status, HTML, page(&form)),
            },
        }
    }

    /// Signs the response, or applies the fault to the signature. The signed text contains no time, so `stale` has no
    /// effect.
    pub(super) fn signed(
        mut self,
        account: &Account,
        method: SignMethod,
        codec: Codec,
        fault: Option<FaultKind>,
    ) -> Response<Full<Bytes>> {
        if let Content::Fields(form) = &mut self.content
            && fault != Some(FaultKind::Unsigned)
        {
            sign(account, method, form, if fault == Some(FaultKind::WrongSignature) { "\n" } else { "" });
        }
        self.sent(codec)
    }
}

/// Adds one fen to every amount.
pub(super) fn tamper_amounts(form: &mut Form) {
    for name in ["txnAmt", "settleAmt"] {
        if let Some(amount) = form.get(name).and_then(fen) {
            form.set(name, (amount + 1).to_string());
        }
    }
}

const HTML: &str = "text/html;charset=UTF-8";

fn plain(form: &Form) -> String {
    form.pairs().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

fn object(form: &Form) -> String {
    let fields: Map<String, Value> = form.pairs().map(|(name, value)| (name.to_owned(), value.into())).collect();
    Value::from(fields).to_string()
}

/// Returns the payer's page.
fn page(form: &Form) -> String {
    let escaped = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
    let mut page = "<!DOCTYPE html><meta charset=\"utf-8\"><title>银联在线支付</title>".to_owned();
    for name in ["orderId", "txnAmt", "respCode", "respMsg"] {
        page += &format!("<p>{name} <b>{}</b></p>", escaped(form.get(name).unwrap_or_default()));
    }
    page
}

fn respond(status: u16, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert("content-type", HeaderValue::from_static(kind));
    response
}
