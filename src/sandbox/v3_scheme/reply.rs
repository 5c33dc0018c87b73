//! Responses: status, body, and the signature over them.

use std::str::FromStr;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::scheme::V3Scheme;
use crate::fault::FaultKind;
use crate::keys::{SigningKey, random_digits, random_text};

/// Response before signing.
pub(super) struct Reply {
    pub(super) status: u16,
    /// Body; empty for 204.
    pub(super) body: Bytes,
    /// Internal error number at the end of `Request-ID`.
    internal: u32,
    kind: Kind,
}

/// Type of the body.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Json,
    Html,
    /// Bill file, which is never signed.
    File,
}

impl Kind {
    fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json; charset=utf-8",
            Self::Html => "text/html",
            Self::File => "text/plain",
        }
    }
}

impl Reply {
    /// Returns status 200 with a JSON body.
    pub(super) fn ok(body: &Value) -> Self {
        Self { status: 200, body: body.to_string().into(), internal: 0, kind: Kind::Json }
    }

    /// Returns status 204, signed over an empty body.
    pub(super) fn no_content() -> Self {
        Self { status: 204, body: Bytes::new(), internal: 0, kind: Kind::Json }
    }

    /// Returns an error in WeChat Pay's format.
    pub(super) fn error(status: u16, code: &str, message: &str) -> Self {
        Self {
            status,
            body: json!({"code": code, "message": message}).to_string().into(),
            internal: 0,
            kind: Kind::Json,
        }
    }

    /// Returns an error with a `detail`.
    pub(super) fn detailed(status: u16, code: &str, message: &str, detail: Value) -> Self {
        let body = json!({"code": code, "message": message, "detail": detail});
        Self { body: body.to_string().into(), ..Self::error(status, code, message) }
    }

    /// Replaces the body.
    pub(super) fn with(self, body: &Value) -> Self {
        Self { body: body.to_string().into(), ..self }
    }

    /// Sets the internal error number.
    pub(super) fn numbered(self, internal: u32) -> Self {
        Self { internal, ..self }
    }

    /// Returns a bill file.
    pub(super) fn file(body: Bytes) -> Self {
        Self { status: 200, body, internal: 0, kind: Kind::File }
    }

    /// Returns a proxy's page or an unreadable body.
    pub(super) fn other(status: u16, text: &'static str) -> Self {
        Self { status, body: Bytes::from_static(text.as_bytes()), internal: 0, kind: Kind::Html }
    }

    /// Signs the response with the key, or applies the fault to the signature. Without a key the response is
    /// unsigned.
    pub(super) fn signed(
        self,
        scheme: &V3Scheme,
        key: Option<&SigningKey>,
        fault: Option<FaultKind>,
    ) -> Response<Full<Bytes>> {
        let mut headers = HeaderMap::new();
        if let Some(key) = key.filter(|_| self.kind != Kind::File) {
            let age = if fault == Some(FaultKind::Stale) { 600 } else { 0 };
            let salt: &[u8] = if fault == Some(FaultKind::WrongSignature) { b"\n" } else { b"" };
            headers = sign(scheme, key, &[&self.body, salt].concat(), Timestamp::now().as_second() - age);
            if fault == Some(FaultKind::Signtest) {
                probe(scheme, &mut headers);
            }
        }
        let id = format!("08{}-{}", random_text(30).to_uppercase(), self.internal);
        insert(&mut headers, "request-id", &id);
        insert(&mut headers, "cache-control", "no-cache, must-revalidate");
        if self.status != 204 {
            insert(&mut headers, "content-type", self.kind.media_type());
        }
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        *response.headers_mut() = headers;
        response
    }
}

/// Returns the signature headers of a body, for responses and notifications.
pub(super) fn sign(scheme: &V3Scheme, key: &SigningKey, body: &[u8], timestamp: i64) -> HeaderMap {
    let nonce = random_text(22) + &random_digits(10);
    let text = [format!("{timestamp}\n{nonce}\n").as_bytes(), body, b"\n"].concat();
    let mut headers = HeaderMap::new();
    if let Some(signature) = key.sign(&text) {
        let mut signed = |name: &str, value: &str| insert(&mut headers, &scheme.header(name), value);
        signed("timestamp", &timestamp.to_string());
        signed("nonce", &nonce);
        signed("signature", &signature);
        signed("serial", &key.id);
        signed("signature-type", scheme.authorization);
    }
    headers
}

/// Replaces the signature by the platform's self-test signature.
pub(super) fn probe(scheme: &V3Scheme, headers: &mut HeaderMap) {
    let name = scheme.header("signature");
    let signature = headers.get(&name).and_then(|value| value.to_str().ok());
    let probe = format!("{}{}", scheme.probe_prefix, signature.unwrap_or_default());
    insert(headers, &name, &probe);
}

/// Inserts a header. Values are ASCII; another value is left out.
pub(super) fn insert(headers: &mut HeaderMap, name: &str, value: &str) {
    if let (Ok(name), Ok(value)) = (HeaderName::from_str(name), HeaderValue::from_str(value)) {
        headers.insert(name, value);
    }
}

/// Returns a response with status 400 about one field.
pub(super) fn parameter(location: &str, field: &str, issue: &str) -> Reply {
    let detail = json!({"location": location, "field": field, "issue": issue});
    Reply::detailed(400, "PARAM_ERROR", "参数错误", detail)
}
