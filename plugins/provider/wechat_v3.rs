//! WeChat Pay's APIv3, for direct merchants and for service providers.
//!
//! The protocol is in `v3_scheme`. This module adds WeChat Pay's names and codes, bills and scanned payment codes.

mod bill;
mod codepay;
mod codes;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};

use self::codepay::ScanningShop;
use super::answer_codes::Interface;
use super::bill::Bills;
use super::merchant_account::Account;
use super::v3_scheme::{self, KeyAdvice, Paths, Product, V3Account, V3Scheme, answer, refusal};
use super::wechat_files;
use super::{
    BadSignature, BuildContext, Described, Encoded, Need, PollInterval, Provider, ProviderSpec, PublishedKeys,
    SecretField, Signing, Source, Verified,
};
use crate::error::Error;
use crate::payment::{Event, Operation, Outcome, Status};
use crate::settings::Settings;
use crate::signer::Keyring;

pub(crate) const SPEC: ProviderSpec = ProviderSpec {
    scanned: &["wechat.codepay"],
    secrets: &[SecretField { name: API_V3, need: Need::Required(API_V3_ADVICE), check: check_api_v3 }],
    algorithms: &["rsa-sha256"],
    sign: Need::Required(SIGN_ADVICE),
    verify: Need::Optional,
    key_id: v3_scheme::serial,
    repeats_create: &["wechat.native", "wechat.jsapi", "wechat.h5", "wechat.app"],
    unpaid_lifetime: Some(Duration::from_secs(7 * 24 * 3600)),
    inspection: &wechat_files::V3,
    ..ProviderSpec::new(
        "wechat-v3",
        METHODS,
        Duration::from_secs(30),
        PollInterval::Steady(Duration::from_secs(3)),
        build,
    )
};

const METHODS: &[&str] = &["wechat.native", "wechat.jsapi", "wechat.h5", "wechat.app", "wechat.codepay"];

const API_V3: &str = "api_v3";
const API_V3_ADVICE: &str = "the APIv3 key from pay.weixin.qq.com (账户中心 → API安全 → APIv3密钥), as \"env:…\"";
const SIGN_ADVICE: &str = "{ algorithm = \"rsa-sha256\", id = \"the API certificate's serial number (API证书序列号)\", \
                         file = \"apiclient_key.pem\" }";

/// WeChat Pay's names in the v3 scheme.
const SCHEME: V3Scheme = V3Scheme {
    company: "WeChat Pay",
    authorization: "WECHATPAY2-SHA256-RSA2048",
    header_prefix: "wechatpay",
    public_key_prefix: Some("PUB_KEY_ID_"),
    probe_prefix: Some("WECHATPAY/SIGNTEST/"),
    paths: Paths {
        transactions: "/v3/pay/transactions",
        partner_transactions: "/v3/pay/partner/transactions",
        refunds: "/v3/refund/domestic/refunds",
        certificates: "/v3/certificates",
    },
    products: &[
        ("wechat.native", Product::Native),
        ("wechat.jsapi", Product::Jsapi),
        ("wechat.h5", Product::H5),
        ("wechat.app", Product::App),
    ],
    jsapi_sign_type: "RSA",
    app_package: "Sign=WXPay",
    has_mchid_in_refunds: false,
    codes: codes::CODES,
    key_advice: KeyAdvice {
        // Merchants opened since autumn 2024 have no platform certificates.
        use_public_key: "this account has no platform certificates: download WeChat Pay's public key (微信支付公钥) from \
                         pay.weixin.qq.com (账户中心 → API安全) and put it in the channel's `keys.verify`, as in [{ id = \
                         \"PUB_KEY_ID_…\", file = \"pub_key.pem\" }]",
        check_signer: "check that `keys.sign` has the private key and the serial number of the API certificate (API证书), that \
                         `account.mchid` is its merchant, and that this machine's clock is right",
        check_api_key: "check that `keys.api_v3` is the APIv3 key set at pay.weixin.qq.com (账户中心 → API安全 → \
                         APIv3密钥); it differs from the API key of APIv2",
        ask_provider: "the gateway retries automatically; if the error persists, ask WeChat Pay, or put its public key (PUB_KEY_ID_…) in \
                         the channel's `keys.verify`",
    },
};

