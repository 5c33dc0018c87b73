//! Connections of callers, public and admin: accepted, counted, secured, bounded in time, handed to Pingora's HTTP.
//!
//! ```text
//! accept ─▶ registry    total and share of an address; when full, the oldest idle connection is closed
//!        ─▶ connection  one task: TLS handshake, HTTP/1 or HTTP/2, then Pingora's HTTP on
//!           stream      deadlines of reads and writes, over
//!           transport   TCP or TLS
//! state     phase of a connection, and why it is closed: shared by stream, registry and the app's requests
//! refusal   answers to what never becomes a request
//! files     descriptors: the limit is raised, and some are kept for everything else
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

pub(crate) use self::connection::{Request, begin};
pub(crate) use self::files::{Descriptors, raise_limit};
use self::registry::Registry;
pub(crate) use self::state::Reason;
use crate::config::{Current, Process, ServerLimits, ServerTls};
use crate::server::Worker;
use crate::telemetry::METRICS;

/// Connections that the kernel completes before they are accepted: with the usual 128 a burst makes callers wait a second for
/// their next SYN, with thousands a flood makes them wait in the queue.
const BACKLOG: i32 = 1024;
/// Connections beyond the limit whose closing is under way, each with its descriptor.
const MAX_CLOSING: usize = 16;
/// How often a closing is waited for, a millisecond each.
const CLOSING_ROUNDS: usize = 100;
/// Maximum number of connections to the admin port.
const ADMIN_CONNECTIONS: usize = 256;
/// Pause after a failed accept; doubles up to [`LONGEST_PAUSE`].
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Minimum time between two log lines about the same trouble of a listener.
const LOG_INTERVAL: Duration = Duration::from_mins(1);

/// Names the listener, and finds its part of the configuration in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
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

/// What a new connection is bound to: taken from the configuration in force when it is accepted.
#[derive(Clone)]
struct Terms {
    limits: ServerLimits,
    max_connections: usize,
    max_per_address: usize,
    tls: Option<Arc<rustls::ServerConfig>>,
}

/// A listener as a service of Pingora, on a socket that is bound already.
pub(crate) struct Listener<A> {
    kind: Kind,
    app: Arc<A>,
    socket: Option<TcpListener>,
    current: Current,
    descriptors: Descriptors,
    worker: Arc<Worker>,
}

impl<A> Listener<A> {
    /// `app` answers what comes in on `socket`.
    pub(crate) fn new(
        kind: Kind,
        app: A,
        socket: TcpListener,
        current: Current,
        descriptors: Descriptors,
        worker: Arc<Worker>,
    ) -> Self {
        Self { kind, app: Arc::new(app), socket: Some(socket), current, descriptors, worker }
    }

    fn terms(&self) -> Terms {
        let snapshot = self.current.load();
        let limits = snapshot.process.limits;
        let (max_connections, max_per_address) = match self.kind {
            Kind::Public => {
                let most = self.descriptors.connections(limits.max_connections as usize);
                (most, most.min(limits.max_connections_per_address as usize))
            }
            Kind::Admin => (ADMIN_CONNECTIONS, ADMIN_CONNECTIONS),
        };
        let tls = self.kind.tls(&snapshot.process).map(|tls| Arc::clone(&tls.config));
        Terms { limits, max_connections, max_per_address, tls }
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
        // Without it the smaller backlog stays, and everything works.
        drop(socket2::SockRef::from(&socket).listen(BACKLOG));
        ready.notify_ready();
        tokio::spawn(Arc::clone(&self.worker).give_signs());
        let registry = Arc::new(Registry::new(self.kind.name()));
        let mut trouble = Trouble::default();
        loop {
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                stop = shutdown.changed() => match stop {
                    Ok(()) if !*shutdown.borrow() => continue,
                    _ => break,
                },
            };
            match accepted {
                Ok((stream, address)) => {
                    trouble.ends();
                    let most = self.serve(stream, address, &registry, &shutdown, &mut trouble);
                    for _ in 0..CLOSING_ROUNDS {
                        if registry.descriptors() <= most.max(registry.count()) + MAX_CLOSING {
                            break;
                        }
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
                Err(error) => {
                    METRICS.accept_errors_total.with_label_values(&[self.kind.name()]).inc();
                    // An idle connection gives its descriptor away, where those are what is missing.
                    registry.close_idle();
                    if trouble.is_to_log() {
                        let limit = self.descriptors.limit();
                        tracing::error!(%error, limit, listener = self.kind.name(), "cannot accept connections; raise the limit of open files or lower server.max_connections");
                    }
                    tokio::time::sleep(trouble.pause()).await;
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
    /// Serves or refuses a connection, and gives the maximum number of connections.
    fn serve(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        registry: &Arc<Registry>,
        shutdown: &ShutdownWatch,
        trouble: &mut Trouble,
    ) -> usize {
        let terms = self.terms();
        let most = terms.max_connections;
        let shown = i64::try_from(most).unwrap_or(i64::MAX);
        METRICS.connections_limit.with_label_values(&[self.kind.name()]).set(shown);
        let Some(entry) = registry.enter(address.ip(), terms.max_connections, terms.max_per_address, &terms.limits)
        else {
            METRICS.connections_closed_total.with_label_values(&[self.kind.name(), "refused"]).inc();
            if trouble.is_to_log() {
                tracing::warn!(
                    connections = registry.count(),
                    max_connections = terms.max_connections,
                    max_connections_per_address = terms.max_per_address,
                    listener = self.kind.name(),
                    "connections are refused: all that are open are busy"
                );
            }
            return most;
        };
        tokio::spawn(connection::serve(self.kind, stream, terms, Arc::clone(&self.app), entry, shutdown.clone()));
        most
    }
}

/// Says that the public listener has as many connections as it may. A gateway is ready all the same: new connections take the
/// place of idle ones, and a stranger who could make it "not ready" could take every gateway out of the load balancer.
pub(crate) fn strain() -> Option<String> {
    let listener = [Kind::Public.name()];
    let (open, most) =
        (METRICS.connections.with_label_values(&listener), METRICS.connections_limit.with_label_values(&listener));
    let (open, most) = (open.get(), most.get());
    (most > 0 && open >= most)
        .then(|| format!("{open} of {most} connections are open: new ones take the place of idle ones\n"))
}

/// Bounds log lines and loops when a listener cannot accept.
#[derive(Default)]
struct Trouble {
    logged: Option<Instant>,
    pause: Option<Duration>,
}

impl Trouble {
    fn is_to_log(&mut self) -> bool {
        let is_due = self.logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL);
        if is_due {
            self.logged = Some(Instant::now());
        }
        is_due
    }

    fn pause(&mut self) -> Duration {
        let pause = self.pause.map_or(SHORTEST_PAUSE, |pause| (pause * 2).min(LONGEST_PAUSE));
        self.pause = Some(pause);
        pause
    }

    fn ends(&mut self) {
        self.pause = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_pauses_longer_each_time_and_logs_once() {
        let mut trouble = Trouble::default();
        assert_eq!((trouble.is_to_log(), trouble.is_to_log()), (true, false));
        let pauses: Vec<_> = (0..9).map(|_| trouble.pause().as_millis()).collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        trouble.ends();
        assert_eq!(trouble.pause(), SHORTEST_PAUSE);
    }
}
