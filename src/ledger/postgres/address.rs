//! Address of the PostgreSQL server, and TLS to it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres_rustls::MakeRustlsConnect;
use tollgate_plugins::secret::Secret;

/// Timeout of reaching one host.
const CONNECT: Duration = Duration::from_secs(3);
/// Timeout after which a silent host counts as gone.
const UNANSWERED: Duration = Duration::from_secs(8);

/// Parsed URL of a PostgreSQL server. Printed without its password.
#[derive(Clone)]
pub struct Address {
    pub(super) config: Arc<Config>,
    /// One configuration for each host, so that a host that does not answer does not block the next.
    pub(super) hosts: Arc<[Config]>,
    /// Index of the host that was last writable.
    pub(super) preferred: Arc<AtomicUsize>,
    /// `None` for this machine, or if TLS was explicitly disabled.
    pub(super) tls: Option<MakeRustlsConnect>,
    url: Secret,
    authorities: Option<Vec<Vec<u8>>>,
}

impl Address {
    /// Parses `postgres://user:password@host:port/database?sslmode=…`. The server's certificate is verified by public
    /// authorities, or by `ca` (DER). Errors do not repeat what may be secret.
    pub fn parse(url: &Secret, authorities: Option<&[Vec<u8>]>) -> Result<Self, String> {
        let text = std::str::from_utf8(url.expose()).map_err(|_| "it is not UTF-8 text".to_owned())?;
        if !["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme)) {
            return Err("it must begin with postgres://".to_owned());
        }
        let (base, query) = text.split_once('?').unwrap_or((text, ""));
        let (mut mode, mut others) = (None, Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("sslmode", value)) => mode = Some(value),
                Some(("sslrootcert", _)) => {
                    return Err("its sslrootcert belongs into the key `ca` beside it".to_owned());
                }
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
        let tls = if is_protected { Some(connector(authorities)?) } else { None };
        config.ssl_mode(if tls.is_some() { SslMode::Require } else { SslMode::Disable });
        config.application_name("tollgate").connect_timeout(CONNECT).tcp_user_timeout(UNANSWERED);
        config.keepalives_idle(UNANSWERED).keepalives_interval(Duration::from_secs(2)).keepalives_retries(3);
        if config.get_target_session_attrs() == TargetSessionAttrs::Any {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        Ok(Self {
            hosts: (0..config.get_hosts().len()).map(|number| alone(&config, number)).collect(),
            config: Arc::new(config),
            preferred: Arc::default(),
            tls,
            url: url.clone(),
            authorities: authorities.map(<[_]>::to_vec),
        })
    }
}

impl PartialEq for Address {
    fn eq(&self, other: &Self) -> bool {
        self.url.expose() == other.url.expose() && self.authorities == other.authorities
    }
}

impl Eq for Address {}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Writes host and database.
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

/// Returns a configuration with one of the hosts.
fn alone(config: &Config, number: usize) -> Config {
    let mut one = Config::new();
    match config.get_hosts().get(number) {
        Some(Host::Tcp(name)) => _ = one.host(name),
        Some(Host::Unix(path)) => _ = one.host_path(path),
        None => {}
    }
    if let Some(address) = config.get_hostaddrs().get(number) {
        one.hostaddr(*address);
    }
    if let Some(port) = config.get_ports().get(number).or(config.get_ports().first()) {
        one.port(*port);
    }
    if let Some(user) = config.get_user() {
        one.user(user);
    }
    if let Some(database) = config.get_dbname() {
        one.dbname(database);
    }
    if let Some(options) = config.get_options() {
        one.options(options);
    }
    if let Some(name) = config.get_application_name() {
        one.application_name(name);
    }
    if let Some(password) = config.get_password() {
        one.password(password);
    }
    one.ssl_mode(config.get_ssl_mode()).ssl_negotiation(config.get_ssl_negotiation());
    one.channel_binding(config.get_channel_binding()).target_session_attrs(config.get_target_session_attrs());
    one.connect_timeout(CONNECT).tcp_user_timeout(UNANSWERED).keepalives(config.get_keepalives());
    one.keepalives_idle(config.get_keepalives_idle());
    if let (Some(interval), Some(retries)) = (config.get_keepalives_interval(), config.get_keepalives_retries()) {
        one.keepalives_interval(interval).keepalives_retries(retries);
    }
    one
}

fn is_near(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) if name == "localhost" => true,
        Host::Tcp(name) => name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback()),
    }
}

fn connector(authorities: Option<&[Vec<u8>]>) -> Result<MakeRustlsConnect, String> {
    let mut roots = rustls::RootCertStore::empty();
    match authorities {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(authorities) => {
            for der in authorities {
                let added = roots.add(CertificateDer::from_slice(der));
                added.map_err(|error| format!("a certificate in `ca` is no authority's: {error}"))?;
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

/// Returns an error with its causes.
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Address, String> {
        Address::parse(&Secret::new(url), None)
    }

    #[test]
    fn tls_is_required_for_remote_hosts_unless_explicitly_disabled() {
        for (url, is_protected) in [
            ("postgres://tollgate:s3cret@db.example/pay", true),
            ("postgres://tollgate:s3cret@db.example/pay?sslmode=verify-full&target_session_attrs=any", true),
            ("postgres://tollgate:s3cret@db.example/pay?sslmode=require", true),
            ("postgres://tollgate:s3cret@db.example,localhost/pay", true),
            ("postgres://tollgate:s3cret@db.example/pay?sslmode=disable", false),
            ("postgresql://tollgate@localhost:5433/pay", false),
            ("postgres://tollgate@127.0.0.1/pay", false),
            ("postgres://tollgate@localhost/pay?sslmode=require", true),
            ("postgres://tollgate@%2Frun%2Fpostgresql/pay", false),
        ] {
            assert_eq!(parse(url).unwrap().tls.is_some(), is_protected, "{url}");
        }
    }

    #[test]
    fn invalid_url_is_rejected_without_repeating_its_secrets() {
        for (url, why) in [
            ("mysql://a:s3cret@db.example/pay", "must begin with postgres://"),
            ("host=db.example password=s3cret", "must begin with postgres://"),
            ("postgres://a:s3cret@db.example/pay?sslmode=prefer", "sslmode must be verify-full"),
            ("postgres://a:s3cret@db.example/pay?sslmode=verify-ca", "sslmode must be verify-full"),
            ("postgres://a:s3cret@db.example/pay?sslrootcert=ca.pem", "belongs into the key `ca`"),
            ("postgres://a:s3cret@db.example/pay?colour=red", "cannot be understood"),
            ("postgres://a:s3cret@db.example:port/pay", "cannot be understood"),
            ("postgres:///pay", "names no host"),
        ] {
            let said = parse(url).unwrap_err();
            assert!(said.contains(why) && !said.contains("s3cret"), "{url}: {said}");
        }
    }

    #[test]
    fn address_is_displayed_without_password() {
        let address = parse("postgres://tollgate:s3cret@db.example:5433,other.example:5434/pay").unwrap();
        assert_eq!(address.to_string(), "PostgreSQL at db.example:5433, other.example:5434, database pay");
        assert_eq!(format!("{address:?}"), address.to_string());
    }
}
