//! `tollgate sandbox`: stands in for WeChat Pay, Alipay and UnionPay with their true wire protocols, for tests, try-outs and demonstrations.
//!
//! It is a second implementation of each protocol, and shares no code with the gateway's: where the two misread the same
//! page differently, a test fails. It checks every signature, refuses what the original refuses, signs its answers, and
//! repeats its notifications until they are acknowledged; a control API plays the payer and scripts faults; and it
//! counts what reached it, so that "once" can be proven.

mod account;
mod alipay;
mod bills;
mod console;
mod control;
mod fault;
mod fields;
mod form;
mod http_client;
mod keys;
mod notify;
mod server;
mod state;
#[cfg(test)]
mod tests;
mod unionpay;
mod wechat_v2;
mod wechat_v3;
mod zip;

use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::account::{Account, Accounts};
use self::fault::Script;
use self::state::SandboxState;

/// How long WeChat Pay waits before each repetition of a notification.
pub const WECHAT_SCHEDULE: [Duration; 15] = [
    Duration::from_secs(15),
    Duration::from_secs(15),
    Duration::from_secs(30),
    minutes(3),
    minutes(10),
    minutes(20),
    minutes(30),
    minutes(30),
    minutes(30),
    minutes(60),
    minutes(180),
    minutes(180),
    minutes(180),
    minutes(360),
    minutes(360),
];

/// How long Alipay waits before each repetition of a notification.
pub const ALIPAY_SCHEDULE: [Duration; 7] =
    [minutes(4), minutes(10), minutes(10), minutes(60), minutes(120), minutes(360), minutes(900)];

/// How long UnionPay waits before each repetition of a notification.
pub const UNIONPAY_SCHEDULE: [Duration; 4] = [minutes(1), minutes(2), minutes(4), minutes(5)];

const fn minutes(count: u64) -> Duration {
    Duration::from_secs(count * 60)
}

/// How a sandbox is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where merchants come in; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Where the control API is; a loopback address, because it pays orders for whoever asks.
    pub control: SocketAddr,
    /// Folders with a `sandbox.toml`, or folders of such folders.
    pub accounts: Vec<PathBuf>,
    /// Whether a connection needs a client certificate of the sandbox's authority. When one is shown, needed or not, it
    /// must be that of the merchant who signs. Alipay and UnionPay ask for none, and APIv2 only where money goes back: where
    /// one of their merchants is served too, the others are refused in the answer instead of the handshake.
    pub require_client_certificate: bool,
    /// How long to wait before each repetition of a notification; empty: as long as the provider itself.
    pub notify_schedule: Vec<Duration>,
    /// Whether a refund succeeds as soon as it was accepted; otherwise the control API finishes it.
    pub refund_auto: bool,
}

impl Options {
    /// The usual behaviour, on free ports of the loopback address.
    pub fn new(accounts: impl Into<Vec<PathBuf>>) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            listen: any,
            control: any,
            accounts: accounts.into(),
            require_client_certificate: true,
            notify_schedule: Vec::new(),
            refund_auto: true,
        }
    }
}

/// A running sandbox. Dropping it stops it.
pub struct Sandbox {
    address: SocketAddr,
    control_address: SocketAddr,
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

impl Sandbox {
    /// Reads the accounts and opens both listeners.
    pub async fn start(options: Options) -> io::Result<Self> {
        if !options.control.ip().is_loopback() {
            let message =
                "the control API pays orders for whoever asks: give it a loopback address, as in 127.0.0.1:8444";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let (accounts, tls) = account::read_all(&options.accounts)?;
        let certificates = options.require_client_certificate && accounts.values().all(Account::shows_certificate);
        let tls = server::Tls::read(&tls, certificates)?;
        let listener = bind(options.listen).await?;
        let control = bind(options.control).await?;
        let (address, control_address) = (listener.local_addr()?, control.local_addr()?);
        let shared = Arc::new(Shared {
            accounts,
            schedule: options.notify_schedule,
            refund_auto: options.refund_auto,
            require_client_certificate: options.require_client_certificate,
            books: Mutex::default(),
            script: Mutex::default(),
            stop: watch::Sender::new(false),
        });
        let tasks = vec![
            shared.spawn(server::run(shared.clone(), listener, tls)),
            shared.spawn(control::run(shared.clone(), control)),
        ];
        Ok(Self { address, control_address, shared, tasks })
    }

    /// Where merchants come in.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the control API is.
    pub fn control_address(&self) -> SocketAddr {
        self.control_address
    }

    /// The accounts that it serves: each an mchid, an app_id or a merId.
    pub fn accounts(&self) -> impl Iterator<Item = &str> {
        self.shared.accounts.keys().map(String::as_str)
    }

    /// Closes listeners and connections, and gives up notifications; afterwards both ports are free.
    pub async fn stop(mut self) {
        self.shared.stop.send_replace(true);
        for task in std::mem::take(&mut self.tasks) {
            let _ = task.await;
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.shared.stop.send_replace(true);
    }
}

/// Runs a sandbox until Ctrl-C or SIGTERM; prints where it is.
pub async fn run_command(listen: SocketAddr, control: SocketAddr, accounts: Vec<PathBuf>) -> io::Result<()> {
    let sandbox = Sandbox::start(Options { listen, control, ..Options::new(accounts) }).await?;
    // A reader that is gone is no reason to end.
    let mut out = io::stdout();
    let _ = writeln!(out, "sandbox  https://{}", sandbox.address());
    let _ = writeln!(out, "control  http://{}", sandbox.control_address());
    let accounts = sandbox.shared.accounts.iter();
    let mut accounts: Vec<_> = accounts.map(|(name, account)| (account.provider(), name)).collect();
    accounts.sort_unstable();
    for (provider, name) in accounts {
        let _ = writeln!(out, "account  {provider} {name}");
    }
    terminated().await?;
    sandbox.stop().await;
    Ok(())
}

#[cfg(unix)]
async fn terminated() -> io::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
}

#[cfg(not(unix))]
async fn terminated() -> io::Result<()> {
    tokio::signal::ctrl_c().await
}

/// What all tasks of a sandbox have in common.
struct Shared {
    accounts: Accounts,
    schedule: Vec<Duration>,
    refund_auto: bool,
    require_client_certificate: bool,
    books: Mutex<SandboxState>,
    script: Mutex<Script>,
    stop: watch::Sender<bool>,
}

impl Shared {
    /// Runs the work until it is done or the sandbox stops.
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        let mut stop = self.stop.subscribe();
        tokio::spawn(async move {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => {}
                () = work => {}
            }
        })
    }
}

async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))
}

/// The next connection. A failed accept is the caller's trouble or a shortage of descriptors: it passes.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
