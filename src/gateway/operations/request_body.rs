//! Parses and validates the JSON bodies of merchant requests.

use std::net::IpAddr;

use bytes::Bytes;
use http::HeaderMap;
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use tollgate_plugins::payment::{Method, Money, Payer};

use crate::problem::Problem;

/// Maximum amount in minor units. It is far above any real payment and far below integer overflow.
const MAX_AMOUNT: u64 = 1_000_000_000_000;
/// Maximum size of `metadata` as JSON text, in bytes.
const MAX_METADATA_BYTES: usize = 4096;
/// Maximum nesting depth of `metadata`. Stored JSON must stay parseable, and parsers limit the depth.
const MAX_METADATA_DEPTH: usize = 8;

/// The body of `POST /v1/payments`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewPayment {
    pub order_id: String,
    pub amount: Money,
    pub description: String,
    pub method: Method,
    #[serde(default)]
    pub channel: Option<String>,
    #[serde(default)]
    pub payer: Payer,
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
    #[serde(default)]
    pub return_url: Option<String>,
    #[serde(default)]
    pub metadata: Option<serde_json::Map<String, serde_json::Value>>,
}

/// The body of `POST /v1/payments/{order_id}/refunds`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewRefund {
    pub refund_id: String,
    pub amount: Money,
    #[serde(default)]
    pub reason: Option<String>,
}

impl NewPayment {
    pub(super) fn read(body: &Bytes) -> Result<Self, Problem> {
        let mut input: Self = read(body)?;
        check_identifier("order_id", &input.order_id)?;
        amount(input.amount)?;
        normalize_text("description", &mut input.description)?;
        if input.description.trim().is_empty() || input.description.chars().count() > 127 {
            return Err(Problem::malformed("`description` must have 1 to 127 characters; the payer reads it."));
        }
        if let Some(url) = &input.return_url {
            let absolute = url.parse::<http::Uri>().is_ok_and(|uri| uri.scheme().is_some() && uri.host().is_some());
            if !absolute || url.len() > 1024 {
                return Err(Problem::malformed("`return_url` must be an absolute URL of at most 1024 bytes."));
            }
        }
        let metadata =
            input.metadata.as_ref().map_or(0, |metadata| serde_json::to_string(metadata).map_or(0, |text| text.len()));
        if metadata > MAX_METADATA_BYTES {
            return Err(Problem::malformed(format!(
                "`metadata` has {metadata} bytes; at most {MAX_METADATA_BYTES} are allowed."
            )));
        }
        if input.metadata.iter().flat_map(|metadata| metadata.values()).any(|value| depth(value) >= MAX_METADATA_DEPTH)
        {
            let detail = format!("`metadata` is nested too deeply; at most {MAX_METADATA_DEPTH} levels are allowed.");
            return Err(Problem::malformed(detail));
        }
        let payer = &input.payer;
        for (name, value) in [("openid", &payer.openid), ("auth_code", &payer.auth_code), ("buyer_id", &payer.buyer_id)]
        {
            if value.as_ref().is_some_and(|value| value.is_empty() || value.len() > 128) {
                return Err(Problem::malformed(format!("`payer.{name}` must have 1 to 128 bytes.")));
            }
            if value
                .as_ref()
                .is_some_and(|value| value.chars().any(|character| is_control(character) || character.is_control()))
            {
                return Err(Problem::malformed(format!("`payer.{name}` must have no control characters.")));
            }
        }
        if payer.client_ip.as_ref().is_some_and(|address| address.parse::<IpAddr>().is_err()) {
            let detail = "`payer.client_ip` must be the payer's IPv4 or IPv6 address, such as \"203.0.113.9\".";
            return Err(Problem::malformed(detail));
        }
        Ok(input)
    }

    /// Rejects an `expires_at` in the past. Applies to new payments only: a repeated request must find the existing
    /// payment.
    pub(super) fn check_expiry(&self, now: Timestamp) -> Result<(), Problem> {
        match self.expires_at {
            Some(at) if at <= now => {
                Err(Problem::malformed("`expires_at` is in the past; use a future time (RFC 3339, UTC)."))
            }
            _ => Ok(()),
        }
    }

    /// Returns a digest of the content that does not depend on key order or white space. It detects changed
    /// repetitions.
    pub(super) fn digest(&self) -> String {
        let payer = serde_json::to_string(&self.payer).unwrap_or_default();
        let metadata = self.metadata.as_ref().map(|metadata| serde_json::to_string(metadata).unwrap_or_default());
        digest(&[
            &self.order_id,
            &self.amount.to_string(),
            &self.description,
            self.method.as_str(),
            self.channel.as_deref().unwrap_or_default(),
            &payer,
            &self.expires_at.map(|at| at.to_string()).unwrap_or_default(),
            self.return_url.as_deref().unwrap_or_default(),
            metadata.as_deref().unwrap_or_default(),
        ])
    }
}

