//! The server process: binds listeners, starts background workers, handles signals and drains before it exits.

pub(crate) mod signals;

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pingora::proxy::http_proxy;
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, Server, ShutdownWatch};
use tokio::signal::unix::{SignalKind, signal};
use tollgate_config::{LedgerConfig, Process};
use tollgate_gateway::change_hub::Listeners;
use tollgate_gateway::listener::{self, Descriptors, Listener};
use tollgate_gateway::operations::Gateway;
use tollgate_gateway::probe::{self, Probes};
use tollgate_gateway::proxy::{HttpProxy, InFlight};
use tollgate_gateway::reload::generations::Generations;
use tollgate_gateway::reload::{self, ReloadHandle, Reloader};
use tollgate_gateway::telemetry::log;

use self::signals::{SignalReadiness, Signals};
use crate::admin::Admin;
use crate::output::say;
use tollgate_gateway::open_ledger::open_ledger;
use tollgate_gateway::workers::Workers;
use tollgate_gateway::{cache, clock, delivery, job_worker, operator_events, purge_worker, resolver, source};

/// A gateway with bound sockets that does not serve yet.
pub(crate) struct Bound {
    gateway: Arc<Gateway>,
    process: Arc<Process>,
    reloader: Reloader,
    public_listener: TcpListener,
    admin: TcpListener,
    address: SocketAddr,
    admin_address: SocketAddr,
    descriptors: Descriptors,
}

/// Reads the configuration, opens the ledger and binds the sockets.
pub(crate) fn bind(conf: PathBuf) -> Result<Bound, String> {
    log::start();
    let current = reload::load_first(&conf).map_err(|diagnostics| {
        let lines: String = diagnostics.iter().map(|diagnostic| format!("\n{diagnostic}")).collect();
        format!("the configuration has errors, nothing was started:{lines}")
    })?;
    let process = Arc::clone(&current.load().process);
    log::set(&process.log, process.log_buffer);
    #[cfg(feature = "tools")]
    clock::skew::read_environment(&process.public_url)?;
    let descriptors = listener::raise_limit();
    let required = process.limits.max_connections as usize;
    let connections = descriptors.connections(required);
    if connections < required {
        let limit = descriptors.limit();
        tracing::warn!(
            connections,
            limit,
            "the limit of open files allows fewer connections than server.max_connections: raise the limit (ulimit -n)"
        );
    }
    clock::allow_offset(process.max_clock_offset);
    let listen = |address: SocketAddr, key: &str| {
        let cannot_listen =
            |error| format!("cannot listen on {address}: {error}; choose another address in `{key}` of tollgate.toml");
        let socket = TcpListener::bind(address).map_err(cannot_listen)?;
        socket.set_nonblocking(true).map_err(cannot_listen)?;
        let bound = socket.local_addr().map_err(cannot_listen)?;
        Ok::<_, String>((socket, bound))
    };
    let (public_listener, address) = listen(process.listen, "server.listen")?;
    let (admin, admin_address) = listen(process.admin_listen, "admin.listen")?;
    let in_use = Generations::of(&conf).in_use();
    in_use.admit(&process.ledger)?;
    let ledger = open_ledger(&process, &current)?;
    in_use.confirm(&process.ledger, &ledger)?;
    let nonces = match &process.ledger {
        LedgerConfig::Embedded(path) => path.join("nonces"),
        LedgerConfig::Postgres(_) => Generations::of(&conf).nonces(),
    };
    let gateway = Arc::new(Gateway::new(Arc::clone(&current), ledger, &nonces));
    let reloader = Reloader::new(conf, current);
    Ok(Bound { gateway, process, reloader, public_listener, admin, address, admin_address, descriptors })
}

impl Bound {
    /// Serves until a signal ends the process. SIGTERM drains requests in flight first; SIGINT exits at once.
    pub(crate) fn serve(self) -> ! {
        if let Err(why) = self.run() {
            tracing::error!(why, "the server cannot run");
            log::exit(1);
        }
        log::exit(0)
    }

