//! Opens a connection to the broker of a sink, with a channel in confirm mode.

use ipnet::IpNet;
use lapin::ExchangeKind;
use lapin::options::{ConfirmSelectOptions, ExchangeDeclareOptions};
use lapin::types::FieldTable;
use tollgate_config::RabbitMqConfig;

use super::publisher::Publisher;
use crate::amqp::{self, BrokerConnection, broker_error};
use crate::delivery::failure::DeliveryError;

/// Opens a connection. The caller limits the time.
pub(super) async fn open(config: &RabbitMqConfig, allowed: &[IpNet]) -> Result<Publisher, DeliveryError> {
    let connected = amqp::connect(&config.url, config.authorities.as_deref(), allowed).await?;
    let BrokerConnection { connection, socket, peer } = connected;
    let channel = connection.create_channel().await.map_err(|error| broker_error(&error))?;
    if config.declare {
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let name = config.exchange.as_str().into();
        let declared = channel.exchange_declare(name, ExchangeKind::Topic, options, FieldTable::default());
        declared.await.map_err(|error| broker_error(&error))?;
    }
    channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(|error| broker_error(&error))?;
    Ok(Publisher::start(connection, channel, socket, peer))
}
