//! Opens a connection to a broker: addresses are checked as for webhooks, TLS is verified, and a channel in confirm
//! mode is opened.

use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use lapin::options::{ConfirmSelectOptions, ExchangeDeclareOptions};
use lapin::tcp::AsyncTcpStream;
use lapin::types::FieldTable;
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo, SASLMechanism};
use lapin::{Connection, ConnectionProperties, ExchangeKind};
use parking_lot::Mutex;
use rustls_pki_types::ServerName;
use tokio_rustls::TlsConnector;
use tokio_util::compat::TokioAsyncReadCompatExt;
use tollgate_config::{AmqpUrl, RabbitMqConfig};

use super::broker_error::broker_error;
use super::publisher::Publisher;
use super::runtime::{self, ByteStream};
use super::socket::Socket;
use crate::delivery::connections::{self, Endpoint};
use crate::delivery::dial;
use crate::delivery::failure::DeliveryError;
use crate::delivery::trust::trust;

/// Interval in seconds at which both sides prove that they are alive; after two without a sign the connection ends.
const HEARTBEAT: u16 = 10;
/// Maximum size of a frame in bytes. The library allocates 64 times as much for each connection.
const FRAME_MAX: u32 = 16 * 1024;
/// Maximum number of channels. One is used.
const CHANNEL_MAX: u16 = 4;

/// Opens a connection. The caller limits the time.
pub(super) async fn open(config: &RabbitMqConfig, allowed: &[IpNet]) -> Result<Publisher, DeliveryError> {
    let (stream, socket, peer) = dial(config, allowed).await?;
    let stream = Mutex::new(Some(AsyncTcpStream::Plain(stream.compat())));
    let used = || lapin::Error::from(io::Error::from(io::ErrorKind::NotConnected));
    let connect = async move |_, _| stream.lock().take().ok_or_else(used);
    let properties = ConnectionProperties::default().with_connection_name("tollgate".into());
    let connection = Connection::connector(uri(&config.url), runtime::current(), connect, properties);
    let connection = connection.await.map_err(|error| broker_error(&error))?;
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

/// Returns whether a connection to this address is still permitted.
pub(super) fn is_permitted(peer: IpAddr, allowed: &[IpNet]) -> bool {
    connections::not_permitted(peer, allowed).is_none()
}

/// Connects to the first address that answers, over TLS if the URL asks for it.
async fn dial(
    config: &RabbitMqConfig,
    allowed: &[IpNet],
) -> Result<(Box<dyn ByteStream>, Socket, IpAddr), DeliveryError> {
    let AmqpUrl { tls, host, port, .. } = &config.url;
    let name = match tls {
        true => Some(ServerName::try_from(host.clone()).map_err(|_| DeliveryError::InvalidTlsName)?),
        false => None,
    };
    let endpoint = Endpoint::new(host.clone(), *port, name.clone());
    let addresses = dial::sorted(endpoint.resolve(allowed).await?, 0);
    let (stream, address) = dial::connect_first(&addresses).await?;
    let (stream, socket) = Socket::of(stream).map_err(|error| DeliveryError::Connect(address, error))?;
    let Some(name) = name else { return Ok((Box::new(stream), socket, address.ip())) };
    let trust = trust(config.authorities.as_deref()).map_err(|error| DeliveryError::Tls(address, error))?;
    let stream = TlsConnector::from(trust).connect(name, stream).await;
    Ok((Box::new(stream.map_err(|error| DeliveryError::Tls(address, error))?), socket, address.ip()))
}

/// Returns the URL in the library's form. The scheme is the plain one, because TLS is negotiated before.
fn uri(url: &AmqpUrl) -> AMQPUri {
    let text = |secret: &[u8]| String::from_utf8_lossy(secret).into_owned();
    let userinfo = AMQPUserInfo { username: text(url.user.expose()), password: text(url.password.expose()) };
    AMQPUri {
        scheme: AMQPScheme::AMQP,
        authority: AMQPAuthority { userinfo, host: url.host.clone(), port: url.port },
        vhost: url.vhost.clone(),
        query: AMQPQueryString {
            frame_max: Some(FRAME_MAX),
            channel_max: Some(CHANNEL_MAX),
            heartbeat: Some(HEARTBEAT),
            connection_timeout: None,
            auth_mechanism: Some(SASLMechanism::Plain),
        },
    }
}
