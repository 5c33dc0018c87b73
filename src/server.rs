//! The process: listeners bound, background work started, signals heard, everything finished before it leaves.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::IntoRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora::listeners::tls::TlsSettings;
use pingora::proxy::http_proxy_service_with_name;
use pingora::server::configuration::ServerConf;
use pingora::server::{Fds, ListenFds, RunArgs, Server, ShutdownSignal, ShutdownSignalWatch, ShutdownWatch};
use pingora::services::background::{BackgroundService, background_service};
use pingora::services::listening::Service;
use pingora::services::{ServiceReadyNotifier, ServiceWithDependents};
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::signal::unix::{SignalKind, signal};

use crate::admin::Admin;
use crate::config::generations::Generations;
use crate::config::reload::{self, ReloadHandle, Reloader};
use crate::config::{LedgerPlace, Process, ServerTls};
use crate::gateway::Gateway;
use crate::ledger::Ledger;
use crate::probe::{self, Probes};
use crate::proxy::{Door, InFlight};
use crate::{clock, delivery, queue, resolve, retention, telemetry};

/// A gateway with its sockets bound, not yet serving.
pub struct Bound {
    gateway: Arc<Gateway>,
    process: Arc<Process>,
    reloader: Reloader,
    door: TcpListener,
    admin: TcpListener,
    address: SocketAddr,
    admin_address: SocketAddr,
}

/// Reads the configuration, opens the ledger and binds the sockets; says what is wrong in words.
pub fn bind(conf: PathBuf) -> Result<Bound, String> {
    let current = reload::load_first(&conf).map_err(|mistakes| {
        let lines: String = mistakes.iter().map(|mistake| format!("\n{mistake}")).collect();
        format!("the configuration has mistakes, nothing was started:{lines}")
    })?;
    let process = Arc::clone(&current.load().process);
    telemetry::start_log(&process.log);
    clock::go_wrong(&process.public_url)?;
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
    let ledger = open_known_ledger(&Generations::of(&conf), &process)?;
    let gateway = Arc::new(Gateway::new(Arc::clone(&current), ledger));
    let reloader = Reloader::new(conf, current);
    Ok(Bound { gateway, process, reloader, door, admin, address, admin_address })
}

/// Opens the ledger that was in use under this configuration. A missing volume must not be taken for a new ledger: it would
/// know of no payment, and the same payment could be made a second time.
fn open_known_ledger(generations: &Generations, process: &Process) -> Result<Ledger, String> {
    let LedgerPlace::Embedded(path) = &process.ledger else { return open_ledger(process) };
    let marker = generations.ledger_file();
    let known = generations.ledger().map_err(|error| format!("cannot read {}: {error}", marker.display()))?;
    let found = Ledger::identity_in(path).map_err(|error| error.to_string())?;
    if let Some(known) = known
        && found.as_ref() != Some(&known)
    {
        let found = if found.is_some() { "holds another ledger" } else { "holds no ledger" };
        return Err(format!(
            "{} {found}, but this configuration was in use with ledger {known}, which knows of payments. Nothing was started. \
             Mount its volume, restore it from a backup, or set `ledger.path` in tollgate.toml to its directory. To begin with \
             another ledger, in which payments so far are unknown and can be made a second time, remove {}",
            path.display(),
            marker.display()
        ));
    }
    let ledger = open_ledger(process)?;
    let identity = Ledger::identity_in(path).map_err(|error| error.to_string())?;
    if let Err(error) = identity.map_or(Ok(()), |identity| generations.remember_ledger(&identity)) {
        tracing::warn!(%error, file = %marker.display(), "cannot write which ledger is in use: a start with an empty \
            directory in its place would not be refused; make the directory of this file writable");
    }
    Ok(ledger)
}

