//! An exchange with one queue, and a consumer that empties the queue.

use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, ExchangeDeclareOptions, ExchangeDeleteOptions,
    QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties, ExchangeKind};
use tokio::time::{Instant, sleep, timeout};

/// Routing key of the binding: every event.
const ROUTING_KEY: &str = "#";
/// Maximum number of messages that the consumer has not acknowledged.
const PREFETCH: u16 = 64;
/// Maximum duration of one attempt to change something in the broker.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum duration of all attempts. A broker needs some seconds for a restart.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause after a failed attempt, or a lost connection.
const PAUSE: Duration = Duration::from_millis(200);
/// Reply code of a close without an error.
const REPLY_SUCCESS: u16 = 200;

/// A message of the queue.
#[derive(Clone, Debug)]
pub struct Message {
    /// The property `message_id`; empty if the message has none.
    pub id: String,
    /// Body of the message.
    pub body: Vec<u8>,
}

/// A durable topic exchange, and a durable queue of the same name.
#[derive(Clone, Debug)]
pub struct BrokerQueue {
    /// URL of the broker itself, not of the proxy.
    url: String,
    /// Name of both.
    pub name: String,
}

impl BrokerQueue {
    /// Declares and binds both.
    pub async fn declare(url: String, name: String) -> Result<Self, String> {
        let queue = Self { url, name };
        let declared = queue.change(async |channel, name| {
            let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
            channel.exchange_declare(name.into(), ExchangeKind::Topic, options, FieldTable::default()).await?;
            channel.queue_declare(name.into(), QueueDeclareOptions::durable(), FieldTable::default()).await.map(drop)
        });
        declared.await?;
        queue.bind().await?;
        Ok(queue)
    }

    /// Binds the queue to the exchange.
    pub async fn bind(&self) -> Result<(), String> {
        self.change(async |channel, name| {
            let options = QueueBindOptions::default();
            channel.queue_bind(name.into(), name.into(), ROUTING_KEY.into(), options, FieldTable::default()).await
        })
        .await
    }

    /// Removes the binding, so that the broker returns every event.
    pub async fn unbind(&self) -> Result<(), String> {
        self.change(async |channel, name| {
            channel.queue_unbind(name.into(), name.into(), ROUTING_KEY.into(), FieldTable::default()).await
        })
        .await
    }

    /// Deletes both.
    pub async fn delete(&self) -> Result<(), String> {
        self.change(async |channel, name| {
            channel.queue_delete(name.into(), QueueDeleteOptions::default()).await?;
            channel.exchange_delete(name.into(), ExchangeDeleteOptions::default()).await
        })
        .await
    }

    /// Passes every message to `receive` and then acknowledges it, over a new connection after each loss. Never returns.
    pub async fn consume(self, receive: impl Fn(Message)) {
        loop {
            // A broker that is restarted answers again later.
            let _ = self.consume_once(&receive).await;
            sleep(PAUSE).await;
        }
    }

    async fn consume_once(&self, receive: &impl Fn(Message)) -> Result<(), lapin::Error> {
        let connection = Connection::connect(&self.url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let name = self.name.as_str();
        let options = BasicConsumeOptions::default();
        let mut messages = channel.basic_consume(name.into(), "".into(), options, FieldTable::default()).await?;
        while let Some(delivery) = messages.next().await {
            let delivery = delivery?;
            let id = delivery.properties.message_id().as_ref().map(ToString::to_string).unwrap_or_default();
            receive(Message { id, body: delivery.data.clone() });
            delivery.ack(BasicAckOptions::default()).await?;
        }
        Ok(())
    }

    /// Executes a change over a connection of its own until it succeeds. The change must be repeatable.
    async fn change(&self, change: impl AsyncFn(&Channel, &str) -> Result<(), lapin::Error>) -> Result<(), String> {
        let deadline = Instant::now() + CHANGE_TIMEOUT;
        loop {
            let attempt = async {
                let connection = Connection::connect(&self.url, ConnectionProperties::default()).await?;
                let channel = connection.create_channel().await?;
                change(&channel, &self.name).await?;
                connection.close(REPLY_SUCCESS, "".into()).await
            };
            let error = match timeout(ATTEMPT_TIMEOUT, attempt).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no answer within {ATTEMPT_TIMEOUT:?}"),
            };
            if Instant::now() > deadline {
                return Err(format!("cannot change exchange or queue of the broker: {error}"));
            }
            sleep(PAUSE).await;
        }
    }
}
