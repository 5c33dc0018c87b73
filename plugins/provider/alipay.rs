//! Alipay's open platform, by its form protocol.
//!
//! ```text
//! Operation ─ request ─▶ signature ═▶ gateway.do
//!           ─ request ─▶ signature ─▶ a link or order string for the payer's device: no exchange
//! Outcome   ◀─ answer ── signature ◀═   (over the exact characters of the answer)
//! Error     ◀─ errors ◀─ answer
//! Event     ◀─ notify ── signature ◀═ its notification
//! ```
//!
//! Times are Beijing's, amounts yuan with two decimals.

mod answer;
mod certificate;
mod errors;
mod notify;
mod request;
mod signature;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};

use super::form;
use super::{BadSignature, Encoded, Given, Need, Provider, PublishedKeys, Row, SecretField, Signing, Source, Verified};
use crate::error::Error;
use crate::payment::{Action, Event, Method, Operation, Outcome, Status};
use crate::settings::Settings;
use crate::signer::Keyring;

pub(super) const ROW: Row = Row {
    name: "alipay",
    methods: &["alipay.qr", "alipay.barcode", "alipay.page", "alipay.wap", "alipay.app", "alipay.jsapi"],
    secrets: &[
        SecretField { name: APP_CERT, required: false, check: check_certificate },
        SecretField { name: ROOT_CERT, required: false, check: check_certificate },
    ],
    algorithms: &["rsa-sha256"],
    sign: Need::Required,
    verify: Need::Required,
    key_id: certificate::number,
    build,
};

const APP_CERT: &str = "app_cert";
const ROOT_CERT: &str = "root_cert";
const GATEWAY: &str = "https://openapi.alipay.com/gateway.do";

/// One application.
struct Alipay {
    account: Account,
}

/// By Alipay's own names.
struct Account {
    app_id: String,
    /// Who is paid (`2088…`); every notification must name it when it is configured.
    seller_id: Option<String>,
    /// In whose name a partner acts.
    app_auth_token: Option<String>,
    /// Where payers' browsers are sent.
    gateway: String,
    /// In certificate mode, the numbers of the application's and the root certificates.
    certificates: Option<(String, String)>,
}

fn build(settings: &mut Settings<'_>, given: &Given<'_>) -> Option<Box<dyn Provider>> {
    let is_number = |id: &String| (1..=32).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_digit());
    let app_id: Option<String> = settings.required("app_id");
    if app_id.as_ref().is_some_and(|id| !is_number(id)) {
        let suggestion = "copy the APPID from open.alipay.com, as in app_id = \"2021000000000001\"";
        settings.problem("app_id", "the app_id must be 1 to 32 digits", Some(suggestion.to_owned()));
    }
    let seller_id: Option<String> = settings.optional("seller_id");
    if seller_id.as_ref().is_some_and(|id| !is_number(id)) {
        let suggestion = "copy the PID of who is paid, as in seller_id = \"2088102146225135\"";
        settings.problem("seller_id", "the seller_id must be 1 to 32 digits", Some(suggestion.to_owned()));
    }
    let app_auth_token: Option<String> = settings.optional("app_auth_token");
    let gateway: String = settings.or("gateway", GATEWAY.to_owned());
    if !gateway.starts_with("https://") && !gateway.starts_with("http://127.") {
        let suggestion = format!("payers' browsers are sent there, as in gateway = \"{GATEWAY}\"");
        settings.problem("gateway", "the gateway must be an https address", Some(suggestion));
        return None;
    }
    let certificates = match (given.secrets.get(APP_CERT), given.secrets.get(ROOT_CERT)) {
        (None, None) => None,
        (Some(app), Some(root)) => {
            let numbers = (certificate::number(app.expose()), certificate::root_number(root.expose()));
            let (Some(app), Some(root)) = numbers else {
                let message = "`root_cert` holds no RSA certificate that can be read";
                let suggestion = "download alipayRootCert.crt again from open.alipay.com";
                settings.problem("app_id", message, Some(suggestion.to_owned()));
                return None;
            };
            Some((app, root))
        }
        _ => {
            let message = "certificate mode needs both `app_cert` and `root_cert` in `[keys]`";
            let suggestion = "add the missing one, as in root_cert = \"file:alipayRootCert.crt\", or leave both out";
            settings.problem("app_id", message, Some(suggestion.to_owned()));
            return None;
        }
    };
    let seller_id = match seller_id {
        Some(id) if !is_number(&id) => return None,
        seller_id => seller_id,
    };
    let account = Account { app_id: app_id.filter(is_number)?, seller_id, app_auth_token, gateway, certificates };
    Some(Box::new(Alipay { account }))
}

