//! Where the PostgreSQL is, and how the way to it is protected.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres_rustls::MakeRustlsConnect;
use tollgate_plugins::secret::Secret;

/// How long reaching one host may take.
const CONNECT: Duration = Duration::from_secs(3);
/// How long a machine that is gone may go unnoticed.
const UNANSWERED: Duration = Duration::from_secs(8);

/// The URL of a PostgreSQL, understood. Never printed: there is a password in it.
#[derive(Clone)]
pub struct Address {
    pub(super) config: Config,
    /// `None` on this machine or when it was refused in so many words.
    pub(super) tls: Option<MakeRustlsConnect>,
    url: Secret,
}

impl Address {
    /// Understands `postgres://user:password@host:port/database?sslmode=…`. Says what is wrong without repeating it.
    pub fn parse(url: &Secret) -> Result<Self, String> {
        let text = std::str::from_utf8(url.expose()).map_err(|_| "it is not UTF-8 text".to_owned())?;
        if !["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme)) {
            return Err("it must begin with postgres://".to_owned());
        }
        let (base, query) = text.split_once('?').unwrap_or((text, ""));
        let (mut mode, mut authority, mut others) = (None, None, Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("sslmode", value)) => mode = Some(value),
                Some(("sslrootcert", value)) => authority = Some(value),
                _ => others.push(pair),
            }
        }
        let rest = if others.is_empty() { base.to_owned() } else { format!("{base}?{}", others.join("&")) };
        let mut config: Config = rest.parse().map_err(|error| format!("it cannot be understood: {}", chain(&error)))?;
        if config.get_hosts().is_empty() {
            return Err("it names no host".to_owned());
        }
        let is_near = config.get_hosts().iter().all(is_near);
        let is_protected = match mode {
            None => !is_near,
            Some("disable") => false,
            Some("require" | "verify-full") => true,
            Some(_) => {
                return Err("its sslmode must be verify-full (or require, which means the same here) or disable: \
                            a protection that anybody can talk away is none"
                    .to_owned());
            }
        };
        let tls = if is_protected { Some(connector(authority)?) } else { None };
        config.ssl_mode(if tls.is_some() { SslMode::Require } else { SslMode::Disable });
        config.application_name("tollgate").connect_timeout(CONNECT).tcp_user_timeout(UNANSWERED);
        config.keepalives_idle(UNANSWERED).keepalives_interval(Duration::from_secs(2)).keepalives_retries(3);
        if config.get_target_session_attrs() == TargetSessionAttrs::Any {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        Ok(Self { config, tls, url: url.clone() })
    }
}

impl PartialEq for Address {
    fn eq(&self, other: &Self) -> bool {
        self.url.expose() == other.url.expose()
    }
}

impl Eq for Address {}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Host and database.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PostgreSQL")?;
        for (place, host) in self.config.get_hosts().iter().enumerate() {
            let name = match host {
                Host::Tcp(name) => name.clone(),
                Host::Unix(path) => path.display().to_string(),
            };
            let ports = self.config.get_ports();
            let port = ports.get(place).or(ports.first()).copied().unwrap_or(5432);
            write!(f, "{} {name}:{port}", if place == 0 { " at" } else { "," })?;
        }
        match self.config.get_dbname() {
            Some(database) => write!(f, ", database {database}"),
            None => Ok(()),
        }
    }
}

fn is_near(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) if name == "localhost" => true,
        Host::Tcp(name) => name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback()),
    }
}

fn connector(authority: Option<&str>) -> Result<MakeRustlsConnect, String> {
    let mut roots = rustls::RootCertStore::empty();
    match authority {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(path) => {
            let path = percent_encoding::percent_decode_str(path).decode_utf8_lossy();
            let certificates = CertificateDer::pem_file_iter(path.as_ref())
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(|error| format!("its sslrootcert `{path}` cannot be read: {error}"))?;
            if certificates.is_empty() {
                return Err(format!("its sslrootcert `{path}` holds no certificate"));
            }
            for certificate in certificates {
                roots.add(certificate).map_err(|error| format!("its sslrootcert `{path}` is no authority: {error}"))?;
            }
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

/// An error with its causes, which is where they say what happened.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}