impl NewRefund {
    pub(super) fn read(body: &Bytes) -> Result<Self, Problem> {
        let mut input: Self = read(body)?;
        check_identifier("refund_id", &input.refund_id)?;
        amount(input.amount)?;
        if let Some(reason) = &mut input.reason {
            normalize_text("reason", reason)?;
        }
        if input.reason.as_ref().is_some_and(|reason| reason.trim().is_empty() || reason.chars().count() > 80) {
            return Err(Problem::malformed("`reason` must have 1 to 80 characters; the payer reads it."));
        }
        Ok(input)
    }

    pub(super) fn digest(&self) -> String {
        digest(&[&self.refund_id, &self.amount.to_string(), self.reason.as_deref().unwrap_or_default()])
    }
}

/// Checks a text that the payer reads and converts its line ends to LF. XML and HTML alter CR, which would break
/// signatures.
fn normalize_text(name: &str, text: &mut String) -> Result<(), Problem> {
    if text.contains('\r') {
        *text = text.replace("\r\n", "\n").replace('\r', "\n");
    }
    match text.chars().find(|character| is_control(*character)) {
        None => Ok(()),
        Some(character) => Err(Problem::malformed(format!(
            "`{name}` has the control character U+{:04X}; only tabs and line ends are allowed.",
            u32::from(character)
        ))),
    }
}

/// Returns whether a provider protocol may not carry this character: controls except tab and LF, and what XML
/// forbids.
fn is_control(character: char) -> bool {
    match character {
        '\t' | '\n' => false,
        '\u{fffe}' | '\u{ffff}' => true,
        other => other.is_control(),
    }
}

/// Returns the number of containers around the innermost value.
fn depth(value: &serde_json::Value) -> usize {
    match value {
        serde_json::Value::Array(values) => 1 + values.iter().map(depth).max().unwrap_or(0),
        serde_json::Value::Object(values) => 1 + values.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Accepts an empty body or `{}`.
pub(super) fn require_empty_body(body: &Bytes) -> Result<(), Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}
    if body.is_empty() { Ok(()) } else { read::<Nothing>(body).map(drop) }
}

/// Returns the value of `Idempotency-Key`.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<String, Problem> {
    let detail = "Give an `Idempotency-Key` header of 1 to 255 visible characters, new for each new request.";
    let mut values = headers.get_all("idempotency-key").iter();
    match (values.next(), values.next()) {
        (Some(value), None) => match value.to_str() {
            Ok(key) if (1..=255).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic()) => {
                Ok(key.to_owned())
            }
            _ => Err(Problem::malformed(detail)),
        },
        _ => Err(Problem::malformed(detail)),
    }
}

/// Returns whether a text is a valid order or refund id.
pub(super) fn is_identifier(text: &str) -> bool {
    // HTTP clients remove `.` and `..` from a path before they send it.
    (1..=64).contains(&text.len())
        && text != "."
        && text != ".."
        && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"/?#%\"\\".contains(&byte))
}

fn check_identifier(name: &str, text: &str) -> Result<(), Problem> {
    if is_identifier(text) {
        return Ok(());
    }
    Err(Problem::malformed(format!(
        "`{name}` must have 1 to 64 visible ASCII characters, none of / ? # % \" \\, and must not be `.` or `..`."
    )))
}

fn amount(amount: Money) -> Result<(), Problem> {
    if (1..=MAX_AMOUNT).contains(&amount.value) {
        return Ok(());
    }
    Err(Problem::malformed(format!("`amount.value` must be a whole number of minor units from 1 to {MAX_AMOUNT}.")))
}

fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| {
        let detail = if body.is_empty() {
            "The body is empty; send JSON.".to_owned()
        } else {
            format!("The body does not have the expected form: {error}.")
        };
        Problem::malformed(detail)
    })
}

