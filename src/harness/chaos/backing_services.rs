//! PostgreSQL and Redis shared by several gateways, each behind a fault-injecting TCP proxy.

use tokio_postgres::NoTls;

use super::tcp_proxy::TcpProxy;

/// Both services, and the sections of `tollgate.toml` that refer to them.
pub(super) struct BackingServices {
    pub(super) postgres: TcpProxy,
    pub(super) redis: TcpProxy,
    /// The sections `[ledger]` and `[cache]`.
    pub(super) sections: String,
    /// PostgreSQL URL from the command line.
    postgres_url: String,
    /// Database that was created for this run.
    database: String,
}

impl BackingServices {
    /// Creates a database for this run and opens both proxies.
    pub(super) async fn open(postgres: &str, redis: &str) -> Result<Self, String> {
        let (postgres_url, redis_url) = (Url::parse(postgres)?, Url::parse(redis)?);
        let database = format!("tollgate_chaos_{:08x}", rand::random::<u32>());
        execute(postgres, &format!("CREATE DATABASE {database}")).await?;
        let postgres_proxy = TcpProxy::open(vec![postgres_url.host_and_port(5432)]).await?;
        let redis_proxy = TcpProxy::open(vec![redis_url.host_and_port(6379)]).await?;
        let ledger = postgres_url.with_proxy(&postgres_proxy, &format!("/{database}"));
        let cache = redis_url.with_proxy(&redis_proxy, redis_url.path);
        let sections = format!(
            "[ledger]\nkind = \"postgres\"\nurl = \"plain:{ledger}\"\nmax_clock_offset = \"1h\"\n[cache]\nkind = \"redis\"\nurl = \"plain:{cache}\"\n"
        );
        Ok(Self { postgres: postgres_proxy, redis: redis_proxy, sections, postgres_url: postgres.to_owned(), database })
    }

    /// Drops the database of this run.
    pub(super) async fn drop_database(self) -> Result<(), String> {
        let Self { postgres_url, database, .. } = self;
        execute(&postgres_url, &format!("DROP DATABASE {database} WITH (FORCE)")).await
    }
}

async fn execute(url: &str, statement: &str) -> Result<(), String> {
    let cannot = |error: tokio_postgres::Error| {
        format!("cannot create or drop the database for this run in PostgreSQL: {error}")
    };
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.map_err(cannot)?;
    tokio::spawn(connection);
    client.batch_execute(statement).await.map_err(cannot)
}

/// Parts of a server URL.
#[derive(Debug)]
struct Url<'a> {
    /// Scheme and credentials, with `://` and `@`.
    prefix: &'a str,
    host: &'a str,
    path: &'a str,
    query: &'a str,
}

impl<'a> Url<'a> {
    fn parse(text: &'a str) -> Result<Self, String> {
        let scheme = text.find("://").map(|at| at + 3).ok_or("the URL needs a scheme: postgres:// or redis://")?;
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
    fn host_and_port(&self, default_port: u16) -> String {
        match self.host.rsplit_once(':') {
            Some((_, port)) if port.parse::<u16>().is_ok() => self.host.to_owned(),
            _ => format!("{}:{default_port}", self.host),
        }
    }

    /// Returns the URL with the proxy as the server, and with another path.
    fn with_proxy(&self, proxy: &TcpProxy, path: &str) -> String {
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
            let url = Url::parse(text).unwrap();
            assert_eq!((url.prefix, url.path, url.query), (prefix, path, query), "{text}");
            assert_eq!(url.host_and_port(5432), host_and_port, "{text}");
        }
        for text in ["localhost:5432", "postgres://a@%2Frun/x", "postgres://a,b/x", "redis:///0"] {
            Url::parse(text).unwrap_err();
        }
    }
}
