//! WeChat Pay's APIv3, for direct merchants and for service providers.
//!
//! ```text
//! Operation ─ request ─▶ signature ═▶ WeChat Pay
//! Outcome   ◀─ answer ── signature ◀═   (2xx)
//! Error     ◀─ errors ──────────── ◀═   (other statuses; often unsigned)
//! Event     ◀─ notify ◀─ sealed ◀─ signature ◀═ notification
//! Keys      ◀─ certificates ◀─ sealed ◀═ list of WeChat Pay's certificates
//! ```

mod answer;
mod bill;
mod certificates;
mod codepay;
mod errors;
mod notify;
mod request;
mod sealed;
mod signature;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;

use std::time::Duration;

use aes_gcm::{Aes256Gcm, KeyInit};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};

use self::codepay::ScanningShop;
use super::bill::Bills;
use super::wechat_account::Account;
use super::wechat_errors::Interface;
use super::wechat_files;
use super::{
    BadSignature, BuildContext, Described, Encoded, Need, PollInterval, Provider, ProviderSpec, PublishedKeys,
    SecretField, Signing, Source, Verified,
};
use crate::error::Error;
use crate::payment::{Event, Method, Operation, Outcome, Status};
use crate::settings::Settings;
use crate::signer::Keyring;

pub(crate) const SPEC: ProviderSpec = ProviderSpec {
    name: "wechat-v3",
    methods: &["wechat.native", "wechat.jsapi", "wechat.h5", "wechat.app", "wechat.codepay"],
    secrets: &[SecretField { name: API_V3, need: Need::Required(API_V3_ADVICE), check: check_api_v3 }],
    algorithms: &["rsa-sha256"],
    sign: Need::Required(SIGN_ADVICE),
    verify: Need::Optional,
    key_id: certificates::serial,
    not_found_grace: Duration::from_secs(30),
    pace: PollInterval::Steady(Duration::from_secs(3)),
    repeats_create: &["wechat.native", "wechat.jsapi", "wechat.h5", "wechat.app"],
    unpaid_lifetime: Some(Duration::from_secs(7 * 24 * 3600)),
    without_mtls: None,
    inspection: &wechat_files::V3,
    build,
};

const API_V3: &str = "api_v3";
const API_V3_ADVICE: &str = "the APIv3 key from pay.weixin.qq.com (账户中心 → API安全 → APIv3密钥), as \"env:…\"";
const SIGN_ADVICE: &str = "{ algorithm = \"rsa-sha256\", id = \"the API certificate's serial number (API证书序列号)\", \
                         file = \"apiclient_key.pem\" }";

/// Builds the provider. Secrets were checked by [`ROW`]'s own check before, so a missing secret is not reported again.
fn build(settings: &mut Settings<'_>, given: &BuildContext<'_>) -> Option<Box<dyn Provider>> {
    let account = Account::read(settings)?;
    let shop = ScanningShop::read(settings, &account)?;
    let api_v3 = Aes256Gcm::new_from_slice(given.secrets.get(API_V3)?.expose()).ok()?;
    Some(Box::new(WechatV3 { account, shop, api_v3 }))
}

fn check_api_v3(secret: &[u8]) -> Result<(), String> {
    match secret.len() {
        32 if secret.is_ascii() => Ok(()),
        length => Err(format!(
            "the APIv3 key must be exactly 32 ASCII characters, but it has {length} bytes: \
             set it in the merchant console (账户中心 → API安全 → APIv3密钥)"
        )),
    }
}

/// Provider for one merchant account.
struct WechatV3 {
    account: Account,
    /// Shop that scans payers' codes; `None` if `codepay` is off.
    shop: Option<ScanningShop>,
    /// Key that decrypts notifications and certificates.
    api_v3: Aes256Gcm,
}

impl Provider for WechatV3 {
    fn encode(&self, operation: &Operation, _: Signing<'_>) -> Result<Encoded, Error> {
        let request = match operation {
            Operation::Pay(pay) if codepay::is_codepay(pay.order.method) => {
                codepay::create(&self.account, self.shop.as_ref(), pay)
            }
            Operation::Close(order) if codepay::is_codepay(order.method) => codepay::reversal(&self.account, order),
            _ => request::encode(&self.account, operation),
        };
        request.map(Encoded::Send)
    }

    fn sign(&self, request: &mut Request<Bytes>, with: Signing<'_>) -> Result<(), Error> {
        signature::sign(&self.account.mchid, request, with)
    }

    fn verify(
        &self,
        _: Source,
        headers: &HeaderMap,
        body: Bytes,
        keys: &Keyring,
        now: u64,
    ) -> Result<Verified, BadSignature> {
        signature::verify(headers, body, keys, now)
    }

    fn decode(
        &self,
        operation: &Operation,
        status: StatusCode,
        reply: Verified,
        with: Signing<'_>,
    ) -> Result<Outcome, Error> {
        let interface = Interface::of(operation);
        match (interface, errors::awaiting_password(reply.bytes())) {
            (Interface::Scan, Some(_)) => return Ok(Outcome::of(Status::Pending)),
            (Interface::Close | Interface::Reverse, Some(word)) => return Err(Error::ProviderBusy(word)),
            _ if !status.is_success() => return Err(errors::refusal(interface, status, reply.bytes())),
            _ => {}
        }
        match operation {
            Operation::Pay(pay) if codepay::is_codepay(pay.order.method) => {
                answer::queried(&self.account, &pay.order, &answer::read(reply.bytes())?)
            }
            Operation::Close(order) if codepay::is_codepay(order.method) => Err(codepay::reversal_accepted()),
            _ => answer::decode(&self.account, operation, status, reply.bytes(), with),
        }
    }

    fn decode_unsigned_error(&self, operation: &Operation, status: StatusCode, body: &[u8]) -> Error {
        errors::unsigned(Interface::of(operation), status, body)
    }

    fn decode_notification(&self, notification: Verified) -> Result<Event, Error> {
        notify::decode(&self.account, &self.api_v3, notification.bytes())
    }

    fn describe(&self, notification: &Verified) -> Described {
        notify::describe(&self.api_v3, notification.bytes())
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
        &self.account.name
    }

    fn default_expiry(&self) -> Option<Duration> {
        None
    }

    fn can_verify(&self, keys: &Keyring, now: u64) -> bool {
        keys.has_valid(now)
    }

    fn published_keys(&self) -> Option<&dyn PublishedKeys> {
        Some(self)
    }

    /// A service provider's bill covers all of its merchants, but this channel belongs to one merchant.
    fn bills(&self) -> Option<&dyn Bills> {
        self.account.sub_mchid.is_none().then_some(self as &dyn Bills)
    }
}

/// Payment products, which differ in path, required payer data and answer. `wechat.codepay` is in [`codepay`].
#[derive(Clone, Copy)]
enum Product {
    Native,
    Jsapi,
    H5,
    App,
}

impl Product {
    fn of(method: Method) -> Option<Self> {
        match method.as_str() {
            "wechat.native" => Some(Self::Native),
            "wechat.jsapi" => Some(Self::Jsapi),
            "wechat.h5" => Some(Self::H5),
            "wechat.app" => Some(Self::App),
            _ => None,
        }
    }
}
