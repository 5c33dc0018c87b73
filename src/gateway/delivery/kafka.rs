//! Kafka: an event is delivered once every replica in sync has it (`acks=all`).
//!
//! A sink has one idempotent producer. The library retries for ten seconds, in order and without repeating a message; the
//! event is then retried like any other, with the same id. After an error that passes by itself nothing is tried during a
//! pause, then one event at a time. The pause doubles, and no attempt counts.
//!
//! The producer stays while the brokers are away, because another one may store a message of unknown fate twice.

mod api_versions;
mod metadata;
mod producer;
mod relay;
mod sasl;
#[cfg(test)]
mod tests;
mod upstream;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ipnet::IpNet;
use parking_lot::Mutex;
use rdkafka::types::RDKafkaErrorCode;
use tokio::time::Instant;
use tollgate_config::KafkaConfig;

use self::producer::{Message, Producer};
use self::relay::Relay;
use super::failure::DeliveryError;
use super::message::{CloudEvent, OutgoingEvent};
use super::sink::{Attempt, Sink};

/// First and last pause after a failure that any event would meet; doubles in between.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Time after which the library itself is taken for broken.
const LIBRARY_TIMEOUT: Duration = Duration::from_secs(20);

/// Topic of a Kafka cluster.
pub(super) struct KafkaSink {
    config: Arc<KafkaConfig>,
    client: Mutex<Option<Arc<Client>>>,
    fault: Mutex<Option<Fault>>,
}

/// Producer with the relay that it talks to. The relay is closed last.
struct Client {
    producer: Producer,
    relay: Relay,
}

/// Last failure that any event would have met.
struct Fault {
    /// Time before which nothing more is tried.
    retry_at: Instant,
    /// Pause after the next failure.
    pause: Duration,
    reason: String,
}

impl KafkaSink {
    pub(super) fn new(config: Arc<KafkaConfig>) -> Self {
        Self { config, client: Mutex::default(), fault: Mutex::default() }
    }

    /// Returns the present client, or a new one.
    fn client(&self, allowed: &[IpNet]) -> Result<Arc<Client>, DeliveryError> {
        let mut present = self.client.lock();
        if let Some(client) = present.as_ref() {
            client.relay.allow(allowed);
            return Ok(Arc::clone(client));
        }
        let relay = Relay::open(Arc::clone(&self.config), allowed)?;
        let producer = Producer::start(&relay, &relay.bootstrap()?, &self.config.topic);
        let client = Arc::new(Client { producer: producer.map_err(DeliveryError::Kafka)?, relay });
        *present = Some(Arc::clone(&client));
        Ok(client)
    }

    /// Lets an attempt start. After a pause only one may, until its result is known or overdue.
    fn begin(&self) -> Result<(), DeliveryError> {
        let mut fault = self.fault.lock();
        let Some(fault) = fault.as_mut() else { return Ok(()) };
        let now = Instant::now();
        if fault.retry_at > now {
            return Err(DeliveryError::NotConnected(fault.reason.clone()));
        }
        let (_, longest) = PAUSES;
        fault.pause = (fault.pause * 2).min(longest);
        fault.retry_at = now + LIBRARY_TIMEOUT;
        Ok(())
    }

    /// Starts a pause. Events that fail at the same time share it.
    fn failed(&self, reason: String) -> DeliveryError {
        let mut fault = self.fault.lock();
        let (first, _) = PAUSES;
        let pause = fault.as_ref().map_or(first, |fault| fault.pause);
        *fault = Some(Fault { retry_at: Instant::now() + pause, pause, reason: reason.clone() });
        DeliveryError::NotConnected(reason)
    }

    /// Ends the pauses: the cluster works.
    fn recovered(&self) {
        *self.fault.lock() = None;
    }

    /// Returns the failure that an error code stands for. One that any event would meet starts a pause.
    fn failure(&self, client: &Arc<Client>, code: RDKafkaErrorCode) -> DeliveryError {
        let fatal = client.producer.fatal_error();
        let code = fatal.unwrap_or(code);
        if fatal.is_some() || is_about_the_producer(code) {
            self.discard(client);
        } else if !is_transient(code) {
            self.recovered();
            return DeliveryError::Kafka(code);
        }
        let connection = client.relay.fault();
        self.failed(connection.unwrap_or_else(|| DeliveryError::Kafka(code).to_string()))
    }

