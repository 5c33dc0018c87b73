//! Connections to the merchants' endpoints. A connection stays open for the next event to the same endpoint, so that
//! an event costs no TCP and TLS handshake of its own.
//!
//! - The addresses of a host are checked before each new connection. A connection is reused only while its address is
//!   still permitted.
//! - A retry opens a new connection: the idle ones may have been cut without notice.
//! - A request goes to another connection only if provably none of it was written.
//! - Idle connections are bounded in number and time.
//!
//! The pooled client of `hyper-util` does not fit: its connector sees only the URI, neither the networks that the
//! present configuration permits nor the attempt, and it bounds idle connections per host only.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use parking_lot::Mutex;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;
use tollgate_config::special_purpose;

use super::dial;
use super::failure::DeliveryError;

/// Time limit for the TLS handshake; after that the next address is tried.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(4);
/// Limits for reading the response body, which is discarded. A connection is reused only after a complete body.
const BODY_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_RESPONSE_BODY: usize = 64 * 1024;
/// Time after which an idle connection is closed. NAT gateways and most servers wait longer.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Age from which a connection is not reused, so that a changed DNS record takes effect.
const MAX_CONNECTION_AGE: Duration = Duration::from_mins(5);
/// Maximum number of idle connections, in total and per endpoint.
const MAX_IDLE: usize = 256;
const MAX_IDLE_PER_ENDPOINT: usize = 8;

/// The endpoint's response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    /// HTTP status code.
    pub(super) status: u16,
    /// The `retry-after` header.
    pub(super) retry_after: Option<String>,
}

/// Host, port and TLS name of a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    host: String,
    port: u16,
    /// `None` without TLS.
    tls_name: Option<ServerName<'static>>,
}

impl Endpoint {
    pub(super) fn of(uri: &Uri) -> Result<Self, DeliveryError> {
        let host = uri.host().ok_or(DeliveryError::NoHost)?.trim_matches(['[', ']']).to_owned();
        let is_tls = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let tls_name = match is_tls {
            true => Some(ServerName::try_from(host.clone()).map_err(|_| DeliveryError::InvalidTlsName)?),
            false => None,
        };
        Ok(Self::new(host, port, tls_name))
    }

    /// Returns an endpoint; without a name there is no TLS.
    pub(super) fn new(host: String, port: u16, tls_name: Option<ServerName<'static>>) -> Self {
        Self { host, port, tls_name }
    }

    /// Resolves the host once and checks the result: a second lookup could return other addresses.
    pub(super) async fn resolve(&self, allowed: &[IpNet]) -> Result<Vec<SocketAddr>, DeliveryError> {
        let resolved = tokio::net::lookup_host((self.host.as_str(), self.port)).await;
        permitted(resolved.map_err(DeliveryError::Resolve)?.collect(), allowed)
    }
}

/// Opens connections and keeps idle ones.
pub(super) struct Connections {
    /// The longest idle first.
    idle: Mutex<VecDeque<IdleConnection>>,
    roots: Arc<ClientConfig>,
}

struct IdleConnection {
    endpoint: Endpoint,
    connection: Connection,
    since: Instant,
}

/// An open connection, closed when dropped.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: AbortHandle,
    peer: IpAddr,
    opened: Instant,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Result of an exchange that did not fail.
enum Exchange {
    Answered(Reply),
    /// The connection was closed before any of the request was written.
    NotSent(Box<Request<Full<Bytes>>>, hyper::Error),
}

impl Connections {
    /// Creates an empty pool that trusts the public authorities.
    pub(super) fn new() -> Self {
        Self { idle: Mutex::default(), roots: Arc::clone(&PUBLIC_ROOTS) }
    }

    /// Sends a request after `tries` failed attempts: on an idle connection, or on a new one.
    pub(super) async fn send(
        &self,
        endpoint: &Endpoint,
        allowed: &[IpNet],
        mut request: Request<Full<Bytes>>,
        tries: u32,
    ) -> Result<Reply, DeliveryError> {
        if tries > 0 {
            self.idle.lock().retain(|idle| idle.endpoint != *endpoint);
        }
        while let Some(connection) = self.take(endpoint, allowed, Instant::now()) {
            match self.exchange(endpoint, connection, request).await? {
                Exchange::Answered(reply) => return Ok(reply),
                Exchange::NotSent(unsent, _) => request = *unsent,
            }
        }
        let addresses = dial::sorted(endpoint.resolve(allowed).await?, tries);
        let connection = self.open(endpoint, addresses).await?;
        match self.exchange(endpoint, connection, request).await? {
            Exchange::Answered(reply) => Ok(reply),
            Exchange::NotSent(_, error) => Err(DeliveryError::Connection(error)),
        }
    }

    /// Opens a connection, and keeps it for the next event. Sends nothing.
    pub(super) async fn connect(&self, endpoint: &Endpoint, allowed: &[IpNet]) -> Result<(), DeliveryError> {
        let connection = self.open(endpoint, dial::sorted(endpoint.resolve(allowed).await?, 0)).await?;
        self.keep(endpoint, connection, Instant::now());
        Ok(())
    }

