//! Producer of the library librdkafka, which talks to the relay only.

use std::time::Duration;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientConfig, ClientContext};

use super::relay::{Relay, USER};

/// Time after which an event that no broker has confirmed is a failure.
pub(super) const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);

/// Event as a Kafka message. It always has a value: one without would delete the key's earlier messages in a compacted topic.
pub(super) struct Message {
    /// Merchant and order id: messages with equal keys are in order.
    pub(super) key: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) value: bytes::Bytes,
}

/// Client of a cluster with threads of its own. Its last messages fail when it is dropped.
pub(super) struct Producer {
    /// Present until dropped.
    library: Option<FutureProducer<Context>>,
    topic: String,
}

impl Producer {
    /// Starts the client. It connects in the background.
    pub(super) fn start(relay: &Relay, bootstrap: &str, topic: &str) -> Result<Self, RDKafkaErrorCode> {
        let library = settings(bootstrap, relay.password()).create_with_context(Context);
        Ok(Self { library: Some(library.map_err(|error| code(&error))?), topic: topic.to_owned() })
    }

    /// Sends a message and waits until every replica in sync has it. Takes at most [`DELIVERY_TIMEOUT`].
    pub(super) async fn send(&self, message: &Message) -> Result<(), RDKafkaErrorCode> {
        let library = self.library.as_ref().ok_or(RDKafkaErrorCode::DestroyBroker)?;
        let mut headers = OwnedHeaders::new_with_capacity(message.headers.len());
        for (key, value) in &message.headers {
            headers = headers.insert(Header { key, value: Some(value) });
        }
        let record = FutureRecord::to(&self.topic).key(&message.key).payload(&message.value[..]).headers(headers);
        let delivery = library.send_result(record).map_err(|(error, _)| code(&error))?;
        match delivery.await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err((error, _))) => Err(code(&error)),
            Err(_) => Err(RDKafkaErrorCode::DestroyBroker),
        }
    }

    /// Asks for the topic. Blocks the thread.
    pub(super) fn find_topic(&self) -> Result<(), RDKafkaErrorCode> {
        let library = self.library.as_ref().ok_or(RDKafkaErrorCode::DestroyBroker)?;
        let metadata = library.client().fetch_metadata(Some(&self.topic), DELIVERY_TIMEOUT);
        let metadata = metadata.map_err(|error| code(&error))?;
        let topic = metadata.topics().iter().find(|topic| topic.name() == self.topic);
        match topic.ok_or(RDKafkaErrorCode::UnknownTopic)?.error() {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }

    /// Returns why the client is of no use any more. The library ends it where it cannot rule out a repetition.
    pub(super) fn fatal_error(&self) -> Option<RDKafkaErrorCode> {
        let fatal = self.library.as_ref()?.client().fatal_error();
        fatal.map(|(code, _)| code)
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        let library = self.library.take();
        // Waits for the library's threads. If no thread can be started, this one waits.
        drop(std::thread::Builder::new().name("kafka-close".to_owned()).spawn(move || drop(library)));
    }
}

fn settings(bootstrap: &str, password: &str) -> ClientConfig {
    let mut settings = ClientConfig::new();
    settings.set_log_level(RDKafkaLogLevel::Warning);
    let timeout = DELIVERY_TIMEOUT.as_millis().to_string();
    for (key, value) in [
        ("client.id", "tollgate"),
        ("bootstrap.servers", bootstrap),
        ("broker.address.family", "v4"),
        ("security.protocol", "sasl_plaintext"),
        ("sasl.mechanism", "PLAIN"),
        ("sasl.username", USER),
        ("sasl.password", password),
        ("acks", "all"),
        ("enable.idempotence", "true"),
        ("max.in.flight.requests.per.connection", "5"),
        ("message.timeout.ms", &timeout),
        ("socket.timeout.ms", &timeout),
        // A topic that does not exist is reported before the time is over.
        ("topic.metadata.propagation.max.ms", "5000"),
        // One that was made since, or a right that was given since, is noticed within this time.
        ("topic.metadata.refresh.interval.ms", "60000"),
        ("reconnect.backoff.ms", "100"),
        ("reconnect.backoff.max.ms", "2000"),
        ("linger.ms", "1"),
        // The partition that Java's clients choose for a key.
        ("partitioner", "murmur2_random"),
        ("enable.metrics.push", "false"),
        ("log.connection.close", "false"),
    ] {
        settings.set(key, value);
    }
    settings
}

fn code(error: &KafkaError) -> RDKafkaErrorCode {
    error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail)
}

/// Takes what the library reports. A failed delivery is reported with its event; connections are the relay's.
struct Context;

impl ClientContext for Context {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, text: &str) {
        tracing::debug!(facility, "librdkafka: {text}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!("librdkafka: {error}: {reason}");
    }
}
