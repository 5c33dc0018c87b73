//! The process: listeners bound, background work started, signals heard, everything finished before it leaves.

mod workers;

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora::proxy::http_proxy;
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, Server, ShutdownSignal, ShutdownSignalWatch, ShutdownWatch};
use tokio::signal::unix::{SignalKind, signal};

pub(crate) use self::workers::{Worker, Workers};
use crate::admin::Admin;
use crate::config::generations::Generations;
use crate::config::reload::{self, ReloadHandle, Reloader};
use crate::config::{LedgerConfig, Process};
use crate::gateway::Gateway;
use crate::ledger::{Ledger, refuse_moved};
use crate::listener::{self, Descriptors, Listener};
use crate::output::say;
use crate::probe::{self, Probes};
use crate::proxy::{HttpProxy, InFlight};
use crate::telemetry::log;
use crate::{cache, clock, delivery, job_worker, purge_worker, resolver};

/// A gateway with its sockets bound, not yet serving.
pub struct Bound {
    gateway: Arc<Gateway>,
    process: Arc<Process>,
    reloader: Reloader,
    door: TcpListener,
    admin: TcpListener,
    address: SocketAddr,
    admin_address: SocketAddr,
    descriptors: Descriptors,
}

/// Reads the configuration, opens the ledger and binds the sockets; says what is wrong in words.
pub fn bind(conf: PathBuf) -> Result<Bound, String> {
    log::start();
    let current = reload::load_first(&conf).map_err(|mistakes| {
        let lines: String = mistakes.iter().map(|mistake| format!("\n{mistake}")).collect();
        format!("the configuration has mistakes, nothing was started:{lines}")
    })?;
    let process = Arc::clone(&current.load().process);
    log::set(&process.log, process.log_buffer);
    clock::apply_test_skew(&process.public_url)?;
    let descriptors = listener::raise_limit();
    let wanted = process.limits.max_connections as usize;
    let connections = descriptors.connections(wanted);
    if connections < wanted {
        let limit = descriptors.limit();
        tracing::warn!(
            connections,
            limit,
            "fewer connections than server.max_connections: raise the limit of open files"
        );
    }
    clock::allow_offset(process.max_clock_offset);
    let listen = |address: SocketAddr, key: &str| {
        let cannot =
            |error| format!("cannot listen on {address}: {error}; choose another address in `{key}` of tollgate.toml");
        let socket = TcpListener::bind(address).map_err(cannot)?;
        socket.set_nonblocking(true).map_err(cannot)?;
        let bound = socket.local_addr().map_err(cannot)?;
        Ok::<_, String>((socket, bound))
    };
    let (door, address) = listen(process.listen, "server.listen")?;
    let (admin, admin_address) = listen(process.admin_listen, "admin.listen")?;
    let in_use = Generations::of(&conf).in_use();
    in_use.admit(&process.ledger)?;
    let ledger = open_ledger(&process)?;
    in_use.confirm(&process.ledger, &ledger)?;
    let nonces = match &process.ledger {
        LedgerConfig::Embedded(path) => path.join("nonces"),
        LedgerConfig::Postgres(_) => Generations::of(&conf).nonces(),
    };
    let gateway = Arc::new(Gateway::new(Arc::clone(&current), ledger, &nonces));
    let reloader = Reloader::new(conf, current);
    Ok(Bound { gateway, process, reloader, door, admin, address, admin_address, descriptors })
}

/// Opens the ledger, or says in words why it cannot be opened.
pub(crate) fn open_ledger(process: &Process) -> Result<Ledger, String> {
    match &process.ledger {
        // It says what to do by itself.
        LedgerConfig::Embedded(path) if let Err(error) = refuse_moved(path) => Err(error.0),
        LedgerConfig::Embedded(path) => Ledger::open_with(path, process.reserve).map_err(|error| error.to_string()),
        LedgerConfig::Postgres(address) => Ledger::connect_with(address.as_ref().clone(), process.connections)
            .map_err(|error| format!("{error}; see that it runs and that `ledger.url` of tollgate.toml leads to it")),
    }
}