/// Builds the provider. Secrets were checked by [`SPEC`]'s own check before, so a missing secret is not reported again.
fn build(settings: &mut Settings<'_>, given: &BuildContext<'_>) -> Option<Box<dyn Provider>> {
    let ids = Account::read(settings, "pay.weixin.qq.com")?;
    let shop = ScanningShop::read(settings, &ids)?;
    Some(Box::new(WechatV3 { merchant: V3Account::new(&SCHEME, ids, given.secrets.get(API_V3)?.expose())?, shop }))
}

fn check_api_v3(secret: &[u8]) -> Result<(), String> {
    v3_scheme::check_api_key(secret)
        .map_err(|why| format!("{why}: set it in the merchant console (账户中心 → API安全 → APIv3密钥)"))
}

/// Provider for one merchant account.
struct WechatV3 {
    merchant: V3Account,
    /// Shop that scans payers' codes; `None` if `codepay` is off.
    shop: Option<ScanningShop>,
}

impl Provider for WechatV3 {
    fn encode(&self, operation: &Operation, with: Signing<'_>) -> Result<Encoded, Error> {
        let request = match operation {
            Operation::Pay(pay) if codepay::is_codepay(pay.order.method) => {
                codepay::create(&self.merchant, self.shop.as_ref(), pay)
            }
            Operation::Close(order) if codepay::is_codepay(order.method) => codepay::reversal(&self.merchant, order),
            _ => return self.merchant.encode(operation, with),
        };
        request.map(Encoded::Send)
    }

    fn sign(&self, request: &mut Request<Bytes>, with: Signing<'_>) -> Result<(), Error> {
        self.merchant.sign(request, with)
    }

    fn verify(
        &self,
        source: Source,
        headers: &HeaderMap,
        body: Bytes,
        keys: &Keyring,
        now: u64,
    ) -> Result<Verified, BadSignature> {
        self.merchant.verify(source, headers, body, keys, now)
    }

    fn decode(
        &self,
        operation: &Operation,
        status: StatusCode,
        reply: Verified,
        with: Signing<'_>,
    ) -> Result<Outcome, Error> {
        match (Interface::of(operation), refusal::awaiting_password(reply.bytes())) {
            (Interface::Scan, Some(_)) => return Ok(Outcome::of(Status::Pending)),
            (Interface::Close | Interface::Reverse, Some(provider_error)) => {
                return Err(Error::ProviderBusy(provider_error));
            }
            _ => {}
        }
        match operation {
            Operation::Pay(pay) if status.is_success() && codepay::is_codepay(pay.order.method) => {
                answer::queried(&self.merchant.ids, &pay.order, &answer::read(reply.bytes())?)
            }
            Operation::Close(order) if status.is_success() && codepay::is_codepay(order.method) => {
                Err(codepay::reversal_accepted())
            }
            _ => self.merchant.decode(operation, status, reply, with),
        }
    }

    fn decode_unsigned_error(&self, operation: &Operation, status: StatusCode, body: &[u8]) -> Error {
        self.merchant.decode_unsigned_error(operation, status, body)
    }

    fn decode_notification(&self, notification: Verified) -> Result<Event, Error> {
        self.merchant.decode_notification(notification)
    }

    fn describe(&self, notification: &Verified) -> Described {
        self.merchant.describe(notification)
    }

    fn acknowledge(&self, accepted: bool) -> Response<Bytes> {
        self.merchant.acknowledge(accepted)
    }

    fn account(&self) -> &str {
        self.merchant.account()
    }

    fn can_verify(&self, keys: &Keyring, now: u64) -> bool {
        self.merchant.can_verify(keys, now)
    }

    fn published_keys(&self) -> Option<&dyn PublishedKeys> {
        self.merchant.published_keys()
    }

    /// A service provider's bill covers all of its merchants, but this channel belongs to one merchant.
    fn bills(&self) -> Option<&dyn Bills> {
        self.merchant.ids.sub_mchid.is_none().then_some(self as &dyn Bills)
    }
}
