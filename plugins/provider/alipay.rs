//! Alipay's Open API, for direct merchants and for partners that act for a merchant.
//!
//! ```text
//! Operation ─ request ─▶ form ─ signature ═▶ Alipay          (links and order strings are built locally)
//! Outcome   ◀─ answer ◀─ sealed ◀─ envelope ◀─ signature ◀═   (signed answers, including errors)
//! Error     ◀─ errors ─ codes ─────────────── ◀═   (signed by interfaces, unsigned by the gateway)
//! Event     ◀─ notify ◀──────── form ◀─ signature ◀═ notification
//! Keys      ◀─ certificates ◀═ Alipay's next certificate
//! ```
//!
//! With `protocol = "v3"`, `v3` replaces `form`, `envelope` and `signature` for requests and answers.

mod account;
mod answer;
mod bill;
mod certificate_files;
mod certificates;
mod codes;
mod envelope;
mod errors;
mod files;
mod gateway_codes;
mod notify;
mod product;
mod protocol;
mod readable;
mod request;
mod sealed;
mod signature;
mod v3;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};

use self::account::{Account, Protocol};
use self::codes::Interface;
use super::bill::Bills;
use super::{
    BadSignature, BuildContext, Described, Encoded, Need, PollInterval, Provider, ProviderSpec, PublishedKeys,
    SecretField, Signing, Source, Verified,
};
use crate::error::Error;
use crate::payment::{Event, Operation, Outcome};
use crate::settings::Settings;
use crate::signer::Keyring;

const SIGN_ADVICE: &str =
    "{ algorithm = \"rsa-sha256\", id = \"app\", file = \"…\" }: the application's private key (应用私钥)";
const VERIFY_ADVICE: &str = "[{ id = \"alipay\", file = \"…\" }]: Alipay's public key (支付宝公钥), or its certificate \
                           alipayCertPublicKey_RSA2.crt";

/// Default time in which an order can be paid. Alipay allows at most fifteen days. The expiry is sent with the order,
/// so that after it Alipay's answer "order does not exist" is final.
const DEFAULT_EXPIRY: Duration = Duration::from_hours(14 * 24);

pub(crate) const SPEC: ProviderSpec = ProviderSpec {
    scanned: &["alipay.barcode"],
    secrets: &[
        SecretField { name: account::APP_CERT, need: Need::Optional, check: certificate_files::check_app },
        SecretField { name: account::ROOT_CERT, need: Need::Optional, check: certificate_files::check_root },
        SecretField { name: account::AES, need: Need::Optional, check: sealed::check },
    ],
    algorithms: &["rsa-sha256", "rsa-sha1"],
    sign: Need::Required(SIGN_ADVICE),
    verify: Need::Required(VERIFY_ADVICE),
    key_id: certificate_files::key_id,
    repeats_create: &["alipay.qr", "alipay.jsapi"],
    unpaid_lifetime: Some(Duration::from_secs(15 * 24 * 3600)),
    inspection: &files::INSPECTION,
    ..ProviderSpec::new("alipay", METHODS, Duration::from_secs(30), PollInterval::Steady(Duration::from_secs(3)), build)
};

const METHODS: &[&str] = &["alipay.qr", "alipay.barcode", "alipay.page", "alipay.wap", "alipay.app", "alipay.jsapi"];

fn build(settings: &mut Settings<'_>, given: &BuildContext<'_>) -> Option<Box<dyn Provider>> {
    let account = account::read(settings, given)?;
    Some(Box::new(Alipay { account }))
}

/// Provider for one app, with the merchant that the app acts for.
struct Alipay {
    account: Account,
}

impl Provider for Alipay {
    fn encode(&self, operation: &Operation, with: Signing<'_>) -> Result<Encoded, Error> {
        protocol::encode(&self.account, operation, with)
    }

    fn sign(&self, request: &mut Request<Bytes>, with: Signing<'_>) -> Result<(), Error> {
        match self.account.protocol {
            Protocol::Form => signature::sign(&self.account, request, with),
            Protocol::V3 => v3::sign(&self.account, request, with),
        }
    }

    fn verify(
        &self,
        source: Source,
        headers: &HeaderMap,
        body: Bytes,
        keys: &Keyring,
        now: u64,
    ) -> Result<Verified, BadSignature> {
        match (source, self.account.protocol) {
            (Source::Answer, Protocol::Form) => signature::verify_answer(body, keys, now),
            (Source::Answer, Protocol::V3) => v3::verify(headers, body, keys, now),
            (Source::Notification, _) => signature::verify_notification(&self.account, body, keys, now),
        }
    }

    fn decode(
        &self,
        operation: &Operation,
        status: StatusCode,
        reply: Verified,
        with: Signing<'_>,
    ) -> Result<Outcome, Error> {
        protocol::decode(&self.account, operation, status, &reply, with.stamp.unix_time)
    }

    fn decode_unsigned_error(&self, operation: &Operation, status: StatusCode, body: &[u8]) -> Error {
        let interface = Interface::of(operation);
        match (self.account.protocol, request::service(operation)) {
            (Protocol::Form, Ok(service)) => errors::unsigned(interface, service, status, body),
            (Protocol::Form, Err(error)) => error,
            (Protocol::V3, _) => errors::v3(interface, status, body, false),
        }
    }

    fn decode_notification(&self, notification: Verified) -> Result<Event, Error> {
        notify::decode(&self.account, notification.bytes())
    }

    fn describe(&self, notification: &Verified) -> Described {
        notify::describe(notification.bytes())
    }

    /// Alipay reads the body only: anything but `success` makes Alipay send the notification again.
    fn acknowledge(&self, accepted: bool) -> Response<Bytes> {
        let mut response = Response::new(Bytes::from_static(if accepted { b"success" } else { b"fail" }));
        if !accepted {
            *response.status_mut() = StatusCode::BAD_REQUEST;
        }
        response
    }

    fn account(&self) -> &str {
        &self.account.name
    }

    fn default_expiry(&self) -> Option<Duration> {
        Some(DEFAULT_EXPIRY)
    }

    fn can_verify(&self, keys: &Keyring, now: u64) -> bool {
        keys.has_valid(now)
    }

    /// Certificate mode only: a bare key has no serial number by which its successor could be requested.
    fn published_keys(&self) -> Option<&dyn PublishedKeys> {
        self.account.certificates.is_some().then_some(self as &dyn PublishedKeys)
    }

    fn bills(&self) -> Option<&dyn Bills> {
        Some(self)
    }
}
