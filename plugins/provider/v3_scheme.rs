//! The v3 scheme: the protocol of WeChat Pay's APIv3, which other companies use under their own names.
//!
//! A provider of the scheme is a [`V3Scheme`], which holds its names, paths and codes, and a [`V3Account`], which does the work.
//!
//! ```text
//! Operation ─ request ─▶ signature ═▶ provider
//! Outcome   ◀─ answer ── signature ◀═   (2xx)
//! Error     ◀─ refusal ─────────── ◀═   (other statuses; often unsigned)
//! Event     ◀─ notify ◀─ sealed ◀─ signature ◀═ notification
//! Keys      ◀─ certificates ◀─ sealed ◀═ list of the provider's certificates
//! ```

pub(super) mod answer;
mod certificates;
mod notify;
pub(super) mod refusal;
pub(super) mod request;
mod sealed;
mod signature;

#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;

use aes_gcm::{Aes256Gcm, KeyInit};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};

pub(super) use self::certificates::{KeyAdvice, serial};
pub(super) use self::refusal::AnswerCodes;
#[cfg(test)]
pub(super) use self::sealed::Sealed;
use super::answer_codes::Interface;
use super::merchant_account::Account;
use super::{BadSignature, Described, Encoded, Provider, PublishedKeys, Signing, Source, Verified};
use crate::error::Error;
use crate::payment::{Event, Method, Operation, Outcome};
use crate::signer::Keyring;

/// Names, paths and codes in which the providers of the scheme differ.
pub(super) struct V3Scheme {
    /// Company, as messages name it.
    pub(super) company: &'static str,
    /// Name of the scheme in `Authorization`; also the signature type of the provider's messages.
    pub(super) authorization: &'static str,
    /// Prefix of the signature headers, in lower case. `NAME-signature` carries the signature.
    pub(super) header_prefix: &'static str,
    /// Prefix of the ids of bare public keys; `None` if the provider has only certificates.
    pub(super) public_key_prefix: Option<&'static str>,
    /// Prefix of signatures that are wrong on purpose, to test the merchant; `None` if the provider sends none.
    pub(super) probe_prefix: Option<&'static str>,
    /// Paths of the API.
    pub(super) paths: Paths,
    /// Payment methods, each with its product.
    pub(super) products: &'static [(&'static str, Product)],
    /// Value of `signType` in the parameters of [`Product::Jsapi`].
    pub(super) jsapi_sign_type: &'static str,
    /// Value of `package` in the parameters of [`Product::App`].
    pub(super) app_package: &'static str,
    /// True if requests about refunds of a direct merchant contain its `mchid`.
    pub(super) has_mchid_in_refunds: bool,
    /// Meanings of the error codes.
    pub(super) codes: AnswerCodes,
    /// Advice for an operator whose keys cannot be fetched.
    pub(super) key_advice: KeyAdvice,
}

/// Paths of the API, without host. The base path is a part of each.
pub(super) struct Paths {
    /// Orders of direct merchants.
    pub(super) transactions: &'static str,
    /// Orders of service providers that act for a merchant.
    pub(super) partner_transactions: &'static str,
    /// Refunds.
    pub(super) refunds: &'static str,
    /// List of the provider's certificates.
    pub(super) certificates: &'static str,
}

/// Payment product. Products differ in path, required payer data and answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Product {
    /// QR code that the payer scans.
    Native,
    /// Payment page inside the provider's app.
    Jsapi,
    /// Payment page in another mobile browser.
    H5,
    /// Payment from the merchant's own app.
    App,
}

impl V3Scheme {
    /// Returns the product of a method; `None` if the method is not the scheme's.
    fn product(&self, method: Method) -> Option<Product> {
        self.products.iter().find(|(name, _)| *name == method.as_str()).map(|(_, product)| *product)
    }
}

/// Checks the secret that decrypts notifications, as a [`SecretField::check`](super::SecretField::check).
pub(super) fn check_api_key(secret: &[u8]) -> Result<(), String> {
    match secret.len() {
        32 if secret.is_ascii() => Ok(()),
        length => Err(format!("the APIv3 key must be exactly 32 ASCII characters, but it has {length} bytes")),
    }
}

/// Account at a provider of the scheme.
pub(super) struct V3Account {
    pub(super) scheme: &'static V3Scheme,
    pub(super) ids: Account,
    /// Key that decrypts notifications and certificates.
    pub(super) api_key: Aes256Gcm,
}

impl V3Account {
    /// Creates the account. Returns `None` if the secret does not have 32 bytes.
    pub(super) fn new(scheme: &'static V3Scheme, ids: Account, secret: &[u8]) -> Option<Self> {
        Some(Self { scheme, ids, api_key: Aes256Gcm::new_from_slice(secret).ok()? })
    }
}

impl Provider for V3Account {
    fn encode(&self, operation: &Operation, _: Signing<'_>) -> Result<Encoded, Error> {
        self.encode_operation(operation).map(Encoded::Send)
    }

    fn sign(&self, request: &mut Request<Bytes>, with: Signing<'_>) -> Result<(), Error> {
        self.scheme.sign(&self.ids.mchid, request, with)
    }

    fn verify(
        &self,
        _: Source,
        headers: &HeaderMap,
        body: Bytes,
        keys: &Keyring,
        now: u64,
    ) -> Result<Verified, BadSignature> {
        self.scheme.verify(headers, body, keys, now)
    }

    fn decode(
        &self,
        operation: &Operation,
        status: StatusCode,
        reply: Verified,
        with: Signing<'_>,
    ) -> Result<Outcome, Error> {
        if !status.is_success() {
            return Err(self.scheme.codes.refusal(Interface::of(operation), status, reply.bytes()));
        }
        self.decode_answer(operation, status, reply.bytes(), with)
    }

    fn decode_unsigned_error(&self, operation: &Operation, status: StatusCode, body: &[u8]) -> Error {
        self.scheme.codes.unsigned(Interface::of(operation), status, body)
    }

    fn decode_notification(&self, notification: Verified) -> Result<Event, Error> {
        notify::decode(self.scheme, &self.ids, &self.api_key, notification.bytes())
    }

    fn describe(&self, notification: &Verified) -> Described {
        notify::describe(&self.api_key, notification.bytes())
    }

    fn acknowledge(&self, accepted: bool) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        if accepted {
            *response.status_mut() = StatusCode::NO_CONTENT;
        } else {
            *response.status_mut() = StatusCode::BAD_REQUEST;
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            *response.body_mut() = Bytes::from_static(br#"{"code":"FAIL","message":"not accepted"}"#);
        }
        response
    }

    fn account(&self) -> &str {
        &self.ids.name
    }

    fn can_verify(&self, keys: &Keyring, now: u64) -> bool {
        keys.has_valid(now)
    }

    fn published_keys(&self) -> Option<&dyn PublishedKeys> {
        Some(self)
    }
}