    /// Closes connections that were idle for too long.
    pub(super) fn close_expired(&self, now: Instant) {
        self.idle.lock().retain(|idle| !idle.is_expired(now));
    }

    /// Removes the most recently used idle connection to an endpoint.
    fn take(&self, endpoint: &Endpoint, allowed: &[IpNet], now: Instant) -> Option<Connection> {
        let mut idle = self.idle.lock();
        loop {
            let last = idle.iter().rposition(|idle| idle.endpoint == *endpoint)?;
            let found = idle.remove(last)?;
            let is_open = !found.is_expired(now) && found.connection.sender.is_ready();
            if is_open && not_permitted(found.connection.peer, allowed).is_none() {
                return Some(found.connection);
            }
        }
    }

    /// Keeps a connection for the next event, unless the endpoint has enough. Evicts the longest idle one if there are
    /// too many.
    fn keep(&self, endpoint: &Endpoint, connection: Connection, now: Instant) {
        let mut idle = self.idle.lock();
        let same = idle.iter().filter(|idle| idle.endpoint == *endpoint).count();
        let is_old = now.saturating_duration_since(connection.opened) >= MAX_CONNECTION_AGE;
        if same >= MAX_IDLE_PER_ENDPOINT || is_old {
            return;
        }
        if idle.len() >= MAX_IDLE {
            idle.pop_front();
        }
        idle.push_back(IdleConnection { endpoint: endpoint.clone(), connection, since: now });
    }

    /// Connects to the first address that answers, over TLS if the endpoint has a TLS name. Nothing of a request is
    /// written before the handshake succeeds.
    async fn open(&self, endpoint: &Endpoint, mut addresses: Vec<SocketAddr>) -> Result<Connection, DeliveryError> {
        loop {
            let (stream, address) = dial::connect_first(&addresses).await?;
            let Some(name) = endpoint.tls_name.clone() else { return Connection::start(stream, address).await };
            let handshake = TlsConnector::from(Arc::clone(&self.roots)).connect(name, stream);
            let failure = match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
                Ok(Ok(stream)) => return Connection::start(stream, address).await,
                Ok(Err(error)) => DeliveryError::Tls(address, error),
                Err(_) => DeliveryError::TlsTimeout(address, HANDSHAKE_TIMEOUT),
            };
            // Another address may still work.
            addresses.retain(|other| *other != address);
            if addresses.is_empty() {
                return Err(failure);
            }
        }
    }

    async fn exchange(
        &self,
        endpoint: &Endpoint,
        mut connection: Connection,
        request: Request<Full<Bytes>>,
    ) -> Result<Exchange, DeliveryError> {
        let response = match connection.sender.try_send_request(request).await {
            Ok(response) => response,
            Err(mut failed) => {
                let unsent = failed.take_message();
                let error = failed.into_error();
                return match unsent {
                    Some(unsent) => Ok(Exchange::NotSent(Box::new(unsent), error)),
                    None => Err(DeliveryError::Connection(error)),
                };
            }
        };
        let status = response.status().as_u16();
        let retry_after = response.headers().get("retry-after");
        let retry_after = retry_after.and_then(|value| value.to_str().ok()).map(str::to_owned);
        // The status alone decides: an endless body must not turn a success into a failure.
        let body = Limited::new(response.into_body(), MAX_RESPONSE_BODY).collect();
        if let Ok(Ok(_)) = tokio::time::timeout(BODY_TIMEOUT, body).await {
            self.keep(endpoint, connection, Instant::now());
        }
        Ok(Exchange::Answered(Reply { status, retry_after }))
    }
}

impl IdleConnection {
    fn is_expired(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= IDLE_TIMEOUT
    }
}

impl Connection {
    async fn start<S>(stream: S, address: SocketAddr) -> Result<Self, DeliveryError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, driver) = handshake(TokioIo::new(stream)).await.map_err(DeliveryError::Connection)?;
        let driver = tokio::spawn(driver).abort_handle();
        Ok(Self { sender, driver, peer: address.ip(), opened: Instant::now() })
    }
}

/// TLS settings that trust the public authorities.
pub(super) static PUBLIC_ROOTS: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    // The crypto provider supports TLS 1.2 and 1.3, so this cannot fail. The fallback trusts no certificate.
    let builder = builder.with_safe_default_protocol_versions();
    builder.map_or_else(
        |_| Arc::new(ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth()),
        |builder| Arc::new(builder.with_root_certificates(roots).with_no_client_auth()),
    )
});

/// Returns the addresses if all of them are permitted. One private address among public ones rejects the host.
fn permitted(addresses: Vec<SocketAddr>, allowed: &[IpNet]) -> Result<Vec<SocketAddr>, DeliveryError> {
    match addresses.iter().find_map(|address| not_permitted(address.ip(), allowed)) {
        Some(refused) => Err(refused),
        None => Ok(addresses),
    }
}

/// Returns why events may not be sent to this address.
pub(super) fn not_permitted(ip: IpAddr, allowed: &[IpNet]) -> Option<DeliveryError> {
    let ip = ip.to_canonical();
    let purpose = special_purpose::not_global(ip)?;
    (!allowed.iter().any(|network| network.contains(&ip))).then_some(DeliveryError::NotPublic { ip, purpose })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
