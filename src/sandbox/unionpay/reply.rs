//! Answers: `name=value` pairs that are not encoded again, signed as the request was; for a browser, a page.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Map, Value};

use super::codes::{fen, message};
use super::signature::{SignMethod, sign};
use crate::sandbox::account::unionpay::Account;
use crate::sandbox::fault::Kind;
use crate::sandbox::form::Form;

/// Fields of an answer.
pub(super) type Fields = Vec<(&'static str, String)>;

/// How a message is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    /// A form comes, and pairs are answered.
    Form,
    /// An object of strings, both ways.
    Json,
    /// A browser's form comes, and it gets a page.
    Browser,
}

/// What is answered, before it is signed.
pub(super) struct Reply {
    status: u16,
    content: Content,
}

enum Content {
    Fields(Form),
    /// From something that stands before the platform.
    Page(String),
}

/// Why a request is not carried out.
pub(super) struct Refusal {
    code: &'static str,
    message: String,
}

/// A refusal in the platform's usual words.
pub(super) fn refused(code: &'static str) -> Refusal {
    Refusal { code, message: message(code) }
}

/// A refusal that says more.
pub(super) fn refused_because(code: &'static str, why: &str) -> Refusal {
    Refusal { code, message: format!("{why}[{code}00000]") }
}

/// What an answer repeats of its request.
const ECHOED: [&str; 17] = [
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
    /// The answer to a request that was understood.
    pub(super) fn to(request: &Form, result: Result<Fields, Refusal>) -> Self {
        let mut form = Form::default();
        for name in ECHOED {
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

    /// The answer with this code.
    pub(super) fn coded(request: &Form, code: &str) -> Self {
        let fields = vec![("respCode", code.to_owned()), ("respMsg", message(code))];
        Self::to(request, Ok(fields))
    }

    /// With this code for the trade that was queried, and without what tells of money that moved.
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

    /// HTML.
    pub(super) fn page(status: u16, text: &str) -> Self {
        Self { status, content: Content::Page(text.to_owned()) }
    }

    pub(super) fn with_status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    /// With another amount or another account in it, if the fault says so.
    pub(super) fn spoilt(mut self, fault: Kind) -> Self {
        if let Content::Fields(form) = &mut self.content {
            match fault {
                Kind::OtherAmount => spoil_amounts(form),
                Kind::OtherAccount if form.get("orderId").is_none() => form.set("merId", "777290000000000"),
                Kind::OtherAccount => form.set("orderId", "somebodyelsesorder"),
                _ => {}
            }
        }
        self
    }

    /// Without a signature, as before anybody is known.
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

    /// Signs, or spoils the signature as the fault says. (There is no time in what is signed: `stale` changes nothing.)
    pub(super) fn signed(
        mut self,
        account: &Account,
        method: SignMethod,
        codec: Codec,
        fault: Option<Kind>,
    ) -> Response<Full<Bytes>> {
        if let Content::Fields(form) = &mut self.content
            && fault != Some(Kind::Unsigned)
        {
            sign(account, method, form, if fault == Some(Kind::WrongSignature) { "\n" } else { "" });
        }
        self.sent(codec)
    }
}

/// Makes every amount one fen more.
pub(super) fn spoil_amounts(form: &mut Form) {
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

/// What the payer sees.
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
