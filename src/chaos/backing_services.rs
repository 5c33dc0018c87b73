//! The PostgreSQL and the Redis that several gateways share, each behind a relay that can lose it.

use tokio_postgres::NoTls;

use super::tcp_proxy::Relay;

/// Both, and what a gateway's `tollgate.toml` says of them.
pub(super) struct Stores {
    pub(super) postgres: Relay,
    pub(super) redis: Relay,
    /// `[ledger]` and `[cache]`.
    pub(super) sections: String,
    /// The PostgreSQL as it was given, and the database that was made there.
    url: String,
    database: String,
}

impl Stores {
    /// Makes a database of its own in that PostgreSQL, and the relays.
    pub(super) async fn open(postgres: &str, redis: &str) -> Result<Self, String> {
        let (postgres_url, redis_url) = (Url::parse(postgres)?, Url::parse(redis)?);
        let database = format!("tollgate_chaos_{:08x}", rand::random::<u32>());
        command(postgres, &format!("CREATE DATABASE {database}")).await?;
        let postgres_relay = Relay::open(vec![postgres_url.place(5432)]).await?;
        let redis_relay = Relay::open(vec![redis_url.place(6379)]).await?;
        let ledger = postgres_url.through(&postgres_relay, &format!("/{database}"));
        let cache = redis_url.through(&redis_relay, redis_url.path);
        let sections = format!(
            "[ledger]\nkind = \"postgres\"\nurl = \"plain:{ledger}\"\nmax_clock_offset = \"1h\"\n[cache]\nkind = \"redis\"\nurl = \"plain:{cache}\"\n"
        );
        Ok(Self { postgres: postgres_relay, redis: redis_relay, sections, url: postgres.to_owned(), database })
    }

    /// Removes the database.
    pub(super) async fn clear(self) -> Result<(), String> {
        let Self { url, database, .. } = self;
        command(&url, &format!("DROP DATABASE {database} WITH (FORCE)")).await
    }
}

async fn command(url: &str, command: &str) -> Result<(), String> {
    let cannot = |error: tokio_postgres::Error| format!("PostgreSQL cannot be used for this: {error}");
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.map_err(cannot)?;
    tokio::spawn(connection);
    client.batch_execute(command).await.map_err(cannot)
}

/// A server's URL in its parts.
#[derive(Debug)]
struct Url<'a> {
    /// Scheme, user and password, with what ends them.
    before: &'a str,
    host: &'a str,
    path: &'a str,
    query: &'a str,
}

impl<'a> Url<'a> {
    fn parse(text: &'a str) -> Result<Self, String> {
        let scheme = text.find("://").map(|at| at + 3).ok_or("a server's URL begins like postgres:// or redis://")?;
        let end = text.get(scheme..).and_then(|rest| rest.find(['/', '?'])).map_or(text.len(), |at| scheme + at);
        let (authority, rest) = text.split_at(end);
        let host_at = authority.rfind('@').map_or(scheme, |at| at + 1);
        let (before, host) = authority.split_at(host_at);
        let (path, query) = rest.split_at(rest.find('?').unwrap_or(rest.len()));
        if host.is_empty() || host.starts_with('%') || host.contains(',') {
            return Err("name one server by host and port: its connections go through a relay".to_owned());
        }
        Ok(Self { before, host, path, query })
    }

    /// `host:port`.
    fn place(&self, port: u16) -> String {
        match self.host.rsplit_once(':') {
            Some((_, port)) if port.parse::<u16>().is_ok() => self.host.to_owned(),
            _ => format!("{}:{port}", self.host),
        }
    }

    /// The same by way of the relay.
    fn through(&self, relay: &Relay, path: &str) -> String {
        format!("{}{}{path}{}", self.before, relay.address(), self.query)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
        for (text, before, place, path, query) in [
            ("postgres://a:p@db:1/x?y=z", "postgres://a:p@", "db:1", "/x", "?y=z"),
            ("postgres://localhost", "postgres://", "localhost:5432", "", ""),
            ("postgres://a@[::1]/x", "postgres://a@", "[::1]:5432", "/x", ""),
            ("redis://127.0.0.1:6379/2", "redis://", "127.0.0.1:6379", "/2", ""),
        ] {
            let url = Url::parse(text).unwrap();
            assert_eq!((url.before, url.path, url.query), (before, path, query), "{text}");
            assert_eq!(url.place(5432), place, "{text}");
        }
        for text in ["localhost:5432", "postgres://a@%2Frun/x", "postgres://a,b/x", "redis:///0"] {
            Url::parse(text).unwrap_err();
        }
    }
}