/// Opens the ledger, or says in words why it cannot be opened.
pub(crate) fn open_ledger(process: &Process) -> Result<Ledger, String> {
    match &process.ledger {
        LedgerPlace::Embedded(path) => Ledger::open_with(path, process.reserve).map_err(|error| error.to_string()),
        LedgerPlace::Postgres(address) => Ledger::connect(address.as_ref().clone())
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
            std::process::exit(1);
        }
        std::process::exit(0)
    }

    fn run(self) -> Result<(), String> {
        let Self { gateway, process, reloader, door, admin, address, admin_address } = self;
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
        let deaf = Deaf::to_all();

        let scheme = if process.tls.is_some() { "https" } else { "http" };
        let app = Door::new(Arc::clone(&gateway), in_flight.clone(), scheme, process.body_limit);
        let mut service = http_proxy_service_with_name(&server.configuration, app, "door");
        match &process.tls {
            Some(tls) => service.add_tls_with_settings(&address.to_string(), None, tls_settings(tls, "server.tls")?),
            None => service.add_tcp(&address.to_string()),
        }
        if let Some(app) = service.app_logic_mut() {
            let mut options = pingora::apps::HttpServerOptions::default();
            options.h2c = process.tls.is_none();
            app.server_options = Some(options);
        }
        server.add_service(OnSocket::new(service, address, door));

        let admin_scheme = if process.admin_tls.is_some() { "https" } else { "http" };
        let reload = reloader.handle();
        let probes = Arc::new(Probes::default());
        let app = Admin {
            gateway: Arc::clone(&gateway),
            draining: Arc::clone(&draining),
            deaf: Arc::clone(&deaf),
            reload: reload.clone(),
            probes: Arc::clone(&probes),
        };
        let mut service = Service::new("admin".to_owned(), app);
        service.threads = Some(1);
        match &process.admin_tls {
            Some(tls) => {
                service.add_tls_with_settings(&admin_address.to_string(), None, tls_settings(tls, "admin.tls")?);
            }
            None => service.add_tcp(&admin_address.to_string()),
        }
        server.add_service(OnSocket::new(service, admin_address, admin));

        server.add_service(background_service("reload", Task::new(move |stop| reloader.run(stop))));
        let hears = Arc::clone(&deaf);
        server
            .add_service(background_service("hang-up", Task::new(move |stop| reload_on_hang_up(reload, hears, stop))));
        let current = Arc::clone(&gateway.current);
        server.add_service(background_service("probe", Task::new(move |stop| probe::run(probes, current, stop))));
        let keys = (Arc::clone(&gateway.exchanger.keys().clone()), Arc::clone(&gateway.current));
        server.add_service(background_service(
            "keys",
            Task::new(move |stop| async move { keys.0.run(keys.1, stop).await }),
        ));
        let resolver = Arc::clone(&gateway);
        server.add_service(background_service("resolve", Task::new(move |stop| resolve::run(resolver, stop))));
        let (worker, inside) = (Arc::clone(&gateway), in_flight.clone());
        server.add_service(background_service("queue", Task::new(move |stop| queue::run(worker, inside, stop))));
        let (current, ledger) = (Arc::clone(&gateway.current), gateway.ledger.clone());
        server.add_service(background_service("delivery", Task::new(move |stop| delivery::run(current, ledger, stop))));
        let (current, ledger) = (Arc::clone(&gateway.current), gateway.ledger.clone());
        server.add_service(background_service("purge", Task::new(move |stop| retention::run(current, ledger, stop))));
        let (statuses, ledger) = (Arc::clone(&gateway.statuses), gateway.ledger.clone());
        server.add_service(background_service("statuses", Task::new(move |stop| statuses.run(ledger, stop))));
        let drain = Drain { in_flight, draining, limit: process.drain };
        server.add_service(background_service("drain", Task::new(move |stop| drain.run(stop))));

        println!("tollgate listens on {scheme}://{address}, admin on {admin_scheme}://{admin_address}");
        server.run(RunArgs { shutdown_signal: Box::new(Signals(deaf)) });
        Ok(())
    }
}

/// Leaves as soon as nothing is in flight, so that SIGTERM costs an idle process no time.
struct Drain {
    in_flight: InFlight,
    draining: Arc<AtomicBool>,
    limit: Duration,
}

