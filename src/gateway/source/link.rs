//! Connection that a source consumes its queue over.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use lapin::options::{
    BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, ExchangeDeclareOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ExchangeKind};
use tollgate_config::SourceConfig;

use super::dead_letters::DeadLetters;
use crate::amqp::{self, BrokerConnection, Socket, broker_error};
use crate::delivery::failure::DeliveryError;

/// Time limit for opening a link.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit for closing in order, and for ending the consumption.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Reply code of a close without an error.
const REPLY_SUCCESS: u16 = 200;
/// Tag of the only consumer of a channel.
const CONSUMER_TAG: &str = "tollgate";

/// An open connection with one channel, and the exchange for refused messages.
pub(super) struct Link {
    connection: Connection,
    channel: Channel,
    /// Exchange for refused messages, if the source names one.
    pub(super) dead_letters: Option<DeadLetters>,
    peer: IpAddr,
    /// Shut down when the link is dropped.
    _socket: Socket,
}

impl Link {
    /// Connects, and checks that the queue and the exchange for refused messages exist.
    pub(super) async fn open(config: &Arc<SourceConfig>, allowed: &[IpNet]) -> Result<Self, DeliveryError> {
        let opened = tokio::time::timeout(OPEN_TIMEOUT, Self::open_now(config, allowed)).await;
        opened.unwrap_or(Err(DeliveryError::Timeout(OPEN_TIMEOUT)))
    }

    async fn open_now(config: &Arc<SourceConfig>, allowed: &[IpNet]) -> Result<Self, DeliveryError> {
        let connected = amqp::connect(&config.url, config.authorities.as_deref(), allowed).await?;
        let BrokerConnection { connection, socket, peer } = connected;
        let opened = async {
            let channel = connection.create_channel().await?;
            let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            channel.queue_declare(config.queue.as_str().into(), passive, FieldTable::default()).await?;
            if let Some(exchange) = &config.dead_letter {
                let passive = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
                let exchange = exchange.as_str().into();
                channel.exchange_declare(exchange, ExchangeKind::Topic, passive, FieldTable::default()).await?;
            }
            channel.basic_qos(config.prefetch, BasicQosOptions::default()).await?;
            Ok(channel)
        };
        let channel = opened.await.map_err(|error: lapin::Error| broker_error(&error))?;
        Ok(Self { connection, channel, dead_letters: DeadLetters::of(config), peer, _socket: socket })
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
        drop(tokio::time::timeout(CLOSE_TIMEOUT, cancelling).await);
    }

    /// Returns whether the connection is usable and its address still permitted.
    pub(super) fn is_usable(&self, allowed: &[IpNet]) -> bool {
        let is_open = self.connection.status().connected() && self.channel.status().connected();
        is_open && amqp::is_permitted(self.peer, allowed)
    }

    /// Closes the connection. The broker puts unacknowledged messages back into the queue.
    pub(super) async fn close(&self) {
        let closing = self.connection.close(REPLY_SUCCESS, "".into());
        drop(tokio::time::timeout(CLOSE_TIMEOUT, closing).await);
        if let Some(dead_letters) = &self.dead_letters {
            dead_letters.close().await;
        }
    }
}
