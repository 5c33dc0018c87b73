//! Smallest complete provider: a protocol of this project, for demonstrations and as a template for new providers.
//!
//! JSON over HTTPS with one shared secret. Every message carries `x-timestamp` (unix seconds) and `x-signature` =
//! hex(HMAC-SHA256(secret, TIMESTAMP LF HEAD LF BODY)). HEAD is `METHOD PATH` in a request and empty in an answer or a
//! notification. Every body that is not empty contains `account`. A successful answer is `{account, number, status,
//! amount, currency, id?, qr?}`, a rejection is `{code, message}`.

use std::time::Duration;

use aws_lc_rs::hmac;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::{
    BadSignature, BuildContext, Described, Encoded, Need, PollInterval, Provider, ProviderSpec, SecretField, Signing,
    Source, Verified,
};
use crate::error::{Error, ProviderError};
use crate::payment::{Currency, Event, Money, NextAction, Operation, Outcome, Status};
use crate::settings::Settings;
use crate::signer::Keyring;

pub(crate) const SPEC: ProviderSpec = ProviderSpec {
    secrets: &[SecretField {
        name: "secret",
        need: Need::Required("the shared secret, as \"env:…\""),
        check: check_secret,
    }],
    ..ProviderSpec::new(
        "sandbox",
        METHODS,
        Duration::from_secs(30),
        PollInterval::Steady(Duration::from_secs(3)),
        build,
    )
};

const METHODS: &[&str] = &["sandbox.qr"];

/// Maximum clock difference of a message, in seconds.
const MAX_CLOCK_DIFFERENCE: u64 = 300;

type Class = fn(ProviderError) -> Error;

/// Error codes and their meaning for the money. An unlisted code is [`Error::UnlistedRefusal`], or with
/// an HTTP 5xx status, which means a failed server, [`Error::Unclear`].
const CODES: &[(&str, Class)] = &[
    ("declined", Error::Declined),
    ("busy", Error::ProviderBusy),
    ("paid", Error::Conflict),
    ("closed", Error::Conflict),
    ("not_found", Error::NotFound),
];

struct Sandbox {
    account: String,
    key: hmac::Key,
}

fn build(settings: &mut Settings<'_>, given: &BuildContext<'_>) -> Option<Box<dyn Provider>> {
    let account: String = settings.required("account")?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, given.secrets.get("secret")?.expose());
    Some(Box::new(Sandbox { account, key }))
}

fn check_secret(secret: &[u8]) -> Result<(), String> {
    if secret.len() >= 16 { Ok(()) } else { Err("the secret must have at least 16 bytes".to_owned()) }
}

impl Provider for Sandbox {
    fn encode(&self, operation: &Operation, _: Signing<'_>) -> Result<Encoded, Error> {
        let number = &operation.order().number;
        let Money { value, currency } = operation.amount();
        let mut body = json!({"account": self.account, "amount": value, "currency": currency});
        let (method, path) = match operation {
            Operation::Pay(pay) => {
                body["number"] = number.as_str().into();
                body["description"] = pay.description.as_str().into();
                body["notify_url"] = pay.notify_url.as_str().into();
                ("POST", "/payments".to_owned())
            }
            Operation::Query(_) => ("GET", format!("/payments/{number}")),
            Operation::Close(_) => ("POST", format!("/payments/{number}/close")),
            Operation::Refund(refund) => {
                body["number"] = refund.number.as_str().into();
                body["notify_url"] = refund.notify_url.as_str().into();
                ("POST", format!("/payments/{number}/refunds"))
            }
            Operation::QueryRefund(refund) => ("GET", format!("/payments/{number}/refunds/{}", refund.number)),
        };
        let body = if method == "GET" { Bytes::new() } else { body.to_string().into() };
        let request = Request::builder().method(method).uri(path).header("content-type", "application/json").body(body);
        request
            .map(Encoded::Send)
            .map_err(|_| Error::Unsupported("the order number is not valid in a URL path".to_owned()))
    }

    fn sign(&self, request: &mut Request<Bytes>, with: Signing<'_>) -> Result<(), Error> {
        let time = with.stamp.unix_time;
        let head = format!("{} {}", request.method(), request.uri().path());
        let signature = hex::encode(hmac::sign(&self.key, &signed_text(time, &head, request.body())));
        let invalid_header =
            |_| Error::Unsupported("`account` contains a character that is not allowed in a header".to_owned());
        let values = [
            ("x-account", HeaderValue::from_str(&self.account).map_err(invalid_header)?),
            ("x-timestamp", HeaderValue::from(time)),
            ("x-signature", HeaderValue::from_str(&signature).map_err(invalid_header)?),
        ];
        request.headers_mut().extend(values.map(|(name, value)| (http::HeaderName::from_static(name), value)));
        Ok(())
    }

