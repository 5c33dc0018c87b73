//! WAL sync thread (group commit). It syncs while the writer runs the next batch.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::failure::Failure;
use super::shared::Shared;
use super::wal::Position;
use super::write_request::PendingReplies;
use crate::environment::Measurement;

/// Delay after the last sync before the synced position is written to the manifest. Under load each record contains
/// it.
const MARK_AFTER: Duration = Duration::from_millis(20);

/// Request to sync the WAL. Requests arrive in the order of the writes.
pub(super) struct SyncRequest {
    /// File and end of the writes since the previous request; `None` if there were none.
    pub(super) upto: Option<(usize, Position)>,
    pub(super) since: Instant,
    /// True if a write made something due sooner.
    pub(super) wakes: bool,
    pub(super) replies: PendingReplies,
}

impl Shared {
    /// Syncs for the waiting transactions until the writer ends or a sync fails.
    pub(super) fn sync(&self, requests: &Receiver<SyncRequest>) {
        loop {
            let first = match self.disk.wal.is_marked() {
                true => requests.recv().map_err(|_| RecvTimeoutError::Disconnected),
                false => requests.recv_timeout(MARK_AFTER),
            };
            let is_last = matches!(first, Err(RecvTimeoutError::Disconnected));
            let may_continue = match first {
                Ok(first) => self.sync_together(std::iter::once(first).chain(requests.try_iter()).collect()),
                Err(_) => self.mark(),
            };
            if is_last || !may_continue {
                return;
            }
        }
    }

    fn mark(&self) -> bool {
        let marked = self.disk.wal.mark();
        marked.map_err(|error| self.fail("a sync failed", Failure::permanent(error))).is_ok()
    }

    /// Syncs once for all waiting requests (group commit). A failed sync is never retried; every present and later
    /// request gets an error. No other thread syncs these file handles, because Linux reports a failed write-back
    /// only once per handle. Returns whether the thread may continue.
    fn sync_together(&self, mut waiting: Vec<SyncRequest>) -> bool {
        // Everything before these requests is synced.
        let first = waiting.iter().position(|requests| requests.upto.is_some()).unwrap_or(waiting.len());
        self.acknowledge(waiting.drain(..first));
        let mut ends: Vec<_> = waiting.iter().filter_map(|requests| requests.upto).collect();
        // One sync of each file, up to its last end.
        ends.reverse();
        ends.dedup_by_key(|(file, _)| *file);
        for (file, upto) in ends.into_iter().rev() {
            let synced = || self.disk.wal.sync(file, upto).map_err(Failure::permanent);
            if let Err(failure) = self.failpoint("sync").and_then(|()| synced()) {
                // Before the waiting requests get their error, which contains the reason.
                self.fail("a sync failed", failure);
                return false;
            }
            #[cfg(test)]
            self.failpoints.synced();
        }
        if let Some(first) = waiting.first() {
            self.environment.metrics.record(Measurement::CommitSeconds(first.since.elapsed().as_secs_f64()));
        }
        self.acknowledge(waiting.into_iter());
        true
    }

    fn acknowledge(&self, all: impl Iterator<Item = SyncRequest>) {
        let mut all_replies = PendingReplies::default();
        for SyncRequest { wakes, replies, .. } in all {
            if wakes {
                self.wake.send_modify(|count| *count += 1);
            }
            all_replies.extend(replies);
        }
        all_replies.send_all();
    }
}
