//! Answers: the object, the member that it stands under, and the signature over its exact text.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use super::Method;
use super::bills::spoil_link;
use super::gbk;
use super::yuan::{fen, yuan};
use crate::sandbox::account::alipay::Account;
use crate::sandbox::fault::Kind;

/// What is answered, before it is signed.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) content: Content,
}

pub(super) enum Content {
    /// Stands under the method's member, and is signed.
    Method(Value),
    /// Stands under `error_response`, and is not.
    Gateway(Value),
    /// For a browser, or from something that stands before the platform.
    Page(String),
}

impl Reply {
    /// A method's answer.
    pub(super) fn method(object: Value) -> Self {
        Self { status: 200, content: Content::Method(object) }
    }

    /// A method's refusal.
    pub(super) fn business(sub_code: &str, message: &str) -> Self {
        Self::method(json!({"code": "40004", "msg": "Business Failed", "sub_code": sub_code, "sub_msg": message}))
    }

    /// A refusal of the gateway, before any method.
    pub(super) fn gateway(code: &str, sub_code: &str, message: &str) -> Self {
        let msg = match code {
            "20000" => "Service Currently Unavailable",
            "20001" => "Insufficient Token Permissions",
            "40001" => "Missing Required Arguments",
            "40002" => "Invalid Arguments",
            "40005" => "Call Limited",
            "40006" => "Insufficient Permissions",
            _ => "Error",
        };
        let object = json!({"code": code, "msg": msg, "sub_code": sub_code, "sub_msg": message});
        Self { status: 200, content: Content::Gateway(object) }
    }

    /// HTML.
    pub(super) fn page(status: u16, text: String) -> Self {
        Self { status, content: Content::Page(text) }
    }

    pub(super) fn with_status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    /// With another amount or another account in it, if the fault says so.
    pub(super) fn spoilt(mut self, fault: Kind) -> Self {
        if let Content::Method(object) = &mut self.content {
            match fault {
                Kind::OtherAmount => spoil_amounts(object),
                Kind::OtherAccount if object.get("out_trade_no").is_some() => {
                    object["out_trade_no"] = json!("somebody_elses_order");
                }
                _ => spoil_link(object, fault),
            }
        }
        self
    }

    /// Without a signature, as before anybody is known.
    pub(super) fn sent(self) -> Response<Full<Bytes>> {
        let body = match self.content {
            Content::Method(object) | Content::Gateway(object) => format!("{{\"error_response\":{}}}", text(&object)),
            Content::Page(page) => page,
        };
        respond(self.status, body)
    }

    /// Signs, or spoils the signature as the fault says. (There is no time in what is signed: `stale` changes nothing.)
    pub(super) fn signed(self, method: Method, account: &Account, fault: Option<Kind>) -> Response<Full<Bytes>> {
        let object = match &self.content {
            Content::Method(object) => object,
            Content::Gateway(object) if fault == Some(Kind::OwnEnvelope) => object,
            _ => return self.sent(),
        };
        let object = match fault {
            Some(Kind::Gbk) => gbk::encoded(&with_a_letter(object)),
            _ => text(object).into_bytes(),
        };
        let name = method.name().replace('.', "_");
        let mut body = [format!("{{\"{name}_response\":").as_bytes(), &object].concat();
        let (key, number) = account.signer(fault);
        if let Some(number) = number {
            body.extend(format!(",\"alipay_cert_sn\":\"{number}\"").bytes());
        }
        let salt: &[u8] = if fault == Some(Kind::WrongSignature) { b"\n" } else { b"" };
        let signature = key.sign(&[&object, salt].concat());
        let is_unsigned = matches!(fault, Some(Kind::Unsigned | Kind::OwnEnvelope));
        if let Some(signature) = signature.filter(|_| !is_unsigned) {
            body.extend(format!(",\"sign\":\"{signature}\"").bytes());
        }
        body.push(b'}');
        respond(self.status, body)
    }
}

/// Makes every amount in an object one fen more.
pub(super) fn spoil_amounts(object: &mut Value) {
    let names = ["total_amount", "receipt_amount", "buyer_pay_amount", "invoice_amount", "refund_fee", "refund_amount"];
    for name in names {
        if let Some(amount) = object[name].as_str().and_then(fen) {
            object[name] = json!(yuan(amount + 1));
        }
    }
}

/// JSON with `\/` for `/`, as the platform writes it: who verifies anything but the very text that came will fail.
fn text(object: &Value) -> String {
    object.to_string().replace('/', "\\/")
}

/// JSON that has a letter outside ASCII in it.
fn with_a_letter(object: &Value) -> String {
    let mut object = object.clone();
    object["store_name"] = json!("誠");
    text(&object)
}

fn respond(status: u16, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert("content-type", HeaderValue::from_static("text/html;charset=utf-8"));
    response
}
