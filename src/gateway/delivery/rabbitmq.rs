//! RabbitMQ: an event is delivered once the broker has routed it to a queue and confirmed it.
//!
//! A sink has one channel in confirm mode, on a connection that it shares with sinks of the same URL. It connects when it
//! is configured, and again when an event finds no channel. A broker that cannot be reached is tried in the background;
//! until then its events wait and no attempt counts. Each message is mandatory and persistent, and its id is the event's,
//! equal in every attempt.

mod broker;
mod broker_error;
mod connect;
mod connection;
mod greeting;
mod publisher;
mod runtime;
mod socket;
mod submitted;
mod unconfirmed;
mod verdicts;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use ipnet::IpNet;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use tokio::sync::Mutex as AsyncMutex;
use tollgate_config::RabbitMqConfig;

use self::broker::Broker;
pub(super) use self::broker::Brokers;
pub(crate) use self::broker_error::broker_error;
pub(crate) use self::connect::open as open_connection;
pub(crate) use self::connection::SharedConnection;
use self::publisher::Publisher;
use self::submitted::Message;
use super::failure::DeliveryError;
use super::message::{CloudEvent, OutgoingEvent};
use super::sink::{Attempt, Sink};

/// Time limit for a connection, for a channel, and for the confirmation of a message.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Time without messages after which a channel is closed, and its connection with the last channel. The next event opens
/// them again.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);

/// Exchange of a broker.
pub(super) struct RabbitMqSink {
    config: Arc<RabbitMqConfig>,
    broker: Arc<Broker>,
    /// Present channel. Locked while a channel is opened, so that there is never a second one.
    publisher: AsyncMutex<Option<Publisher>>,
    /// Number of failed reconnections when an event last met a broker that accepts nothing. The others then wait without an
    /// attempt until the next reconnection, so that log and timeline tell the reason.
    met_pause: AtomicU64,
}

impl RabbitMqSink {
    pub(super) fn new(config: Arc<RabbitMqConfig>, brokers: &Brokers) -> Self {
        Self {
            broker: brokers.of(&config),
            config,
            publisher: AsyncMutex::default(),
            met_pause: AtomicU64::new(NOT_MET),
        }
    }

    /// Returns the present channel, or a new one. Fails at once while the broker cannot be reached.
    async fn publisher(&self, allowed: &[IpNet]) -> Result<Publisher, DeliveryError> {
        let mut present = self.publisher.lock().await;
        let is_permitted = |it: &&Publisher| it.connection().is_some_and(|connection| connection.is_permitted(allowed));
        let is_usable = |it: &&Publisher| it.is_open() && is_permitted(it);
        if let Some(publisher) = present.as_ref().filter(is_usable) {
            return Ok(publisher.clone());
        }
        *present = None;
        let connection = self.broker.connection(allowed).await?;
        if connection.is_blocked() {
            // A blocked connection opens no channel.
            return Err(DeliveryError::Blocked);
        }
        match tokio::time::timeout(TIMEOUT, connect::open_channel(connection.clone(), &self.config)).await {
            Ok(Ok(publisher)) => Ok(present.insert(publisher).clone()),
            Ok(Err(error)) if connection.is_open() => Err(error),
            Ok(Err(error)) => Err(DeliveryError::NotConnected(error.to_string())),
            Err(_) if connection.is_blocked() => Err(DeliveryError::Blocked),
            Err(_) => {
                // The broker answers nothing.
                connection.close();
                let reason = DeliveryError::Timeout(TIMEOUT).to_string();
                self.broker.lost(reason.clone());
                Err(DeliveryError::NotConnected(reason))
            }
        }
    }

    /// Publishes an event and waits for its confirmation.
    async fn publish(&self, attempt: &Attempt<'_>) -> Result<(), DeliveryError> {
        let message = self.message(attempt.event)?;
        let publisher = self.publisher(attempt.allowed).await?;
        if publisher.is_blocked() {
            return Err(DeliveryError::Blocked);
        }
        match tokio::time::timeout(TIMEOUT, publisher.publish(message)).await {
            Ok(result) => result,
            // The broker may still confirm it later. The event is then sent again with the same id.
            Err(_) if publisher.is_blocked() => Err(DeliveryError::Blocked),
            Err(_) => {
                publisher.close();
                Err(DeliveryError::Timeout(TIMEOUT))
            }
        }
    }

    fn message(&self, event: &OutgoingEvent) -> Result<Message, DeliveryError> {
        let cloud_event = CloudEvent::of(event);
        let mut headers = FieldTable::default();
        let (body, content_type): (Bytes, _) = if self.config.structured {
            (cloud_event.structured(event)?, "application/cloudevents+json")
        } else {
            for (name, value) in cloud_event.attributes() {
                headers.insert(format!("ce_{name}").into(), AMQPValue::LongString(value.into()));
            }
            (event.body.clone(), "application/json")
        };
        let created_at = u64::try_from(event.created_at.as_second()).unwrap_or(0);
        let properties = BasicProperties::default()
            .with_message_id(event.id.as_str().into())
            .with_type(event.event_type.as_str().into())
            .with_timestamp(created_at)
            .with_app_id("tollgate".into())
            .with_content_type(content_type.into())
            .with_delivery_mode(PERSISTENT)
            .with_headers(headers);
        let routing_key = self.config.routing_key.render(&event.routing_values());
        Ok(Message { id: event.id.clone(), exchange: self.config.exchange.clone(), routing_key, properties, body })
    }
}

/// Value of `met_pause` if the last event met no pause.
const NOT_MET: u64 = u64::MAX;
/// AMQP's delivery mode of messages that survive a restart of the broker.
pub(crate) const PERSISTENT: u8 = 2;

#[async_trait]
impl Sink for RabbitMqSink {
    async fn send(&self, attempt: &Attempt<'_>) -> Result<(), DeliveryError> {
        let round = self.broker.failed_reconnections();
        let result = self.publish(attempt).await;
        let meets_pause = matches!(result, Err(DeliveryError::NotConnected(_) | DeliveryError::Blocked));
        self.met_pause.store(if meets_pause { round } else { NOT_MET }, Ordering::Relaxed);
        result
    }

    fn is_paused(&self) -> bool {
        let round = self.broker.failed_reconnections();
        self.met_pause.load(Ordering::Relaxed) == round && self.broker.is_paused()
    }

    async fn connect(&self, allowed: &[IpNet]) -> Result<(), DeliveryError> {
        self.publisher(allowed).await.map(drop)
    }
}
