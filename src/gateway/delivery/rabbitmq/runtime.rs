//! The runtime that the AMQP library drives its connection with: Tokio, with streams that are opened here.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use futures_io::{AsyncRead, AsyncWrite};
use futures_util::Stream;
use tokio_util::compat::Compat;

/// A TCP or TLS stream.
pub(super) trait ByteStream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> ByteStream for S {}

/// Runtime of one connection.
pub(super) type BrokerRuntime = RuntimeParts<Tokio, StreamReactor>;

/// Returns the runtime of the current task.
pub(super) fn current() -> Runtime<BrokerRuntime> {
    Runtime::new(RuntimeParts::new(Tokio::current(), StreamReactor(Tokio::current())))
}

/// Timers of Tokio, and streams of any kind. It opens none itself: addresses are checked and TLS is negotiated before
/// the library gets a stream.
#[derive(Clone, Debug)]
pub(super) struct StreamReactor(Tokio);

impl Reactor for StreamReactor {
    type TcpStream = Compat<Box<dyn ByteStream>>;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + Send + 'static>(
        &self,
        _: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        Err::<Self::TcpStream, _>(io::Error::from(io::ErrorKind::Unsupported))
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    fn tcp_connect_addr(&self, _: SocketAddr) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        std::future::ready(Err(io::Error::from(io::ErrorKind::Unsupported)))
    }
}
