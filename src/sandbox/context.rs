//! State that all tasks of a sandbox share.

use std::future::Future;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::account::Accounts;
use super::fault::Script;
use super::state::SandboxState;

/// Accounts, options and mutable state of a running sandbox.
pub(super) struct SandboxContext {
    pub(super) accounts: Accounts,
    pub(super) schedule: Vec<Duration>,
    pub(super) refund_auto: bool,
    pub(super) require_client_certificate: bool,
    pub(super) state: Mutex<SandboxState>,
    pub(super) script: Mutex<Script>,
    pub(super) stop: watch::Sender<bool>,
}

impl SandboxContext {
    /// Spawns a task that is aborted when the sandbox stops.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        let mut stop = self.stop.subscribe();
        tokio::spawn(async move {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => {}
                () = work => {}
            }
        })
    }
}
