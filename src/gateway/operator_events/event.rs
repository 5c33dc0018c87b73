//! One operator event.

use serde::Serialize;
use sha2::{Digest, Sha256};
use tollgate_config::OperatorEventType;

/// Maximum number of orders that one event names.
const MAX_ORDERS: usize = 100;

/// Event about the gateway itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OperatorEvent {
    pub(crate) event_type: OperatorEventType,
    pub(crate) details: Details,
}

/// Cause and advice with the names and ids that they are about. Contains no secrets and no personal data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Details {
    pub(crate) cause: String,
    /// Advice for this event; that of its type if empty.
    pub(crate) advice: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) channel: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) operation: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) host: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) merchant: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) sink: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) order_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) refund_id: Option<String>,
    /// Id of a merchant's event.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) event_id: String,
    /// Generation in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) generation: Option<u64>,
    /// Place of the first diagnostic.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) line: Option<usize>,
    /// Number of diagnostics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) diagnostics: Option<usize>,
    /// Changes of a generation, by the names of their keys.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) changed: Vec<String>,
    /// Keys that take effect after a restart.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) needs_restart: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) certificate: String,
    /// Expiry of the certificate in RFC 3339.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) not_after: String,
    /// Days until a certificate expires, rounded down; negative after its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) days_left: Option<i64>,
    /// Last threshold that the days left have reached.
    #[serde(skip)]
    pub(crate) threshold: i64,
    /// Number of events with the same cause that were suppressed since the last one.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) suppressed: u64,
    /// Orders of the suppressed events, at most 100.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) suppressed_order_ids: Vec<String>,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl OperatorEvent {
    /// Returns an event. Without advice of its own it has that of its type.
    pub(crate) fn new(event_type: OperatorEventType, mut details: Details) -> Self {
        if details.advice.is_empty() {
            event_type.advice().clone_into(&mut details.advice);
        }
        Self { event_type, details }
    }

    /// Returns what the event is about. Repetitions with the same cause are suppressed for a while; a change of state,
    /// as from opened to closed, has the cause of the state before.
    pub(crate) fn cause(&self) -> String {
        use OperatorEventType::*;
        let it = &self.details;
        let number = |number: Option<u64>| number.map_or_else(String::new, |number| number.to_string());
        let (group, parts) = match self.event_type {
            BreakerOpened | BreakerClosed => ("breaker", vec![it.channel.clone(), it.operation.clone()]),
            ProbeFailed => ("probe", vec![it.channel.clone(), it.host.clone()]),
            ConfigApplied => ("applied", vec![number(it.generation)]),
            ConfigRolledBack => ("rolled back", vec![number(it.generation)]),
            // The same error under another generation is reported again: files were right in between.
            ConfigRejected => ("rejected", vec![number(it.generation), it.file.clone(), it.cause.clone()]),
            DeliveryFailing | DeliveryRecovered => ("sink", vec![it.merchant.clone(), it.sink.clone()]),
            DeliveryExhausted => ("exhausted", vec![it.merchant.clone(), it.sink.clone()]),
            ManualReview => ("review", vec![it.channel.clone(), it.cause.clone()]),
            CertificateExpiring => {
                let threshold = it.threshold.to_string();
                ("certificate", vec![it.channel.clone(), it.certificate.clone(), it.not_after.clone(), threshold])
            }
        };
        format!("{group}\n{}", parts.join("\n"))
    }

    /// Returns the id: random, or for what all gateways of one `public_url` see alike, the same in each of them, so
    /// that receivers can drop the repetitions.
    pub(crate) fn id(&self, public_url: &str) -> String {
        let digest: [u8; 16] = match self.event_type {
            OperatorEventType::CertificateExpiring => {
                let digest = Sha256::digest(format!("{public_url}\n{}", self.cause()));
                let mut id = [0; 16];
                id.copy_from_slice(&digest[..16]);
                id
            }
            _ => rand::random(),
        };
        format!("opevt_{}", hex::encode(digest))
    }

    /// Takes the place of an earlier event that was suppressed.
    pub(super) fn supersede(&mut self, earlier: Self) {
        let it = &mut self.details;
        it.suppressed += earlier.details.suppressed + 1;
        let mut orders = earlier.details.suppressed_order_ids;
        orders.extend(Some(earlier.details.order_id).filter(|order| !order.is_empty()));
        orders.append(&mut it.suppressed_order_ids);
        orders.truncate(MAX_ORDERS);
        it.suppressed_order_ids = orders;
    }
}
