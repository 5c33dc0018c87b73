//! UnionPay's online payments, ACP 5.1.0.
//!
//! ```text
//! Operation ─ request ─▶ signature ═▶ UnionPay
//!           ─ request ─▶ signature ─▶ a form for the payer's browser: no exchange
//! Outcome   ◀─ answer ── signature ◀─ message ◀═     (looks like a form, but nothing in it is escaped)
//! Error     ◀─ errors ◀─ answer
//! Event     ◀─ answer ── signature ◀─ form ◀═ its notification, which is asked about before it is believed
//! ```
//!
//! An order is known by its number and its time (`txnTime`) together. There is no closing: what is unpaid ends by itself.

mod answer;
mod certificate;
mod errors;
mod message;
mod request;
mod signature;

#[cfg(test)]
mod tests;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};

use self::answer::Message;
use self::certificate::Trust;
use super::bill::Bills;
use super::form;
use super::{BadSignature, Encoded, Given, Need, Provider, PublishedKeys, Row, SecretField, Signing, Source, Verified};
use crate::error::{Error, Word};
use crate::payment::{self, Action, Event, Operation, Outcome, Status};
use crate::settings::Settings;
use crate::signer::Keyring;

pub(super) const ROW: Row = Row {
    name: "unionpay",
    methods: &["unionpay.page", "unionpay.app", "unionpay.qr", "unionpay.barcode"],
    secrets: &[
        SecretField { name: SECURE_KEY, required: false, check: |_| Ok(()) },
        SecretField { name: ROOT_CERT, required: false, check: check_certificate },
        SecretField { name: MIDDLE_CERT, required: false, check: check_certificate },
    ],
    algorithms: &["rsa-sha256"],
    sign: Need::Optional,
    verify: Need::Nothing,
    key_id: certificate::number,
    build,
};

const SECURE_KEY: &str = "secure_key";
const ROOT_CERT: &str = "root_cert";
const MIDDLE_CERT: &str = "middle_cert";
const GATEWAY: &str = "https://gateway.95516.com";

struct UnionPay {
    account: Account,
}

/// By UnionPay's own names.
struct Account {
    mer_id: String,
    method: signature::Method,
    /// Where payers' browsers post their form; without a path.
    gateway: String,
    term_id: Option<String>,
}

fn build(settings: &mut Settings<'_>, given: &Given<'_>) -> Option<Box<dyn Provider>> {
    let mer_id: Option<String> = settings.required("merId");
    let is_mer_id = |id: &String| id.len() == 15 && id.bytes().all(|byte| byte.is_ascii_digit());
    if mer_id.as_ref().is_some_and(|id| !is_mer_id(id)) {
        let suggestion =
            "copy the merchant number (商户代码) from merchant.unionpay.com, as in merId = \"777290058110048\"";
        settings.problem("merId", "the merId must be 15 digits", Some(suggestion.to_owned()));
    }
    let sign_method = settings.or("sign_method", "01".to_owned());
    let environment = settings.or("environment", "production".to_owned());
    let term_id: Option<String> = settings.optional("term_id");
    let gateway: String = settings.or("gateway", GATEWAY.to_owned());
    if !gateway.starts_with("https://") && !gateway.starts_with("http://127.") || gateway.ends_with('/') {
        let suggestion = format!("payers' browsers are sent there, as in gateway = \"{GATEWAY}\"");
        settings.problem("gateway", "the gateway must be an https address without a path", Some(suggestion));
        return None;
    }
    let test = match environment.as_str() {
        "production" => false,
        "test" => true,
        _ => {
            let suggestion =
                "write environment = \"production\", or \"test\": it takes the test environment's certificates too";
            settings.problem("environment", "the environment is unknown", Some(suggestion.to_owned()));
            return None;
        }
    };
    let method = method(&sign_method, given, test)
        .map_err(|(message, suggestion)| settings.problem("sign_method", message, Some(suggestion.to_owned())))
        .ok()?;
    let account = Account { mer_id: mer_id.filter(is_mer_id)?, method, gateway, term_id };
    Some(Box::new(UnionPay { account }))
}

/// `signMethod`, with the keys that it needs; or what is wrong, and what to do.
fn method(number: &str, given: &Given<'_>, test: bool) -> Result<signature::Method, (String, &'static str)> {
    let secret = |name: &'static str| given.secrets.get(name).map(|secret| secret.expose());
    let shared = || {
        let key = secret(SECURE_KEY).and_then(|key| String::from_utf8(key.to_vec()).ok());
        let missing = format!("sign_method \"{number}\" signs with a shared key, and `[keys]` has no `secure_key`");
        key.ok_or((missing, "add secure_key = \"env:…\": the 密钥 that UnionPay gave out"))
    };
    match number {
        "01" => {
            if given.algorithm.is_none() {
                let message = "sign_method \"01\" signs with a private key, and `[keys]` has no `sign`".to_owned();
                return Err((
                    message,
                    "add sign = { algorithm = \"rsa-sha256\", id = \"the certificate's decimal serial\", file = \"…\" }",
                ));
            }
            let (Some(root), Some(middle)) = (secret(ROOT_CERT), secret(MIDDLE_CERT)) else {
                let message = "sign_method \"01\" needs `root_cert` and `middle_cert` in `[keys]`".to_owned();
                return Err((
                    message,
                    "add root_cert = \"file:acp_prod_root.cer\" and middle_cert = \"file:acp_prod_middle.cer\"",
                ));
            };
            let trust = Trust::read(root, middle, test);
            trust.map(signature::Method::Rsa).map_err(|why| {
                (why.to_owned(), "take both files (验签中级证书, 验签根证书) from the same download of UnionPay")
            })
        }
        "11" => shared().map(signature::Method::Sha256),
        "12" => shared().map(signature::Method::Sm3),
        _ => Err((
            format!("the sign_method \"{number}\" is unknown"),
            "write \"01\" (RSA), \"11\" (SHA-256) or \"12\" (SM3)",
        )),
    }
}

