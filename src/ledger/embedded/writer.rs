//! The thread that runs every transaction and writes the log.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::memtable::Memtables;
use super::store::{Failure, Store};
use super::wal::Segment;
use super::wal_sync::SyncRequest;
use super::write_request::{Answers, TransactionEnd, WriteRequest, words};
use super::{AGAIN, BATCH, Durability, SYNC_LAG, Shared};
use crate::ledger::change_feed::Changes;
use crate::ledger::ids::Ids;
use crate::ledger::records::LedgerError;
use crate::ledger::transaction::{Read, Rows, Space, Transaction, Value, Writes};
use crate::telemetry::METRICS;

/// What only this thread has.
pub(super) struct Writer {
    pub(super) ids: Mutex<Ids>,
    pub(super) log: Segment,
    /// Where those go who wait for a sync.
    pub(super) syncing: Sender<SyncRequest>,
    /// Where full segments go.
    pub(super) filing: Sender<Segment>,
    /// Since when something has been written whose sync nobody has asked for.
    pub(super) unsynced: Option<Instant>,
    /// Empty: the room that the batch before had.
    pub(super) rows: Rows,
}

impl Shared {
    /// Writes a batch into the log, into its next segment when this one is full.
    fn append(&self, writes: &Writes, writer: &mut Writer) -> Result<(), Failure> {
        if writer.log.len() >= self.segment {
            self.rotate(writer)?;
        }
        writer.log.append(&writes.rows).map_err(|error| Failure::of(&error, &self.disk.room))
    }

    /// Goes on in the log's next segment. While the one before is still being filed, this one grows on, up to twice its
    /// length; then everybody waits.
    fn rotate(&self, writer: &mut Writer) -> Result<(), Failure> {
        let (next, empty) = loop {
            let must = writer.log.len() >= 2 * self.segment;
            match self.disk.spare(if must { AGAIN } else { Duration::ZERO }) {
                Some(next) => break next,
                None if !must => return Ok(()),
                None => {}
            }
            if let Some(failure) = self.failed.lock().as_ref() {
                return Err(Failure { why: failure.why.clone(), is_full: failure.is_full });
            }
        };
        // Before anything is behind it.
        let (synced, is_synced) = channel();
        let mut answers = Answers::default();
        let told = move || {
            let _ = synced.send(());
        };
        answers.push(None, Box::new(told));
        let upto = Some(writer.log.position());
        let _ = writer.syncing.send(SyncRequest { upto, since: Instant::now(), wakes: false, answers });
        is_synced.recv().map_err(|_| Failure { why: "a sync failed".into(), is_full: false })?;
        let full = std::mem::replace(&mut writer.log, next);
        let mut layers = self.disk.layers.write();
        layers.immutable = Some(Arc::new(std::mem::replace(&mut layers.active, empty)));
        drop(layers);
        writer.filing.send(full).map_err(|_| Failure { why: "the filing thread ended".into(), is_full: false })
    }

