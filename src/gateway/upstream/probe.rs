//! Probes a channel's hosts as a payment would reach them: DNS, TCP, and TLS with the channel's own identity.
//!
//! With TLS 1.3 a rejected client certificate shows only when the first response is read. So a probe sends `GET /`, which is no
//! operation of any provider, is not signed, and cannot move money. Any response counts as success.

use std::fmt;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;

use pingora::connectors::ConnectorOptions;
use pingora::connectors::http::Connector;
use pingora::http::RequestHeader;
use pingora::protocols::http::client::HttpSession;
use tokio::time::{Instant, timeout};
use tollgate_config::Host;

use super::exchange::header;
use super::host::{KnownHost, Round};
use super::{Upstream, session};

/// Maximum bytes of a response that are examined: some hosts report a missing certificate there, not in TLS.
const MAX_EXAMINED_BYTES: usize = 4096;
/// Timeout of a first DNS lookup.
const PROBE_LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);

/// Successful probe of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeSuccess {
    /// Address that responded.
    pub address: SocketAddr,
    /// TLS version, for example `TLSv1.3`; `None` without TLS.
    pub tls: Option<String>,
    /// ALPN protocol: `h2` or `http/1.1`.
    pub protocol: &'static str,
    /// HTTP status of the response.
    pub status: u16,
    /// Duration of the probe.
    pub took: Duration,
}

/// Reason why a payment would not reach the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeError {
    /// The name has no address.
    NoAddress(String),
    /// No process listens there, or a firewall rejects the connection.
    Refused(String),
    /// A timeout of the channel's `timeouts` expired.
    TooSlow(String),
    /// The host's certificate is not issued by a trusted authority, or is for another name.
    HostNotTrusted(String),
    /// The host rejects the channel's client certificate.
    IdentityRefused(String),
    /// The host requires a client certificate, and the channel has none.
    IdentityWanted(String),
    /// Any other error.
    Broken(String),
}

impl Upstream {
    /// Probes each host on a new connection, one after the other. Returns the results by `name:port`.
    pub async fn probe(&self) -> Vec<(String, Result<ProbeSuccess, ProbeError>)> {
        let mut results = Vec::new();
        for host in &self.hosts {
            results.push((host.label(), self.probe_host(host).await));
        }
        results
    }

    /// Returns the hosts as `name:port`.
    pub fn labels(&self) -> impl Iterator<Item = String> {
        self.hosts.iter().map(KnownHost::label)
    }

    async fn probe_host(&self, host: &KnownHost) -> Result<ProbeSuccess, ProbeError> {
        let addresses = host.addresses(Round::All, Instant::now() + PROBE_LOOKUP_TIMEOUT).await;
        let addresses = addresses.map_err(|lost| ProbeError::NoAddress(lost.why))?;
        let mut last = ProbeError::NoAddress("the name has no address".to_owned());
        for address in addresses {
            match self.probe_address(&host.host, address).await {
                Ok(reached) => return Ok(reached),
                // Another address may be reachable. An error about certificates applies to all addresses.
                Err(classify @ (ProbeError::Refused(_) | ProbeError::TooSlow(_) | ProbeError::Broken(_))) => {
                    last = classify
                }
                Err(classify) => return Err(classify),
            }
        }
        Err(last)
    }

    async fn probe_address(&self, host: &Host, address: SocketAddr) -> Result<ProbeSuccess, ProbeError> {
        // One connector for all channels; its connections are never reused.
        static CONNECTOR: LazyLock<Connector> = LazyLock::new(|| Connector::new(Some(ConnectorOptions::new(1))));
        let mut peer = self.peer(host, address);
        peer.options.max_h2_streams = 1;
        peer.options.h2_ping_interval = None;
        let started = Instant::now();
        let connected = session(&CONNECTOR, &peer).await;
        let (mut session, _) = connected.map_err(|error| self.classify(address, "connecting", &error))?;
        session.set_read_timeout(Some(self.timeouts.read));
        session.set_write_timeout(Some(self.timeouts.write));
        let digest = session.digest().and_then(|digest| digest.ssl_digest.as_ref());
        let tls = digest.map(|digest| digest.version.to_string());
        let protocol = if session.as_http2().is_some() { "h2" } else { "http/1.1" };
        let request = http::Request::get("/").header("user-agent", "tollgate").body(bytes::Bytes::new());
        let request = request.map_err(|error| error.to_string()).and_then(|request| header(host, &request));
        let request = request.map_err(ProbeError::Broken)?;
        let answer = timeout(self.timeouts.total, send_and_read_status(&mut session, request)).await;
        let answer = match answer {
            Err(_) => Err(ProbeError::TooSlow(format!("{address} did not answer in {:?}", self.timeouts.total))),
            Ok(Err(error)) => Err(self.classify(address, "waiting for an answer", &error)),
            Ok(Ok((status, text))) if wants_certificate(status, &text) => {
                Err(self.refused(format!("{address} answered {status} because of it")))
            }
            Ok(Ok((status, _))) => Ok(ProbeSuccess { address, tls, protocol, status, took: started.elapsed() }),
        };
        session.shutdown().await;
        answer
    }

