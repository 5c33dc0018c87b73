//! The thread that syncs the journal, while the next batch is already being worked out.

use std::fs::File;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use super::Shared;
use super::job::Answers;
use super::store::Failure;
use crate::telemetry::METRICS;

/// Who waits for a sync, and of what. They come in the order in which it was written.
pub(super) struct Wanted {
    /// What was written since the last one of these; `None`: nothing.
    pub(super) file: Option<Arc<File>>,
    pub(super) since: Instant,
    /// Whether something became due sooner.
    pub(super) wakes: bool,
    pub(super) answers: Answers,
}

impl Shared {
    /// All that waits shares a sync. One that failed is the last: who waits then or later hears that it was not done. No other
    /// thread syncs these files, or it might be told of a failure in this one's stead.
    pub(super) fn sync(&self, wanted: Receiver<Wanted>) {
        while let Ok(first) = wanted.recv() {
            let mut waiting: Vec<_> = std::iter::once(first).chain(wanted.try_iter()).collect();
            // Before them nothing was written that is not synced yet.
            let first = waiting.iter().position(|wanted| wanted.file.is_some()).unwrap_or(waiting.len());
            self.tell(waiting.drain(..first));
            let mut files: Vec<_> = waiting.iter().filter_map(|wanted| wanted.file.as_ref()).collect();
            files.dedup_by(|one, other| Arc::ptr_eq(one, other));
            for file in files {
                let synced = || file.sync_data().map_err(|error| Failure::for_good(&error));
                if let Err(failure) = self.trip("sync").and_then(|()| synced()) {
                    return self.fail("a sync failed", failure);
                }
                #[cfg(test)]
                self.hooks.synced();
            }
            if let Some(first) = waiting.first() {
                METRICS.ledger_commit_seconds.observe(first.since.elapsed().as_secs_f64());
            }
            self.tell(waiting.into_iter());
        }
    }

    fn tell(&self, all: impl Iterator<Item = Wanted>) {
        let mut told = Answers::default();
        for Wanted { wakes, answers, .. } in all {
            if wakes {
                self.wake.send_modify(|count| *count += 1);
            }
            told.extend(answers);
        }
        told.tell();
    }
}
