//! URL of an AMQP 0-9-1 broker: `amqps://user:password@host:port/vhost`.

use http::Uri;
use percent_encoding::percent_decode_str;
use rustls_pki_types::ServerName;
use tollgate_plugins::secret::Secret;

use crate::address::is_loopback;

/// Parsed URL of a broker. Printed without the password.
#[derive(Clone, Debug)]
pub struct AmqpUrl {
    /// True for `amqps://`.
    pub tls: bool,
    /// DNS name or IP address in lower case; an IPv6 address without brackets.
    pub host: String,
    /// Port as written, or the scheme's default.
    pub port: u16,
    /// User; `guest` if the URL names none.
    pub user: Secret,
    /// Password of the user.
    pub password: Secret,
    /// Virtual host; `/` if the URL has no path.
    pub vhost: String,
}

impl PartialEq for AmqpUrl {
    fn eq(&self, other: &Self) -> bool {
        let texts = |url: &Self| (url.tls, url.host.clone(), url.port, url.vhost.clone());
        texts(self) == texts(other)
            && self.user.expose() == other.user.expose()
            && self.password.expose() == other.password.expose()
    }
}

impl Eq for AmqpUrl {}

impl AmqpUrl {
    /// Parses a URL. The error never repeats the text, because it contains the password.
    pub fn parse(url: &Secret) -> Result<Self, &'static str> {
        let text = std::str::from_utf8(url.expose()).map_err(|_| "is not UTF-8")?;
        let uri: Uri = text.parse().map_err(|_| "is not a URL")?;
        let tls = match uri.scheme_str() {
            Some("amqps") => true,
            Some("amqp") => false,
            _ => return Err("must start with amqps:// or amqp://"),
        };
        if uri.query().is_some() || text.contains('#') {
            return Err("must have no ?query and no #fragment");
        }
        let authority = uri.authority().ok_or("has no host")?;
        let (user_info, host_and_port) = match authority.as_str().rsplit_once('@') {
            Some((user_info, host_and_port)) => (user_info, host_and_port),
            None => ("guest:guest", authority.as_str()),
        };
        let (user, password) = user_info.split_once(':').ok_or("has a user without a password")?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        if ServerName::try_from(host.as_str()).is_err() {
            return Err("has a host that is neither a DNS name nor an IP address");
        }
        if !tls && !is_loopback(&host) {
            return Err("must start with amqps://: without TLS only a loopback address may be named");
        }
        let port = match host_and_port.rsplit_once(':') {
            Some((before, port)) if !before.starts_with('[') || before.ends_with(']') => {
                port.parse().ok().filter(|port| *port > 0).ok_or("has a port that is not from 1 to 65535")?
            }
            _ if tls => 5671,
            _ => 5672,
        };
        let vhost = match uri.path() {
            "" | "/" => "/".to_owned(),
            path => {
                let vhost = percent_decode_str(&path[1..]).decode_utf8();
                vhost.map_err(|_| "has a virtual host that is not UTF-8")?.into_owned()
            }
        };
        if vhost.len() > 255 {
            return Err("has a virtual host longer than 255 bytes");
        }
        let decode = |text: &str| Secret::new(percent_decode_str(text).collect::<Vec<u8>>());
        Ok(Self { tls, host, port, user: decode(user), password: decode(password), vhost })
    }
}
