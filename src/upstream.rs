//! A channel's hosts: whom to connect to, showing which identity, believing which authority, for how long.
//!
//! One rule stands above the others: an error before the first byte of the request was written is *not sent*, and the next
//! host may be tried; any error after it is *maybe sent*, and nothing is tried again here.

mod bills;
mod host;

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, StatusCode};
use pingora::connectors::ConnectorOptions;
use pingora::connectors::http::Connector;
use pingora::http::RequestHeader;
use pingora::protocols::http::client::HttpSession;
use pingora::upstreams::peer::{HttpPeer, Peer};
use pingora::utils::tls::{CertKey, WrappedX509, parse_x509};
use sha2::{Digest, Sha256};
use tokio::time::{Instant, timeout_at};

pub use self::bills::BillHosts;
use self::host::KnownHost;
use crate::config::{Host, Timeouts, UpstreamSettings};
use crate::telemetry::METRICS;

/// The largest answer to an operation that is read; the documented ones are a few KiB.
pub const ANSWER_LIMIT: usize = 1 << 20;
/// How long a host that could not be reached stands behind the others.
const HOST_PENALTY: Duration = Duration::from_secs(5);

/// The hosts of one channel, with the connections to them.
pub struct Upstream {
    channel: String,
    hosts: Vec<Arc<KnownHost>>,
    timeouts: Timeouts,
    idle_timeout: Duration,
    pool_size: usize,
    answer_limit: usize,
    identity: Option<Arc<CertKey>>,
    authorities: Option<Arc<[WrappedX509]>>,
    group_key: u64,
    connector: OnceLock<Connector>,
    started: Instant,
}

/// What a provider answered.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The raw body.
    pub body: Bytes,
}

/// Why there is no answer. The words hold nothing that the other side sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SendError {
    /// No byte of the request was written.
    NotSent(String),
    /// The other side may have read it.
    MaybeSent(String),
}

