//! Golden files of providers: an operation produces a request; an answer produces an outcome.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::*;
use crate::payment::{Method, Money, Order, Pay, Payer, Refund};

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
    /// Error of an answer that leaves the outcome open, such as the answer to a reversal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) event: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) keys: Option<Value>,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Message {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) status: Option<u16>,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: String,
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
        let created_at = jiff::Timestamp::from_second(NOW.cast_signed()).unwrap();
        let order = Order {
            number: self.number.clone(),
            method: self.method,
            amount: self.amount,
            created_at,
            expires_at: self.expires_at,
            provider_id: self.provider_id.clone(),
        };
        let refund = || {
            let asked = self.refund.as_ref().unwrap();
            Refund {
                order: order.clone(),
                number: asked.number.clone(),
                amount: asked.amount,
                made_elsewhere: false,
                created_at,
                reason: asked.reason.clone(),
                notify_url: asked.notify_url.clone(),
            }
        };
        match self.kind.as_str() {
            "pay" => Operation::Pay(Pay {
                order,
                description: self.description.clone().unwrap(),
                payer: self.payer.clone().unwrap_or_default(),
                return_url: self.return_url.clone(),
                notify_url: self.notify_url.clone().unwrap(),
            }),
            "query" => Operation::Query(order),
            "close" => Operation::Close(order),
            "refund" => Operation::Refund(refund()),
            "query_refund" => Operation::QueryRefund(refund()),
            other => panic!("{other}"),
        }
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
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
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

/// Provider under test, with the keys of its golden files.
pub(super) struct GoldenFixture<'a> {
    /// Folder name in `tests/golden`.
    pub(super) folder: &'a str,
    pub(super) provider: &'a dyn Provider,
    pub(super) signer: &'a dyn Signer,
    pub(super) keys: &'a Keyring,
    /// Time of signing and verification, in unix seconds.
    pub(super) now: u64,
    /// Signs the provider's messages when golden files are updated. A message with a real signature keeps it.
    pub(super) sign: &'a dyn Fn(&mut Message),
}

/// Checks every golden file of a provider. With `UPDATE_GOLDEN=1` it rewrites requests, outcomes and events instead.
pub(super) fn check_golden_files(fixture: &GoldenFixture<'_>, needed: &[&str]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(fixture.folder);
    let files = all(&folder);
    for needed in needed {
        assert!(files.iter().any(|(name, _)| name == needed), "{needed} is missing");
    }
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    for (name, mut golden) in files {
        let mut new = fixture.encode_and_decode(&golden, update);
        if update {
            new.operation = golden.operation.take();
            let text = serde_json::to_string_pretty(&new).unwrap() + "\n";
            std::fs::write(folder.join(format!("{name}.json")), text).unwrap();
        } else {
            assert_eq!(new.request, golden.request, "request of {name}");
            assert_eq!(new.outcome, golden.outcome, "outcome of {name}");
            assert_eq!(new.event, golden.event, "event of {name}");
        }
    }
}

impl GoldenFixture<'_> {
    /// Computes request, outcome and event from the provider's side of a golden file.
    fn encode_and_decode(&self, golden: &Golden, update: bool) -> Golden {
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
            new.answer.iter_mut().chain(&mut new.notification).for_each(self.sign);
        }
        let verified = |source, message: &Message| {
            let body = Bytes::from(message.body.clone());
            self.provider.verify(source, &message.header_map(), body, self.keys, self.now).unwrap()
        };
        if let Some(message) = &new.notification {
            let event = self.provider.decode_notification(verified(Source::Notification, message)).unwrap();
            new.event = Some(event_json(&event));
            return new;
        }
        let operation = golden.operation.as_ref().unwrap().operation();
        let stamp = Stamp { unix_time: self.now, nonce: "593BEC0C930BF1AFEB40B4A08C8FB242".to_owned() };
        let with = Signing { signer: self.signer, keys: self.keys, stamp: &stamp };
        let outcome = match self.provider.encode(&operation, with).unwrap() {
            Encoded::Answer(outcome) => outcome,
            Encoded::Send(mut request) => {
                self.provider.sign(&mut request, with).unwrap();
                new.request = Some(request_json(&request));
                let message = new.answer.as_ref().unwrap();
                let status = StatusCode::from_u16(message.status.unwrap()).unwrap();
                match self.provider.decode(&operation, status, verified(Source::Answer, message), with) {
                    Ok(outcome) => outcome,
                    Err(error) => {
                        new.error = Some(error_json(&error));
                        return new;
                    }
                }
            }
        };
        new.outcome = Some(serde_json::to_value(outcome).unwrap());
        new
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