    fn verify(
        &self,
        _: Source,
        headers: &HeaderMap,
        body: Bytes,
        _: &Keyring,
        now: u64,
    ) -> Result<Verified, BadSignature> {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let (time, signature) = match (header("x-timestamp"), header("x-signature")) {
            (None, None) => return Err(BadSignature::Missing),
            (Some(time), Some(signature)) => (time, signature),
            _ => return Err(BadSignature::Wrong("a signature header is missing")),
        };
        let time: u64 = time.parse().map_err(|_| BadSignature::Wrong("the timestamp is not a number"))?;
        if time.abs_diff(now) > MAX_CLOCK_DIFFERENCE {
            return Err(BadSignature::Stale);
        }
        let signature = hex::decode(signature).map_err(|_| BadSignature::Wrong("not hexadecimal"))?;
        // `hmac::verify` compares in constant time.
        hmac::verify(&self.key, &signed_text(time, "", &body), &signature)
            .map_err(|_| BadSignature::Wrong("not over this body"))?;
        Ok(Verified::assertion(body, "secret"))
    }

    fn decode(
        &self,
        operation: &Operation,
        status: StatusCode,
        reply: Verified,
        _: Signing<'_>,
    ) -> Result<Outcome, Error> {
        if !status.is_success() {
            return Err(decode_error(status, reply.bytes()));
        }
        let order_state = self.order_state(reply.bytes())?;
        let wanted = match operation {
            Operation::Refund(refund) | Operation::QueryRefund(refund) => &refund.number,
            _ => &operation.order().number,
        };
        if order_state.number != *wanted || !operation.may_have(order_state.amount()?) {
            return Err(Error::Mismatch("number or amount differs from the request".to_owned()));
        }
        order_state.outcome()
    }

    /// Every genuine answer is signed, so an unsigned one proves nothing.
    fn decode_unsigned_error(&self, _: &Operation, status: StatusCode, _: &[u8]) -> Error {
        Error::unclear(format!("unsigned HTTP {} answer", status.as_u16()))
    }

    fn decode_notification(&self, notification: Verified) -> Result<Event, Error> {
        let order_state = self.order_state(notification.bytes())?;
        let outcome = Some(order_state.outcome()?);
        let id = format!("{}:{}", order_state.number, order_state.status);
        let (order_number, refund_number) = match order_state.order {
            Some(order) => (order, Some(order_state.number)),
            None => (order_state.number, None),
        };
        Ok(Event { id, order_number, refund_number, outcome, amount: None, refunded: None })
    }

    fn describe(&self, notification: &Verified) -> Described {
        let order_number = self
            .order_state(notification.bytes())
            .ok()
            .map(|order_state| order_state.order.unwrap_or(order_state.number));
        Described { event: None, order_number }
    }

    fn acknowledge(&self, accepted: bool) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = if accepted { StatusCode::NO_CONTENT } else { StatusCode::BAD_REQUEST };
        response
    }

    fn account(&self) -> &str {
        &self.account
    }

    fn can_verify(&self, _: &Keyring, _: u64) -> bool {
        true
    }
}

impl Sandbox {
    fn order_state(&self, body: &[u8]) -> Result<OrderState, Error> {
        let order_state: OrderState =
            serde_json::from_slice(body).map_err(|_| Error::unclear("the signed message has an unknown format"))?;
        if order_state.account == self.account {
            Ok(order_state)
        } else {
            Err(Error::Mismatch("the account differs from this channel's account".to_owned()))
        }
    }
}

/// Decodes a verified error answer.
fn decode_error(status: StatusCode, body: &[u8]) -> Error {
    let Ok(provider_error) = serde_json::from_slice::<ProviderError>(body) else {
        return Error::unclear(format!("HTTP {} answer in an unknown format", status.as_u16()));
    };
    match CODES.iter().find(|(code, _)| *code == provider_error.code) {
        Some((_, class)) => class(provider_error),
        None if status.is_client_error() => Error::UnlistedRefusal(provider_error),
        None => Error::Unclear {
            why: format!("HTTP {} answer with an unlisted code", status.as_u16()),
            provider_error: Some(provider_error),
        },
    }
}

/// State of a payment or refund, as in answers and notifications.
#[derive(Deserialize)]
struct OrderState {
    account: String,
    number: String,
    /// Number of the refunded payment, if this is a refund.
    order: Option<String>,
    status: String,
    amount: u64,
    currency: String,
    id: Option<String>,
    qr: Option<String>,
}

impl OrderState {
    fn amount(&self) -> Result<Money, Error> {
        let currency = Currency::parse(&self.currency);
        let currency = currency.ok_or_else(|| Error::Mismatch("unknown currency".to_owned()))?;
        Ok(Money { value: self.amount, currency })
    }

    fn outcome(&self) -> Result<Outcome, Error> {
        let status = match self.status.as_str() {
            "pending" => Status::Pending,
            "succeeded" => Status::Succeeded,
            "failed" => Status::Failed,
            "closed" => Status::Closed,
            _ => return Err(Error::unclear("unknown status")),
        };
        Ok(Outcome {
            provider_id: self.id.clone(),
            amount: Some(self.amount()?),
            action: self.qr.clone().map(|data| NextAction::Qr { data }),
            ..Outcome::of(status)
        })
    }
}