    fn run(self) -> Result<(), String> {
        let Self { gateway, process, reloader, public_listener, admin, address, admin_address, descriptors } = self;
        let conf = ServerConf {
            threads: std::thread::available_parallelism().map_or(2, std::num::NonZero::get),
            // Pingora sleeps this long after SIGTERM in any case; `Drain` exits earlier.
            grace_period_seconds: Some(process.drain.as_secs() + 1),
            graceful_shutdown_timeout_seconds: Some(1),
            ..ServerConf::default()
        };
        let mut server = Server::new_with_opt_and_conf(None, conf);
        server.bootstrap();
        let in_flight = InFlight::default();
        let draining = Arc::new(AtomicBool::new(false));
        let signals = SignalReadiness::not_ready();
        let workers = Workers::default();

        let scheme = if process.tls.is_some() { "https" } else { "http" };
        let app = HttpProxy::new(Arc::clone(&gateway), in_flight.clone(), scheme, process.body_limit);
        let app = http_proxy(&server.configuration, app);
        let current = || Arc::clone(&gateway.current);
        let worker = workers.add("serving");
        server.add_service(Listener::new(listener::Kind::Public, app, public_listener, current(), descriptors, worker));

        let admin_scheme = if process.admin_tls.is_some() { "https" } else { "http" };
        let reload = reloader.handle();
        let probes = Arc::new(Probes::default());
        let app = Admin {
            gateway: Arc::clone(&gateway),
            draining: Arc::clone(&draining),
            signals: Arc::clone(&signals),
            reload: reload.clone(),
            probes: Arc::clone(&probes),
            workers: workers.clone(),
        };
        let worker = workers.add("admin");
        server.add_service(Listener::new(listener::Kind::Admin, app, admin, current(), descriptors, worker));

        server.add_service(workers.background("reload", move |shutdown| reloader.run(shutdown)));
        let hang_up_signals = Arc::clone(&signals);
        server.add_service(
            workers.background("hang-up", move |shutdown| reload_on_hang_up(reload, hang_up_signals, shutdown)),
        );
        let current = Arc::clone(&gateway.current);
        server.add_service(workers.background("probe", move |shutdown| probe::run(probes, current, shutdown)));
        let (keys, current) = (Arc::clone(gateway.provider_client.keys()), Arc::clone(&gateway.current));
        server.add_service(workers.background("keys", move |shutdown| keys.run(current, shutdown)));
        let resolver = Arc::clone(&gateway);
        server.add_service(workers.background("resolve", move |shutdown| resolver::run(resolver, shutdown)));
        let (worker, jobs_in_flight) = (Arc::clone(&gateway), in_flight.clone());
        server.add_service(
            workers.background("queue", move |shutdown| job_worker::run(worker, jobs_in_flight, shutdown)),
        );
        let (worker, messages_in_flight) = (Arc::clone(&gateway), in_flight.clone());
        server.add_service(
            workers.background("sources", move |shutdown| source::run(worker, messages_in_flight, shutdown)),
        );
        let (current, ledger) = (Arc::clone(&gateway.current), gateway.ledger.clone());
        server.add_service(workers.background("delivery", move |shutdown| delivery::run(current, ledger, shutdown)));
        let (current, ledger) = (Arc::clone(&gateway.current), gateway.ledger.clone());
        let port = address.port();
        server.add_service(
            workers.background("operator events", move |_| delivery::operator::run(current, ledger, port)),
        );
        let (current, ledger) = (Arc::clone(&gateway.current), gateway.ledger.clone());
        server.add_service(workers.background("purge", move |shutdown| purge_worker::run(current, ledger, shutdown)));
        let (statuses, ledger) = (Arc::clone(&gateway.statuses), gateway.ledger.clone());
        let hub = Arc::clone(&gateway.change_hub);
        let listener = Arc::new(Listeners(vec![Arc::clone(&statuses) as _, Arc::clone(&hub) as _]));
        server.add_service(workers.background("statuses", move |shutdown| statuses.run(ledger, listener, shutdown)));
        server.add_service(workers.background("streams", move |shutdown| hub.run(shutdown)));
        let redis = gateway.redis.clone();
        server.add_service(workers.background("redis", move |shutdown| cache::watch::run(redis, shutdown)));
        let caller_timeout = process.limits.write_timeout.min(MAX_CALLER_WAIT);
        let drain = Drain { in_flight, draining, limit: process.drain, caller_timeout };
        server.add_service(workers.background("drain", move |shutdown| drain.run(shutdown)));

        // In a thread of its own, because writing to standard output may block.
        std::thread::spawn(move || {
            say!("tollgate listens on {scheme}://{address}, admin on {admin_scheme}://{admin_address}");
        });
        server.run(RunArgs { shutdown_signal: Box::new(Signals(signals)) });
        Ok(())
    }
}

/// Exits as soon as no request is in flight, so that SIGTERM ends an idle process immediately.
struct Drain {
    in_flight: InFlight,
    draining: Arc<AtomicBool>,
    limit: Duration,
    /// Maximum wait for callers that send a request or read a response, once no request is being processed.
    caller_timeout: Duration,
}

/// Active callers read a response within this time. Callers who never complete a request are not awaited longer.
const MAX_CALLER_WAIT: Duration = Duration::from_secs(5);

impl Drain {
    async fn run(self, mut shutdown: ShutdownWatch) {
        if shutdown.wait_for(|is_stopping| *is_stopping).await.is_err() {
            return;
        }
        self.draining.store(true, Ordering::Release);
        let deadline = Instant::now() + self.limit;
        // Just accepted sockets are not counted yet, so idleness counts only if it lasts for several rounds.
        let mut idle_rounds = 0;
        let (mut responses, mut last_progress) = (0, Instant::now());
        while idle_rounds < 5 && Instant::now() < deadline {
            let (bodies, processing, responses_left) =
                (self.in_flight.bodies(), self.in_flight.count(), self.in_flight.responses());
            // A request body that ends or is given up does not extend the wait for other bodies.
            if processing > 0 || responses_left < responses {
                last_progress = Instant::now();
            }
            responses = responses_left;
            if processing == 0 && last_progress.elapsed() >= self.caller_timeout {
                break;
            }
            idle_rounds = if bodies + processing + responses_left == 0 { idle_rounds + 1 } else { 0 };
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // Each operator event gets one attempt. A sink that hangs cannot use up more than the limit.
        while operator_events::in_progress() > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let in_flight = &self.in_flight;
        let (unfinished, unsent, responses_left) = (in_flight.count(), in_flight.bodies(), in_flight.responses());
        tracing::info!(unfinished, unsent, responses_left, "shutting down");
        log::exit(0);
    }
}

async fn reload_on_hang_up(reload: ReloadHandle, signals: Arc<SignalReadiness>, mut shutdown: ShutdownWatch) {
    let hang_up = signal(SignalKind::hangup());
    signals.awaits_hang_up.store(false, Ordering::Release);
    let Ok(mut hang_up) = hang_up else { return };
    loop {
        let is_stopping = tokio::select! {
            _ = hang_up.recv() => false,
            _ = shutdown.wait_for(|is_stopping| *is_stopping) => true,
        };
        if is_stopping {
            return;
        }
        // The reload logs and counts its result itself.
        drop(reload.reload().await);
    }
}