fn digest(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hex::encode(hash.finalize())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn malformed_request_bodies_are_rejected() {
        let good =
            r#"{"order_id":"o-1","amount":{"value":1,"currency":"CNY"},"description":"tea","method":"wechat.native"}"#;
        assert!(NewPayment::read(&Bytes::from(good)).is_ok());
        let deeply_nested = "[".repeat(100_000);
        let long = good.replace("o-1", &"x".repeat(65));
        for bad in [
            "",
            "null",
            "{",
            &deeply_nested,
            &long,
            &good.replace("o-1", ""),
            &good.replace("o-1", "a/b"),
            &good.replace("o-1", "."),
            &good.replace("o-1", ".."),
            &good.replace("\"value\":1", "\"value\":0"),
            &good.replace("\"value\":1", "\"value\":-1"),
            &good.replace("\"value\":1", "\"value\":1.0"),
            &good.replace("\"value\":1", "\"value\":1000000000001"),
            &good.replace("\"value\":1", "\"value\":99999999999999999999999"),
            &good.replace("tea", ""),
            &good.replace("wechat.native", "wechat.nativ"),
            &good.replace("\"description\"", "\"descriptions\""),
            &good.replace("\"method\"", "\"return_url\":\"x\",\"method\""),
            &good.replace(
                "\"method\"",
                &format!("\"metadata\":{{\"a\":{}1{}}},\"method\"", "[".repeat(8), "]".repeat(8)),
            ),
        ] {
            assert!(NewPayment::read(&Bytes::from(bad.to_owned())).is_err(), "{}", &bad[..bad.len().min(120)]);
        }
        assert!(NewPayment::read(&Bytes::from_static(b"\xff\xfe{}")).is_err());
        let metadata = format!("\"metadata\":{{\"a\":{}1{}}},\"method\"", "[".repeat(7), "]".repeat(7));
        assert!(NewPayment::read(&Bytes::from(good.replace("\"method\"", &metadata))).is_ok());
        let expired = good.replace("\"method\"", "\"expires_at\":\"2001-01-01T00:00:00Z\",\"method\"");
        let expired = NewPayment::read(&Bytes::from(expired)).unwrap();
        assert!(expired.check_expiry(Timestamp::now()).is_err() && expired.check_expiry(Timestamp::UNIX_EPOCH).is_ok());
    }

    #[test]
    fn control_character_is_rejected_and_field_is_named() {
        let payment = |field: &str, text: &str| {
            let mut body = serde_json::json!({"order_id": "o-1", "amount": {"value": 1, "currency": "CNY"},
                "description": "tea", "method": "wechat.native", "payer": {}});
            match field.strip_prefix("payer.") {
                Some(of_payer) => body["payer"][of_payer] = text.into(),
                None => body[field] = text.into(),
            }
            NewPayment::read(&Bytes::from(body.to_string()))
        };
        let refund = |text: &str| {
            let body =
                serde_json::json!({"refund_id": "r-1", "amount": {"value": 1, "currency": "CNY"}, "reason": text});
            NewRefund::read(&Bytes::from(body.to_string()))
        };
        let said = |problem: Problem| String::from_utf8(problem.response("r").into_body().to_vec()).unwrap();
        let controls = (0..0x20).chain(0x7f..0xa0).chain([0xfffe, 0xffff]).filter_map(char::from_u32);
        for character in controls.filter(|character| !"\t\n\r".contains(*character)) {
            let text = format!("a{character}b");
            for field in ["description", "payer.openid", "payer.auth_code", "payer.buyer_id", "payer.client_ip"] {
                let problem = said(payment(field, &text).unwrap_err());
                assert!(problem.contains(field) && problem.contains("invalid_request"), "{character:?}: {problem}");
            }
            assert!(said(refund(&text).unwrap_err()).contains("`reason`"), "{character:?}");
        }
        for address in ["", "here", "1.2.3", "1.2.3.4\n", "1.2.3.4:80", "fe80::1%eth0"] {
            assert!(payment("payer.client_ip", address).is_err(), "{address:?}");
        }
        for address in ["203.0.113.9", "2001:db8::7"] {
            assert!(payment("payer.client_ip", address).is_ok(), "{address}");
        }
    }

    #[test]
    fn line_ends_are_normalized_to_line_feeds() {
        let one = r#"{"order_id":"o","amount":{"value":1,"currency":"CNY"},"description":"tea\r\ntwo\rcups\n\t!","method":"wechat.native"}"#;
        let input = NewPayment::read(&Bytes::from(one)).unwrap();
        assert_eq!(input.description, "tea\ntwo\ncups\n\t!");
        let refund = r#"{"refund_id":"r","amount":{"value":1,"currency":"CNY"},"reason":"a\r\nb"}"#;
        assert_eq!(NewRefund::read(&Bytes::from(refund)).unwrap().reason.as_deref(), Some("a\nb"));
    }

    #[test]
    fn digest_ignores_formatting_and_detects_changed_values() {
        let one =
            r#"{"order_id":"o","amount":{"value":1,"currency":"CNY"},"description":"tea","method":"wechat.native"}"#;
        let same = r#"{ "method":"wechat.native", "description":"tea", "amount":{"currency":"CNY","value":1}, "order_id":"o"}"#;
        let read = |text: &str| NewPayment::read(&Bytes::from(text.to_owned())).map(|input| input.digest()).ok();
        assert_eq!(read(one), read(same));
        assert_ne!(read(one), read(&one.replace("tea", "tee")));
        assert_ne!(read(one), read(&one.replace(":1,", ":2,")));
    }
}
