//! URLs of servers whose connections go through a fault-injecting TCP proxy.

use super::tcp_proxy::TcpProxy;

/// Parts of a server URL.
#[derive(Debug)]
pub(super) struct ServerUrl<'a> {
    /// Scheme and credentials, with `://` and `@`.
    prefix: &'a str,
    host: &'a str,
    pub(super) path: &'a str,
    query: &'a str,
}

impl<'a> ServerUrl<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, String> {
        let scheme =
            text.find("://").map(|at| at + 3).ok_or("the URL needs a scheme: postgres://, redis:// or amqp://")?;
        let end = text.get(scheme..).and_then(|rest| rest.find(['/', '?'])).map_or(text.len(), |at| scheme + at);
        let (authority, rest) = text.split_at(end);
        let host_at = authority.rfind('@').map_or(scheme, |at| at + 1);
        let (prefix, host) = authority.split_at(host_at);
        let (path, query) = rest.split_at(rest.find('?').unwrap_or(rest.len()));
        if host.is_empty() || host.starts_with('%') || host.contains(',') {
            return Err(
                "the URL must name one server by host and port, because its connections go through a proxy".to_owned()
            );
        }
        Ok(Self { prefix, host, path, query })
    }

    /// Returns `host:port`, with the default port if the URL has none.
    pub(super) fn host_and_port(&self, default_port: u16) -> String {
        match self.host.rsplit_once(':') {
            Some((_, port)) if port.parse::<u16>().is_ok() => self.host.to_owned(),
            _ => format!("{}:{default_port}", self.host),
        }
    }

    /// Returns the URL with the proxy as the server, and with another path.
    pub(super) fn with_proxy(&self, proxy: &TcpProxy, path: &str) -> String {
        format!("{}{}{path}{}", self.prefix, proxy.address(), self.query)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn server_url_is_parsed_and_socket_path_or_host_list_is_rejected() {
        for (text, prefix, host_and_port, path, query) in [
            ("postgres://a:p@db:1/x?y=z", "postgres://a:p@", "db:1", "/x", "?y=z"),
            ("postgres://localhost", "postgres://", "localhost:5432", "", ""),
            ("postgres://a@[::1]/x", "postgres://a@", "[::1]:5432", "/x", ""),
            ("redis://127.0.0.1:6379/2", "redis://", "127.0.0.1:6379", "/2", ""),
        ] {
            let url = ServerUrl::parse(text).unwrap();
            assert_eq!((url.prefix, url.path, url.query), (prefix, path, query), "{text}");
            assert_eq!(url.host_and_port(5432), host_and_port, "{text}");
        }
        for text in ["localhost:5432", "postgres://a@%2Frun/x", "postgres://a,b/x", "redis:///0"] {
            ServerUrl::parse(text).unwrap_err();
        }
    }
}
