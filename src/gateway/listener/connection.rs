//! The task of one connection: TLS handshake, protocol detection, then Pingora's HTTP server until the connection
//! ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora::server::ShutdownWatch;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::registry::Entry;
use super::state::{ConnectionState, Reason};
use super::stream::Stream;
use super::transport::Transport;
use super::{ConnectionTerms, Kind};
use crate::telemetry::METRICS;

/// Maximum concurrent streams of an HTTP/2 connection.
const MAX_STREAMS_PER_CLIENT: u32 = 100;
/// Maximum size of the header fields of an HTTP/2 request, in bytes.
const MAX_HEADER_LIST: u32 = 16 << 10;
/// Maximum number of streams that were reset before they were accepted (rapid reset). Beyond it the connection is
/// closed.
const MAX_RESET_STREAMS: usize = 20;

tokio::task_local! {
    static REQUEST: Arc<Request>;
}

/// A request on a connection, as seen by the application.
pub struct Request {
    state: Arc<ConnectionState>,
    has_begun: AtomicBool,
    is_working: AtomicBool,
}

/// Marks the current task's request as begun, after its head was read. Returns `None` if the connection is being
/// closed; the request must then not be processed.
pub fn begin(session: &mut ServerSession) -> Option<Arc<Request>> {
    let request = REQUEST.try_with(Arc::clone).ok()?;
    let has_begun = request.state.begin();
    request.has_begun.store(has_begun, Ordering::Relaxed);
    session.set_write_timeout(Some(request.state.write_timeout()));
    has_begun.then_some(request)
}

impl Request {
    fn new(state: Arc<ConnectionState>) -> Arc<Self> {
        Arc::new(Self { state, has_begun: AtomicBool::new(false), is_working: AtomicBool::new(false) })
    }

    /// Starts processing, during which the connection is not evicted. Returns false if the connection is being
    /// closed.
    pub fn begin_work(&self) -> bool {
        let is_working = self.state.begin_work();
        self.is_working.store(is_working, Ordering::Relaxed);
        is_working
    }

    /// Ends processing. Dropping the request has the same effect.
    pub fn end_work(&self) {
        if self.is_working.swap(false, Ordering::Relaxed) {
            self.state.end_work();
        }
    }

    /// Returns the state of the request's connection.
    pub(crate) fn connection(&self) -> &ConnectionState {
        &self.state
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.end_work();
        if self.has_begun.load(Ordering::Relaxed) {
            self.state.end();
        }
    }
}

/// Serves one connection until it ends.
pub(super) async fn serve<A: HttpServerApp + Send + Sync + 'static>(
    kind: Kind,
    tcp: TcpStream,
    terms: ConnectionTerms,
    app: Arc<A>,
    entry: Entry,
    shutdown: ShutdownWatch,
) {
    let state = entry.state();
    let reason = tokio::select! {
        biased;
        reason = state.closed() => Some(reason),
        result = run_connection(tcp, terms, app, Arc::clone(state), shutdown) => result.err(),
    };
    if let Some(reason) = reason {
        METRICS.connections_closed_total.with_label_values(&[kind.name(), reason.name()]).inc();
    }
}

async fn run_connection<A: HttpServerApp + Send + Sync + 'static>(
    tcp: TcpStream,
    terms: ConnectionTerms,
    app: Arc<A>,
    state: Arc<ConnectionState>,
    shutdown: ShutdownWatch,
) -> Result<(), Reason> {
    // Without TCP_NODELAY a response may wait for the acknowledgement of the previous one. A failure here is
    // harmless.
    drop(tcp.set_nodelay(true));
    let transport = match terms.tls {
        None => Transport::Plain(tcp),
        Some(tls) => {
            let handshake = timeout(terms.limits.handshake_timeout, TlsAcceptor::from(tls).accept(tcp));
            let Ok(Ok(stream)) = handshake.await else { return Err(Reason::Handshake) };
            Transport::Tls(Box::new(stream))
        }
    };
    state.expect_first_head();
    let mut stream = Stream::new(transport, Arc::clone(&state));
    let Ok(is_http2) = stream.detect_http2().await else { return Ok(()) };
    let mut options = HttpServerOptions::default();
    options.h2_idle_timeout = Some(terms.limits.keepalive_timeout);
    let connection = Arc::new(Connection { app, state, is_http2, has_served: AtomicBool::new(false), options });
    // Boxed, so that an idle connection needs less memory than one that serves a request.
    Box::pin(async move { connection.process_new(Box::new(stream), &shutdown).await }).await;
    Ok(())
}

/// The application on one connection.
struct Connection<A> {
    app: Arc<A>,
    state: Arc<ConnectionState>,
    is_http2: bool,
    has_served: AtomicBool,
    options: HttpServerOptions,
}

#[async_trait]
impl<A: HttpServerApp + Send + Sync + 'static> HttpServerApp for Connection<A> {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        if self.has_served.swap(true, Ordering::Relaxed) && !self.is_http2 {
            self.state.expect_next_head();
        }
        REQUEST.scope(Request::new(Arc::clone(&self.state)), self.app.process_new_http(session, shutdown)).await
    }

    fn h2_options(&self) -> Option<H2Options> {
        let mut options = default_h2_options();
        options
            .max_concurrent_streams(MAX_STREAMS_PER_CLIENT)
            .max_header_list_size(MAX_HEADER_LIST)
            .max_pending_accept_reset_streams(MAX_RESET_STREAMS);
        Some(options)
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }
}
