//! RabbitMQ: an event is delivered once the broker has routed it to a queue and confirmed it.
//!
//! A sink has one connection and one channel in confirm mode. It connects when it is configured, and again when an event
//! finds the connection lost; after a failed attempt a pause follows, which doubles. Each message is mandatory and
//! persistent, and its id is the event's, equal in every attempt.

mod broker_error;
mod connect;
mod publisher;
mod runtime;
mod socket;
mod verdicts;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use ipnet::IpNet;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;
use tollgate_config::RabbitMqConfig;

use self::publisher::{Message, Publisher};
use super::failure::DeliveryError;
use super::message::{CloudEvent, OutgoingEvent};
use super::sink::{Attempt, Sink};

/// Time limit for a connection, and again for the confirmation of a message.
const TIMEOUT: Duration = Duration::from_secs(10);
/// First and last pause after a failed connection attempt; doubles in between.
const RECONNECT_PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Exchange of a broker.
pub(super) struct RabbitMqSink {
    config: Arc<RabbitMqConfig>,
    /// Present connection. Locked while a connection is made, so that there is never a second one.
    publisher: AsyncMutex<Option<Publisher>>,
    fault: Mutex<Option<Fault>>,
}

/// Last failed connection attempt.
struct Fault {
    /// Time before which no other attempt is made.
    retry_at: Instant,
    pause: Duration,
    reason: String,
}

impl RabbitMqSink {
    pub(super) fn new(config: Arc<RabbitMqConfig>) -> Self {
        Self { config, publisher: AsyncMutex::default(), fault: Mutex::default() }
    }

    /// Returns the present connection, or a new one. Fails at once during the pause after a failed attempt.
    async fn publisher(&self, allowed: &[IpNet]) -> Result<Publisher, DeliveryError> {
        let mut present = self.publisher.lock().await;
        let is_usable = |it: &&Publisher| it.is_open() && connect::is_permitted(it.peer(), allowed);
        if let Some(publisher) = present.as_ref().filter(is_usable) {
            return Ok(publisher.clone());
        }
        *present = None;
        if let Some(waiting) = self.waiting() {
            return Err(waiting);
        }
        let connecting = tokio::time::timeout(TIMEOUT, connect::open(&self.config, allowed));
        match connecting.await.unwrap_or(Err(DeliveryError::Timeout(TIMEOUT))) {
            Ok(publisher) => {
                *self.fault.lock() = None;
                Ok(present.insert(publisher).clone())
            }
            Err(error) => {
                self.failed(error.to_string());
                Err(error)
            }
        }
    }

    fn waiting(&self) -> Option<DeliveryError> {
        let fault = self.fault.lock();
        let Fault { retry_at, reason, .. } = fault.as_ref()?;
        let after = retry_at.checked_duration_since(Instant::now()).filter(|pause| !pause.is_zero())?;
        Some(DeliveryError::NotConnected { last: reason.clone(), after })
    }

    fn failed(&self, reason: String) {
        let mut fault = self.fault.lock();
        let (first, last) = RECONNECT_PAUSES;
        let pause = fault.as_ref().map_or(first, |fault| (fault.pause * 2).min(last));
        *fault = Some(Fault { retry_at: Instant::now() + pause, pause, reason });
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

/// AMQP's delivery mode of messages that survive a restart of the broker.
const PERSISTENT: u8 = 2;

#[async_trait]
impl Sink for RabbitMqSink {
    async fn send(&self, attempt: &Attempt<'_>) -> Result<(), DeliveryError> {
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

    fn is_paused(&self) -> bool {
        let publisher = self.publisher.try_lock();
        publisher.is_ok_and(|it| it.as_ref().is_some_and(|publisher| publisher.is_open() && publisher.is_blocked()))
    }

    async fn connect(&self, allowed: &[IpNet]) -> Result<(), DeliveryError> {
        self.publisher(allowed).await.map(drop)
    }
}
