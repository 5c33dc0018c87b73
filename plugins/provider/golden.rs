//! Golden files of providers: an operation produces a request; an answer produces an outcome.
//!
//! The author writes `about`, `operation` and the provider's message. The test writes the rest.

pub(super) mod keys;
pub(super) mod report;
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::report::{Report, is_updated};
use super::*;
use crate::payment::{Kind, Method, Money, Order, Pay, Payer, Refund};

/// Time of all golden files, in unix seconds.
pub(super) const NOW: u64 = 1_700_000_000;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Golden {
    pub(super) about: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) operation: Option<GoldenOperation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) request: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) answer: Option<Message>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) notification: Option<Message>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) outcome: Option<Value>,
    /// Error instead of an outcome or event: of an operation that cannot be encoded, an answer or a notification.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) event: Option<Value>,
    /// Keys in an answer without an operation: the provider's list of its keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) keys: Option<Value>,
}

/// Message of the provider.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Message {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) status: Option<u16>,
    /// True if an answer stays without a signature, so that it goes to [`Provider::decode_unsigned_error`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) unsigned: bool,
    /// Content that the fixture's `sign` encrypts and puts into `body`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) sealed: Option<Value>,
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    /// Body to the byte. An author may write JSON instead of a string.
    #[serde(default, deserialize_with = "text_or_json")]
    pub(super) body: String,
}

/// Reads a string, or the text of any other JSON value.
fn text_or_json<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::String(text) => text,
        json => json.to_string(),
    })
}

/// [`Operation`] in the format of golden files.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GoldenOperation {
    kind: String,
    number: String,
    method: Method,
    amount: Money,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payer: Option<Payer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<jiff::Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    return_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    notify_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refund: Option<GoldenRefund>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GoldenRefund {
    number: String,
    amount: Money,
    reason: Option<String>,
    notify_url: String,
}

impl GoldenOperation {
    pub(super) fn operation(&self) -> Operation {
        self.read().unwrap_or_else(|why| panic!("{why}"))
    }

    /// Returns the operation, or the key that it lacks.
    fn read(&self) -> Result<Operation, String> {
        let created_at = jiff::Timestamp::from_second(NOW.cast_signed()).unwrap();
        let order = Order {
            number: self.number.clone(),
            method: self.method,
            amount: self.amount,
            created_at,
            expires_at: self.expires_at,
            provider_id: self.provider_id.clone(),
        };
        let missing = |key: &str| format!("`operation.{key}` is missing");
        let refund = || {
            let written = self.refund.as_ref().ok_or_else(|| missing("refund"))?;
            Ok::<_, String>(Refund {
                order: order.clone(),
                number: written.number.clone(),
                amount: written.amount,
                made_elsewhere: false,
                created_at,
                reason: written.reason.clone(),
                notify_url: written.notify_url.clone(),
            })
        };
        Ok(match self.kind.as_str() {
            "pay" => Operation::Pay(Pay {
                order,
                description: self.description.clone().ok_or_else(|| missing("description"))?,
                payer: self.payer.clone().unwrap_or_default(),
                return_url: self.return_url.clone(),
                notify_url: self.notify_url.clone().ok_or_else(|| missing("notify_url"))?,
            }),
            "query" => Operation::Query(order),
            "close" => Operation::Close(order),
            "refund" => Operation::Refund(refund()?),
            "query_refund" => Operation::QueryRefund(refund()?),
            other => {
                let known = Kind::ALL.map(Kind::as_str).join(", ");
                return Err(format!("`operation.kind` is `{other}`; there are {known}"));
            }
        })
    }
}

impl Message {
    pub(super) fn header_map(&self) -> HeaderMap {
        let pairs = self.headers.iter();
        pairs.map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap())).collect()
    }

    pub(super) fn response(&self, status: u16) -> Response<Bytes> {
        let mut response = Response::new(Bytes::from(self.body.clone()));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        *response.headers_mut() = self.header_map();
        response
    }
}