    /// Makes the next event start another client, unless one was started already.
    fn discard(&self, client: &Arc<Client>) {
        self.client.lock().take_if(|present| Arc::ptr_eq(present, client));
    }

    fn message(&self, event: &OutgoingEvent) -> Result<Message, DeliveryError> {
        let cloud_event = CloudEvent::of(event);
        let key = event.partition_key.clone();
        if self.config.structured {
            let headers = vec![content_type("application/cloudevents+json; charset=UTF-8")];
            return Ok(Message { key, headers, value: cloud_event.structured(event)? });
        }
        let attributes = cloud_event.attributes().into_iter();
        let attributes = attributes.map(|(name, value)| (format!("ce_{name}"), value.to_owned()));
        let headers = attributes.chain([content_type("application/json")]).collect();
        Ok(Message { key, headers, value: event.body.clone() })
    }
}

fn content_type(value: &str) -> (String, String) {
    ("content-type".to_owned(), value.to_owned())
}

/// Returns whether the brokers do not accept this producer any more, for example because a message of unknown fate timed out
/// and the library numbers its messages anew. Another producer is accepted.
fn is_about_the_producer(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::Fatal
            | Code::Fenced
            | Code::ProducerFenced
            | Code::InvalidProducerEpoch
            | Code::InvalidProducerIdMapping
            | Code::UnknownProducerId
            | Code::OutOfOrderSequenceNumber
            | Code::DuplicateSequenceNumber
            | Code::GaplessGuarantee
    )
}

/// Returns whether an error passes by itself once the cluster works again, and would meet every event alike. The library has
/// tried until the time was over. All other errors need somebody: the event is refused, or the topic or a right is missing.
fn is_transient(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::MessageTimedOut
            | Code::OperationTimedOut
            | Code::TimedOutQueue
            | Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::Resolve
            | Code::Authentication
            | Code::QueueFull
            | Code::PurgeQueue
            | Code::PurgeInflight
            | Code::BrokerDestroy
            | Code::DestroyBroker
            | Code::LeaderNotAvailable
            | Code::NotLeaderForPartition
            | Code::RequestTimedOut
            | Code::BrokerNotAvailable
            | Code::ReplicaNotAvailable
            | Code::NetworkException
            | Code::NotEnoughReplicas
            | Code::NotEnoughReplicasAfterAppend
            | Code::KafkaStorageError
            | Code::FencedLeaderEpoch
            | Code::UnknownLeaderEpoch
            | Code::ThrottlingQuotaExceeded
    )
}

#[async_trait]
impl Sink for KafkaSink {
    async fn send(&self, attempt: &Attempt<'_>) -> Result<(), DeliveryError> {
        let message = self.message(attempt.event)?;
        self.begin()?;
        let client = self.client(attempt.allowed).map_err(|error| self.failed(error.to_string()))?;
        match tokio::time::timeout(LIBRARY_TIMEOUT, client.producer.send(&message)).await {
            Ok(Ok(())) => {
                self.recovered();
                Ok(())
            }
            Ok(Err(code)) => Err(self.failure(&client, code)),
            Err(_) => {
                self.discard(&client);
                Err(DeliveryError::Timeout(LIBRARY_TIMEOUT))
            }
        }
    }

    fn is_paused(&self) -> bool {
        self.fault.lock().as_ref().is_some_and(|fault| fault.retry_at > Instant::now())
    }

    async fn connect(&self, allowed: &[IpNet]) -> Result<(), DeliveryError> {
        let client = self.client(allowed)?;
        let asking = Arc::clone(&client);
        let found = tokio::task::spawn_blocking(move || asking.producer.find_topic()).await;
        match found.map_err(|_| DeliveryError::Panicked)? {
            Ok(()) => Ok(()),
            Err(code) => Err(self.failure(&client, code)),
        }
    }
}
