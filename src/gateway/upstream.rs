//! Connections to a channel's hosts: addresses, client identity, trusted authorities, timeouts.
//!
//! One rule decides about every error. An error before the first byte of the request was written is *not sent*, and so is what
//! HTTP/2 proves to be unprocessed: the next address and the next host are tried. Any other error is *maybe sent*, and nothing is
//! retried here.
//!
//! Each channel has connections of its own, so a provider that hangs takes none of another channel's.

mod bills;
mod dns;
mod exchange;
mod host;
mod outlier;
pub mod probe;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use pingora::ErrorType;
use pingora::connectors::ConnectorOptions;
use pingora::connectors::http::Connector;
use pingora::listeners::ALPN;
use pingora::protocols::http::client::HttpSession;
use pingora::upstreams::peer::{HttpPeer, Peer};
use pingora::utils::tls::{CertKey, WrappedX509, parse_x509};
use sha2::{Digest, Sha256};
use tokio::time::{Instant, timeout_at};
use tollgate_config::{Host, Timeouts, UpstreamSettings};

pub use self::bills::BillHosts;
use self::dns::DnsCache;
use self::exchange::{exchange, header};
use self::host::{KnownHost, Round};
use crate::telemetry::METRICS;

/// Maximum number of concurrent exchanges on one HTTP/2 connection. If it breaks, all of them are unclear at once.
const MAX_STREAMS_PER_CONNECTION: usize = 32;
/// Interval of HTTP/2 pings. A ping without a reply for 5 s closes the connection, so payments do not meet dead ones.
const PING_INTERVAL: Duration = Duration::from_secs(15);
/// Number of pooled connections that may be shutting down before a new one is opened.
const MAX_CLOSING_TO_PROVIDERS: usize = 16;

/// Hosts of one channel with their connections.
pub struct Upstream {
    channel: String,
    hosts: Vec<KnownHost>,
    timeouts: Timeouts,
    idle_timeout: Duration,
    pool_size: usize,
    answer_limit: usize,
    identity: Option<Arc<CertKey>>,
    authorities: Option<Arc<[WrappedX509]>>,
    http2: bool,
    group_key: u64,
    connector: OnceLock<Connector>,
}

/// Response of a provider.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: StatusCode,
    /// HTTP headers.
    pub headers: HeaderMap,
    /// Raw body.
    pub body: Bytes,
}

/// Error of an exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SendError {
    /// No byte of the request was written, or the host proved that it did not process it.
    NotSent(Lost),
    /// The host may have processed the request.
    MaybeSent(Lost),
}

/// Loss of a request or of its response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Description for people, without any data from the host.
    pub why: String,
    /// True if a timeout ended the exchange.
    pub is_timeout: bool,
}

impl Lost {
    fn timeout(why: impl Into<String>) -> Self {
        Self { why: why.into(), is_timeout: true }
    }
}

impl<T: Into<String>> From<T> for Lost {
    fn from(why: T) -> Self {
        Self { why: why.into(), is_timeout: false }
    }
}

impl SendError {
    /// Returns how it was lost.
    pub fn lost(&self) -> &Lost {
        let (Self::NotSent(lost) | Self::MaybeSent(lost)) = self;
        lost
    }
}

impl Upstream {
    /// Prepares the connections of a channel. Connects to nothing yet.
    pub fn new(settings: UpstreamSettings) -> Result<Self, String> {
        Self::with_dns(settings, DnsCache::system())
    }

