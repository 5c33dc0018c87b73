//! Connection of a source to its broker.

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

/// An open connection with a channel for the queue, and another one for refused messages.
pub(super) struct Link {
    connection: Connection,
    channel: Channel,
    /// Destination of refused messages, if the source names one.
    pub(super) dead_letters: Option<DeadLetters>,
    peer: std::net::IpAddr,
    /// Shut down when the link is dropped.
    _socket: Socket,
}

impl Link {
    /// Connects, and checks that the queue and the exchange for refused messages exist.
    pub(super) async fn open(config: &SourceConfig, allowed: &[IpNet]) -> Result<Self, DeliveryError> {
        let opened = tokio::time::timeout(OPEN_TIMEOUT, Self::open_now(config, allowed)).await;
        opened.unwrap_or(Err(DeliveryError::Timeout(OPEN_TIMEOUT)))
    }

    async fn open_now(config: &SourceConfig, allowed: &[IpNet]) -> Result<Self, DeliveryError> {
        let connected = amqp::connect(&config.url, config.authorities.as_deref(), allowed).await?;
        let BrokerConnection { connection, socket, peer } = connected;
        let opened = async {
            let channel = connection.create_channel().await?;
            let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            channel.queue_declare(config.queue.as_str().into(), passive, FieldTable::default()).await?;
            channel.basic_qos(config.prefetch, BasicQosOptions::default()).await?;
            let Some(exchange) = &config.dead_letter else { return Ok((channel, None)) };
            let refused = connection.create_channel().await?;
            let passive = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
            refused
                .exchange_declare(exchange.as_str().into(), ExchangeKind::Topic, passive, FieldTable::default())
                .await?;
            let dead_letters = DeadLetters::open(refused, exchange.clone()).await?;
            Ok((channel, Some(dead_letters)))
        };
        let (channel, dead_letters) = opened.await.map_err(|error: lapin::Error| broker_error(&error))?;
        Ok(Self { connection, channel, dead_letters, peer, _socket: socket })
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
        let may_refuse = self.dead_letters.as_ref().is_none_or(DeadLetters::is_open);
        is_open && may_refuse && amqp::is_permitted(self.peer, allowed)
    }

    /// Returns whether the broker accepts no messages at present (memory or disk alarm).
    pub(super) fn is_blocked(&self) -> bool {
        self.connection.status().blocked()
    }

    /// Closes the connection. The broker puts unacknowledged messages back into the queue.
    pub(super) async fn close(&self) {
        let closing = self.connection.close(REPLY_SUCCESS, "".into());
        drop(tokio::time::timeout(CLOSE_TIMEOUT, closing).await);
    }
}