    /// Classifies an error. Pingora passes TLS alerts on only as text.
    fn classify(&self, address: SocketAddr, during: &str, error: &pingora::Error) -> ProbeError {
        use pingora::ErrorType::{ConnectRefused, ConnectTimedout, ReadTimedout, TLSHandshakeTimedout, WriteTimedout};
        let text = error.to_string();
        let after = |mark: &str| {
            let (_, rest) = text.split_once(mark)?;
            let end = rest.find(['\n', '\t']).unwrap_or(rest.len());
            Some(rest[..end].split(", SNI: ").next().unwrap_or_default().trim().to_owned())
        };
        if let Some(why) = after("invalid peer certificate: ") {
            return ProbeError::HostNotTrusted(format!("{address}: {why}"));
        }
        if let Some(alert) = after("received fatal alert: ") {
            let alert: String = alert.chars().take_while(char::is_ascii_alphanumeric).collect();
            return match CERTIFICATE_ALERTS.contains(&alert.as_str()) {
                true => self.refused(format!("{address} said {alert}")),
                false => ProbeError::Broken(format!("{address} ended TLS while {during}: {alert}")),
            };
        }
        match error.etype() {
            ConnectRefused => ProbeError::Refused(format!("{address} refused the connection")),
            ConnectTimedout | TLSHandshakeTimedout => {
                ProbeError::TooSlow(format!("no connection to {address} in {:?}", self.timeouts.connect))
            }
            ReadTimedout | WriteTimedout => {
                ProbeError::TooSlow(format!("{address} did not answer in {:?}", self.timeouts.read))
            }
            other => ProbeError::Broken(format!("{address}, while {during}: {}", other.as_str())),
        }
    }

    fn refused(&self, why: String) -> ProbeError {
        if self.identity.is_some() { ProbeError::IdentityRefused(why) } else { ProbeError::IdentityWanted(why) }
    }
}

/// TLS alerts by which a host rejects a client certificate, or requires one.
const CERTIFICATE_ALERTS: &[&str] = &[
    "BadCertificate",
    "UnsupportedCertificate",
    "CertificateRevoked",
    "CertificateExpired",
    "CertificateUnknown",
    "UnknownCA",
    "AccessDenied",
    "CertificateRequired",
    "NoCertificate",
];

async fn send_and_read_status(
    session: &mut HttpSession,
    request: Box<RequestHeader>,
) -> pingora::Result<(u16, Vec<u8>)> {
    session.write_request_header(request).await?;
    session.finish_request_body().await?;
    session.read_response_header().await?;
    let status = session.response_header().map_or(0, |header| header.status.as_u16());
    let mut text = Vec::new();
    // The body matters only for status 400, which may be about the certificate.
    while status == 400 && text.len() < MAX_EXAMINED_BYTES {
        let Some(part) = session.read_response_body().await? else { break };
        text.extend_from_slice(&part);
    }
    Ok((status, text))
}

/// Returns whether the response reports a missing certificate. nginx accepts every client in TLS and reports that in
/// its response.
fn wants_certificate(status: u16, text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    status == 400
        && ["No required SSL certificate was sent", "The SSL certificate error"].iter().any(|it| text.contains(it))
}

impl ProbeError {
    /// Returns how to fix the problem.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::NoAddress(_) => "check the name in `hosts` and this machine's name server",
            Self::Refused(_) => "check the port in `hosts`, and that no firewall blocks this machine",
            Self::TooSlow(_) => "check that no firewall blocks this machine; `timeouts` may be too short",
            Self::HostNotTrusted(_) => {
                "set `ca` to the authority of the host's certificate, or omit it for the public roots; check that the name \
                 in `hosts` is that of the certificate"
            }
            Self::IdentityRefused(_) => {
                "check that [mtls] names the certificate and key that the provider issued for this account, and that it has not \
                 expired or been revoked"
            }
            Self::IdentityWanted(_) => "the host requires a client certificate: add [mtls] with `cert` and `key`",
            Self::Broken(_) => {
                "check that the host serves HTTP over TLS on this port; a host that closes the connection may reject the client certificate in [mtls]"
            }
        }
    }
}

impl fmt::Display for ProbeSuccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, tls, protocol, status, took } = self;
        let tls =
            tls.as_deref().map_or("no TLS".to_owned(), |version| version.replace("TLSv", "TLS ").replace('_', "."));
        write!(f, "ok: {tls}, {protocol}, {address} answered {status} in {} ms", took.as_millis())
    }
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAddress(why) => write!(f, "name not found: {why}"),
            Self::Refused(why) => write!(f, "connection refused: {why}"),
            Self::TooSlow(why) => write!(f, "too slow: {why}"),
            Self::HostNotTrusted(why) => write!(f, "the certificate of the host is not trusted: {why}"),
            Self::IdentityRefused(why) => write!(f, "our client certificate was rejected: {why}"),
            Self::IdentityWanted(why) => write!(f, "a client certificate is required: {why}"),
            Self::Broken(why) => write!(f, "no answer: {why}"),
        }
    }
}
