//! Listeners for callers, public and admin: accept connections, count and secure them, bound their duration, and pass
//! them to Pingora's HTTP server.
//!
//! ```text
//! accept ─▶ registry    limits: total and per address; when full, the oldest idle connection is closed
//!        ─▶ connection  one task: TLS handshake, HTTP/1 or HTTP/2, then Pingora's HTTP server
//!           stream      read and write deadlines on top of
//!           transport   TCP or TLS
//! state     phase of a connection and the reason for its closing; shared by stream, registry and requests
//! refusal   responses to input that is not a request
//! files     file descriptors: raises the limit and reserves some for other uses
//! ```

mod connection;
mod files;
mod refusal;
mod registry;
mod state;
mod stream;
mod transport;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora::apps::HttpServerApp;
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::{ServiceReadyNotifier, ServiceWithDependents};
use tokio::net::TcpStream;
use tollgate_config::{Process, ServerLimits, ServerTls};

pub use self::connection::{Request, begin};
pub use self::files::{Descriptors, raise_limit};
use self::registry::Registry;
pub(crate) use self::state::Reason;
use crate::snapshot::Current;
use crate::telemetry::METRICS;
use crate::workers::Worker;

/// Connections that the kernel completes before they are accepted. With the usual 128, a burst makes callers wait a
/// second for their next SYN. With thousands, a flood makes them wait in the queue.
const BACKLOG: i32 = 1024;
/// Maximum number of connections being closed beyond the limit. Each still uses a descriptor.
const MAX_CLOSING: usize = 16;
/// Maximum rounds of waiting for connections to close, one millisecond each.
const MAX_CLOSING_ROUNDS: usize = 100;
/// Maximum number of connections to the admin port.
const MAX_ADMIN_CONNECTIONS: usize = 256;
/// Delay after a failed accept; doubles up to [`MAX_RETRY_DELAY`].
const MIN_RETRY_DELAY: Duration = Duration::from_millis(10);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(1);
/// Minimum time between two log lines about the same failure of a listener.
const LOG_INTERVAL: Duration = Duration::from_mins(1);

/// Kind of a listener; selects its part of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// For merchants and providers.
    Public,
    /// For operators.
    Admin,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Admin => "admin",
        }
    }

    fn tls(self, process: &Process) -> Option<&ServerTls> {
        match self {
            Self::Public => process.tls.as_ref(),
            Self::Admin => process.admin_tls.as_ref(),
        }
    }
}

/// Limits and TLS of a new connection, from the configuration in force when it is accepted.
#[derive(Clone)]
struct ConnectionTerms {
    limits: ServerLimits,
    max_connections: usize,
    max_per_address: usize,
    tls: Option<Arc<rustls::ServerConfig>>,
}

/// A Pingora service on a socket that is already bound.
pub struct Listener<A> {
    kind: Kind,
    app: Arc<A>,
    socket: Option<TcpListener>,
    current: Current,
    descriptors: Descriptors,
    worker: Arc<Worker>,
}

impl<A> Listener<A> {
    /// Creates a listener whose connections are served by `app`.
    pub fn new(
        kind: Kind,
        app: A,
        socket: TcpListener,
        current: Current,
        descriptors: Descriptors,
        worker: Arc<Worker>,
    ) -> Self {
        Self { kind, app: Arc::new(app), socket: Some(socket), current, descriptors, worker }
    }

    fn terms(&self) -> ConnectionTerms {
        let snapshot = self.current.load();
        let limits = snapshot.process.limits;
        let (max_connections, max_per_address) = match self.kind {
            Kind::Public => {
                let maximum = self.descriptors.connections(limits.max_connections as usize);
                (maximum, maximum.min(limits.max_connections_per_address as usize))
            }
            Kind::Admin => (MAX_ADMIN_CONNECTIONS, MAX_ADMIN_CONNECTIONS),
        };
        let tls = self.kind.tls(&snapshot.process).map(|tls| Arc::clone(&tls.config));
        ConnectionTerms { limits, max_connections, max_per_address, tls }
    }
}

