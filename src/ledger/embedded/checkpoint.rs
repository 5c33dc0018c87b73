//! Checkpoint thread: writes full WAL segments to the tables.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::FULL_DISK_RECHECK_INTERVAL;
use super::failure::Failure;
use super::shared::Shared;
use super::wal::Segment;
use super::write_request::panic_message;

impl Shared {
    /// Writes a full segment to the tables. Retried after the disk was full, once there is room.
    pub(super) fn checkpoint(&self, segment: &Segment) {
        loop {
            // A panic of the storage engine is as fatal as an error.
            let result =
                catch_unwind(AssertUnwindSafe(|| self.failpoint("checkpoint").and_then(|()| self.disk.checkpoint())));
            let result = result.unwrap_or_else(|panic| Err(Failure::permanent(panic_message(panic.as_ref()))));
            match result.and_then(|()| self.disk.recycle_segment(segment).map_err(Failure::permanent)) {
                Ok(()) => return,
                Err(failure) => self.fail("a checkpoint failed", failure),
            }
            // Until then the WAL has the rows, and the next start writes them to the tables.
            while self.failed.lock().is_some() {
                if !self.is_disk_full() || self.requests.lock().is_none() {
                    return;
                }
                std::thread::sleep(FULL_DISK_RECHECK_INTERVAL);
            }
        }
    }
}
