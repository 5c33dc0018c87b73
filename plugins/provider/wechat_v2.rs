//! WeChat Pay's APIv2: flat XML and one shared API key.
//!
//! ```text
//! Operation ─ request ─▶ signature ═▶ WeChat Pay      (refunds and reversals: over mutual TLS)
//! Outcome   ◀─ answer ── signature ◀═
//! Error     ◀─ errors ◀─ answer
//! Event     ◀─ answer ── signature ◀═ notification (of a refund: encrypted, settled by a query)
//! ```
//!
//! Signatures cover the same fields in both directions: sorted, without `sign` and empty fields, with the key at the
//! end.

mod account;
mod answer;
mod bill;
mod errors;
mod product;
mod request;
mod signature;
mod xml;

#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};

use self::account::Account;
use self::answer::Message;
use self::signature::{ApiKey, SignType};
use super::answer_codes::Interface;
use super::bill::Bills;
use super::{
    BadSignature, BuildContext, Described, Encoded, Need, PollInterval, Provider, ProviderSpec, SecretField, Signing,
    Source, Verified,
};
use super::{merchant_account, wechat_files};
use crate::error::Error;
use crate::payment::{Event, Operation, Outcome};
use crate::settings::Settings;
use crate::signer::Keyring;

pub(crate) const SPEC: ProviderSpec = ProviderSpec {
    scanned: &["wechat.codepay"],
    secrets: &[SecretField { name: API, need: Need::Required(API_ADVICE), check: check_api }],
    repeats_create: &["wechat.native", "wechat.jsapi", "wechat.h5", "wechat.app"],
    unpaid_lifetime: Some(Duration::from_secs(7 * 24 * 3600)),
    without_mtls: Some(
        "refunds, reversals and bills of funds are refused: WeChat Pay accepts them only with the API certificate (API证书) in `[mtls]`, \
         cert = \"apiclient_cert.pem\" and key = \"apiclient_key.pem\"",
    ),
    inspection: &wechat_files::V2,
    ..ProviderSpec::new(
        "wechat-v2",
        METHODS,
        Duration::from_secs(30),
        PollInterval::Steady(Duration::from_secs(3)),
        build,
    )
};

const METHODS: &[&str] = &["wechat.native", "wechat.jsapi", "wechat.h5", "wechat.app", "wechat.codepay"];

const API: &str = "api";
const API_ADVICE: &str = "the API key from pay.weixin.qq.com (账户中心 → API安全 → APIv2密钥), as \"env:…\"";

struct WechatV2 {
    account: Account,
}

fn build(settings: &mut Settings<'_>, given: &BuildContext<'_>) -> Option<Box<dyn Provider>> {
    let ids = merchant_account::Account::read(settings, "pay.weixin.qq.com");
    let sign_type = SignType::named(&settings.or("sign_type", SignType::HmacSha256.as_str().to_owned()));
    settings.choices("sign_type", [SignType::HmacSha256, SignType::Md5].map(SignType::as_str));
    if sign_type.is_none() {
        let suggestion = "write sign_type = \"HMAC-SHA256\", or \"MD5\" for old accounts";
        settings.problem("sign_type", "the sign_type is unknown", Some(suggestion.to_owned()));
    }
    let key = String::from_utf8(given.secrets.get(API)?.expose().to_vec()).ok()?;
    let account = Account { ids: ids?, key: ApiKey { key, sign_type: sign_type? } };
    Some(Box::new(WechatV2 { account }))
}

fn check_api(secret: &[u8]) -> Result<(), String> {
    match secret.len() {
        32 if secret.is_ascii() => Ok(()),
        length => Err(format!(
            "the API key must be exactly 32 ASCII characters, but it has {length} bytes: \
             set it in the merchant console (账户中心 → API安全 → APIv2密钥)"
        )),
    }
}

impl Provider for WechatV2 {
    fn encode(&self, operation: &Operation, with: Signing<'_>) -> Result<Encoded, Error> {
        request::encode(&self.account, operation, with).map(Encoded::Send)
    }

    fn sign(&self, request: &mut Request<Bytes>, _: Signing<'_>) -> Result<(), Error> {
        let not_flat_xml = || Error::Unsupported("only flat XML can be signed for APIv2".to_owned());
        let mut fields = xml::read("xml", request.body()).ok_or_else(not_flat_xml)?;
        // The request names its signature type, because some interfaces accept only one.
        let sign_type = fields.get("sign_type").and_then(|name| SignType::named(name));
        let sign = self.account.key.sign_as(sign_type.unwrap_or(self.account.key.sign_type), &fields);
        fields.insert("sign".to_owned(), sign);
        *request.body_mut() = xml::write(&fields).into();
        Ok(())
    }

    fn verify(
        &self,
        source: Source,
        _: &HeaderMap,
        body: Bytes,
        _: &Keyring,
        _: u64,
    ) -> Result<Verified, BadSignature> {
        match self.account.key.verify(body.clone()) {
            Err(BadSignature::Missing) if source == Source::Notification => self.account.key.verify_refund(body),
            checked => checked,
        }
    }

    fn decode(
        &self,
        operation: &Operation,
        status: StatusCode,
        reply: Verified,
        with: Signing<'_>,
    ) -> Result<Outcome, Error> {
        self.message(reply.bytes())?.outcome(operation, status, with)
    }

    fn decode_unsigned_error(&self, operation: &Operation, status: StatusCode, body: &[u8]) -> Error {
        errors::unsigned(Interface::of(operation), status, body)
    }

    fn decode_notification(&self, notification: Verified) -> Result<Event, Error> {
        self.message(notification.bytes())?.event()
    }

    fn describe(&self, notification: &Verified) -> Described {
        let fields = xml::read("xml", notification.bytes()).unwrap_or_default();
        let field = |name: &str| fields.get(name).cloned();
        // Notifications of payments have no type; those of refunds have encrypted content.
        let event = if fields.contains_key("req_info") { "refund" } else { "payment" };
        Described { event: Some(event.to_owned()), order_number: field("out_trade_no") }
    }

    fn acknowledge(&self, accepted: bool) -> Response<Bytes> {
        let body: &[u8] = match accepted {
            true => b"<xml><return_code><![CDATA[SUCCESS]]></return_code><return_msg><![CDATA[OK]]></return_msg></xml>",
            false => b"<xml><return_code><![CDATA[FAIL]]></return_code><return_msg><![CDATA[not accepted]]></return_msg></xml>",
        };
        let mut response = Response::new(Bytes::from_static(body));
        if !accepted {
            *response.status_mut() = StatusCode::BAD_REQUEST;
        }
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/xml"));
        response
    }

    fn account(&self) -> &str {
        &self.account.name
    }

    fn can_verify(&self, _: &Keyring, _: u64) -> bool {
        true
    }

    fn bills(&self) -> Option<&dyn Bills> {
        Some(self)
    }
}

impl WechatV2 {
    fn message(&self, bytes: &[u8]) -> Result<Message<'_>, Error> {
        let fields =
            xml::read("xml", bytes).ok_or_else(|| Error::unclear("the signed message has an unknown format"))?;
        Ok(Message { account: &self.account, fields })
    }
}
