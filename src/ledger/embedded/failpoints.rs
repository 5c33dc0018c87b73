//! What the ledger's tests see of the writing thread, and how they make it fail.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::store::Failure;

/// Lets a test make the next commit or sync fail, and see how much was committed together and how often it was synced.
#[derive(Default)]
pub(in crate::ledger) struct Hooks {
    /// At which step, and whether as on a full disk.
    fails: Mutex<Option<(&'static str, bool)>>,
    sizes: Mutex<Vec<usize>>,
    syncs: AtomicUsize,
    waiting: AtomicUsize,
}

impl Hooks {
    pub(in crate::ledger) fn fail_next(&self, step: &'static str) {
        *self.fails.lock() = Some((step, false));
    }

    pub(in crate::ledger) fn meet_full_disk(&self) {
        self.meet_full_disk_at("commit");
    }

    pub(in crate::ledger) fn meet_full_disk_at(&self, step: &'static str) {
        *self.fails.lock() = Some((step, true));
    }

    pub(in crate::ledger) fn sizes(&self) -> Vec<usize> {
        self.sizes.lock().clone()
    }

    pub(in crate::ledger) fn syncs(&self) -> usize {
        self.syncs.load(Ordering::SeqCst)
    }

    /// Waits until so many transactions have been handed to the thread since [`Hooks::start_counting`].
    pub(in crate::ledger) async fn crowd(&self, size: usize) {
        while self.waiting.load(Ordering::SeqCst) < size {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        // The counter runs ahead of the channel by one instruction.
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }

    pub(in crate::ledger) fn start_counting(&self) {
        self.waiting.store(0, Ordering::SeqCst);
    }

    pub(super) fn submitted(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn committed(&self, size: usize) {
        self.sizes.lock().push(size);
    }

    pub(super) fn synced(&self) {
        self.syncs.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn failpoint(&self, step: &str) -> Result<(), Failure> {
        match self.fails.lock().take_if(|(next, _)| *next == step) {
            Some((_, is_full)) => Err(Failure { why: "as the test wants".into(), is_full }),
            None => Ok(()),
        }
    }
}
