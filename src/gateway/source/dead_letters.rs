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
use tokio::time::Instant;
use tollgate_config::SourceConfig;

use crate::delivery::failure::DeliveryError;
use crate::delivery::rabbitmq::{PERSISTENT, SharedConnection, broker_error, open_connection};
use crate::problem::Problem;

/// Time limit for a connection, and again for the confirmation of a message.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Time after a failed connection or a timeout in which publishing fails at once. Otherwise each refused message would wait
/// for its own timeout, one after the other.
const FAIL_FAST_FOR: Duration = Duration::from_secs(5);

/// Exchange for refused messages.
pub(super) struct DeadLetters {
    config: Arc<SourceConfig>,
    exchange: String,
    /// Locked while a message is published: the library may hand the return of a message to the confirmation of another one,
    /// so only one is unconfirmed.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    publisher: Option<Publisher>,
    /// Time until which publishing fails at once.
    retry_at: Option<Instant>,
}

/// An open connection with a channel in confirm mode.
struct Publisher {
    connection: SharedConnection,
    channel: Channel,
    /// True while a confirmation is awaited, and for good if it never was. It could be taken for that of the next message.
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
        Some(Self { config: Arc::clone(config), exchange, state: Mutex::default() })
    }

    /// Publishes a message under its routing key. Success means that the broker has routed and stored it. Dropping the future is
    /// safe: the next message opens another connection.
    pub(super) async fn publish(&self, refused: &Refused<'_>, allowed: &[IpNet]) -> Result<(), DeliveryError> {
        let state = &mut *self.state.lock().await;
        if state.publisher.as_ref().is_some_and(|publisher| publisher.connection.is_blocked()) {
            return Err(DeliveryError::Blocked);
        }
        if state.retry_at.is_some_and(|time| Instant::now() < time) {
            let seconds = FAIL_FAST_FOR.as_secs();
            return Err(DeliveryError::NotConnected(format!("publishing failed less than {seconds} s ago")));
        }
        if !state.publisher.as_ref().is_some_and(Publisher::is_usable) {
            state.publisher = None;
            let opening = tokio::time::timeout(TIMEOUT, Publisher::open(&self.config, allowed));
            match opening.await.unwrap_or(Err(DeliveryError::Timeout(TIMEOUT))) {
                Ok(publisher) => state.publisher = Some(publisher),
                Err(error) => {
                    state.retry_at = Some(Instant::now() + FAIL_FAST_FOR);
                    return Err(error);
                }
            }
        }
        let Some(publisher) = state.publisher.as_mut() else { return Err(DeliveryError::Closed) };
        publisher.is_stale = true;
        let published = tokio::time::timeout(TIMEOUT, publisher.publish(&self.exchange, refused)).await;
        publisher.is_stale = published.is_err();
        match published {
            Ok(Ok(confirmed)) if !confirmed.is_ack() => Err(DeliveryError::Nack),
            Ok(Ok(confirmed)) => match confirmed.take_message() {
                None => Ok(()),
                Some(_) => Err(DeliveryError::Returned { routing_key: refused.routing_key.to_owned() }),
            },
            Ok(Err(error)) => Err(broker_error(&error)),
            Err(_) if publisher.connection.is_blocked() => Err(DeliveryError::Blocked),
            Err(_) => {
                state.retry_at = Some(Instant::now() + FAIL_FAST_FOR);
                Err(DeliveryError::Timeout(TIMEOUT))
            }
        }
    }

    /// Closes the connection, which ends with its last handle.
    pub(super) async fn close(&self) {
        drop(self.state.lock().await.publisher.take());
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::net::TcpListener;
    use tollgate_config::AmqpUrl;
    use tollgate_plugins::secret::Secret;

    use super::*;

    #[tokio::test]
    async fn refused_messages_after_a_failed_connection_fail_at_once_without_another_one() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        // A broker that closes each connection.
        tokio::spawn(async move {
            while listener.accept().await.is_ok() {
                counted.fetch_add(1, Ordering::SeqCst);
            }
        });
        let (user, password) = (Secret::new("guest"), Secret::new("guest"));
        let url = AmqpUrl { tls: false, host: "127.0.0.1".to_owned(), port, user, password, vhost: "/".to_owned() };
        let config = SourceConfig {
            name: "orders-in".to_owned(),
            url,
            authorities: None,
            queue: "orders".to_owned(),
            prefetch: 32,
            max_age: Duration::from_hours(1),
            dead_letter: Some("refused".to_owned()),
        };
        let dead_letters = DeadLetters::of(&Arc::new(config)).unwrap();
        let refused = Refused {
            routing_key: "orders",
            properties: &BasicProperties::default(),
            body: &Bytes::new(),
            source: "orders-in",
            request_id: "r",
            problem: &Problem::malformed("no JSON"),
        };
        let allowed = ["127.0.0.0/8".parse().unwrap()];
        let first = dead_letters.publish(&refused, &allowed).await;
        assert!(!matches!(first, Ok(()) | Err(DeliveryError::NotConnected(_))), "{first:?}");
        assert_eq!(connections.load(Ordering::SeqCst), 1);
        for _ in 0..256 {
            let next = dead_letters.publish(&refused, &allowed).await;
            assert!(matches!(next, Err(DeliveryError::NotConnected(_))), "{next:?}");
        }
        assert_eq!(connections.load(Ordering::SeqCst), 1);
    }
}
