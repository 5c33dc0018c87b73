//! Writer thread: runs every transaction and appends to the WAL.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::failure::Failure;
use super::memtable::Memtables;
use super::shared::Shared;
use super::store::Store;
use super::wal::Segment;
use super::wal_sync::SyncRequest;
use super::write_request::{PendingReplies, TransactionEnd, WriteRequest, panic_message};
use super::{FULL_DISK_RECHECK_INTERVAL, MAX_BATCH, MAX_SYNC_DELAY};
use crate::change_feed::Changes;
use crate::environment::Measurement;
use crate::error::LedgerError;
use crate::ids::Ids;
use crate::transaction::{Durability, Read, Rows, Space, Transaction, Value, Writes};

/// State of the writer thread.
pub(super) struct Writer {
    pub(super) ids: Mutex<Ids>,
    pub(super) log: Segment,
    /// Channel to the sync thread.
    pub(super) syncing: Sender<SyncRequest>,
    /// Channel of full segments to the checkpoint thread.
    pub(super) checkpoints: Sender<Segment>,
    /// Time of the oldest write for which no sync was requested.
    pub(super) unsynced: Option<Instant>,
    /// Empty buffer of the previous batch, reused for its capacity.
    pub(super) rows: Rows,
}

impl Shared {
    /// Appends a batch to the WAL, to the next segment if this one is full.
    fn append(&self, writes: &Writes, writer: &mut Writer) -> Result<(), Failure> {
        if writer.log.len() >= self.segment {
            self.rotate(writer)?;
        }
        writer.log.append(&writes.rows).map_err(|error| Failure::of(error, &self.disk.disk_space))
    }

    /// Rotates the WAL to its next segment. While the previous segment is being checkpointed, this one grows up to
    /// twice its size; then all transactions wait.
    fn rotate(&self, writer: &mut Writer) -> Result<(), Failure> {
        let (next, empty) = loop {
            let must = writer.log.len() >= 2 * self.segment;
            match self.disk.take_free_segment(if must { FULL_DISK_RECHECK_INTERVAL } else { Duration::ZERO }) {
                Some(next) => break next,
                None if !must => return Ok(()),
                None => {}
            }
            if let Some(error) = self.failed.lock().clone() {
                return Err(Failure::again(error));
            }
        };
        // The full segment is synced before the next one is written.
        let (synced, is_synced) = channel();
        let mut replies = PendingReplies::default();
        let notify = move || {
            let _ = synced.send(());
        };
        replies.push(None, Box::new(notify));
        let upto = Some(writer.log.position());
        let _ = writer.syncing.send(SyncRequest { upto, since: Instant::now(), wakes: false, replies });
        is_synced.recv().map_err(|_| Failure::permanent("a sync failed"))?;
        let full = std::mem::replace(&mut writer.log, next);
        let mut memtables = self.disk.memtables.write();
        memtables.immutable = Some(Arc::new(std::mem::replace(&mut memtables.active, empty)));
        drop(memtables);
        writer.checkpoints.send(full).map_err(|_| Failure::permanent("the checkpoint thread ended"))
    }

