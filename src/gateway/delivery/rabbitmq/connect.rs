//! Opens connections to brokers and channels on them: addresses are checked as for webhooks, TLS is verified, and each
//! channel is in confirm mode.

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
use super::connection::SharedConnection;
use super::greeting::greet;
use super::publisher::Publisher;
use super::runtime::{self, ByteStream};
use super::socket::Socket;
use crate::delivery::connections::Endpoint;
use crate::delivery::dial;
use crate::delivery::failure::DeliveryError;
use crate::delivery::trust::trust;

/// Interval in seconds at which both sides prove that they are alive; after two without a sign the connection ends.
const HEARTBEAT: u16 = 10;
/// Maximum size of a frame in bytes. The library allocates 64 times as much for each connection.
const FRAME_MAX: u32 = 16 * 1024;
/// Maximum number of channels, as brokers permit by default. Fewer are used.
const CHANNEL_MAX: u16 = 2047;

/// Opens a connection. The caller limits the time.
pub(crate) async fn open(
    url: &AmqpUrl,
    authorities: Option<&[Vec<u8>]>,
    allowed: &[IpNet],
) -> Result<SharedConnection, DeliveryError> {
    let (stream, socket, peer) = dial(url, authorities, allowed).await?;
    let stream = Mutex::new(Some(AsyncTcpStream::Plain(stream.compat())));
    let used = || lapin::Error::from(io::Error::from(io::ErrorKind::NotConnected));
    let connect = async move |_, _| stream.lock().take().ok_or_else(used);
    let properties = ConnectionProperties::default().with_connection_name("tollgate".into());
    let connection = Connection::connector(uri(url), runtime::current(), connect, properties);
    let connection = connection.await.map_err(|error| broker_error(&error))?;
    Ok(SharedConnection::start(connection, socket, peer))
}

/// Opens a channel in confirm mode for a sink. The caller limits the time.
pub(super) async fn open_channel(
    connection: SharedConnection,
    config: &RabbitMqConfig,
) -> Result<Publisher, DeliveryError> {
    let channel = connection.channel().await?;
    if config.declare {
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let name = config.exchange.as_str().into();
        let declared = channel.exchange_declare(name, ExchangeKind::Topic, options, FieldTable::default());
        declared.await.map_err(|error| broker_error(&error))?;
    }
    channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(|error| broker_error(&error))?;
    Ok(Publisher::start(connection, channel))
}

/// Connects to the first address that answers, over TLS if the URL asks for it, and waits for the broker's first byte.
async fn dial(
    url: &AmqpUrl,
    authorities: Option<&[Vec<u8>]>,
    allowed: &[IpNet],
) -> Result<(Box<dyn ByteStream>, Socket, IpAddr), DeliveryError> {
    let AmqpUrl { tls, host, port, .. } = url;
    let name = match tls {
        true => Some(ServerName::try_from(host.clone()).map_err(|_| DeliveryError::InvalidTlsName)?),
        false => None,
    };
    let endpoint = Endpoint::new(host.clone(), *port, name.clone());
    let addresses = dial::sorted(endpoint.resolve(allowed).await?, 0);
    let (stream, address) = dial::connect_first(&addresses).await?;
    let (stream, socket) = Socket::of(stream).map_err(|error| DeliveryError::Connect(address, error))?;
    let cannot_connect = |error| DeliveryError::Connect(address, error);
    let Some(name) = name else {
        return Ok((Box::new(greet(stream).await.map_err(cannot_connect)?), socket, address.ip()));
    };
    let trust = trust(authorities).map_err(|error| DeliveryError::Tls(address, error))?;
    let stream = TlsConnector::from(trust).connect(name, stream).await;
    let stream = stream.map_err(|error| DeliveryError::Tls(address, error))?;
    Ok((Box::new(greet(stream).await.map_err(cannot_connect)?), socket, address.ip()))
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
