//! Failpoints and counters of the writer thread, for the ledger's tests.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::failure::Failure;

/// Makes the next commit, sync or checkpoint fail, and counts batches and syncs.
#[derive(Default)]
pub(crate) struct Failpoints {
    /// Step that fails, and whether as on a full disk.
    fails: Mutex<Option<(&'static str, bool)>>,
    sizes: Mutex<Vec<usize>>,
    syncs: AtomicUsize,
    waiting: AtomicUsize,
}

impl Failpoints {
    pub(crate) fn fail_next(&self, step: &'static str) {
        *self.fails.lock() = Some((step, false));
    }

    pub(crate) fn fail_next_with_full_disk(&self) {
        self.fail_next_with_full_disk_at("commit");
    }

    pub(crate) fn fail_next_with_full_disk_at(&self, step: &'static str) {
        *self.fails.lock() = Some((step, true));
    }

    pub(crate) fn sizes(&self) -> Vec<usize> {
        self.sizes.lock().clone()
    }

    pub(crate) fn syncs(&self) -> usize {
        self.syncs.load(Ordering::SeqCst)
    }

    /// Waits until this many transactions were submitted since [`Failpoints::start_counting`].
    pub(crate) async fn wait_for_submitted(&self, size: usize) {
        while self.waiting.load(Ordering::SeqCst) < size {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        // The counter is incremented just before the request is sent.
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }

    pub(crate) fn start_counting(&self) {
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
            Some((_, is_full)) => Err(Failure { is_full, ..Failure::permanent("as the test wants") }),
            None => Ok(()),
        }
    }
}