fn check_certificate(file: &[u8]) -> Result<(), String> {
    match certificate::number(file) {
        Some(_) => Ok(()),
        None => Err("expected an X.509 certificate in PEM (`BEGIN CERTIFICATE`), as UnionPay gives it".to_owned()),
    }
}

impl Provider for UnionPay {
    fn encode(&self, operation: &Operation, with: Signing<'_>) -> Result<Encoded, Error> {
        let (path, mut fields) = request::fields(&self.account, operation, with)?;
        if path != request::FRONT {
            return Ok(Encoded::Send(request::post(path, &fields)));
        }
        self.account.method.sign(&mut fields, with)?;
        let action = Action::Form { url: format!("{}{path}", self.account.gateway), fields };
        Ok(Encoded::Answer(Outcome { action: Some(action), ..Outcome::of(Status::Pending) }))
    }

    fn sign(&self, request: &mut Request<Bytes>, with: Signing<'_>) -> Result<(), Error> {
        let unfit = || Error::Unfit("only a form can be signed for UnionPay".to_owned());
        let mut fields = form::read(request.body()).ok_or_else(unfit)?;
        self.account.method.sign(&mut fields, with)?;
        *request.body_mut() = form::write(&fields).into();
        Ok(())
    }

    fn verify(
        &self,
        source: Source,
        _: &HeaderMap,
        body: Bytes,
        _: &Keyring,
        now: u64,
    ) -> Result<Verified, BadSignature> {
        let fields = match source {
            Source::Answer => message::read_answer(&body),
            Source::Notification => form::read(&body),
        };
        let fields = fields.ok_or(BadSignature::Wrong("it is no message of UnionPay's form"))?;
        self.account.method.verify(&fields, body, now)
    }

    fn decode(
        &self,
        operation: &Operation,
        _: StatusCode,
        reply: Verified,
        with: Signing<'_>,
    ) -> Result<Outcome, Error> {
        self.message(message::read_answer(reply.bytes()))?.outcome(operation, with.stamp.unix_time)
    }

    /// Some failures are answered without a signature: that proves nothing.
    fn refusal(&self, _: &Operation, status: StatusCode, body: &[u8]) -> Error {
        let fields = message::read_answer(body).unwrap_or_default();
        let text = |name: &str| fields.get(name).cloned().unwrap_or_default();
        let word = Some(Word { code: text("respCode"), message: text("respMsg") }).filter(|word| !word.code.is_empty());
        Error::Unclear { why: format!("it answered HTTP {} without a signature", status.as_u16()), word }
    }

    fn decode_notification(&self, notification: Verified) -> Result<Event, Error> {
        self.message(form::read(notification.bytes()))?.event()
    }

    fn acknowledge(&self, accepted: bool) -> Response<Bytes> {
        let mut response = Response::new(Bytes::from_static(if accepted { b"ok" } else { b"not accepted" }));
        if !accepted {
            *response.status_mut() = StatusCode::BAD_REQUEST;
        }
        response
    }

    fn account(&self) -> &str {
        &self.account.mer_id
    }

    fn published_keys(&self) -> Option<&dyn PublishedKeys> {
        None
    }

    fn bills(&self) -> Option<&dyn Bills> {
        None
    }
}

impl UnionPay {
    fn message(&self, fields: Option<form::Fields>) -> Result<Message<'_>, Error> {
        let fields = fields.ok_or_else(|| Error::unclear("it is signed but has an unknown form"))?;
        Ok(Message { account: &self.account, fields })
    }
}

/// The ways to pay, with UnionPay's numbers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Product {
    Page,
    App,
    Qr,
    Barcode,
}

impl Product {
    fn of(method: payment::Method) -> Result<Self, Error> {
        match method.as_str() {
            "unionpay.page" => Ok(Self::Page),
            "unionpay.app" => Ok(Self::App),
            "unionpay.qr" => Ok(Self::Qr),
            "unionpay.barcode" => Ok(Self::Barcode),
            other => Err(Error::Unfit(format!("UnionPay has no method `{other}`"))),
        }
    }

    fn sub_type(self) -> &'static str {
        match self {
            Self::Page | Self::App => "01",
            Self::Barcode => "06",
            Self::Qr => "07",
        }
    }

    fn business(self) -> &'static str {
        match self {
            Self::Page | Self::App => "000201",
            Self::Qr | Self::Barcode => "000000",
        }
    }

    /// 07 is a computer, 08 a telephone.
    fn channel(self) -> &'static str {
        match self {
            Self::Page => "07",
            Self::App | Self::Qr | Self::Barcode => "08",
        }
    }
}
