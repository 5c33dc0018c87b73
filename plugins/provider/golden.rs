//! How golden files are written: an operation in, a request out, an answer in, an outcome out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::*;
use crate::payment::{Method, Money, Order, Pay, Payer, Refund};

/// The moment at which all of them happen, in unix seconds.
pub(super) const NOW: u64 = 1_700_000_000;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Golden {
    pub(super) about: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) operation: Option<Asked>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) request: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) answer: Option<Message>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) notification: Option<Message>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) outcome: Option<Value>,
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

/// An [`Operation`] as the files write it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
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
    refund: Option<AskedRefund>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AskedRefund {
    number: String,
    amount: Money,
    reason: Option<String>,
    notify_url: String,
}

impl Asked {
    pub(super) fn operation(&self) -> Operation {
        let created_at = jiff::Timestamp::from_second(NOW.cast_signed()).unwrap();
        let order = Order {
            number: self.number.clone(),
            method: self.method,
            amount: self.amount,
            created_at,
            provider_id: self.provider_id.clone(),
        };
        let refund = || {
            let asked = self.refund.as_ref().unwrap();
            Refund {
                order: order.clone(),
                number: asked.number.clone(),
                amount: asked.amount,
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
                expires_at: self.expires_at,
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
}

/// Every golden file by its name without `.json`.
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

/// A request as the files write it.
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

/// An event as the files write it.
pub(super) fn event_json(event: &Event) -> Value {
    json!({
        "id": event.id,
        "order_number": event.order_number,
        "refund_number": event.refund_number,
        "outcome": event.outcome,
    })
}
