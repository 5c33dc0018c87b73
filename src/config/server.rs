//! `[server]`: limits of connections, requests and their bodies, and the certificate of a listener.

use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use tollgate_plugins::settings::{Settings, Size};

use super::identity;
use super::now::Now;
use super::pair::{self, CertificateEnd, Identity};
use super::secret::Plain;
use super::toml_file::TomlFile;

/// Limits of what callers may use, and timeouts of each phase of a connection. A reload applies them to new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerLimits {
    /// Maximum number of open connections.
    pub max_connections: u32,
    /// Maximum number of open connections of one IPv4 address or one IPv6 /64 network.
    pub max_connections_per_address: u32,
    /// Maximum bytes of request bodies in memory, over all requests. Notifications may use a quarter more.
    pub max_buffered_bytes: u64,
    /// Time for the TLS handshake.
    pub handshake_timeout: Duration,
    /// Time for the whole head of a request. On a new connection it begins with the connection.
    pub header_timeout: Duration,
    /// Time for the whole body of a request.
    pub body_timeout: Duration,
    /// Minimum bytes of a body per second, measured over five seconds.
    pub min_body_rate: u64,
    /// Time without progress after which a response is aborted.
    pub write_timeout: Duration,
    /// Time that a connection may stay open without a request.
    pub keepalive_timeout: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_connections_per_address: 5_000,
            max_buffered_bytes: 256 << 20,
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(30),
            min_body_rate: 1 << 10,
            write_timeout: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(75),
        }
    }
}

/// Reads the limits of `[server]`.
pub(super) fn limits(server: &mut Settings<'_>, body_limit: u64) -> ServerLimits {
    let default = ServerLimits::default();
    let most = server.or("max_connections", default.max_connections);
    let limits = ServerLimits {
        max_connections: most,
        max_connections_per_address: server.or("max_connections_per_address", most.div_ceil(2)),
        max_buffered_bytes: server.or("max_buffered_bytes", Size(default.max_buffered_bytes)).0,
        handshake_timeout: timeout(server, "handshake_timeout", default.handshake_timeout),
        header_timeout: timeout(server, "header_timeout", default.header_timeout),
        body_timeout: timeout(server, "body_timeout", default.body_timeout),
        min_body_rate: server.or("min_body_rate", Size(default.min_body_rate)).0,
        write_timeout: timeout(server, "write_timeout", default.write_timeout),
        keepalive_timeout: timeout(server, "keepalive_timeout", default.keepalive_timeout),
    };
    for (key, value) in [
        ("max_connections", limits.max_connections),
        ("max_connections_per_address", limits.max_connections_per_address),
    ] {
        if !(1..=1_000_000).contains(&value) {
            server.problem(key, format!("`server.{key}` must be from 1 to 1000000 connections"), None);
        }
    }
    if limits.max_buffered_bytes < body_limit {
        let message =
            "`server.max_buffered_bytes` must be at least `server.body_limit`: otherwise no body of that size fits";
        server.problem("max_buffered_bytes", message, None);
    }
    limits
}

fn timeout(server: &mut Settings<'_>, key: &'static str, default: Duration) -> Duration {
    let timeout = server.or(key, default);
    if !(Duration::from_millis(10)..=Duration::from_hours(1)).contains(&timeout) {
        server.problem(key, format!("`server.{key}` must be from 10ms to 1h"), None);
    }
    timeout
}

/// Certificate of a listener, and the authorities of its callers' certificates.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// Certificate and key presented to callers.
    pub identity: Identity,
    /// Authorities (DER). If set, a caller must present a certificate of one of them.
    pub client_ca: Option<Vec<Vec<u8>>>,
    /// Revocation lists (DER) of these authorities.
    pub client_crl: Vec<Vec<u8>>,
    /// Configuration for rustls, built from these fields. A new connection uses that of the generation in force.
    pub config: Arc<ServerConfig>,
}