/// Reads every golden file; each with its name without `.json`.
pub(super) fn all(folder: &Path) -> Vec<(String, Golden)> {
    let names = std::fs::read_dir(folder).unwrap_or_else(|why| panic!("{}: {why}", folder.display()));
    let names = names.map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = names.filter(|path| path.extension().is_some_and(|end| end == "json")).collect();
    files.retain(|path| !path.ends_with("vectors.json"));
    files.sort();
    let read = |path: &PathBuf| {
        let golden = serde_json::from_slice(&std::fs::read(path).unwrap());
        golden.unwrap_or_else(|why| panic!("{}: {why}", path.display()))
    };
    files.iter().map(|path| (path.file_stem().unwrap().to_string_lossy().into_owned(), read(path))).collect()
}

/// Converts a request to the format of golden files.
pub(super) fn request_json(request: &Request<Bytes>) -> Value {
    let headers: BTreeMap<_, _> = request
        .headers()
        .iter()
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap().replace(env!("CARGO_PKG_VERSION"), "VERSION")))
        .collect();
    json!({
        "method": request.method().as_str(),
        "uri": request.uri().to_string(),
        "headers": headers,
        "body": std::str::from_utf8(request.body()).unwrap(),
    })
}

/// Converts an error to the format of golden files.
pub(super) fn error_json(error: &Error) -> Value {
    json!({"code": error.code(), "message": error.to_string()})
}

/// Converts an event to the format of golden files.
pub(super) fn event_json(event: &Event) -> Value {
    json!({
        "id": event.id,
        "order_number": event.order_number,
        "refund_number": event.refund_number,
        "outcome": event.outcome,
    })
}

/// Returns the folder of golden files with this name.
pub(super) fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)
}

/// Provider under test, with the keys of its golden files.
pub(super) struct GoldenFixture<'a> {
    /// Folder name in `tests/golden`.
    pub(super) folder: &'a str,
    pub(super) provider: &'a dyn Provider,
    pub(super) signer: &'a dyn Signer,
    pub(super) keys: &'a Keyring,
    /// Time of signing and verification, in unix seconds.
    pub(super) now: u64,
    /// Seals and signs the provider's messages when golden files are updated. A message with a real signature keeps it.
    pub(super) sign: &'a dyn Fn(&mut Message),
}

/// Checks every golden file of a provider.
///
/// With `UPDATE_GOLDEN=1`, or a part of a file's path instead of `1`, it rewrites requests, outcomes, events and errors instead.
pub(super) fn check_golden_files(fixture: &GoldenFixture<'_>, needed: &[&str]) {
    fixture.check(needed, is_updated).assert_empty();
}

