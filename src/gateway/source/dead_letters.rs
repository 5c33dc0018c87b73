//! Publishes refused messages, with the reason in their headers, to the exchange that a source names.

use std::time::Duration;

use bytes::Bytes;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel};
use tokio::sync::Mutex;

use crate::amqp::broker_error;
use crate::delivery::failure::DeliveryError;
use crate::problem::Problem;

/// Time limit for the confirmation of a message.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(10);
/// AMQP's delivery mode of messages that survive a restart of the broker.
const PERSISTENT: u8 = 2;

/// Channel in confirm mode for one exchange. One message at a time is unconfirmed, because the library may hand the return of
/// a message to the confirmation of another one.
pub(super) struct DeadLetters {
    channel: Mutex<Channel>,
    status: lapin::ChannelStatus,
    exchange: String,
}

/// A refused message.
pub(super) struct Refused<'a> {
    pub(super) routing_key: &'a str,
    pub(super) properties: &'a BasicProperties,
    pub(super) body: &'a Bytes,
    pub(super) source: &'a str,
    pub(super) request_id: &'a str,
    pub(super) problem: &'a Problem,
}

impl DeadLetters {
    pub(super) async fn open(channel: Channel, exchange: String) -> lapin::Result<Self> {
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let status = channel.status().clone();
        Ok(Self { channel: Mutex::new(channel), status, exchange })
    }

    pub(super) fn is_open(&self) -> bool {
        self.status.connected()
    }

    /// Publishes a message under its routing key. Success means that the broker has routed and stored it.
    pub(super) async fn publish(&self, refused: &Refused<'_>) -> Result<(), DeliveryError> {
        let channel = self.channel.lock().await;
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let publishing = async {
            let (exchange, routing_key) = (self.exchange.as_str().into(), refused.routing_key.into());
            let properties = properties(refused);
            channel.basic_publish(exchange, routing_key, options, refused.body, properties).await?.await
        };
        match tokio::time::timeout(CONFIRM_TIMEOUT, publishing).await {
            Ok(Ok(confirmed)) if !confirmed.is_ack() => Err(DeliveryError::Nack),
            Ok(Ok(confirmed)) => match confirmed.take_message() {
                None => Ok(()),
                Some(_) => Err(DeliveryError::Returned { routing_key: refused.routing_key.to_owned() }),
            },
            Ok(Err(error)) => Err(broker_error(&error)),
            Err(_) => {
                // A late confirmation would be taken for that of the next message.
                drop(tokio::time::timeout(Duration::from_secs(1), channel.close(0, "no confirmation".into())).await);
                Err(DeliveryError::Timeout(CONFIRM_TIMEOUT))
            }
        }
    }
}

/// Returns the properties of the message without its expiry, and with the reason in further headers.
fn properties(refused: &Refused<'_>) -> BasicProperties {
    let (old, problem) = (refused.properties, refused.problem);
    let mut headers = old.headers().clone().unwrap_or_default();
    for (name, value) in [
        ("by", refused.source.to_owned()),
        ("status", problem.status().as_u16().to_string()),
        ("code", problem.code().to_owned()),
        ("detail", problem.detail().to_owned()),
        ("problem", problem.answer(refused.request_id).body),
    ] {
        headers.insert(format!("x-tollgate-refused-{name}").into(), AMQPValue::LongString(value.into()));
    }
    let mut properties = with_headers(headers);
    if let Some(content_type) = old.content_type() {
        properties = properties.with_content_type(content_type.clone());
    }
    if let Some(content_encoding) = old.content_encoding() {
        properties = properties.with_content_encoding(content_encoding.clone());
    }
    if let Some(correlation_id) = old.correlation_id() {
        properties = properties.with_correlation_id(correlation_id.clone());
    }
    if let Some(message_id) = old.message_id() {
        properties = properties.with_message_id(message_id.clone());
    }
    if let Some(timestamp) = old.timestamp() {
        properties = properties.with_timestamp(*timestamp);
    }
    if let Some(kind) = old.kind() {
        properties = properties.with_type(kind.clone());
    }
    if let Some(app_id) = old.app_id() {
        properties = properties.with_app_id(app_id.clone());
    }
    properties
}

fn with_headers(headers: FieldTable) -> BasicProperties {
    BasicProperties::default().with_headers(headers).with_delivery_mode(PERSISTENT)
}
