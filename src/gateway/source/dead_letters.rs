//! Publishes refused messages, with the reason in their headers, to the exchange that a source names.
//!
//! The connection is not that of the consumption, and is opened by the first refused message. During a memory or disk alarm a
//! broker reads nothing more from a connection that publishes. Acknowledgements on it would wait for the end of the alarm.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ipnet::IpNet;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::Mutex;
use tollgate_config::SourceConfig;

use crate::delivery::failure::DeliveryError;
use crate::delivery::rabbitmq::{SharedConnection, broker_error, open_connection};
use crate::problem::Problem;

/// Time limit for a connection, and again for the confirmation of a message.
const TIMEOUT: Duration = Duration::from_secs(10);
/// AMQP's delivery mode of messages that survive a restart of the broker.
const PERSISTENT: u8 = 2;

/// Exchange for refused messages.
pub(super) struct DeadLetters {
    config: Arc<SourceConfig>,
    exchange: String,
    /// Locked while a message is published: the library may hand the return of a message to the confirmation of another one,
    /// so only one is unconfirmed.
    present: Mutex<Option<Publisher>>,
}

/// An open connection with a channel in confirm mode.
struct Publisher {
    connection: SharedConnection,
    channel: Channel,
    /// True once a confirmation was not awaited. It could be taken for that of the next message.
    is_stale: bool,
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
    /// Returns the exchange of a source, if it names one. Opens no connection.
    pub(super) fn of(config: &Arc<SourceConfig>) -> Option<Self> {
        let exchange = config.dead_letter.clone()?;
        Some(Self { config: Arc::clone(config), exchange, present: Mutex::default() })
    }

    /// Publishes a message under its routing key. Success means that the broker has routed and stored it.
    pub(super) async fn publish(&self, refused: &Refused<'_>, allowed: &[IpNet]) -> Result<(), DeliveryError> {
        let mut present = self.present.lock().await;
        if present.as_ref().is_some_and(|publisher| publisher.connection.is_blocked()) {
            return Err(DeliveryError::Blocked);
        }
        if !present.as_ref().is_some_and(Publisher::is_usable) {
            *present = None;
            let opening = tokio::time::timeout(TIMEOUT, Publisher::open(&self.config, allowed));
            *present = Some(opening.await.unwrap_or(Err(DeliveryError::Timeout(TIMEOUT)))?);
        }
        let Some(publisher) = present.as_mut() else { return Err(DeliveryError::Closed) };
        match tokio::time::timeout(TIMEOUT, publisher.publish(&self.exchange, refused)).await {
            Ok(Ok(confirmed)) if !confirmed.is_ack() => Err(DeliveryError::Nack),
            Ok(Ok(confirmed)) => match confirmed.take_message() {
                None => Ok(()),
                Some(_) => Err(DeliveryError::Returned { routing_key: refused.routing_key.to_owned() }),
            },
            Ok(Err(error)) => Err(broker_error(&error)),
            Err(_) => {
                publisher.is_stale = true;
                let is_blocked = publisher.connection.is_blocked();
                Err(if is_blocked { DeliveryError::Blocked } else { DeliveryError::Timeout(TIMEOUT) })
            }
        }
    }

    /// Closes the connection, which ends with its last handle.
    pub(super) async fn close(&self) {
        drop(self.present.lock().await.take());
    }
}

impl Publisher {
    async fn open(config: &SourceConfig, allowed: &[IpNet]) -> Result<Self, DeliveryError> {
        let connection = open_connection(&config.url, config.authorities.as_deref(), allowed).await?;
        let channel = connection.channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(|error| broker_error(&error))?;
        Ok(Self { connection, channel, is_stale: false })
    }

    fn is_usable(&self) -> bool {
        !self.is_stale && self.connection.is_open() && self.channel.status().connected()
    }

    async fn publish(&self, exchange: &str, refused: &Refused<'_>) -> lapin::Result<Confirmation> {
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let (exchange, routing_key) = (exchange.into(), refused.routing_key.into());
        let properties = properties(refused);
        self.channel.basic_publish(exchange, routing_key, options, refused.body, properties).await?.await
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
