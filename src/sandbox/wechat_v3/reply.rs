//! Answers: status, body, and the signature over them.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::sandbox::fault::Kind as FaultKind;
use crate::sandbox::keys::{SigningKey, random_digits, random_text};

/// What is answered, before it is signed.
pub(super) struct Reply {
    pub(super) status: u16,
    /// Empty for 204.
    pub(super) body: Bytes,
    /// The number at the end of `Request-ID`.
    internal: u32,
    kind: Kind,
}

/// What the body is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Json,
    Html,
    /// Of a bill, which is never signed.
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
    /// 200 with a JSON body.
    pub(super) fn ok(body: &Value) -> Self {
        Self { status: 200, body: body.to_string().into(), internal: 0, kind: Kind::Json }
    }

    /// 204, which is signed over an empty body.
    pub(super) fn no_content() -> Self {
        Self { status: 204, body: Bytes::new(), internal: 0, kind: Kind::Json }
    }

    /// An error in the original's words.
    pub(super) fn error(status: u16, code: &str, message: &str) -> Self {
        Self {
            status,
            body: json!({"code": code, "message": message}).to_string().into(),
            internal: 0,
            kind: Kind::Json,
        }
    }

    /// An error with its `detail`.
    pub(super) fn detailed(status: u16, code: &str, message: &str, detail: Value) -> Self {
        let body = json!({"code": code, "message": message, "detail": detail});
        Self { body: body.to_string().into(), ..Self::error(status, code, message) }
    }

    /// With another body.
    pub(super) fn with(self, body: &Value) -> Self {
        Self { body: body.to_string().into(), ..self }
    }

    /// With the platform's internal number of the error.
    pub(super) fn numbered(self, internal: u32) -> Self {
        Self { internal, ..self }
    }

    /// A bill.
    pub(super) fn file(body: Bytes) -> Self {
        Self { status: 200, body, internal: 0, kind: Kind::File }
    }

    /// A page of something that stands before the platform, or bytes that nobody can read.
    pub(super) fn other(status: u16, text: &'static str) -> Self {
        Self { status, body: Bytes::from_static(text.as_bytes()), internal: 0, kind: Kind::Html }
    }

    /// Signs with the key, or spoils the signature as the fault says; without a key there is none.
    pub(super) fn signed(self, key: Option<&SigningKey>, fault: Option<FaultKind>) -> Response<Full<Bytes>> {
        let mut headers = HeaderMap::new();
        if let Some(key) = key.filter(|_| self.kind != Kind::File) {
            let age = if fault == Some(FaultKind::Stale) { 600 } else { 0 };
            let salt: &[u8] = if fault == Some(FaultKind::WrongSignature) { b"\n" } else { b"" };
            headers = sign(key, &[&self.body, salt].concat(), Timestamp::now().as_second() - age);
            if fault == Some(FaultKind::Signtest) {
                probe(&mut headers);
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

/// The headers that vouch for a body, of an answer and of a notification alike.
pub(super) fn sign(key: &SigningKey, body: &[u8], timestamp: i64) -> HeaderMap {
    let nonce = random_text(22) + &random_digits(10);
    let text = [format!("{timestamp}\n{nonce}\n").as_bytes(), body, b"\n"].concat();
    let mut headers = HeaderMap::new();
    if let Some(signature) = key.sign(&text) {
        insert(&mut headers, "wechatpay-timestamp", &timestamp.to_string());
        insert(&mut headers, "wechatpay-nonce", &nonce);
        insert(&mut headers, "wechatpay-signature", &signature);
        insert(&mut headers, "wechatpay-serial", &key.id);
        insert(&mut headers, "wechatpay-signature-type", "WECHATPAY2-SHA256-RSA2048");
    }
    headers
}

/// Makes the signature the platform's own probe of whether signatures are checked.
pub(super) fn probe(headers: &mut HeaderMap) {
    let signature = headers.get("wechatpay-signature").and_then(|value| value.to_str().ok());
    let probe = format!("WECHATPAY/SIGNTEST/{}", signature.unwrap_or_default());
    insert(headers, "wechatpay-signature", &probe);
}

/// Every value here is ASCII; one that is not would be left out.
pub(super) fn insert(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
