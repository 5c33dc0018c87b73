//! Bytes of an event: the body that every sink sends, and the attributes of CloudEvents 1.0.

use bytes::Bytes;
use serde::Serialize;
use tollgate_ledger::{Event, merchants_order_id};

use super::failure::DeliveryError;
use crate::view::event_view;

/// Returns the event's body, with identical bytes in every attempt.
pub(super) fn body(event: &Event) -> Result<Bytes, DeliveryError> {
    encode(&event_view(event))
}

fn encode(value: &impl Serialize) -> Result<Bytes, DeliveryError> {
    serde_json::to_vec(value).map(Bytes::from).map_err(DeliveryError::Serialize)
}

/// Attributes of an event as a CloudEvent.
#[derive(Serialize)]
pub(super) struct CloudEvent<'a> {
    pub(super) specversion: &'static str,
    pub(super) id: &'a str,
    pub(super) source: String,
    #[serde(rename = "type")]
    pub(super) event_type: &'a str,
    pub(super) time: String,
    /// Order id.
    pub(super) subject: &'a str,
    /// Merchant and order id: events with equal keys are in order.
    pub(super) partitionkey: String,
}

impl<'a> CloudEvent<'a> {
    /// Returns the attributes. `cluster` names the gateway or cluster that publishes the event.
    pub(super) fn of(event: &'a Event, cluster: &str) -> Self {
        let (merchant, order_id) = (&event.subject.merchant, merchants_order_id(&event.subject.order_id));
        Self {
            specversion: "1.0",
            id: &event.id,
            source: format!("/tollgate/{cluster}/{merchant}"),
            event_type: &event.kind,
            time: event.created_at.to_string(),
            subject: order_id,
            partitionkey: format!("{merchant}/{order_id}"),
        }
    }

    /// Returns the attributes with their names, for the headers of binary mode.
    pub(super) fn attributes(&self) -> [(&'static str, &str); 7] {
        [
            ("specversion", self.specversion),
            ("id", self.id),
            ("source", &self.source),
            ("type", self.event_type),
            ("time", &self.time),
            ("subject", self.subject),
            ("partitionkey", &self.partitionkey),
        ]
    }

    /// Returns the event in structured mode: one JSON object with the attributes, and with the body as `data`.
    pub(super) fn structured(&self, event: &Event) -> Result<Bytes, DeliveryError> {
        #[derive(Serialize)]
        struct Structured<'a, T: Serialize> {
            #[serde(flatten)]
            attributes: &'a CloudEvent<'a>,
            datacontenttype: &'static str,
            data: T,
        }
        encode(&Structured { attributes: self, datacontenttype: "application/json", data: event_view(event) })
    }
}
