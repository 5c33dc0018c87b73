//! State that all tasks of a sandbox share.

use std::future::Future;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::account::Accounts;
use super::fault::{Fault, Script};
use super::state::{Id, SandboxState};

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
    /// Counts a request with a valid signature, and takes its scripted fault.
    pub(super) fn arrive(
        &self,
        operation: &'static str,
        account: &str,
        order: Option<&Id>,
        refund: Option<&Id>,
    ) -> Option<Fault> {
        self.state.lock().count_arrival(operation, order, refund);
        let numbers: Vec<String> = order.into_iter().chain(refund).map(|(_, number)| number.clone()).collect();
        self.script.lock().for_request(operation, account, &numbers)
    }

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
