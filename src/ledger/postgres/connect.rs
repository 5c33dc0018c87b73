//! Connection to whichever of the configured hosts is writable.

use std::future::poll_fn;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio_postgres::tls::{MakeTlsConnect, NoTlsStream, TlsConnect};
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::address::Address;
use super::failure::{Failure, Kind};

/// Timeout of one host, until it has confirmed that it is writable. The next host is tried after it.
const HOST_TIMEOUT: Duration = Duration::from_secs(4);

type Protected = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;

/// Driver of a connection, which transfers its bytes.
pub(super) enum Link {
    Plain(Box<Connection<Socket, NoTlsStream>>),
    Protected(Box<Connection<Socket, Protected>>),
}

impl Link {
    pub(super) fn poll_message(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<AsyncMessage, tokio_postgres::Error>>> {
        match self {
            Self::Plain(connection) => connection.poll_message(context),
            Self::Protected(connection) => connection.poll_message(context),
        }
    }

    /// Drives the connection until it ends.
    pub(super) async fn carry(mut self) {
        while let Some(Ok(_)) = poll_fn(|context| self.poll_message(context)).await {}
    }
}

/// Connects to the first writable host, starting with the last one that was.
pub(super) async fn connect(address: &Address) -> Result<(Client, Link), Failure> {
    let count = address.hosts.len().max(1);
    let first = address.preferred.load(Ordering::Relaxed);
    let mut refused: Option<Failure> = None;
    for number in (0..count).map(|step| (first + step) % count) {
        let Some(config) = address.hosts.get(number) else { continue };
        let connecting = async {
            match &address.tls {
                Some(tls) => {
                    over(config, tls.clone()).await.map(|(client, it)| (client, Link::Protected(Box::new(it))))
                }
                None => over(config, NoTls).await.map(|(client, it)| (client, Link::Plain(Box::new(it)))),
            }
        };
        let failure = match tokio::time::timeout(HOST_TIMEOUT, connecting).await {
            Ok(Ok(connected)) => {
                address.preferred.store(number, Ordering::Relaxed);
                return Ok(connected);
            }
            Ok(Err(error)) => Failure::of(error),
            Err(_) => Failure::disconnected("PostgreSQL does not answer"),
        };
        // A host that allows no further connections says more than one that is down.
        if refused.as_ref().is_none_or(|before| before.kind != Kind::Crowded) {
            refused = Some(failure);
        }
    }
    let failure = refused.unwrap_or_else(|| Failure::other("no host is named"));
    Err(Failure { why: format!("{address} cannot be reached: {}", failure.why), ..failure })
}

async fn over<T>(config: &Config, tls: T) -> Result<(Client, Connection<Socket, T::Stream>), tokio_postgres::Error>
where
    T: MakeTlsConnect<Socket>,
    T::TlsConnect: TlsConnect<Socket>,
{
    config.connect(tls).await
}