impl Drain {
    async fn run(self, mut shutdown: ShutdownWatch) {
        if shutdown.wait_for(|stop| *stop).await.is_err() {
            return;
        }
        self.draining.store(true, Ordering::Release);
        let until = Instant::now() + self.limit;
        // Sockets just accepted have not been counted yet: being idle counts only when it lasts a moment.
        let mut idle_rounds = 0;
        while idle_rounds < 5 && Instant::now() < until {
            idle_rounds = if self.in_flight.count() == 0 { idle_rounds + 1 } else { 0 };
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let left = self.in_flight.count();
        tracing::info!(unfinished = left, "leaving");
        std::process::exit(0);
    }
}

async fn reload_on_hang_up(reload: ReloadHandle, deaf: Arc<Deaf>, mut shutdown: ShutdownWatch) {
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
pub(crate) struct Deaf {
    to_hang_up: AtomicBool,
    to_the_end: AtomicBool,
}

impl Deaf {
    fn to_all() -> Arc<Self> {
        Arc::new(Self { to_hang_up: true.into(), to_the_end: true.into() })
    }

    pub(crate) fn to_any(&self) -> bool {
        self.to_hang_up.load(Ordering::Acquire) || self.to_the_end.load(Ordering::Acquire)
    }
}

struct Signals(Arc<Deaf>);

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

/// A background task as Pingora wants it.
struct Task<F>(Mutex<Option<F>>);

impl<F> Task<F> {
    fn new(start: F) -> Self {
        Self(Mutex::new(Some(start)))
    }
}

#[async_trait]
impl<F, T> BackgroundService for Task<F>
where
    F: FnOnce(ShutdownWatch) -> T + Send + 'static,
    T: Future<Output = ()> + Send + 'static,
{
    async fn start(&self, shutdown: ShutdownWatch) {
        let start = self.0.lock().take();
        if let Some(start) = start {
            start(shutdown).await;
        }
    }
}

/// A service on a socket that is bound already: the port may have been 0, and a taken one was told in words.
struct OnSocket<S> {
    service: S,
    name: String,
    fds: ListenFds,
}

impl<S: ServiceWithDependents> OnSocket<S> {
    fn new(service: S, address: SocketAddr, socket: TcpListener) -> Self {
        let mut fds = Fds::new();
        fds.add(address.to_string(), socket.into_raw_fd());
        Self { name: service.name().to_owned(), service, fds: Arc::new(Mutex::new(fds)) }
    }
}

#[async_trait]
impl<S: ServiceWithDependents> ServiceWithDependents for OnSocket<S> {
    async fn start_service(
        &mut self,
        _: Option<ListenFds>,
        shutdown: ShutdownWatch,
        listeners_per_fd: usize,
        ready: ServiceReadyNotifier,
    ) {
        self.service.start_service(Some(Arc::clone(&self.fds)), shutdown, listeners_per_fd, ready).await;
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn threads(&self) -> Option<usize> {
        self.service.threads()
    }
}

/// Made from memory: the files may be others than those that were read, or broken by now.
fn tls_settings(tls: &ServerTls, name: &str) -> Result<TlsSettings, String> {
    let cannot = |key: &str, error: &dyn std::fmt::Display| format!("{name}.{key}: {error}");
    let key = PrivateKeyDer::try_from(tls.identity.key.expose()).map_err(|error| cannot("key", &error))?.clone_key();
    let chain = tls.identity.certificates.iter().cloned().map(CertificateDer::from).collect();
    let shown = CertifiedKey::from_der(chain, key, &default_provider()).map_err(|error| cannot("cert", &error))?;
    let mut settings = TlsSettings::intermediate("", "").map_err(|error| cannot("cert", &error))?;
    settings.set_cert_resolver(Arc::new(SingleCertAndKey::from(shown)));
    settings.enable_h2();
    if let Some(authorities) = &tls.client_ca {
        let mut roots = RootCertStore::empty();
        for certificate in authorities {
            let certificate = CertificateDer::from(certificate.as_slice());
            roots.add(certificate).map_err(|error| cannot("client_ca", &error))?;
        }
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build();
        settings.set_client_cert_verifier(verifier.map_err(|error| cannot("client_ca", &error))?);
    }
    Ok(settings)
}