impl PartialEq for ServerTls {
    fn eq(&self, other: &Self) -> bool {
        (&self.identity, &self.client_ca, &self.client_crl) == (&other.identity, &other.client_ca, &other.client_crl)
    }
}

impl Eq for ServerTls {}

impl ServerTls {
    /// Builds the TLS configuration of the listener. An error names the invalid key and the reason.
    pub fn new(
        identity: Identity,
        client_ca: Option<Vec<Vec<u8>>>,
        client_crl: Vec<Vec<u8>>,
    ) -> Result<Self, (&'static str, String)> {
        let cannot = |key, error: &dyn std::fmt::Display| (key, format!("TLS cannot use this file: {error}"));
        let provider = Arc::new(default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| cannot("cert", &error))?;
        let builder = match &client_ca {
            None => builder.with_no_client_auth(),
            Some(authorities) => {
                let mut roots = RootCertStore::empty();
                for authority in authorities {
                    let authority = CertificateDer::from(authority.as_slice());
                    roots.add(authority).map_err(|error| cannot("client_ca", &error))?;
                }
                let lists = client_crl.iter().cloned().map(CertificateRevocationListDer::from);
                // With revocation lists, a certificate is accepted only if its issuer's list does not revoke it.
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .with_crls(lists)
                    .only_check_end_entity_revocation();
                let key = if client_crl.is_empty() { "client_ca" } else { "client_crl" };
                builder.with_client_cert_verifier(verifier.build().map_err(|error| cannot(key, &error))?)
            }
        };
        let key = PrivateKeyDer::try_from(identity.key.expose()).map_err(|error| cannot("key", &error))?.clone_key();
        let chain = identity.certificates.iter().cloned().map(CertificateDer::from).collect();
        let mut config = builder.with_single_cert(chain, key).map_err(|error| cannot("cert", &error))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        if client_ca.is_some() {
            // A resumed session would skip the check of a certificate that was revoked meanwhile.
            config.session_storage = Arc::new(NoServerSessionStorage {});
        }
        Ok(Self { identity, client_ca, client_crl, config: Arc::new(config) })
    }
}

/// TLS of one listener.
#[derive(Default)]
pub(super) struct ListenerTls {
    /// TLS; `None` if it is invalid.
    pub(super) tls: Option<ServerTls>,
    /// True if callers must present a certificate, even if its authorities are invalid.
    pub(super) requires_certificate: bool,
    /// Expiry of the certificates that are presented.
    pub(super) certificates: Vec<CertificateEnd>,
}

/// Reads the `tls` table of a listener.
pub(super) fn server_tls(source: &TomlFile, tls: &mut Settings<'_>, now: Now) -> ListenerTls {
    let pair = identity::read(source, tls, now, Plain::Refused("it would decrypt the key of a listener"));
    if pair.as_ref().is_some_and(|pair| !pair.is_for_servers()) {
        let message =
            "this certificate is not for servers: its extended key usage lacks serverAuth, and callers would reject it";
        tls.problem("cert", message, Some("order one for servers (TLS Web Server Authentication)".to_owned()));
    }
    let requires_certificate = tls.has("client_ca");
    let client_ca = identity::authorities_der(source, tls, "client_ca", now);
    let client_crl = identity::revocation_lists(source, tls, "client_crl");
    if !client_crl.is_empty() && !requires_certificate {
        tls.problem("client_crl", "`client_crl` needs `client_ca`: without it no caller presents a certificate", None);
    }
    let ends = pair.iter().flat_map(|pair| pair::ends("server", pair.certificates()));
    let end = |(certificate, not_after)| CertificateEnd { channel: String::new(), certificate, not_after };
    let certificates = ends.map(end).collect();
    let built = pair.map(|pair| ServerTls::new(pair.identity.clone(), client_ca, client_crl));
    let tls = built.and_then(|built| built.map_err(|(key, message)| tls.problem(key, message, None)).ok());
    ListenerTls { tls, requires_certificate, certificates }
}