fn signed_text(time: u64, head: &str, body: &[u8]) -> Vec<u8> {
    [format!("{time}\n{head}\n").as_bytes(), body].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::golden::{self, GoldenFixture, NOW};
    use super::*;

    fn provider() -> Sandbox {
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"for-golden-files-only");
        Sandbox { account: "tea-house".to_owned(), key }
    }

    fn signature(body: &str) -> String {
        hex::encode(hmac::sign(&provider().key, &signed_text(NOW, "", body.as_bytes())))
    }

    #[test]
    fn golden_files_match() {
        let needed = [
            "pay-qr",
            "query",
            "query-unpaid",
            "close",
            "close-unlisted-refusal",
            "refund",
            "query-refund",
            "notification",
            "notification-refund",
        ];
        let sign = |message: &mut golden::Message| {
            message.headers.insert("x-timestamp".into(), NOW.to_string());
            message.headers.insert("x-signature".into(), signature(&message.body));
        };
        let (signer, keys) = (crate::signer::none(), Keyring::default());
        let fixture = GoldenFixture {
            folder: "sandbox",
            provider: &provider(),
            signer: &*signer,
            keys: &keys,
            now: NOW,
            sign: &sign,
        };
        golden::check_golden_files(&fixture, &needed);
    }

    fn verify(body: &[u8], signature: &str, now: u64) -> Result<Verified, BadSignature> {
        let mut headers = HeaderMap::new();
        headers.insert("x-timestamp", NOW.into());
        headers.insert("x-signature", signature.parse().unwrap());
        provider().verify(Source::Answer, &headers, body.to_vec().into(), &Keyring::default(), now)
    }

    #[test]
    fn altered_or_expired_message_is_rejected() {
        let body = r#"{"account":"tea-house","number":"n","status":"succeeded","amount":1,"currency":"CNY"}"#;
        let signature = signature(body);
        assert!(verify(body.as_bytes(), &signature, NOW + MAX_CLOCK_DIFFERENCE).is_ok());
        assert_eq!(
            verify(body.as_bytes(), &signature, NOW + MAX_CLOCK_DIFFERENCE + 1).unwrap_err(),
            BadSignature::Stale
        );
        for index in 0..body.len() {
            let mut altered = body.as_bytes().to_vec();
            altered[index] ^= 1;
            assert!(verify(&altered, &signature, NOW).is_err(), "byte {index}");
        }
        assert_eq!(verify(body.as_bytes(), "zz", NOW).unwrap_err(), BadSignature::Wrong("not hexadecimal"));
    }

    #[test]
    fn signature_is_missing_only_without_any_signature_header() {
        let verify = |names: &[&'static str]| {
            let headers = names.iter().map(|name| (http::HeaderName::from_static(name), HeaderValue::from_static("1")));
            provider().verify(Source::Answer, &headers.collect(), Bytes::new(), &Keyring::default(), NOW).unwrap_err()
        };
        assert_eq!(verify(&[]), BadSignature::Missing);
        for name in ["x-timestamp", "x-signature"] {
            assert_eq!(verify(&[name]), BadSignature::Wrong("a signature header is missing"), "{name}");
        }
    }

    #[test]
    fn only_signed_answer_with_listed_code_is_declined() {
        let answer = |status: u16, body: &str| {
            let reply = Verified::assertion(body.to_owned().into(), "secret");
            let operation = golden::pay("sandbox.qr");
            let stamp = super::super::Stamp { unix_time: NOW, nonce: String::new() };
            let signer = crate::signer::none();
            let with = Signing { signer: &*signer, keys: &Keyring::default(), stamp: &stamp };
            provider().decode(&operation, StatusCode::from_u16(status).unwrap(), reply, with).unwrap_err().code()
        };
        assert_eq!(answer(400, r#"{"code":"declined","message":"no"}"#), "declined");
        assert_eq!(answer(404, r#"{"code":"not_found","message":"no"}"#), "not_found");
        assert_eq!(answer(400, r#"{"code":"odd","message":"no"}"#), "unlisted_refusal");
        assert_eq!(answer(500, r#"{"code":"odd","message":"no"}"#), "unclear");
        assert_eq!(answer(500, "<html>"), "unclear");
        let other = r#"{"account":"tea-house","number":"x","status":"succeeded","amount":1,"currency":"CNY"}"#;
        assert_eq!(answer(200, other), "mismatch");
        let unsigned = provider().decode_unsigned_error(
            &golden::pay("sandbox.qr"),
            StatusCode::BAD_REQUEST,
            br#"{"code":"declined"}"#,
        );
        assert_eq!(unsigned.code(), "unclear");
    }

    proptest! {
        #[test]
        fn arbitrary_messages_never_panic(body in ".{0,200}", tail in any::<u8>()) {
            let forged = format!("{tail:02x}");
            prop_assert!(verify(body.as_bytes(), &forged, NOW).is_err());
            let _ = provider().decode_notification(Verified::assertion(body.into(), "secret"));
        }
    }
}