impl Upstream {
    /// Makes the channel's connections ready; connects to nothing yet.
    pub fn new(settings: UpstreamSettings) -> Result<Self, String> {
        let group_key = group_key(&settings);
        let shown = settings.identity.iter().flat_map(|identity| &identity.certificates);
        for certificate in shown.chain(settings.ca.iter().flatten()) {
            // Pingora panics on a certificate that it cannot read.
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
            hosts: settings.hosts.into_iter().map(|host| Arc::new(KnownHost::new(host))).collect(),
            timeouts: settings.timeouts,
            idle_timeout: settings.pool.idle_timeout,
            pool_size: settings.pool.idle,
            answer_limit: settings.answer_limit,
            identity,
            authorities,
            group_key,
            connector: OnceLock::new(),
            started: Instant::now(),
        })
    }

    /// The time limits that the channel's file sets.
    pub fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// Sends the request to the first host that can be reached and reads the whole answer, within `limit`.
    pub async fn send(&self, request: &Request<Bytes>, limit: Duration) -> Result<Answer, SendError> {
        let deadline = Instant::now() + limit.min(self.timeouts.total);
        let mut last = "no host could be tried in time".to_owned();
        for host in self.hosts_by_preference() {
            match self.send_to(&host, request, deadline).await {
                Err(SendError::NotSent(why)) => {
                    host.failed_at.store(self.elapsed(), Ordering::Relaxed);
                    last = format!("{}: {why}", host.host.name);
                }
                other => return other,
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        Err(SendError::NotSent(last))
    }

    fn hosts_by_preference(&self) -> Vec<Arc<KnownHost>> {
        let now = self.elapsed();
        let penalty = HOST_PENALTY.as_millis() as u64;
        let mut hosts = self.hosts.clone();
        hosts.sort_by_key(|host| {
            let failed_at = host.failed_at.load(Ordering::Relaxed);
            failed_at != 0 && now.saturating_sub(failed_at) < penalty
        });
        hosts
    }

    async fn send_to(
        &self,
        host: &Arc<KnownHost>,
        request: &Request<Bytes>,
        deadline: Instant,
    ) -> Result<Answer, SendError> {
        let not_sent = |why: String| SendError::NotSent(why);
        let address = timeout_at(deadline, host.address(self.timeouts.connect))
            .await
            .map_err(|_| not_sent("no address in time".to_owned()))?
            .map_err(not_sent)?;
        let header =
            header(&host.host, request).map_err(|why| not_sent(format!("the request cannot be written: {why}")))?;
        let peer = self.peer(&host.host, address);
        let connector =
            self.connector.get_or_init(|| Connector::new(Some(ConnectorOptions::new(self.pool_size.max(1)))));
        let (mut session, reused) = timeout_at(deadline, connector.get_http_session(&peer))
            .await
            .map_err(|_| not_sent("no connection in time".to_owned()))?
            .map_err(|error| {
                host.forget_address();
                not_sent(format!("cannot connect: {}", error.etype().as_str()))
            })?;
        METRICS
            .upstream_connections_total
            .with_label_values(&[self.channel.as_str(), if reused { "true" } else { "false" }])
            .inc();
        session.set_read_timeout(Some(self.timeouts.read));
        session.set_write_timeout(Some(self.timeouts.write));

        match timeout_at(deadline, exchange(&mut session, header, request.body().clone(), self.answer_limit)).await {
            Ok(Ok(answer)) => {
                if session.response_done() {
                    connector.release_http_session(session, &peer, peer.idle_timeout()).await;
                }
                Ok(answer)
            }
            Ok(Err(why)) => {
                session.shutdown().await;
                Err(SendError::MaybeSent(why))
            }
            Err(_) => {
                session.shutdown().await;
                Err(SendError::MaybeSent("no complete answer in time".to_owned()))
            }
        }
    }

    fn peer(&self, host: &Host, address: SocketAddr) -> HttpPeer {
        let mut peer = HttpPeer::new(address, host.tls, host.name.clone());
        peer.group_key = self.group_key;
        peer.options.connection_timeout = Some(self.timeouts.connect);
        peer.options.total_connection_timeout = Some(self.timeouts.connect);
        peer.options.read_timeout = Some(self.timeouts.read);
        peer.options.write_timeout = Some(self.timeouts.write);
        peer.options.idle_timeout = Some(self.idle_timeout);
        if host.tls {
            peer.client_cert_key = self.identity.clone();
            peer.options.ca = self.authorities.clone();
        }
        peer
    }

    fn elapsed(&self) -> u64 {
        (self.started.elapsed().as_millis() as u64).max(1)
    }
}

/// Writes the request and reads the answer. Whatever goes wrong in here goes wrong after bytes may have been written.
async fn exchange(
    session: &mut HttpSession,
    header: Box<RequestHeader>,
    body: Bytes,
    limit: usize,
) -> Result<Answer, String> {
    let broken = |during: &str, error: Box<pingora::Error>| format!("{during}: {}", error.etype().as_str());
    session.write_request_header(header).await.map_err(|error| broken("while writing the header", error))?;
    if !body.is_empty() {
        session.write_request_body(body, true).await.map_err(|error| broken("while writing the body", error))?;
    }
    session.finish_request_body().await.map_err(|error| broken("while ending the request", error))?;
    let (status, headers) = loop {
        session.read_response_header().await.map_err(|error| broken("while waiting for the answer", error))?;
        match session.response_header() {
            Some(header) if header.status.is_informational() => {}
            Some(header) => break (header.status, header.headers.clone()),
            None => return Err("the answer has no header".to_owned()),
        }
    };
    let mut body = BytesMut::new();
    while let Some(part) =
        session.read_response_body().await.map_err(|error| broken("while reading the answer", error))?
    {
        if body.len() + part.len() > limit {
            return Err(format!("the answer is longer than {limit} bytes"));
        }
        body.extend_from_slice(&part);
    }
    Ok(Answer { status, headers, body: body.freeze() })
}

fn header(host: &Host, request: &Request<Bytes>) -> Result<Box<RequestHeader>, String> {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let mut header =
        RequestHeader::build(request.method().clone(), target.as_bytes(), Some(request.headers().len() + 2))
            .map_err(|error| error.etype().as_str().to_owned())?;
    let standard_port = if host.tls { 443 } else { 80 };
    let name = if host.name.contains(':') { format!("[{}]", host.name) } else { host.name.clone() };
    let authority = if host.port == standard_port { name } else { format!("{name}:{}", host.port) };
    let mut put = |name: http::HeaderName, value: http::HeaderValue| {
        header.append_header(name, value).map(drop).map_err(|error| error.etype().as_str().to_owned())
    };
    put(http::header::HOST, authority.parse().map_err(|_| "the host's name is no header value".to_owned())?)?;
    for (name, value) in request.headers() {
        put(name.clone(), value.clone())?;
    }
    if !request.body().is_empty() || request.method() == http::Method::POST {
        put(http::header::CONTENT_LENGTH, request.body().len().into())?;
    }
    Ok(Box::new(header))
}

/// Keeps connections apart that must not be shared. Pingora's own key leaves out the authority and knows a client
/// certificate by its serial number only, and two certificates may have the same.
fn group_key(settings: &UpstreamSettings) -> u64 {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    part(settings.channel.as_bytes());
    part(b"http/1.1");
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::{Identity, Pool};
    use tollgate_plugins::secret::Secret;

    fn settings(channel: &str, certificate: &[u8], authority: &[u8]) -> UpstreamSettings {
        let second = Duration::from_secs(1);
        UpstreamSettings {
            channel: channel.into(),
            hosts: vec![Host { name: "127.0.0.1".into(), port: 1, tls: false }],
            ca: Some(vec![authority.to_vec()]),
            identity: Some(Identity { certificates: vec![certificate.to_vec()], key: Secret::new("k") }),
            timeouts: Timeouts { connect: second, read: second, write: second, total: second },
            pool: Pool { idle: 1, idle_timeout: second },
            answer_limit: ANSWER_LIMIT,
        }
    }

    #[test]
    fn group_keys_differ_by_channel_identity_and_authority() {
        let base = group_key(&settings("a", b"cert", b"ca"));
        assert_eq!(base, group_key(&settings("a", b"cert", b"ca")));
        assert_ne!(base, group_key(&settings("b", b"cert", b"ca")));
        assert_ne!(base, group_key(&settings("a", b"cert2", b"ca")));
        assert_ne!(base, group_key(&settings("a", b"cert", b"ca2")));
    }

    #[tokio::test]
    async fn a_closed_port_is_not_sent_and_the_next_host_is_tried() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 1024];
            let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut buffer).await.unwrap();
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await.unwrap();
        });
        let mut settings = settings("a", b"", b"");
        (settings.ca, settings.identity) = (None, None);
        settings.hosts.push(Host { name: "127.0.0.1".into(), port: open, tls: false });
        let upstream = Upstream::new(settings).unwrap();
        let request = Request::get("/x").body(Bytes::new()).unwrap();
        let answer = upstream.send(&request, Duration::from_secs(5)).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.body.as_ref()), (200, b"ok".as_ref()));
    }

    #[tokio::test]
    async fn a_cut_after_the_request_is_maybe_sent() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = tokio::spawn(async move {
            let mut seen = 0;
            while let Ok(Ok((mut stream, _))) = tokio::time::timeout(Duration::from_secs(1), listener.accept()).await {
                let mut buffer = [0; 1024];
                seen += usize::from(tokio::io::AsyncReadExt::read(&mut stream, &mut buffer).await.unwrap() > 0);
            }
            seen
        });
        let mut settings = settings("a", b"", b"");
        (settings.ca, settings.identity) = (None, None);
        settings.hosts = vec![Host { name: "127.0.0.1".into(), port, tls: false }; 2];
        let upstream = Upstream::new(settings).unwrap();
        let request = Request::get("/x").body(Bytes::new()).unwrap();
        let error = upstream.send(&request, Duration::from_secs(5)).await.unwrap_err();
        assert!(matches!(error, SendError::MaybeSent(_)), "{error:?}");
        assert_eq!(served.await.unwrap(), 1, "sent once, though two hosts are known");
    }
}
