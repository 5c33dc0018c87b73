//! Parses `scheme://host:port/path`.

use std::net::IpAddr;

use http::Uri;
use rustls_pki_types::ServerName;

/// Parts of a URL that the configuration uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// True if the scheme is `https`.
    pub tls: bool,
    /// DNS name or IP address in lower case; an IPv6 address without brackets.
    pub host: String,
    /// Port as written, or the scheme's default.
    pub port: u16,
    /// Path, empty or with a leading slash, without a trailing slash.
    pub path: String,
    /// True if the URL has a query.
    pub has_query: bool,
}

impl Address {
    /// Parses a URL. The error never repeats the text, because people put passwords into URLs.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let uri: Uri = text.parse().map_err(|_| "is not a URL")?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err("must start with https:// or http://"),
        };
        if text.contains('#') {
            return Err("must have no #fragment");
        }
        let authority = uri.authority().ok_or("has no host")?;
        if authority.as_str().contains('@') {
            return Err("must have no user or password in it");
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        if ServerName::try_from(host.as_str()).is_err() {
            return Err("has a host that is neither a DNS name nor an IP address");
        }
        let after_host = &authority.as_str()[authority.host().len()..];
        let port = match after_host.strip_prefix(':') {
            None => {
                if tls {
                    443
                } else {
                    80
                }
            }
            Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or("has a port that is not from 1 to 65535")?,
        };
        let path = uri.path().trim_end_matches('/').to_owned();
        Ok(Self { tls, host, port, path, has_query: uri.query().is_some() })
    }

    /// Returns whether the host is this machine.
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.host)
    }
}

/// Returns whether a host name or IP address is this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn url_is_split_into_its_parts() {
        let address = Address::parse("https://Api.Example.com/a/").unwrap();
        assert_eq!((address.tls, address.host.as_str(), address.port), (true, "api.example.com", 443));
        assert_eq!((address.path.as_str(), address.has_query, address.is_loopback()), ("/a", false, false));
        for local in ["http://[::1]:80", "http://127.8.0.1", "https://localhost:1"] {
            assert!(Address::parse(local).unwrap().is_loopback(), "{local}");
        }
        assert!(!Address::parse("http://127.0.0.1.example.com").unwrap().is_loopback());
    }

    #[test]
    fn invalid_url_is_rejected_without_repeating_it() {
        let bad = "ftp://a https://a:b@c https://a:0 https://a:99999 https:// a.b /x https://a#b https://a_b!/ ://";
        for text in bad.split(' ') {
            let said = Address::parse(text).unwrap_err();
            assert!(!said.contains(text), "{said}");
        }
    }
}
