//! The thread that syncs the log, while the next batch is already being worked out.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::Shared;
use super::store::Failure;
use super::wal::Position;
use super::write_request::Answers;
use crate::telemetry::METRICS;

/// How long after the last sync it is written down up to where the log is synced. Under load each record says it.
const MARK_AFTER: Duration = Duration::from_millis(20);

/// Who waits for a sync, and of what. They come in the order in which it was written.
pub(super) struct SyncRequest {
    /// File and end of what was written since the last one of these; `None`: nothing.
    pub(super) upto: Option<(usize, Position)>,
    pub(super) since: Instant,
    /// Whether something became due sooner.
    pub(super) wakes: bool,
    pub(super) answers: Answers,
}

impl Shared {
    /// Syncs what others wait for, until nobody comes any more or a sync failed.
    pub(super) fn sync(&self, wanted: &Receiver<SyncRequest>) {
        loop {
            let first = match self.disk.wal.is_marked() {
                true => wanted.recv().map_err(|_| RecvTimeoutError::Disconnected),
                false => wanted.recv_timeout(MARK_AFTER),
            };
            let is_last = matches!(first, Err(RecvTimeoutError::Disconnected));
            let goes_on = match first {
                Ok(first) => self.sync_together(std::iter::once(first).chain(wanted.try_iter()).collect()),
                Err(_) => self.mark(),
            };
            if is_last || !goes_on {
                return;
            }
        }
    }

    fn mark(&self) -> bool {
        let marked = self.disk.wal.mark();
        marked.map_err(|error| self.fail("a sync failed", Failure::for_good(&error))).is_ok()
    }

    /// One sync serves all who wait (group commit). A sync that failed is never repeated, and everybody who waits then or
    /// later gets an error. No other thread syncs over these handles: Linux reports a failed write-back once per handle.
    /// Returns whether it can go on.
    fn sync_together(&self, mut waiting: Vec<SyncRequest>) -> bool {
        // Before them nothing was written that is not synced yet.
        let first = waiting.iter().position(|wanted| wanted.upto.is_some()).unwrap_or(waiting.len());
        self.tell(waiting.drain(..first));
        let mut ends: Vec<_> = waiting.iter().filter_map(|wanted| wanted.upto).collect();
        // Of each file, up to the last end.
        ends.reverse();
        ends.dedup_by_key(|(file, _)| *file);
        for (file, upto) in ends.into_iter().rev() {
            let synced = || self.disk.wal.sync(file, upto).map_err(|error| Failure::for_good(&error));
            if let Err(failure) = self.trip("sync").and_then(|()| synced()) {
                // Before those who wait get their error: it says why.
                self.fail("a sync failed", failure);
                return false;
            }
            #[cfg(test)]
            self.hooks.synced();
        }
        if let Some(first) = waiting.first() {
            METRICS.ledger_commit_seconds.observe(first.since.elapsed().as_secs_f64());
        }
        self.tell(waiting.into_iter());
        true
    }

    fn tell(&self, all: impl Iterator<Item = SyncRequest>) {
        let mut told = Answers::default();
        for SyncRequest { wakes, answers, .. } in all {
            if wakes {
                self.wake.send_modify(|count| *count += 1);
            }
            told.extend(answers);
        }
        told.tell();
    }
}
