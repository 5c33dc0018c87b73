//! Free space of the disk under the ledger.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::LedgerError;

/// Free space of the disk under the database.
pub(super) struct DiskSpace {
    path: PathBuf,
    /// Bytes reserved for claims in progress.
    reserve: u64,
    was_enough: AtomicBool,
    /// Time and result of the last check.
    last_check: Mutex<Option<(Instant, bool)>>,
    #[cfg(test)]
    simulated_free: Mutex<Option<u64>>,
}

/// Time for which a check is valid. Much less than a usual reserve is written within that time.
const FREE_SPACE_CHECK_INTERVAL: Duration = Duration::from_millis(20);

impl DiskSpace {
    pub(super) fn new(path: &Path, reserve: u64) -> Self {
        Self {
            path: path.to_owned(),
            reserve,
            was_enough: AtomicBool::new(true),
            last_check: Mutex::default(),
            #[cfg(test)]
            simulated_free: Mutex::default(),
        }
    }

    /// Checks that the reserve is free.
    pub(super) fn check(&self) -> Result<(), LedgerError> {
        let is_enough = self.has_reserve();
        let was_enough = self.was_enough.swap(is_enough, Ordering::Relaxed);
        match is_enough {
            true if !was_enough => {
                tracing::info!("the ledger's disk has enough free space again: new payments are accepted")
            }
            false if was_enough => tracing::error!(
                path = %self.path.display(),
                reserve = self.reserve,
                "the ledger's disk is nearly full: new payments are rejected until space is freed"
            ),
            _ => {}
        }
        if is_enough {
            return Ok(());
        }
        Err(LedgerError::LowDiskSpace { path: self.path.clone(), reserve: self.reserve })
    }

    fn has_reserve(&self) -> bool {
        let mut last_check = self.last_check.lock();
        match *last_check {
            Some((at, is_enough)) if at.elapsed() < FREE_SPACE_CHECK_INTERVAL => is_enough,
            _ => last_check.insert((Instant::now(), self.has(self.reserve))).1,
        }
    }

    /// Returns whether the reserve is free, measured now.
    pub(super) fn has_reserve_now(&self) -> bool {
        self.has(self.reserve)
    }

    /// Returns whether the reserve and at least this many bytes are free, measured now.
    pub(super) fn has_reserve_and(&self, least: u64) -> bool {
        self.has(self.reserve.max(least))
    }

    fn has(&self, least: u64) -> bool {
        // If the free space is unknown, writing will show it.
        self.free().is_none_or(|free| free >= least)
    }

    #[cfg(not(test))]
    fn free(&self) -> Option<u64> {
        self.measured_free()
    }

    #[cfg(test)]
    fn free(&self) -> Option<u64> {
        self.simulated_free.lock().or_else(|| self.measured_free())
    }

    fn measured_free(&self) -> Option<u64> {
        let disk = rustix::fs::statvfs(&self.path).ok()?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    #[cfg(test)]
    pub(crate) fn simulate_free(&self, free: Option<u64>) {
        *self.simulated_free.lock() = free;
        *self.last_check.lock() = None;
    }
}
