//! Events as every kind of sink sends them: the body, and the attributes of CloudEvents 1.0.

use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;
use tollgate_config::RoutingValues;
use tollgate_ledger::{Delivery, Record, merchants_order_id};

use super::failure::DeliveryError;
use crate::view::event_view;

/// An event of a merchant or of the operator, ready to be sent.
pub(super) struct OutgoingEvent {
    pub(super) id: String,
    pub(super) event_type: String,
    pub(super) created_at: Timestamp,
    /// Origin of a CloudEvent.
    pub(super) source: String,
    /// Order id, or what an operator event is about.
    pub(super) subject: String,
    /// Events with equal keys are in order.
    pub(super) partition_key: String,
    /// JSON that every sink sends, with identical bytes in every attempt.
    pub(super) body: Bytes,
    /// Values for routing keys; empty where the event has none.
    pub(super) merchant: String,
    pub(super) method: String,
    pub(super) channel: String,
    pub(super) currency: String,
}

impl OutgoingEvent {
    /// Returns a merchant's event. `cluster` names the gateway or cluster that publishes it.
    pub(super) fn of(delivery: &Delivery, cluster: &str) -> Result<Self, DeliveryError> {
        let event = &delivery.event;
        let (merchant, order_id) = (&event.subject.merchant, merchants_order_id(&event.subject.order_id));
        let (channel, currency) = match &event.data {
            Record::Payment(payment) => (&payment.channel, &payment.amount.currency),
            Record::Refund(refund) => (&refund.channel, &refund.amount.currency),
        };
        Ok(Self {
            id: event.id.clone(),
            event_type: event.kind.clone(),
            created_at: event.created_at,
            source: format!("/tollgate/{cluster}/{merchant}"),
            subject: order_id.to_owned(),
            partition_key: format!("{merchant}/{order_id}"),
            body: encode(&event_view(event))?,
            merchant: merchant.clone(),
            method: delivery.method.as_ref().map_or_else(String::new, |method| method.as_str().to_owned()),
            channel: channel.clone(),
            currency: currency.as_str().to_owned(),
        })
    }

    /// Returns the values for a routing key.
    pub(super) fn routing_values(&self) -> RoutingValues<'_> {
        RoutingValues {
            event_type: &self.event_type,
            merchant: &self.merchant,
            method: &self.method,
            channel: &self.channel,
            currency: &self.currency,
        }
    }
}

pub(super) fn encode(value: &impl Serialize) -> Result<Bytes, DeliveryError> {
    serde_json::to_vec(value).map(Bytes::from).map_err(DeliveryError::Serialize)
}

/// Attributes of an event as a CloudEvent.
#[derive(Serialize)]
pub(super) struct CloudEvent<'a> {
    pub(super) specversion: &'static str,
    pub(super) id: &'a str,
    pub(super) source: &'a str,
    #[serde(rename = "type")]
    pub(super) event_type: &'a str,
    pub(super) time: String,
    pub(super) subject: &'a str,
    pub(super) partitionkey: &'a str,
}

impl<'a> CloudEvent<'a> {
    /// Returns the attributes.
    pub(super) fn of(event: &'a OutgoingEvent) -> Self {
        Self {
            specversion: "1.0",
            id: &event.id,
            source: &event.source,
            event_type: &event.event_type,
            time: event.created_at.to_string(),
            subject: &event.subject,
            partitionkey: &event.partition_key,
        }
    }

    /// Returns the attributes with their names, for the headers of binary mode.
    pub(super) fn attributes(&self) -> [(&'static str, &str); 7] {
        [
            ("specversion", self.specversion),
            ("id", self.id),
            ("source", self.source),
            ("type", self.event_type),
            ("time", &self.time),
            ("subject", self.subject),
            ("partitionkey", self.partitionkey),
        ]
    }

    /// Returns the event in structured mode: one JSON object with the attributes, and with the body as `data`.
    pub(super) fn structured(&self, event: &OutgoingEvent) -> Result<Bytes, DeliveryError> {
        #[derive(Serialize)]
        struct Structured<'a> {
            #[serde(flatten)]
            attributes: &'a CloudEvent<'a>,
            datacontenttype: &'static str,
            data: &'a RawValue,
        }
        let data = serde_json::from_slice(&event.body).map_err(DeliveryError::Serialize)?;
        encode(&Structured { attributes: self, datacontenttype: "application/json", data })
    }
}