impl Bound {
    /// Where merchants and providers come in.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where metrics and health are.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// Serves until the process is told to leave, and then leaves it: SIGTERM as soon as nothing is in flight, SIGINT at
    /// once.
    pub fn serve(self) -> ! {
        if let Err(why) = self.run() {
            tracing::error!(why, "cannot serve");
            log::exit(1);
        }
        log::exit(0)
    }

    fn run(self) -> Result<(), String> {
        let Self { gateway, process, reloader, door, admin, address, admin_address, descriptors } = self;
        let conf = ServerConf {
            threads: std::thread::available_parallelism().map_or(2, std::num::NonZero::get),
            // Pingora sleeps this long after SIGTERM whatever happens; `Drain` leaves before.
            grace_period_seconds: Some(process.drain.as_secs() + 1),
            graceful_shutdown_timeout_seconds: Some(1),
            ..ServerConf::default()
        };
        let mut server = Server::new_with_opt_and_conf(None, conf);
        server.bootstrap();
        let in_flight = InFlight::default();
        let draining = Arc::new(AtomicBool::new(false));
        let deaf = SignalReadiness::to_all();
        let workers = Workers::default();

        let scheme = if process.tls.is_some() { "https" } else { "http" };
        let app = HttpProxy::new(Arc::clone(&gateway), in_flight.clone(), scheme, process.body_limit);
        let app = http_proxy(&server.configuration, app);
        let current = || Arc::clone(&gateway.current);
        let worker = workers.add("serving");
        server.add_service(Listener::new(listener::Kind::Public, app, door, current(), descriptors, worker));

        let admin_scheme = if process.admin_tls.is_some() { "https" } else { "http" };
        let reload = reloader.handle();
        let probes = Arc::new(Probes::default());
        let app = Admin {
            gateway: Arc::clone(&gateway),
            draining: Arc::clone(&draining),
            deaf: Arc::clone(&deaf),
            reload: reload.clone(),
            probes: Arc::clone(&probes),
            workers: workers.clone(),
        };
        let worker = workers.add("admin");
        server.add_service(Listener::new(listener::Kind::Admin, app, admin, current(), descriptors, worker));

        server.add_service(workers.background("reload", move |stop| reloader.run(stop)));
        let hears = Arc::clone(&deaf);
        server.add_service(workers.background("hang-up", move |stop| reload_on_hang_up(reload, hears, stop)));
        let current = Arc::clone(&gateway.current);
        server.add_service(workers.background("probe", move |stop| probe::run(probes, current, stop)));
        let (keys, current) = (Arc::clone(gateway.exchanger.keys()), Arc::clone(&gateway.current));
        server.add_service(workers.background("keys", move |stop| keys.run(current, stop)));
        let resolver = Arc::clone(&gateway);
        server.add_service(workers.background("resolve", move |stop| resolver::run(resolver, stop)));
        let (worker, inside) = (Arc::clone(&gateway), in_flight.clone());
        server.add_service(workers.background("queue", move |stop| job_worker::run(worker, inside, stop)));
        let (current, ledger) = (Arc::clone(&gateway.current), gateway.ledger.clone());
        server.add_service(workers.background("delivery", move |stop| delivery::run(current, ledger, stop)));
        let (current, ledger) = (Arc::clone(&gateway.current), gateway.ledger.clone());
        server.add_service(workers.background("purge", move |stop| purge_worker::run(current, ledger, stop)));
        let (statuses, ledger) = (Arc::clone(&gateway.statuses), gateway.ledger.clone());
        server.add_service(workers.background("statuses", move |stop| statuses.run(ledger, stop)));
        let redis = gateway.redis.clone();
        server.add_service(workers.background("redis", move |stop| cache::watch::run(redis, stop)));
        let stuck = process.limits.write_timeout.min(LONGEST_STUCK);
        let drain = Drain { in_flight, draining, limit: process.drain, stuck };
        server.add_service(workers.background("drain", move |stop| drain.run(stop)));

        // On a thread of its own: nobody may read standard output.
        std::thread::spawn(move || {
            say!("tollgate listens on {scheme}://{address}, admin on {admin_scheme}://{admin_address}");
        });
        server.run(RunArgs { shutdown_signal: Box::new(Signals(deaf)) });
        Ok(())
    }
}

