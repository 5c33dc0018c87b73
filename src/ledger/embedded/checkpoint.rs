//! The thread that writes what the log holds into the tables.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::store::Failure;
use super::wal::Segment;
use super::write_request::words;
use super::{AGAIN, Shared};

impl Shared {
    /// Files a full segment; again when the disk was full, as soon as there is room.
    pub(super) fn file(&self, segment: &Segment) {
        loop {
            // What the storage engine panics about is as fatal as what it says.
            let filed = catch_unwind(AssertUnwindSafe(|| self.trip("filing").and_then(|()| self.disk.file())));
            let filed = filed.unwrap_or_else(|panic| Err(Failure { why: words(panic.as_ref()), is_full: false }));
            match filed.and_then(|()| self.disk.filed(segment).map_err(|error| Failure::for_good(&error))) {
                Ok(()) => return,
                Err(failure) => self.fail("filing failed", failure),
            }
            // The log has it until then, and a start goes on with it.
            while self.failed.lock().is_some() {
                if !self.waits_for_room() || self.jobs.lock().is_none() {
                    return;
                }
                std::thread::sleep(AGAIN);
            }
        }
    }
}