#[async_trait]
impl<A: HttpServerApp + Send + Sync + 'static> ServiceWithDependents for Listener<A> {
    async fn start_service(
        &mut self,
        _: Option<ListenFds>,
        mut shutdown: ShutdownWatch,
        _: usize,
        ready: ServiceReadyNotifier,
    ) {
        let Some(socket) = self.socket.take() else { return };
        let socket = match tokio::net::TcpListener::from_std(socket) {
            Ok(socket) => socket,
            Err(error) => return tracing::error!(%error, listener = self.kind.name(), "the listener cannot start"),
        };
        // If this fails, the smaller backlog of the bound socket remains in effect.
        drop(socket2::SockRef::from(&socket).listen(BACKLOG));
        ready.notify_ready();
        tokio::spawn(Arc::clone(&self.worker).send_heartbeats());
        let registry = Arc::new(Registry::new(self.kind.name()));
        let mut failures = AcceptFailures::default();
        loop {
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                changed = shutdown.changed() => match changed {
                    Ok(()) if !*shutdown.borrow() => continue,
                    _ => break,
                },
            };
            match accepted {
                Ok((stream, address)) => {
                    failures.reset();
                    let maximum = self.serve(stream, address, &registry, &shutdown, &mut failures);
                    for _ in 0..MAX_CLOSING_ROUNDS {
                        if registry.descriptors() <= maximum.max(registry.count()) + MAX_CLOSING {
                            break;
                        }
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
                Err(error) => {
                    METRICS.accept_errors_total.with_label_values(&[self.kind.name()]).inc();
                    // Closing an idle connection frees a descriptor, in case those are exhausted.
                    registry.close_idle();
                    if failures.should_log() {
                        let limit = self.descriptors.limit();
                        tracing::error!(%error, limit, listener = self.kind.name(), "cannot accept connections; raise the limit of open files or lower server.max_connections");
                    }
                    tokio::time::sleep(failures.delay()).await;
                }
            }
        }
        drop(socket);
        self.app.http_cleanup().await;
    }

    fn name(&self) -> &str {
        self.kind.name()
    }

    fn threads(&self) -> Option<usize> {
        (self.kind == Kind::Admin).then_some(1)
    }
}

impl<A: HttpServerApp + Send + Sync + 'static> Listener<A> {
    /// Serves or rejects a connection. Returns the maximum number of connections.
    fn serve(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        registry: &Arc<Registry>,
        shutdown: &ShutdownWatch,
        failures: &mut AcceptFailures,
    ) -> usize {
        let terms = self.terms();
        let maximum = terms.max_connections;
        let limit = i64::try_from(maximum).unwrap_or(i64::MAX);
        METRICS.connections_limit.with_label_values(&[self.kind.name()]).set(limit);
        let Some(entry) = registry.enter(address.ip(), terms.max_connections, terms.max_per_address, &terms.limits)
        else {
            METRICS.connections_closed_total.with_label_values(&[self.kind.name(), "refused"]).inc();
            if failures.should_log() {
                tracing::warn!(
                    connections = registry.count(),
                    max_connections = terms.max_connections,
                    max_connections_per_address = terms.max_per_address,
                    listener = self.kind.name(),
                    "connections are rejected, because all open ones are busy; raise server.max_connections if this persists"
                );
            }
            return maximum;
        };
        tokio::spawn(connection::serve(self.kind, stream, terms, Arc::clone(&self.app), entry, shutdown.clone()));
        maximum
    }
}

/// Returns a note if the public listener has reached its connection limit. The gateway stays ready, because new
/// connections replace idle ones. Otherwise an attacker could remove every gateway from the load balancer.
pub fn saturation() -> Option<String> {
    let listener = [Kind::Public.name()];
    let (open, maximum) =
        (METRICS.connections.with_label_values(&listener), METRICS.connections_limit.with_label_values(&listener));
    let (open, maximum) = (open.get(), maximum.get());
    (maximum > 0 && open >= maximum)
        .then(|| format!("{open} of {maximum} connections are open: new connections replace idle ones\n"))
}

/// Limits log lines and retries when a listener cannot accept.
#[derive(Default)]
struct AcceptFailures {
    logged: Option<Instant>,
    delay: Option<Duration>,
}

impl AcceptFailures {
    fn should_log(&mut self) -> bool {
        let is_due = self.logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL);
        if is_due {
            self.logged = Some(Instant::now());
        }
        is_due
    }

    fn delay(&mut self) -> Duration {
        let delay = self.delay.map_or(MIN_RETRY_DELAY, |delay| (delay * 2).min(MAX_RETRY_DELAY));
        self.delay = Some(delay);
        delay
    }

    fn reset(&mut self) {
        self.delay = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_failures_increase_delay_and_are_logged_once() {
        let mut failures = AcceptFailures::default();
        assert_eq!((failures.should_log(), failures.should_log()), (true, false));
        let pauses: Vec<_> = (0..9).map(|_| failures.delay().as_millis()).collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        failures.reset();
        assert_eq!(failures.delay(), MIN_RETRY_DELAY);
    }
}