/// Leaves as soon as nothing is in flight, so that SIGTERM costs an idle process no time.
struct Drain {
    in_flight: InFlight,
    draining: Arc<AtomicBool>,
    limit: Duration,
    /// How long callers are waited for that send a request or take a response, once no request is worked on.
    stuck: Duration,
}

/// Callers that go on take a response within this time. Strangers who never end a request are not waited for longer.
const LONGEST_STUCK: Duration = Duration::from_secs(5);

impl Drain {
    async fn run(self, mut shutdown: ShutdownWatch) {
        if shutdown.wait_for(|stop| *stop).await.is_err() {
            return;
        }
        self.draining.store(true, Ordering::Release);
        let until = Instant::now() + self.limit;
        // Sockets just accepted have not been counted yet: being idle counts only when it lasts a moment.
        let mut idle_rounds = 0;
        let (mut responses, mut since) = (0, Instant::now());
        while idle_rounds < 5 && Instant::now() < until {
            let (bodies, working, unread) =
                (self.in_flight.bodies(), self.in_flight.count(), self.in_flight.responses());
            // A body that ends, or is given up, is no reason to wait longer for the others.
            if working > 0 || unread < responses {
                since = Instant::now();
            }
            responses = unread;
            if working == 0 && since.elapsed() >= self.stuck {
                break;
            }
            idle_rounds = if bodies + working + unread == 0 { idle_rounds + 1 } else { 0 };
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let in_flight = &self.in_flight;
        let (unfinished, unsent, unread) = (in_flight.count(), in_flight.bodies(), in_flight.responses());
        tracing::info!(unfinished, unsent, unread, "leaving");
        log::exit(0);
    }
}

async fn reload_on_hang_up(reload: ReloadHandle, deaf: Arc<SignalReadiness>, mut shutdown: ShutdownWatch) {
    let hang_up = signal(SignalKind::hangup());
    deaf.to_hang_up.store(false, Ordering::Release);
    let Ok(mut hang_up) = hang_up else { return };
    loop {
        let stop = tokio::select! {
            _ = hang_up.recv() => false,
            _ = shutdown.wait_for(|stop| *stop) => true,
        };
        if stop {
            return;
        }
        // What it found is logged and counted there.
        drop(reload.reload().await);
    }
}

/// The signals that would end the process, because nobody waits for them yet.
#[derive(Debug)]
pub(crate) struct SignalReadiness {
    to_hang_up: AtomicBool,
    to_the_end: AtomicBool,
}

impl SignalReadiness {
    fn to_all() -> Arc<Self> {
        Arc::new(Self { to_hang_up: true.into(), to_the_end: true.into() })
    }

    pub(crate) fn to_any(&self) -> bool {
        self.to_hang_up.load(Ordering::Acquire) || self.to_the_end.load(Ordering::Acquire)
    }
}

struct Signals(Arc<SignalReadiness>);

#[async_trait]
impl ShutdownSignalWatch for Signals {
    async fn recv(&self) -> ShutdownSignal {
        let waited_for = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
        self.0.to_the_end.store(false, Ordering::Release);
        let (Ok(mut terminate), Ok(mut interrupt)) = waited_for else {
            tracing::error!("signals cannot be heard");
            return ShutdownSignal::FastShutdown;
        };
        tokio::select! {
            _ = terminate.recv() => ShutdownSignal::GracefulTerminate,
            _ = interrupt.recv() => ShutdownSignal::FastShutdown,
        }
    }
}
