//! Reaches a channel's hosts as a payment would, before a payment does: name, connection, TLS with the channel's own identity.
//!
//! With TLS 1.3 a refused client certificate shows only when the first answer is read. So something harmless is asked: `GET /`,
//! which is no operation of any provider, is not signed, and cannot move money. Any answer is good, whatever it says.

use std::fmt;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;

use pingora::connectors::ConnectorOptions;
use pingora::connectors::http::Connector;
use pingora::http::RequestHeader;
use pingora::protocols::http::client::HttpSession;
use tokio::time::{Instant, timeout};

use super::exchange::header;
use super::host::{KnownHost, Round};
use super::{Upstream, session};
use crate::config::Host;

/// How much of an answer is looked at: some hosts say there, and not in TLS, that they want another certificate.
const ANSWER_PART: usize = 4096;
/// How long a name may take that is looked up for the first time.
const NAME_PATIENCE: Duration = Duration::from_secs(10);

/// How a host was reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeSuccess {
    /// Where.
    pub address: SocketAddr,
    /// As in `TLSv1.3`; nothing without TLS.
    pub tls: Option<String>,
    /// As in ALPN: `h2` or `http/1.1`.
    pub protocol: &'static str,
    /// What it answered.
    pub status: u16,
    /// How long all of it took.
    pub took: Duration,
}

/// Why a payment would not reach the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeError {
    /// Its name has no address.
    NoAddress(String),
    /// Nobody listens there, or somebody in between forbids it.
    Refused(String),
    /// Not in the channel's `timeouts`.
    TooSlow(String),
    /// Its certificate is not of an authority that the channel believes, or for another name.
    HostNotTrusted(String),
    /// It does not let the channel's identity in.
    IdentityRefused(String),
    /// It wants to see a client certificate, and the channel has none.
    IdentityWanted(String),
    /// Anything else.
    Broken(String),
}

impl Upstream {
    /// Reaches each host on a connection of its own, one after the other; gives what came of it by `name:port`.
    pub async fn probe(&self) -> Vec<(String, Result<ProbeSuccess, ProbeError>)> {
        let mut results = Vec::new();
        for host in &self.hosts {
            results.push((host.label(), self.probe_host(host).await));
        }
        results
    }

    /// The hosts, as `name:port`.
    pub fn labels(&self) -> impl Iterator<Item = String> {
        self.hosts.iter().map(KnownHost::label)
    }

    async fn probe_host(&self, host: &KnownHost) -> Result<ProbeSuccess, ProbeError> {
        let addresses = host.addresses(Round::All, Instant::now() + NAME_PATIENCE).await;
        let addresses = addresses.map_err(|lost| ProbeError::NoAddress(lost.why))?;
        let mut last = ProbeError::NoAddress("the name has no address".to_owned());
        for address in addresses {
            match self.probe_address(&host.host, address).await {
                Ok(reached) => return Ok(reached),
                // Another address may be reached; what it says about the certificates, they all say.
                Err(trouble @ (ProbeError::Refused(_) | ProbeError::TooSlow(_) | ProbeError::Broken(_))) => {
                    last = trouble
                }
                Err(trouble) => return Err(trouble),
            }
        }
        Err(last)
    }

    async fn probe_address(&self, host: &Host, address: SocketAddr) -> Result<ProbeSuccess, ProbeError> {
        // One for all channels, out of which no connection is ever used again.
        static CONNECTOR: LazyLock<Connector> = LazyLock::new(|| Connector::new(Some(ConnectorOptions::new(1))));
        let mut peer = self.peer(host, address);
        peer.options.max_h2_streams = 1;
        peer.options.h2_ping_interval = None;
        let started = Instant::now();
        let connected = session(&CONNECTOR, &peer).await;
        let (mut session, _) = connected.map_err(|error| self.trouble(address, "connecting", &error))?;
        session.set_read_timeout(Some(self.timeouts.read));
        session.set_write_timeout(Some(self.timeouts.write));
        let digest = session.digest().and_then(|digest| digest.ssl_digest.as_ref());
        let tls = digest.map(|digest| digest.version.to_string());
        let protocol = if session.as_http2().is_some() { "h2" } else { "http/1.1" };
        let question = http::Request::get("/").header("user-agent", "tollgate").body(bytes::Bytes::new());
        let question = question.map_err(|error| error.to_string()).and_then(|question| header(host, &question));
        let question = question.map_err(ProbeError::Broken)?;
        let answer = timeout(self.timeouts.total, answered(&mut session, question)).await;
        let answer = match answer {
            Err(_) => Err(ProbeError::TooSlow(format!("{address} did not answer in {:?}", self.timeouts.total))),
            Ok(Err(error)) => Err(self.trouble(address, "waiting for an answer", &error)),
            Ok(Ok((status, text))) if wants_certificate(status, &text) => {
                Err(self.refused(format!("{address} answered {status} because of it")))
            }
            Ok(Ok((status, _))) => Ok(ProbeSuccess { address, tls, protocol, status, took: started.elapsed() }),
        };
        session.shutdown().await;
        answer
    }

    /// Pingora passes on what TLS said as a text only.
    fn trouble(&self, address: SocketAddr, during: &str, error: &pingora::Error) -> ProbeError {
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
            return match REFUSALS.contains(&alert.as_str()) {
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

/// The alerts by which a host says that it does not take a client certificate, or misses one.
const REFUSALS: &[&str] = &[
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

async fn answered(session: &mut HttpSession, question: Box<RequestHeader>) -> pingora::Result<(u16, Vec<u8>)> {
    session.write_request_header(question).await?;
    session.finish_request_body().await?;
    session.read_response_header().await?;
    let status = session.response_header().map_or(0, |header| header.status.as_u16());
    let mut text = Vec::new();
    // What the host thinks of the request matters only when it may be about the certificate.
    while status == 400 && text.len() < ANSWER_PART {
        let Some(part) = session.read_response_body().await? else { break };
        text.extend_from_slice(&part);
    }
    Ok((status, text))
}

/// nginx lets everybody in and then says this in its answer.
fn wants_certificate(status: u16, text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    status == 400
        && ["No required SSL certificate was sent", "The SSL certificate error"].iter().any(|it| text.contains(it))
}

impl ProbeError {
    /// What to do about it.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::NoAddress(_) => "see that the name in `hosts` is right and that this machine's name server answers",
            Self::Refused(_) => "see that the port in `hosts` is right, and that a firewall lets this machine out",
            Self::TooSlow(_) => "see that a firewall lets this machine out; `timeouts` may be too short",
            Self::HostNotTrusted(_) => {
                "set `ca` to the authority of the host's certificate, or leave it out for the public roots; see that the name \
                 in `hosts` is the certificate's"
            }
            Self::IdentityRefused(_) => {
                "see that [mtls] names the certificate and key that the provider gave for this account, and that it has not \
                 ended or been revoked"
            }
            Self::IdentityWanted(_) => "the host wants a client certificate: add [mtls] with `cert` and `key`",
            Self::Broken(_) => {
                "see that the host speaks HTTP over TLS there; a host that hangs up may refuse the client certificate in [mtls]"
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
            Self::IdentityRefused(why) => write!(f, "our client certificate was refused: {why}"),
            Self::IdentityWanted(why) => write!(f, "a client certificate is wanted: {why}"),
            Self::Broken(why) => write!(f, "no answer: {why}"),
        }
    }
}
