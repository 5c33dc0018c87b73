//! Connection to a broker: its addresses are checked as for webhooks, TLS is verified, and the login is done before anything
//! of the library passes.

use std::net::IpAddr;

use bytes::Bytes;
use futures_util::StreamExt;
use ipnet::IpNet;
use rand::RngExt;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;
use tollgate_config::{BrokerAddress, KafkaConfig, SaslConfig};

use super::api_versions::{self, VersionRange};
use super::sasl::{self, Scram};
use super::wire::{NO_ERROR, Reader, RequestHead, SASL_AUTHENTICATE, SASL_HANDSHAKE, Writer, frames, malformed};
use crate::delivery::connections::Endpoint;
use crate::delivery::dial;
use crate::delivery::failure::DeliveryError;
use crate::delivery::trust::trust;

/// TCP or TLS stream.
pub(super) type BrokerStream = Either<TcpStream, TlsStream<TcpStream>>;

/// Open connection after the login.
pub(super) struct Upstream {
    pub(super) stream: BrokerStream,
    pub(super) peer: IpAddr,
    /// Requests that the library may send.
    pub(super) offered: Vec<VersionRange>,
}

/// Connects and logs in. The caller limits the time.
pub(super) async fn open(
    config: &KafkaConfig,
    broker: &BrokerAddress,
    allowed: &[IpNet],
) -> Result<Upstream, DeliveryError> {
    let (mut stream, peer) = dial(config, broker, allowed).await?;
    let offered = api_versions::offered(exchange(&mut stream, api_versions::question(0), 0).await?)?;
    if let Some(login) = &config.sasl {
        log_in(&mut stream, login).await?;
    }
    Ok(Upstream { stream, peer, offered })
}

async fn dial(
    config: &KafkaConfig,
    broker: &BrokerAddress,
    allowed: &[IpNet],
) -> Result<(BrokerStream, IpAddr), DeliveryError> {
    let name = match config.tls {
        true => Some(ServerName::try_from(broker.host.clone()).map_err(|_| DeliveryError::InvalidTlsName)?),
        false => None,
    };
    let endpoint = Endpoint::new(broker.host.clone(), broker.port, name.clone());
    let addresses = dial::sorted(endpoint.resolve(allowed).await?, 0);
    // A broker of this machine may name others as brokers of its cluster.
    if let Some(other) = addresses.iter().find(|address| !config.tls && !address.ip().to_canonical().is_loopback()) {
        return Err(DeliveryError::Unencrypted(other.ip()));
    }
    let (stream, address) = dial::connect_first(&addresses).await?;
    stream.set_nodelay(true).map_err(|error| DeliveryError::Connect(address, error))?;
    let Some(name) = name else { return Ok((Either::Left(stream), address.ip())) };
    let trust = trust(config.authorities.as_deref()).map_err(|error| DeliveryError::Tls(address, error))?;
    let stream = TlsConnector::from(trust).connect(name, stream).await;
    Ok((Either::Right(stream.map_err(|error| DeliveryError::Tls(address, error))?), address.ip()))
}

async fn log_in(stream: &mut BrokerStream, login: &SaslConfig) -> Result<(), DeliveryError> {
    let mut request = Writer::request(RequestHead { key: SASL_HANDSHAKE, version: 1, correlation_id: 1 });
    request.string(Some(sasl::name(login.mechanism).as_bytes()));
    if exchange(stream, request.finish(), 1).await?.i16()? != NO_ERROR {
        return Err(DeliveryError::LoginMechanism(sasl::name(login.mechanism)));
    }
    let nonce = hex::encode(rand::rng().random::<[u8; 16]>());
    let Some(scram) = Scram::start(login, nonce) else {
        return authenticate(stream, sasl::plain(login).expose(), 2).await.map(drop);
    };
    let challenge = authenticate(stream, scram.first_message().as_bytes(), 2).await?;
    let challenge = String::from_utf8(challenge.to_vec()).map_err(|_| malformed())?;
    let answering = tokio::task::spawn_blocking(move || scram.answer(&challenge)).await;
    let (answer, proof) = answering.map_err(|_| DeliveryError::Panicked)??;
    let last = authenticate(stream, answer.as_bytes(), 3).await?;
    match std::str::from_utf8(&last).is_ok_and(|last| proof.is_proven_by(last)) {
        true => Ok(()),
        false => Err(DeliveryError::Login),
    }
}

/// Sends one message of the login. Returns the broker's.
async fn authenticate(stream: &mut BrokerStream, message: &[u8], correlation_id: i32) -> Result<Bytes, DeliveryError> {
    let mut request = Writer::request(RequestHead { key: SASL_AUTHENTICATE, version: 0, correlation_id });
    request.bytes(message);
    let mut response = exchange(stream, request.finish(), correlation_id).await?;
    if response.i16()? != NO_ERROR {
        return Err(DeliveryError::Login);
    }
    // The text beside the error code.
    response.string()?;
    response.bytes()?.ok_or_else(malformed)
}

/// Sends a request and reads its response, which is the only one that is expected.
async fn exchange<S>(stream: &mut S, request: Bytes, correlation_id: i32) -> Result<Reader, DeliveryError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.write_all(&request).await.map_err(DeliveryError::BrokerConnection)?;
    stream.flush().await.map_err(DeliveryError::BrokerConnection)?;
    let response = frames(&mut *stream).next().await.ok_or(DeliveryError::BrokerClosed)?;
    let mut reader = Reader::of_frame(&response.map_err(DeliveryError::BrokerConnection)?.freeze())?;
    if reader.i32()? == correlation_id { Ok(reader) } else { Err(malformed()) }
}
