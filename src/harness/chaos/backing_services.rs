//! PostgreSQL and Redis shared by several gateways, each behind a fault-injecting TCP proxy.

use tokio_postgres::NoTls;

use super::server_url::ServerUrl;
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
        let (postgres_url, redis_url) = (ServerUrl::parse(postgres)?, ServerUrl::parse(redis)?);
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