    pub(super) fn run(self: &Arc<Self>, requests: &Receiver<WriteRequest>, mut writer: Writer) {
        loop {
            let is_disk_full = self.is_disk_full();
            let first = match writer.unsynced {
                _ if is_disk_full => requests.recv_timeout(FULL_DISK_RECHECK_INTERVAL),
                Some(since) => requests.recv_timeout(MAX_SYNC_DELAY.saturating_sub(since.elapsed())),
                None => requests.recv_timeout(FULL_DISK_RECHECK_INTERVAL),
            };
            // No requests arrive after another thread has met a full disk, so it is checked here as well.
            if !is_disk_full && writer.unsynced.is_none() && matches!(first, Err(RecvTimeoutError::Timeout)) {
                self.check_directory();
                continue;
            }
            let is_last = matches!(first, Err(RecvTimeoutError::Disconnected));
            if is_disk_full {
                self.resume_after_full_disk();
            }
            let batch = first.into_iter().chain(requests.try_iter().take(MAX_BATCH - 1)).collect();
            // A panic of the storage engine is as fatal as an error.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.commit(batch, &mut writer))) {
                self.fail("the writer panicked", Failure::permanent(panic_message(panic.as_ref())));
                writer.unsynced = None;
            }
            if is_last {
                return;
            }
        }
    }

    /// Checks that the directory still exists. Without writes nothing else would notice its loss.
    fn check_directory(&self) {
        if self.failed.lock().is_none()
            && let Err(error) = self.disk.wal.check_in_place()
        {
            self.fail("the ledger's files are gone", Failure::permanent(error));
        }
    }

    /// Runs a batch. A dropped request or reply means to its caller that nothing was done. An empty batch only syncs.
    pub(super) fn commit(&self, batch: Vec<WriteRequest>, writer: &mut Writer) {
        if self.failed.lock().is_some() {
            // After a full disk unsynced writes still have to be synced.
            writer.unsynced = writer.unsynced.filter(|_| self.is_disk_full());
            return;
        }
        let size = batch.len();
        let store = match self.disk.store() {
            Ok(store) => store,
            Err(error) => return tracing::error!(%error, "the ledger is not writable"),
        };
        let mut writes = Writes { rows: std::mem::take(&mut writer.rows), ..Writes::default() };
        let (mut applied, mut durable) = (PendingReplies::default(), PendingReplies::default());
        let memtables = self.disk.memtables.read();
        for request in batch {
            let batch = Batch { store: &store, memtables: &memtables, writes: &writes };
            let mut transaction = Transaction::new(&batch, &writer.ids, &*self.environment.subscriptions);
            let (end, reply) = (request.work)(&mut transaction);
            let own = transaction.into_writes();
            match end {
                TransactionEnd::Commit => writes.merge(own),
                TransactionEnd::Rollback => {}
                TransactionEnd::Panicked(why) => {
                    self.fail("a transaction panicked", Failure::permanent(why));
                    reply();
                    break;
                }
            }
            let replies = if request.durability == Durability::Applied { &mut applied } else { &mut durable };
            replies.push(request.runtime, reply);
        }
        drop((memtables, store));
        let start = Instant::now();
        if !writes.is_empty() {
            let changes = Changes::of(&writes);
            if let Some(listener) = self.listener.get() {
                listener.before_commit(&changes);
            }
            if let Err(failure) = self.failpoint("commit").and_then(|()| self.append(&writes, writer)) {
                return self.fail("a commit failed", failure);
            }
            writer.unsynced.get_or_insert(start);
            let mut memtables = self.disk.memtables.write();
            self.schedule.lock().follow(&writes);
            memtables.active.merge(&mut writes.rows);
            drop(memtables);
            if let Some(listener) = self.listener.get() {
                listener.after_commit(&changes);
            }
        }
        writer.rows = writes.rows;
        applied.send_all();
        if size > 0 {
            self.environment.metrics.record(Measurement::BatchSize(size));
        }
        #[cfg(test)]
        self.failpoints.committed(size);
        let is_due = writer.unsynced.is_some_and(|since| size == 0 || since.elapsed() >= MAX_SYNC_DELAY);
        if !is_due && !writes.wakes && durable.is_empty() {
            return;
        }
        // Even a read may have seen writes that are not synced yet.
        let upto = writer.unsynced.take().map(|_| writer.log.position());
        // If the sync thread has ended, the replies are dropped.
        let _ = writer.syncing.send(SyncRequest { upto, since: start, wakes: writes.wakes, replies: durable });
    }
}

/// Reader over the tables, the memtables and the batch so far.
struct Batch<'a> {
    store: &'a Store,
    memtables: &'a Memtables,
    writes: &'a Writes,
}

impl Read for Batch<'_> {
    fn bytes(&self, space: Space, key: &[u8]) -> Result<Option<Value>, LedgerError> {
        match self.writes.rows.get(space, key).or_else(|| self.memtables.get(space, key)) {
            Some(known) => Ok(known.clone()),
            None => self.store.bytes(space, key),
        }
    }
}
