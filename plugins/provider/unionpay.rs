//! UnionPay's ACP (全渠道) in version 5.1.0.
//!
//! ```text
//! Operation ─ request ─▶ signature ═▶ UnionPay          (a page: ─▶ the payer's browser)
//! Outcome   ◀─ answer ◀─ signature ◀─ fields ◀═
//! Event     ◀─ notify ◀─ signature ◀─ fields ◀═ notification
//!                        chain: the certificate in the message
//! ```
//!
//! UnionPay has no close operation: an unpaid order ends when its payTimeout has passed, and until then the payer may
//! retry. So a failure is final only after that time, which is stored in the order (`reqReserved`). After it, every
//! order without success has ended. A payment with a scanned code is reversed instead.

mod account;
mod answer;
mod bills;
mod chain;
mod codes;
mod fields;
mod files;
mod notify;
mod request;
mod signature;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};

use self::account::{Account, MIDDLE, ROOT, SECURE_KEY};
use self::fields::{Fields, Message};
use self::request::Product;
use super::bill::Bills;
use super::{
    BadSignature, BuildContext, Described, Encoded, Need, PollInterval, Provider, ProviderSpec, SecretField, Signing,
    Source, Verified,
};
use crate::error::Error;
use crate::payment::{Event, NextAction, Operation, Outcome, Status};
use crate::settings::Settings;
use crate::signer::Keyring;

pub(crate) const SPEC: ProviderSpec = ProviderSpec {
    scanned: &["unionpay.barcode"],
    secrets: &[
        SecretField { name: SECURE_KEY, need: Need::Optional, check: check_secure_key },
        SecretField { name: ROOT, need: Need::Optional, check: chain::check },
        SecretField { name: MIDDLE, need: Need::Optional, check: chain::check },
    ],
    algorithms: &["rsa-sha256", "sm2-sm3"],
    // Required for `sign_method` 01 and 21; `build` reports a missing key.
    sign: Need::Optional,
    // Each message contains its own certificate.
    verify: Need::Nothing,
    key_id: chain::serial,
    inspection: &files::INSPECTION,
    // UnionPay requires that queries about a trade be spread over a minute: after 1, 2, 4, 8, 16 and 32 seconds.
    ..ProviderSpec::new("unionpay", METHODS, Duration::from_secs(60), PollInterval::Doubling, build)
};

const METHODS: &[&str] = &["unionpay.page", "unionpay.app", "unionpay.qr", "unionpay.barcode"];

fn build(settings: &mut Settings<'_>, given: &BuildContext<'_>) -> Option<Box<dyn Provider>> {
    account::read(settings, given).map(|account| Box::new(UnionPay(account)) as Box<dyn Provider>)
}

fn check_secure_key(key: &[u8]) -> Result<(), String> {
    match std::str::from_utf8(key) {
        Ok(text) if !text.is_empty() && !text.contains(char::is_whitespace) => Ok(()),
        _ => Err("the key (密钥) must not be empty or contain spaces: copy it from merchant.unionpay.com".to_owned()),
    }
}

struct UnionPay(Account);

impl UnionPay {
    fn read<'a>(&self, source: Source, message: &'a Verified) -> Option<Message<'a>> {
        Message::verified(self.0.codec, source, message)
    }
}

impl Provider for UnionPay {
    fn encode(&self, operation: &Operation, with: Signing<'_>) -> Result<Encoded, Error> {
        let draft = request::draft(&self.0, operation)?;
        if !matches!(operation, Operation::Pay(pay) if Product::of(pay.order.method)? == Product::Page) {
            return draft.request(self.0.codec).map(Encoded::Send);
        }
        let fields = self.0.method.sign(&draft.fields, with.signer)?.into_map();
        let url = format!("{}{}", self.0.gateway, draft.path);
        Ok(Encoded::Answer(Outcome { action: Some(NextAction::Form { url, fields }), ..Outcome::of(Status::Pending) }))
    }

    fn sign(&self, request: &mut Request<Bytes>, with: Signing<'_>) -> Result<(), Error> {
        let unreadable = || Error::NotSent("the request body is in a format that cannot be signed".to_owned());
        let fields = Fields::of_request(self.0.codec, request.body()).ok_or_else(unreadable)?;
        let signed = self.0.method.sign(&fields, with.signer)?;
        *request.body_mut() = signed.write(self.0.codec).ok_or_else(unreadable)?.into();
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
        let unreadable = BadSignature::Wrong("the message is in a format that UnionPay does not use");
        let fields = Message::read(self.0.codec, source, &body).ok_or(unreadable)?;
        let key_id = self.0.method.verify(&fields, now)?;
        let members = fields.into_members();
        Ok(Verified::assertion_with_members(body, members, key_id))
    }

    fn decode(
        &self,
        operation: &Operation,
        status: StatusCode,
        reply: Verified,
        with: Signing<'_>,
    ) -> Result<Outcome, Error> {
        if !status.is_success() {
            return Err(self.decode_unsigned_error(operation, status, reply.bytes()));
        }
        let unreadable = || Error::unclear("the answer is in a format that UnionPay does not use");
        let fields = self.read(Source::Answer, &reply).ok_or_else(unreadable)?;
        answer::decode(&self.0, operation, &fields, with.stamp.unix_time)
    }

    /// UnionPay signs its refusals. An unsigned answer may come from anything on the way, unless it rejects our own
    /// signature.
    fn decode_unsigned_error(&self, operation: &Operation, status: StatusCode, body: &[u8]) -> Error {
        let decode_refusal = |fields: Message<'_>| {
            let code = fields.get("respCode").filter(|_| status.is_success())?;
            codes::unsigned(code, codes::Request::of(operation), fields.get("respMsg").unwrap_or_default())
        };
        Message::read(self.0.codec, Source::Answer, body)
            .and_then(decode_refusal)
            .unwrap_or_else(|| Error::unclear(format!("HTTP {} answer without a trustworthy code", status.as_u16())))
    }

    fn decode_notification(&self, notification: Verified) -> Result<Event, Error> {
        let unreadable = || Error::unclear("the notification is in a format that UnionPay does not use");
        let fields = self.read(Source::Notification, &notification).ok_or_else(unreadable)?;
        notify::decode(&self.0, &fields)
    }

    fn describe(&self, notification: &Verified) -> Described {
        let fields = self.read(Source::Notification, notification);
        let field = |name: &str| fields.as_ref().and_then(|fields| fields.get(name)).map(str::to_owned);
        Described { event: field("txnType").map(|kind| format!("txnType {kind}")), order_number: field("orderId") }
    }

    /// UnionPay evaluates only the status. The body is the one of UnionPay's own samples.
    fn acknowledge(&self, accepted: bool) -> Response<Bytes> {
        let body = if accepted { "ok" } else { "fail" };
        let mut response = Response::new(Bytes::from_static(body.as_bytes()));
        if !accepted {
            *response.status_mut() = StatusCode::BAD_REQUEST;
        }
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain;charset=UTF-8"));
        response
    }

    fn account(&self) -> &str {
        &self.0.name
    }

    fn default_expiry(&self) -> Option<Duration> {
        Some(self.0.pay_timeout)
    }

    fn can_verify(&self, _: &Keyring, now: u64) -> bool {
        self.0.method.can_verify(now)
    }

    fn bills(&self) -> Option<&dyn Bills> {
        Some(self)
    }
}