    fn with_dns(settings: UpstreamSettings, dns: &DnsCache) -> Result<Self, String> {
        let group_key = group_key(&settings);
        let presented = settings.identity.iter().flat_map(|identity| &identity.certificates);
        for certificate in presented.chain(settings.ca.iter().flatten()) {
            // Pingora panics on an unreadable certificate.
            x509_parser::parse_x509_certificate(certificate)
                .map_err(|error| format!("unreadable certificate: {error}"))?;
        }
        let authorities =
            settings.ca.map(|list| list.into_iter().map(|der| WrappedX509::new(der, parse_x509)).collect());
        let identity = settings
            .identity
            .map(|identity| Arc::new(CertKey::new(identity.certificates, identity.key.expose().to_vec())));
        if settings.hosts.is_empty() {
            return Err("a channel needs at least one host".to_owned());
        }
        Ok(Self {
            channel: settings.channel,
            hosts: settings.hosts.into_iter().map(|host| KnownHost::new(host, dns)).collect(),
            timeouts: settings.timeouts,
            idle_timeout: settings.pool.idle_timeout,
            pool_size: settings.pool.idle,
            answer_limit: settings.answer_limit,
            identity,
            authorities,
            http2: settings.http2,
            group_key,
            connector: OnceLock::new(),
        })
    }

    /// Returns the timeouts of the channel.
    pub fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// Refreshes expired DNS entries in the background, so that no payment waits for a lookup.
    pub fn refresh(&self) {
        self.hosts.iter().for_each(KnownHost::refresh);
    }

    /// Returns for each host its `name:port`, the number of known addresses, and the number of ejected ones.
    pub fn addresses(&self) -> impl Iterator<Item = (String, usize, usize)> {
        self.hosts.iter().map(|host| {
            let (known, unhealthy) = host.count();
            (host.label(), known, unhealthy)
        })
    }

    /// Sends the request to the first reachable address and reads the whole response, within `limit`. All addresses of all hosts are
    /// tried, healthy ones first, in the order of the hosts.
    pub async fn send(&self, request: &Request<Bytes>, limit: Duration) -> Result<Answer, SendError> {
        let deadline = Instant::now() + limit.min(self.timeouts.total);
        let mut last = Lost::timeout("no host could be tried in time");
        let mut tried = Vec::new();
        for round in [Round::Healthy, Round::All] {
            for (index, host) in self.hosts.iter().enumerate() {
                let connect_deadline = deadline.min(Instant::now() + self.timeouts.connect);
                let addresses = match host.addresses(round, connect_deadline).await {
                    Ok(addresses) => addresses,
                    Err(lost) => {
                        last = at(host, lost);
                        continue;
                    }
                };
                for address in addresses {
                    if tried.contains(&(index, address)) {
                        continue;
                    }
                    if Instant::now() >= deadline {
                        return Err(SendError::NotSent(last));
                    }
                    tried.push((index, address));
                    match self.send_to(host, address, request, deadline).await {
                        Err(SendError::NotSent(lost)) => last = at(host, lost),
                        other => return other,
                    }
                }
            }
        }
        Err(SendError::NotSent(last))
    }

    async fn send_to(
        &self,
        host: &KnownHost,
        address: SocketAddr,
        request: &Request<Bytes>,
        deadline: Instant,
    ) -> Result<Answer, SendError> {
        let not_sent = SendError::NotSent;
        let header = header(&host.host, request)
            .map_err(|why| not_sent(format!("the request cannot be encoded: {why}").into()))?;
        let peer = self.peer(&host.host, address);
        let connector =
            self.connector.get_or_init(|| Connector::new(Some(ConnectorOptions::new(self.pool_size.max(1)))));
        let (mut session, reused) = timeout_at(deadline, session(connector, &peer))
            .await
            .map_err(|_| not_sent(Lost::timeout("no connection in time")))?
            .map_err(|error| {
                host.record(address, false);
                let why = format!("cannot connect: {}", error.etype().as_str());
                not_sent(Lost { why, is_timeout: is_timeout(&error) })
            })?;
        METRICS
            .upstream_connections_total
            .with_label_values(&[self.channel.as_str(), if reused { "true" } else { "false" }])
            .inc();
        session.set_read_timeout(Some(self.timeouts.read));
        session.set_write_timeout(Some(self.timeouts.write));

        let exchanged = exchange(&mut session, header, request.body().clone(), self.answer_limit);
        let result = match timeout_at(deadline, exchanged).await {
            Ok(result) => result,
            Err(_) => Err(SendError::MaybeSent(Lost::timeout("no complete answer in time"))),
        };
        match &result {
            Ok(_) => {
                host.record(address, true);
                if session.response_done() {
                    connector.release_http_session(session, &peer, peer.idle_timeout()).await;
                }
            }
            Err(error) => {
                let is_unclear = matches!(error, SendError::MaybeSent(_));
                if is_unclear {
                    host.record(address, false);
                }
                session.shutdown().await;
                end_exchange(connector, session, &peer, is_unclear).await;
            }
        }
        result
    }