impl GoldenFixture<'_> {
    /// Compares the files, or rewrites those for which `is_updated` is true.
    fn check(&self, needed: &[&str], is_updated: fn(&Path) -> bool) -> Report {
        let (folder, mut report) = (folder(self.folder), Report::default());
        let files = all(&folder);
        for needed in needed.iter().filter(|needed| !files.iter().any(|(name, _)| name == *needed)) {
            let file = folder.join(format!("{needed}.json"));
            report.fail(&file, "the file is missing; write `about`, `operation` and `answer`, or `notification`");
        }
        for (name, mut golden) in files {
            let file = folder.join(format!("{name}.json"));
            let is_updated = is_updated(&file);
            match self.encode_and_decode(&golden, is_updated) {
                Err(why) => report.fail(&file, &why),
                Ok(mut new) if is_updated => {
                    new.operation = golden.operation.take();
                    std::fs::write(file, serde_json::to_string_pretty(&new).unwrap() + "\n").unwrap();
                }
                Ok(new) => {
                    for (key, written, computed) in [
                        ("request", golden.request, new.request),
                        ("outcome", golden.outcome, new.outcome),
                        ("error", golden.error, new.error),
                        ("event", golden.event, new.event),
                        ("keys", golden.keys, new.keys),
                    ] {
                        report.compare(&file, key, written.as_ref(), computed.as_ref());
                    }
                }
            }
        }
        report
    }

    /// Computes our side of a golden file from the provider's side. An error says what the file lacks.
    fn encode_and_decode(&self, golden: &Golden, update: bool) -> Result<Golden, String> {
        let mut new = Golden {
            about: golden.about.clone(),
            operation: None,
            request: None,
            answer: golden.answer.clone(),
            notification: golden.notification.clone(),
            outcome: None,
            error: None,
            event: None,
            keys: None,
        };
        if update {
            let messages = new.answer.iter_mut().chain(&mut new.notification);
            messages.filter(|message| !message.unsigned).for_each(self.sign);
        }
        if let Some(message) = &new.notification {
            match self.provider.decode_notification(self.verified(Source::Notification, message)?) {
                Ok(event) => new.event = Some(event_json(&event)),
                Err(error) => new.error = Some(error_json(&error)),
            }
            return Ok(new);
        }
        let Some(operation) = &golden.operation else { return self.fetch_keys(new) };
        let operation = operation.read()?;
        match self.with(|with| self.provider.encode(&operation, with)) {
            Err(error) => new.error = Some(error_json(&error)),
            Ok(Encoded::Answer(outcome)) => new.outcome = Some(serde_json::to_value(outcome).unwrap()),
            Ok(Encoded::Send(request)) => {
                new.request = Some(self.signed(request)?);
                match self.decode(&operation, new.answer.as_ref().ok_or("`answer` is missing")?)? {
                    Ok(outcome) => new.outcome = Some(serde_json::to_value(outcome).unwrap()),
                    Err(error) => new.error = Some(error_json(&error)),
                }
            }
        }
        Ok(new)
    }

    fn decode(&self, operation: &Operation, answer: &Message) -> Result<Result<Outcome, Error>, String> {
        let status = answer.status.and_then(|status| StatusCode::from_u16(status).ok());
        let status = status.ok_or("`answer.status` is missing")?;
        if answer.unsigned {
            return Ok(Err(self.provider.decode_unsigned_error(operation, status, answer.body.as_bytes())));
        }
        let reply = self.verified(Source::Answer, answer)?;
        Ok(self.with(|with| self.provider.decode(operation, status, reply, with)))
    }

    /// Computes a file without an operation: the provider's list of its keys.
    fn fetch_keys(&self, mut new: Golden) -> Result<Golden, String> {
        let neither = "the file has neither `operation` nor `notification`";
        let (keys, answer) = (self.provider.published_keys().ok_or(neither)?, new.answer.as_ref().ok_or(neither)?);
        new.request = Some(self.signed(keys.request(None).ok_or("the provider requires a key id")?)?);
        let read = keys.read(&answer.response(200), &Keyring::default(), self.now).map_err(|why| why.to_string())?;
        new.keys = Some(read.iter().map(|key| json!({"id": key.id, "not_after": key.not_after})).collect());
        Ok(new)
    }

    fn verified(&self, source: Source, message: &Message) -> Result<Verified, String> {
        let verified =
            self.provider.verify(source, &message.header_map(), message.body.clone().into(), self.keys, self.now);
        verified.map_err(|why| format!("the provider's message is rejected: {why}"))
    }

    /// Signs a request and converts it to the format of golden files.
    pub(super) fn signed(&self, mut request: Request<Bytes>) -> Result<Value, String> {
        self.with(|with| self.provider.sign(&mut request, with)).map_err(|why| why.to_string())?;
        Ok(request_json(&request))
    }

    /// Runs `work` with the fixture's keys, its time and a fixed nonce.
    pub(super) fn with<T>(&self, work: impl FnOnce(Signing<'_>) -> T) -> T {
        let stamp = Stamp { unix_time: self.now, nonce: "593BEC0C930BF1AFEB40B4A08C8FB242".to_owned() };
        work(Signing { signer: self.signer, keys: self.keys, stamp: &stamp })
    }
}

/// Returns a payment of one fen with this method.
pub(super) fn pay(method: &str) -> Operation {
    Operation::Pay(Pay {
        order: Order {
            number: "0123456789abcdef0123456789abcdef".to_owned(),
            method: Method::parse(method).unwrap(),
            amount: Money { value: 1, currency: crate::payment::Currency::CNY },
            created_at: jiff::Timestamp::from_second(NOW.cast_signed()).unwrap(),
            expires_at: None,
            provider_id: None,
        },
        description: "茶".to_owned(),
        payer: Payer::default(),
        return_url: None,
        notify_url: "https://pay.example.com/notify/main".to_owned(),
    })
}

/// Returns a full refund of such a payment.
pub(super) fn refund(method: &str) -> Refund {
    let Operation::Pay(Pay { order, notify_url, .. }) = pay(method) else { unreachable!() };
    let (amount, created_at) = (order.amount, order.created_at);
    Refund {
        order,
        number: "fedcba9876543210fedcba9876543210".to_owned(),
        amount,
        made_elsewhere: false,
        created_at,
        reason: None,
        notify_url,
    }
}
