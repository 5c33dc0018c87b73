//! State shared by the threads and the handles of the embedded engine.

use std::collections::BTreeMap;
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::disk::Disk;
#[cfg(test)]
use super::failpoints;
use super::failure::Failure;
use super::write_request::WriteRequest;
use crate::change_feed::ChangeListener;
use crate::claim_guard::{Abandoned, ClaimOwner, ExecutionId};
use crate::environment::Environment;
use crate::error::LedgerError;
use crate::schedule::Schedule;
use crate::transaction::Durability;

/// State shared by the threads and the handles.
pub(crate) struct Shared {
    pub(super) disk: Disk,
    pub(super) environment: Environment,
    /// Size in bytes at which a WAL segment is full.
    pub(super) segment: u64,
    pub(super) requests: Mutex<Option<Sender<WriteRequest>>>,
    /// Reason why the ledger is not writable: the disk is full, or a write failed.
    pub(super) failed: Mutex<Option<LedgerError>>,
    /// Abandoned claims whose end is not written yet.
    pub(super) ends: Mutex<BTreeMap<ExecutionId, Abandoned>>,
    pub(super) schedule: Mutex<Schedule>,
    pub(super) wake: watch::Sender<u64>,
    pub(super) listener: OnceLock<Arc<dyn ChangeListener>>,
    #[cfg(test)]
    pub(super) failpoints: failpoints::Failpoints,
}

impl Shared {
    /// Sends a transaction to the writer.
    pub(super) fn submit(&self, job: WriteRequest) -> Result<(), LedgerError> {
        if self.failed.lock().is_some() {
            return Err(self.refusal());
        }
        #[cfg(test)]
        self.failpoints.submitted();
        // Not under the lock: a request that cannot be sent is dropped here, and its drop may call this type.
        let requests = self.requests.lock().clone();
        requests.and_then(|requests| requests.send(job).ok()).ok_or_else(|| self.refusal())
    }

    /// Returns why no transaction is accepted.
    pub(super) fn refusal(&self) -> LedgerError {
        self.failed.lock().clone().unwrap_or(LedgerError::Closed)
    }

    /// Stops all writing, because a step failed.
    pub(super) fn fail(&self, step: &'static str, failure: Failure) {
        let why = format!("{step}: {}", failure.cause);
        if failure.is_full {
            tracing::error!(%why, "the ledger's disk is full: nothing is sent until space is freed");
        } else {
            tracing::error!(%why, "the ledger is not writable: nothing is sent until the process is restarted");
        }
        *self.failed.lock() = Some(failure.at(step));
    }

    /// Returns whether free space repairs the failure.
    pub(super) fn is_disk_full(&self) -> bool {
        matches!(*self.failed.lock(), Some(LedgerError::DiskFull { .. }))
    }

    /// Reopens the tables if there is room again. Permits stay valid; claims abandoned meanwhile are ended.
    pub(super) fn resume_after_full_disk(self: &Arc<Self>) {
        match self.disk.reopen() {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => return tracing::warn!(%error, "the ledger cannot be reopened yet; it is retried"),
        }
        if let Some(listener) = self.listener.get() {
            // The batch that failed may be visible or not.
            listener.disconnected();
            listener.subscribed(None);
        }
        *self.failed.lock() = None;
        tracing::info!("the ledger is writable again");
        let ends: Vec<_> = self.ends.lock().iter().map(|(execution, end)| (*execution, *end)).collect();
        for (execution, end) in ends {
            // A request that cannot be submitted now stays in `ends`.
            let _ = self.submit(self.ending(execution, end));
        }
        self.wake.send_modify(|count| *count += 1);
    }

    /// Returns the transaction that ends an abandoned claim.
    fn ending(self: &Arc<Self>, execution: ExecutionId, end: Abandoned) -> WriteRequest {
        let shared = Arc::downgrade(self);
        let reply = move |ended: Result<(), LedgerError>| {
            if let Err(error) = ended {
                tracing::error!(%error, "an abandoned claim cannot be ended; the next start ends it");
            }
            if let Some(shared) = shared.upgrade() {
                shared.ends.lock().remove(&execution);
            }
        };
        let now = self.environment.now();
        WriteRequest::new(Durability::Durable, move |tx| end.of(tx, execution, now), reply)
    }

    #[cfg(test)]
    pub(crate) fn failpoints(&self) -> &failpoints::Failpoints {
        &self.failpoints
    }

    #[cfg(not(test))]
    pub(super) fn failpoint(&self, _step: &str) -> Result<(), Failure> {
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn failpoint(&self, step: &str) -> Result<(), Failure> {
        self.failpoints.failpoint(step)
    }
}

impl ClaimOwner for Shared {
    /// Running claims are found by the next start, so nothing is registered.
    fn acquired(&self, _: ExecutionId) {}

    fn released(&self, _: ExecutionId) {}

    fn abandon(self: Arc<Self>, execution: ExecutionId, end: Abandoned) {
        self.ends.lock().insert(execution, end);
        if let Err(error) = self.submit(self.ending(execution, end)) {
            tracing::error!(%error, "an abandoned claim is ended when the ledger is writable again");
        }
    }
}