fn check_certificate(file: &[u8]) -> Result<(), String> {
    match certificate::number(file) {
        Some(_) => Ok(()),
        None => {
            Err("expected an X.509 certificate in PEM (`BEGIN CERTIFICATE`), as open.alipay.com gives it".to_owned())
        }
    }
}

impl Provider for Alipay {
    fn encode(&self, operation: &Operation, with: Signing<'_>) -> Result<Encoded, Error> {
        let mut fields = request::fields(&self.account, operation, with)?;
        let product = Product::of(operation.order().method)?;
        let (Operation::Pay(_), Product::Page | Product::Wap | Product::App) = (operation, product) else {
            return Ok(Encoded::Send(request::post(&fields)));
        };
        signature::sign(&mut fields, with)?;
        let signed = form::encode(&fields);
        let action = match product {
            Product::App => Action::App { params: BTreeMap::from([("orderStr".to_owned(), signed)]) },
            _ => Action::Redirect { url: format!("{}?{signed}", self.account.gateway) },
        };
        Ok(Encoded::Answer(Outcome { action: Some(action), ..Outcome::of(Status::Pending) }))
    }

    fn sign(&self, request: &mut Request<Bytes>, with: Signing<'_>) -> Result<(), Error> {
        let unfit = || Error::Unfit("only a form can be signed for Alipay".to_owned());
        let mut fields = form::decode(request.body()).ok_or_else(unfit)?;
        signature::sign(&mut fields, with)?;
        *request.body_mut() = form::encode(&fields).into();
        Ok(())
    }

    fn verify(
        &self,
        source: Source,
        _: &HeaderMap,
        body: Bytes,
        keys: &Keyring,
        now: u64,
    ) -> Result<Verified, BadSignature> {
        match source {
            Source::Answer => signature::verify_answer(&body, keys, now),
            Source::Notification => signature::verify_notification(body, keys, now),
        }
    }

    fn decode(&self, operation: &Operation, _: StatusCode, reply: Verified, _: Signing<'_>) -> Result<Outcome, Error> {
        answer::decode(operation, reply.bytes())
    }

    /// The gateway's own errors (`error_response`) are not signed: they prove nothing.
    fn refusal(&self, _: &Operation, _: StatusCode, body: &[u8]) -> Error {
        answer::unsigned(signature::unverified_response(body))
    }

    fn decode_notification(&self, notification: Verified) -> Result<Event, Error> {
        notify::decode(&self.account, notification.bytes())
    }

    fn acknowledge(&self, accepted: bool) -> Response<Bytes> {
        let mut response = Response::new(Bytes::from_static(if accepted { b"success" } else { b"failure" }));
        if !accepted {
            *response.status_mut() = StatusCode::BAD_REQUEST;
        }
        response
    }

    fn account(&self) -> &str {
        &self.account.app_id
    }

    fn published_keys(&self) -> Option<&dyn PublishedKeys> {
        None
    }
}

/// The ways to pay, with Alipay's names.
#[derive(Clone, Copy)]
enum Product {
    Qr,
    Barcode,
    Page,
    Wap,
    App,
    Jsapi,
}

impl Product {
    fn of(method: Method) -> Result<Self, Error> {
        match method.as_str() {
            "alipay.qr" => Ok(Self::Qr),
            "alipay.barcode" => Ok(Self::Barcode),
            "alipay.page" => Ok(Self::Page),
            "alipay.wap" => Ok(Self::Wap),
            "alipay.app" => Ok(Self::App),
            "alipay.jsapi" => Ok(Self::Jsapi),
            other => Err(Error::Unfit(format!("Alipay has no method `{other}`"))),
        }
    }

    fn method(self) -> &'static str {
        match self {
            Self::Qr => "alipay.trade.precreate",
            Self::Barcode => "alipay.trade.pay",
            Self::Page => "alipay.trade.page.pay",
            Self::Wap => "alipay.trade.wap.pay",
            Self::App => "alipay.trade.app.pay",
            Self::Jsapi => "alipay.trade.create",
        }
    }

    fn code(self) -> &'static str {
        match self {
            Self::Qr | Self::Barcode => "FACE_TO_FACE_PAYMENT",
            Self::Page => "FAST_INSTANT_TRADE_PAY",
            Self::Wap => "QUICK_WAP_WAY",
            Self::App => "QUICK_MSECURITY_PAY",
            Self::Jsapi => "JSAPI_PAY",
        }
    }
}
