//! Provider simulators: WeChat Pay, Alipay and UnionPay with their real wire protocols, for tests and demonstrations.
//!
//! The sandbox is a second implementation of each protocol. It imports no other crate of the gateway, because it judges them: if
//! the two read a provider's documentation differently, a test fails. The sandbox verifies every signature, rejects what the
//! provider rejects, signs its responses, and repeats notifications until they are acknowledged. A control API acts as the payer
//! and scripts faults. Counters of requests and executions let a test prove that nothing was executed twice.
//!
//! # Map
//! | module | purpose |
//! |---|---|
//! | [`keygen`] | `tollgate keygen sandbox`: accounts, with keys of both sides |
//! | `account`, `account_folders` | accounts as read from their folders |
//! | `listener`, `server`, `response_action` | connections: TLS, client certificates, HTTP, scripted cuts |
//! | `registry`, `provider` | the table of providers, and what a row provides |
//! | `v3_scheme` with the row `wechat_v3`; `wechat_v2`, `alipay`, `unionpay` | one protocol each: signatures, fields, words |
//! | `fields`, `form`, `keys`, `zip`, `bills`, `china_time` | parts that several protocols share |
//! | `state`, `order_machine`, `context` | orders, refunds and their transitions; counters |
//! | `notification`, `notify`, `tamper`, `http_client` | notifications and their delivery |
//! | `control`, `console`, `fault` | control API: the payer, the provider's console, scripted faults |

mod account;
mod account_folders;
mod alipay;
mod bills;
mod china_time;
mod console;
mod context;
mod control;
mod fault;
mod fields;
mod form;
mod http_client;
pub mod keygen;
mod keys;
mod listener;
mod notification;
mod notify;
mod order_machine;
mod provider;
mod registry;
mod response_action;
mod schedules;
mod server;
mod state;
mod tamper;
#[cfg(test)]
mod tests;
mod unionpay;
mod v3_scheme;
mod wechat_v2;
mod wechat_v3;
mod zip;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::context::SandboxContext;
use self::listener::bind;
pub use self::schedules::{ALIPAY_SCHEDULE, UNIONPAY_SCHEDULE, WECHAT_SCHEDULE};

/// Options of a sandbox.
#[derive(Clone, Debug)]
pub struct Options {
    /// Address for merchants' requests; port 0 selects a free port.
    pub listen: SocketAddr,
    /// Address of the control API. Must be a loopback address, because any caller can pay orders there.
    pub control: SocketAddr,
    /// Folders with a `sandbox.toml`, or folders of such folders.
    pub accounts: Vec<PathBuf>,
    /// True if the TLS handshake requires a client certificate of the sandbox's authority. A presented certificate must
    /// always belong to the merchant who signs. Alipay and UnionPay require none, and APIv2 only for refunds and
    /// reversals. If the sandbox also serves their merchants, a missing certificate is rejected in the response instead
    /// of the handshake.
    pub require_client_certificate: bool,
    /// Waits before each repetition of a notification; empty: the provider's own schedule.
    pub notify_schedule: Vec<Duration>,
    /// True if an accepted refund succeeds immediately; otherwise the control API finishes it.
    pub refund_auto: bool,
}

impl Options {
    /// Returns the default options with free ports of the loopback address.
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
    context: Arc<SandboxContext>,
    tasks: Vec<JoinHandle<()>>,
}

impl Sandbox {
    /// Reads the accounts and opens both listeners.
    pub async fn start(options: Options) -> io::Result<Self> {
        if !options.control.ip().is_loopback() {
            let message = "any caller of the control API can pay orders: use a loopback address, as in 127.0.0.1:8444";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let (accounts, tls) = account_folders::read_all(&options.accounts)?;
        let certificates = options.require_client_certificate
            && accounts.values().all(|account| account.profile().requires_client_certificate);
        let tls = server::Tls::read(&tls, certificates)?;
        let listener = bind(options.listen).await?;
        let control = bind(options.control).await?;
        let (address, control_address) = (listener.local_addr()?, control.local_addr()?);
        let context = Arc::new(SandboxContext {
            accounts,
            schedule: options.notify_schedule,
            refund_auto: options.refund_auto,
            require_client_certificate: options.require_client_certificate,
            state: Mutex::default(),
            script: Mutex::default(),
            stop: watch::Sender::new(false),
        });
        let tasks = vec![
            context.spawn(server::run(context.clone(), listener, tls)),
            context.spawn(control::run(context.clone(), control)),
        ];
        Ok(Self { address, control_address, context, tasks })
    }

    /// Address for merchants' requests.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Address of the control API.
    pub fn control_address(&self) -> SocketAddr {
        self.control_address
    }

    /// Returns the served accounts, each by its mchid, app_id or merId.
    pub fn accounts(&self) -> impl Iterator<Item = &str> {
        self.context.accounts.keys().map(String::as_str)
    }

    /// Closes listeners and connections, and aborts notifications. Both ports are free afterwards.
    pub async fn stop(mut self) {
        self.context.stop.send_replace(true);
        for task in std::mem::take(&mut self.tasks) {
            let _ = task.await;
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.context.stop.send_replace(true);
    }
}

/// Runs a sandbox until Ctrl-C or SIGTERM, and prints its addresses.
pub async fn run_command(listen: SocketAddr, control: SocketAddr, accounts: Vec<PathBuf>) -> io::Result<()> {
    let sandbox = Sandbox::start(Options { listen, control, ..Options::new(accounts) }).await?;
    // A closed standard output must not end the sandbox.
    let mut out = io::stdout();
    let _ = writeln!(out, "sandbox  https://{}", sandbox.address());
    let _ = writeln!(out, "control  http://{}", sandbox.control_address());
    let accounts = sandbox.context.accounts.iter();
    let mut accounts: Vec<_> = accounts.map(|(name, account)| (account.profile().provider, name)).collect();
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
