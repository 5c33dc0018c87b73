//! Responses: the object, its member name, and the signature over its exact text.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use super::Method;
use super::gbk;
use super::yuan::{fen, yuan};
use crate::account::alipay::Account;
use crate::fault::FaultKind;

/// Response before signing.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) content: Content,
}

pub(super) enum Content {
    /// Signed object under the method's member.
    Method(Value),
    /// Unsigned object under `error_response`.
    Gateway(Value),
    /// Page for a browser, or from a proxy in front of the platform.
    Page(String),
}

impl Reply {
    /// Returns a method's response.
    pub(super) fn method(object: Value) -> Self {
        Self { status: 200, content: Content::Method(object) }
    }

    /// Returns a method's error.
    pub(super) fn business(sub_code: &str, message: &str) -> Self {
        Self::method(json!({"code": "40004", "msg": "Business Failed", "sub_code": sub_code, "sub_msg": message}))
    }

    /// Returns an error of Alipay's gateway, before any method.
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

    /// Returns an HTML page.
    pub(super) fn page(status: u16, text: String) -> Self {
        Self { status, content: Content::Page(text) }
    }

    pub(super) fn with_status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    /// Applies the fault to the content: another amount, account or link.
    pub(super) fn tampered(mut self, fault: FaultKind) -> Self {
        if let Content::Method(object) = &mut self.content {
            match fault {
                FaultKind::OtherAmount => tamper_amounts(object),
                FaultKind::OtherAccount if object.get("out_trade_no").is_some() => {
                    object["out_trade_no"] = json!("somebody_elses_order");
                }
                _ => tamper_link(object, fault),
            }
        }
        self
    }

    /// Returns the response without a signature, for an unauthenticated sender.
    pub(super) fn sent(self) -> Response<Full<Bytes>> {
        let body = match self.content {
            Content::Method(object) | Content::Gateway(object) => format!("{{\"error_response\":{}}}", text(&object)),
            Content::Page(page) => page,
        };
        respond(self.status, body)
    }

    /// Signs the response, or applies the fault to the signature. The signed text contains no time, so `stale` has no
    /// effect.
    pub(super) fn signed(self, method: Method, account: &Account, fault: Option<FaultKind>) -> Response<Full<Bytes>> {
        let object = match &self.content {
            Content::Method(object) => object,
            Content::Gateway(object) if fault == Some(FaultKind::OwnEnvelope) => object,
            _ => return self.sent(),
        };
        let object = match fault {
            Some(FaultKind::Gbk) => gbk::encoded(&with_a_letter(object)),
            _ => text(object).into_bytes(),
        };
        let name = method.name().replace('.', "_");
        let mut body = [format!("{{\"{name}_response\":").as_bytes(), &object].concat();
        let (key, number) = account.signer(fault);
        if let Some(number) = number {
            body.extend(format!(",\"alipay_cert_sn\":\"{number}\"").bytes());
        }
        let salt: &[u8] = if fault == Some(FaultKind::WrongSignature) { b"\n" } else { b"" };
        let signature = key.sign(&[&object, salt].concat());
        let is_unsigned = matches!(fault, Some(FaultKind::Unsigned | FaultKind::OwnEnvelope));
        if let Some(signature) = signature.filter(|_| !is_unsigned) {
            body.extend(format!(",\"sign\":\"{signature}\"").bytes());
        }
        body.push(b'}');
        respond(self.status, body)
    }
}

/// Replaces the bill link by one to a foreign host. The name does not resolve.
fn tamper_link(object: &mut Value, fault: FaultKind) {
    if fault == FaultKind::OtherHost && object.get("bill_download_url").is_some() {
        object["bill_download_url"] = json!("https://bills.example.invalid/downloadBillFile.resource?token=x");
    }
}

/// Adds one fen to every amount in an object.
pub(super) fn tamper_amounts(object: &mut Value) {
    let names = ["total_amount", "receipt_amount", "buyer_pay_amount", "invoice_amount", "refund_fee", "refund_amount"];
    for name in names {
        if let Some(amount) = object[name].as_str().and_then(fen) {
            object[name] = json!(yuan(amount + 1));
        }
    }
}

/// Serializes with `\/` for `/`, as Alipay does. A verifier that does not use the received bytes fails.
fn text(object: &Value) -> String {
    object.to_string().replace('/', "\\/")
}

/// Serializes with an added non-ASCII character.
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