    fn peer(&self, host: &Host, address: SocketAddr) -> HttpPeer {
        let mut peer = HttpPeer::new(address, host.tls, host.name.clone());
        peer.group_key = self.group_key;
        peer.options.connection_timeout = Some(self.timeouts.connect);
        peer.options.total_connection_timeout = Some(self.timeouts.connect);
        peer.options.read_timeout = Some(self.timeouts.read);
        peer.options.write_timeout = Some(self.timeouts.write);
        peer.options.idle_timeout = Some(self.idle_timeout);
        peer.options.max_h2_streams = MAX_STREAMS_PER_CONNECTION;
        peer.options.h2_ping_interval = Some(PING_INTERVAL);
        if host.tls {
            peer.client_cert_key = self.identity.clone();
            peer.options.ca = self.authorities.clone();
            peer.options.alpn = if self.http2 { ALPN::H2H1 } else { ALPN::H1 };
        }
        peer
    }
}

fn at(host: &KnownHost, lost: Lost) -> Lost {
    Lost { why: format!("{}: {}", host.host.name, lost.why), ..lost }
}

fn is_timeout(error: &pingora::Error) -> bool {
    use ErrorType::{ConnectTimedout, ReadTimedout, TLSHandshakeTimedout, WriteTimedout};
    matches!(error.etype(), ConnectTimedout | TLSHandshakeTimedout | ReadTimedout | WriteTimedout)
}

/// Returns a connection, or a stream of one, on which nothing was written yet. Pooled connections that are shutting down are
/// skipped.
async fn session(connector: &Connector, peer: &HttpPeer) -> pingora::Result<(HttpSession, bool)> {
    let mut has_failed = false;
    for _ in 0..MAX_CLOSING_TO_PROVIDERS {
        match connector.get_http_session(peer).await {
            Ok((session, _)) if session.as_http2().is_some_and(|stream| stream.conn.is_shutting_down()) => {
                connector.release_http_session(session, peer, peer.idle_timeout()).await;
            }
            Err(error) if *error.etype() == ErrorType::H2Error && !has_failed => has_failed = true,
            other => return other,
        }
    }
    connector.get_http_session(peer).await
}

/// Ends a failed exchange. An HTTP/1.1 connection was closed with its session. An HTTP/2 connection stays open for its other
/// streams; after an unclear error it gets no new ones, because it may be dead.
async fn end_exchange(connector: &Connector, session: HttpSession, peer: &HttpPeer, is_unclear: bool) {
    let Some(stream) = session.as_http2() else { return };
    if is_unclear {
        stream.conn.mark_shutdown();
    }
    connector.release_http_session(session, peer, peer.idle_timeout()).await;
}

/// Returns a key that separates connections that must not be shared. Pingora's own key omits the authority, and knows a client
/// certificate only by its serial number, which two certificates may share.
fn group_key(settings: &UpstreamSettings) -> u64 {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    part(settings.channel.as_bytes());
    part(if settings.http2 { b"h2,http/1.1" } else { b"http/1.1" });
    for certificate in settings.identity.iter().flat_map(|identity| &identity.certificates) {
        part(certificate);
    }
    part(b"authorities");
    for authority in settings.ca.iter().flatten() {
        part(authority);
    }
    let digest = hash.finalize();
    digest.iter().take(8).fold(0, |key, byte| key << 8 | u64::from(*byte))
}
