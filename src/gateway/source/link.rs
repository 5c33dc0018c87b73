//! Connection that a source consumes its queue over.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use lapin::options::{
    BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, ExchangeDeclareOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, ExchangeKind};
use tollgate_config::SourceConfig;

use super::dead_letters::DeadLetters;
use crate::delivery::failure::DeliveryError;
use crate::delivery::rabbitmq::{SharedConnection, broker_error, open_connection};

/// Time limit for opening a link.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit for ending the consumption.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(1);
/// Tag of the only consumer of a channel.
const CONSUMER_TAG: &str = "tollgate";

/// An open connection with one channel, and the exchange for refused messages.
pub(super) struct Link {
    connection: SharedConnection,
    channel: Channel,
    /// Exchange for refused messages, if the source names one.
    pub(super) dead_letters: Option<DeadLetters>,
}

impl Link {
    /// Connects, and checks that the queue and the exchange for refused messages exist.
    pub(super) async fn open(config: &Arc<SourceConfig>, allowed: &[IpNet]) -> Result<Self, DeliveryError> {
        let opened = tokio::time::timeout(OPEN_TIMEOUT, Self::open_now(config, allowed)).await;
        opened.unwrap_or(Err(DeliveryError::Timeout(OPEN_TIMEOUT)))
    }

    async fn open_now(config: &Arc<SourceConfig>, allowed: &[IpNet]) -> Result<Self, DeliveryError> {
        let connection = open_connection(&config.url, config.authorities.as_deref(), allowed).await?;
        let channel = connection.channel().await?;
        let prepared = async {
            let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            channel.queue_declare(config.queue.as_str().into(), passive, FieldTable::default()).await?;
            if let Some(exchange) = &config.dead_letter {
                let passive = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
                let exchange = exchange.as_str().into();
                channel.exchange_declare(exchange, ExchangeKind::Topic, passive, FieldTable::default()).await?;
            }
            channel.basic_qos(config.prefetch, BasicQosOptions::default()).await
        };
        prepared.await.map_err(|error| broker_error(&error))?;
        Ok(Self { connection, channel, dead_letters: DeadLetters::of(config) })
    }

    /// Starts the consumption.
    pub(super) async fn consume(&self, queue: &str) -> Result<lapin::Consumer, DeliveryError> {
        let options = BasicConsumeOptions::default();
        let consumer = self.channel.basic_consume(queue.into(), CONSUMER_TAG.into(), options, FieldTable::default());
        consumer.await.map_err(|error| broker_error(&error))
    }

    /// Asks the broker for no further message.
    pub(super) async fn cancel(&self) {
        let cancelling = self.channel.basic_cancel(CONSUMER_TAG.into(), BasicCancelOptions::default());
        drop(tokio::time::timeout(CANCEL_TIMEOUT, cancelling).await);
    }

    /// Returns whether the connection is usable and its address still permitted.
    pub(super) fn is_usable(&self, allowed: &[IpNet]) -> bool {
        self.connection.is_open() && self.channel.status().connected() && self.connection.is_permitted(allowed)
    }

    /// Closes the connection. The broker puts unacknowledged messages back into the queue.
    pub(super) async fn close(&self) {
        self.connection.close();
        if let Some(dead_letters) = &self.dead_letters {
            dead_letters.close().await;
        }
    }
}