    pub(super) fn run(self: &Arc<Self>, jobs: &Receiver<WriteRequest>, mut writer: Writer) {
        loop {
            let waits_for_room = self.waits_for_room();
            let first = match writer.unsynced {
                _ if waits_for_room => jobs.recv_timeout(AGAIN),
                Some(since) => jobs.recv_timeout(SYNC_LAG.saturating_sub(since.elapsed())),
                None => jobs.recv_timeout(AGAIN),
            };
            // Nobody comes any more once another thread has met a full disk: that is seen here, too.
            if !waits_for_room && writer.unsynced.is_none() && matches!(first, Err(RecvTimeoutError::Timeout)) {
                self.look_at_directory();
                continue;
            }
            let is_last = matches!(first, Err(RecvTimeoutError::Disconnected));
            if waits_for_room {
                self.resume_after_full_disk();
            }
            let batch = first.into_iter().chain(jobs.try_iter().take(BATCH - 1)).collect();
            // What the storage engine panics about is as fatal as what it says.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.commit(batch, &mut writer))) {
                self.fail("it panicked", Failure { why: words(panic.as_ref()), is_full: false });
                writer.unsynced = None;
            }
            if is_last {
                return;
            }
        }
    }

    /// While nothing is written, nobody else would notice that the directory is gone.
    fn look_at_directory(&self) {
        if self.failed.lock().is_none()
            && let Err(error) = self.disk.wal.check_in_place()
        {
            self.fail("its files are gone", Failure::for_good(&error));
        }
    }

    /// Dropping a job or its answer tells the waiter that it was not done. An empty batch syncs what is unsynced.
    pub(super) fn commit(&self, batch: Vec<WriteRequest>, writer: &mut Writer) {
        if self.failed.lock().is_some() {
            // Where it goes on, that is to be synced still.
            writer.unsynced = writer.unsynced.filter(|_| self.waits_for_room());
            return;
        }
        let size = batch.len();
        let store = match self.disk.store() {
            Ok(store) => store,
            Err(error) => return tracing::error!(%error, "nothing can be written"),
        };
        let mut writes = Writes { rows: std::mem::take(&mut writer.rows), ..Writes::default() };
        let (mut applied, mut durable) = (Answers::default(), Answers::default());
        let layers = self.disk.layers.read();
        for job in batch {
            let batch = Batch { store: &store, layers: &layers, writes: &writes };
            let mut transaction = Transaction::new(&batch, &writer.ids);
            let (verdict, answer) = (job.work)(&mut transaction);
            let own = transaction.into_writes();
            match verdict {
                TransactionEnd::Commit => writes.merge(own),
                TransactionEnd::Rollback => {}
                TransactionEnd::Panicked(why) => {
                    self.fail("a transaction panicked", Failure { why, is_full: false });
                    answer();
                    break;
                }
            }
            let answers = if job.durability == Durability::Applied { &mut applied } else { &mut durable };
            answers.push(job.runtime, answer);
        }
        drop((layers, store));
        let start = Instant::now();
        if !writes.is_empty() {
            let changes = Changes::of(&writes);
            if let Some(listener) = self.listener.get() {
                listener.before_commit(&changes);
            }
            if let Err(failure) = self.trip("commit").and_then(|()| self.append(&writes, writer)) {
                return self.fail("a commit failed", failure);
            }
            writer.unsynced.get_or_insert(start);
            let mut layers = self.disk.layers.write();
            self.schedule.lock().follow(&writes);
            layers.active.merge(&mut writes.rows);
            drop(layers);
            if let Some(listener) = self.listener.get() {
                listener.after_commit(&changes);
            }
        }
        writer.rows = writes.rows;
        applied.tell();
        if size > 0 {
            METRICS.ledger_batch_size.observe(size as f64);
        }
        #[cfg(test)]
        self.hooks.committed(size);
        let is_due = writer.unsynced.is_some_and(|since| size == 0 || since.elapsed() >= SYNC_LAG);
        if !is_due && !writes.wakes && durable.is_empty() {
            return;
        }
        // What a read says may rest on what is not synced yet, or is just being synced.
        let upto = writer.unsynced.take().map(|_| writer.log.position());
        // Without the syncing thread nobody is answered.
        let _ = writer.syncing.send(SyncRequest { upto, since: start, wakes: writes.wakes, answers: durable });
    }
}

/// What there is, under what the batch has so far.
struct Batch<'a> {
    store: &'a Store,
    layers: &'a Memtables,
    writes: &'a Writes,
}

impl Read for Batch<'_> {
    fn bytes(&self, space: Space, key: &[u8]) -> Result<Option<Value>, LedgerError> {
        match self.writes.rows.get(space, key).or_else(|| self.layers.get(space, key)) {
            Some(known) => Ok(known.clone()),
            None => self.store.bytes(space, key),
        }
    }
}
