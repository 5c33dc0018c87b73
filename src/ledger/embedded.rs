//! How bytes become durable: one thread owns all writes, takes everything that waits, and syncs it together.
//!
//! ```text
//! claim, settle, … ─▶ channel ─▶ thread: run each against what the batch has so far ▶ commit ▶ (Applied) ▶ sync ▶ (Durable)
//! ```
//! A batch for whose sync nobody waits shares that of a later one, which soon comes.
//!
//! Because transactions run one after another, none of them can race; because they share one sync, many cost little
//! more than one. A commit or sync that failed is never tried again: nobody can know what reached the disk, so all
//! who wait get an error, nothing more is written until the process starts anew, and only reading goes on. One failure
//! is known: a commit that met a full disk. Nothing is written after it either, until there is room; then the database
//! is opened again, and what it finds on the disk counts. It hardly comes to that: nothing new begins once no more than the
//! reserve is free, so that there is room for the end of what is under way.

#[cfg(test)]
mod hooks;
mod job;
mod store;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use self::job::{Job, Verdict, reply_to, words};
use self::store::{Disk, Failure, Store};
use super::agenda::Agenda;
pub(super) use super::engine::Durability;
use super::feed::{Changes, Listener};
use super::held::{End, Holder, Turn};
use super::records::LedgerError;
use super::rows::Ids;
use super::transaction::{Read, Space, Transaction, View, Writes};
use crate::telemetry::METRICS;

/// Transactions in one batch at most: by then the sync is shared by so many that more would only make them wait.
const BATCH: usize = 128;

/// How long at most a transaction that need not wait for the disk may share the sync of a later one.
const SYNC_LAG: Duration = Duration::from_millis(20);

/// How often it is seen whether there is room again after the disk was full.
const AGAIN: Duration = Duration::from_millis(250);

/// The database with its writing thread. Dropped, it finishes what waits and ends the thread.
pub(super) struct Engine {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    /// Opens or creates the database and runs `recover` before anybody else may write. Nothing new begins while no more than
    /// `reserve` bytes are free on its disk.
    pub(super) fn open(
        path: &Path,
        reserve: u64,
        recover: impl FnOnce(&mut Transaction<'_>, &View) -> Result<(), LedgerError> + Send + 'static,
    ) -> Result<Self, LedgerError> {
        let disk = Disk::open(path, reserve)?;
        let view = disk.view()?;
        let agenda = Agenda::read(&view)?;
        let (sender, receiver) = channel();
        let shared = Arc::new(Shared {
            disk,
            jobs: Mutex::new(Some(sender)),
            failed: Mutex::default(),
            ends: Mutex::default(),
            agenda: Mutex::new(agenda),
            wake: watch::Sender::new(0),
            listener: OnceLock::new(),
            #[cfg(test)]
            hooks: hooks::Hooks::default(),
        });
        let mut writer = Writer { ids: Mutex::new(Ids::after(&view)?), unsynced: None };
        let (reply, mut recovered) = oneshot::channel();
        shared.commit(vec![Job::new(Durability::Durable, move |tx| recover(tx, &view), reply_to(reply))], &mut writer);
        recovered.try_recv().unwrap_or_else(|_| Err(shared.refusal()))?;
        let thread = std::thread::Builder::new().name("ledger".into()).spawn({
            let shared = shared.clone();
            move || shared.run(&receiver, writer)
        });
        Ok(Self { shared, thread: Some(thread.map_err(|error| LedgerError(error.to_string()))?) })
    }

    /// Runs one transaction. An error of `work` leaves nothing written.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        durability: Durability,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let (reply, answer) = oneshot::channel();
        self.shared.submit(Job::new(durability, work, reply_to(reply)))?;
        answer.await.unwrap_or_else(|_| Err(self.shared.refusal()))
    }

    /// Everything that was answered, as it is at this moment.
    pub(super) fn view(&self) -> Result<View, LedgerError> {
        self.shared.disk.view()
    }

    /// Whether there is room on the disk for something new.
    pub(super) fn room(&self) -> Result<(), LedgerError> {
        self.shared.disk.room.check()
    }

    /// What is waiting, by when it is due.
    pub(super) fn agenda<T>(&self, look: impl FnOnce(&Agenda) -> T) -> T {
        look(&self.shared.agenda.lock())
    }

    /// Changes whenever something became due sooner.
    pub(super) fn wake(&self) -> watch::Receiver<u64> {
        self.shared.wake.subscribe()
    }

    /// Tells the first who asks for it of every change from now on; there are no others on this ledger.
    pub(super) fn listen(&self, listener: Arc<dyn Listener>) {
        self.shared.listener.get_or_init(|| listener).hears(None);
    }

    /// Whether it can still write.
    pub(super) fn is_healthy(&self) -> bool {
        self.shared.failed.lock().is_none()
    }

    /// A way back to the thread that does not keep the database open.
    pub(super) fn weak(&self) -> Weak<Shared> {
        Arc::downgrade(&self.shared)
    }

    #[cfg(test)]
    pub(super) fn hooks(&self) -> &hooks::Hooks {
        self.shared.hooks()
    }

    /// As if so much were free on the disk.
    #[cfg(test)]
    pub(super) fn pretend_free(&self, free: Option<u64>) {
        self.shared.disk.room.pretend(free);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shared.jobs.lock().take();
        // An answer that owns the last handle is dropped on the thread itself, which cannot wait for its own end.
        let thread = self.thread.take().filter(|thread| thread.thread().id() != std::thread::current().id());
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

/// What only the writing thread has.
struct Writer {
    ids: Mutex<Ids>,
    /// Since when something has been committed that is not synced.
    unsynced: Option<Instant>,
}

/// What the thread and the handles share.
pub(super) struct Shared {
    disk: Disk,
    jobs: Mutex<Option<Sender<Job>>>,
    /// Why nothing can be written, and whether it can again once there is room on the disk.
    failed: Mutex<Option<Failure>>,
    /// Claims that nobody holds any more and whose end is not written yet.
    ends: Mutex<BTreeMap<Turn, End>>,
    agenda: Mutex<Agenda>,
    wake: watch::Sender<u64>,
    listener: OnceLock<Arc<dyn Listener>>,
    #[cfg(test)]
    hooks: hooks::Hooks,
}

impl Shared {
    fn submit(&self, job: Job) -> Result<(), LedgerError> {
        if self.failed.lock().is_some() {
            return Err(self.refusal());
        }
        #[cfg(test)]
        self.hooks.submitted();
        // Not under the lock: a job that cannot be sent is dropped here, and what it holds may come back to us.
        let jobs = self.jobs.lock().clone();
        jobs.and_then(|jobs| jobs.send(job).ok()).ok_or_else(|| self.refusal())
    }

    fn refusal(&self) -> LedgerError {
        LedgerError(self.failed.lock().as_ref().map_or_else(|| "it is shut".into(), |failure| failure.why.clone()))
    }

    fn fail(&self, step: &str, Failure { why, is_full }: Failure) {
        let why = format!("{step}: {why}");
        if is_full {
            tracing::error!(%why, "the ledger's disk is full: nothing is sent until there is room again");
        } else {
            tracing::error!(%why, "the ledger cannot write any more: nothing is sent until the process starts anew");
        }
        *self.failed.lock() = Some(Failure { why, is_full });
    }

    fn waits_for_room(&self) -> bool {
        self.failed.lock().as_ref().is_some_and(|failure| failure.is_full)
    }

    /// Opens the database again if there is room by now. Whoever has a ticket goes on; what was dropped meanwhile is ended.
    fn go_on(self: &Arc<Self>) {
        let read = || if self.disk.reopen()? { Agenda::read(&self.disk.view()?).map(Some) } else { Ok(None) };
        match read() {
            Ok(Some(agenda)) => *self.agenda.lock() = agenda,
            Ok(None) => return,
            Err(error) => return tracing::warn!(%error, "the ledger cannot be opened again yet"),
        }
        if let Some(listener) = self.listener.get() {
            // What was being written when it failed may be there or not.
            listener.deaf();
            listener.hears(None);
        }
        *self.failed.lock() = None;
        tracing::info!("the ledger can write again");
        let ends: Vec<_> = self.ends.lock().iter().map(|(turn, end)| (*turn, *end)).collect();
        for (turn, end) in ends {
            // One that cannot be handed over now stays on the list.
            let _ = self.submit(self.ending(turn, end));
        }
        self.wake.send_modify(|count| *count += 1);
    }

    /// Ends a claim that nobody holds any more.
    fn ending(self: &Arc<Self>, turn: Turn, end: End) -> Job {
        let shared = Arc::downgrade(self);
        let told = move |ended: Result<(), LedgerError>| {
            if let Err(error) = ended {
                tracing::error!(%error, "a claim that nobody holds any more cannot be ended; the next start ends it");
            }
            if let Some(shared) = shared.upgrade() {
                shared.ends.lock().remove(&turn);
            }
        };
        Job::new(Durability::Durable, move |tx| end.of(tx, turn), told)
    }

    fn run(self: &Arc<Self>, jobs: &Receiver<Job>, mut writer: Writer) {
        loop {
            let waits_for_room = self.waits_for_room();
            let first = match writer.unsynced {
                _ if waits_for_room => jobs.recv_timeout(AGAIN),
                Some(since) => jobs.recv_timeout(SYNC_LAG.saturating_sub(since.elapsed())),
                None => jobs.recv().map_err(RecvTimeoutError::from),
            };
            let is_last = matches!(first, Err(RecvTimeoutError::Disconnected));
            if waits_for_room {
                self.go_on();
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

    /// Dropping a job or its answer tells the waiter that it was not done. An empty batch syncs what is unsynced.
    fn commit(&self, batch: Vec<Job>, writer: &mut Writer) {
        if self.failed.lock().is_some() {
            writer.unsynced = None;
            return;
        }
        let size = batch.len();
        let store = match self.disk.store() {
            Ok(store) => store,
            Err(error) => return tracing::error!(%error, "nothing can be written"),
        };
        let mut writes = Writes::default();
        let (mut applied, mut durable) = (Vec::new(), Vec::new());
        for job in batch {
            let batch = Batch { store: &store, writes: &writes };
            let mut transaction = Transaction::new(&batch, &writer.ids);
            let (verdict, answer) = (job.work)(&mut transaction);
            let own = transaction.into_writes();
            match verdict {
                Verdict::Keep => writes.merge(own),
                Verdict::Forget => {}
                Verdict::Panicked(why) => {
                    self.fail("a transaction panicked", Failure { why, is_full: false });
                    answer();
                    break;
                }
            }
            if job.durability == Durability::Applied { applied.push(answer) } else { durable.push(answer) }
        }
        drop(store);
        let start = Instant::now();
        if !writes.is_empty() {
            let changes = Changes::of(&writes);
            if let Some(listener) = self.listener.get() {
                listener.changing(&changes);
            }
            if let Err(failure) = self.trip("commit").and_then(|()| self.disk.commit(&writes)) {
                return self.fail("a commit failed", failure);
            }
            writer.unsynced.get_or_insert(start);
            self.agenda.lock().follow(&writes);
            if let Some(listener) = self.listener.get() {
                listener.changed(&changes);
            }
        }
        applied.into_iter().for_each(|answer| answer());
        let is_due = writer.unsynced.is_some_and(|since| size == 0 || since.elapsed() >= SYNC_LAG);
        // What a read says may rest on what is not synced yet.
        if writer.unsynced.is_some() && (is_due || writes.wakes || !durable.is_empty()) {
            if let Err(failure) = self.trip("sync").and_then(|()| self.disk.sync()) {
                return self.fail("a sync failed", failure);
            }
            writer.unsynced = None;
            #[cfg(test)]
            self.hooks.synced();
            METRICS.ledger_commit_seconds.observe(start.elapsed().as_secs_f64());
        }
        if size > 0 {
            METRICS.ledger_batch_size.observe(size as f64);
        }
        #[cfg(test)]
        self.hooks.committed(size);
        if writes.wakes {
            self.wake.send_modify(|count| *count += 1);
        }
        durable.into_iter().for_each(|answer| answer());
    }

    #[cfg(test)]
    pub(super) fn hooks(&self) -> &hooks::Hooks {
        &self.hooks
    }

    #[cfg(not(test))]
    fn trip(&self, _step: &str) -> Result<(), Failure> {
        Ok(())
    }

    #[cfg(test)]
    fn trip(&self, step: &str) -> Result<(), Failure> {
        self.hooks.trip(step)
    }
}

/// The disk under what the batch has so far.
struct Batch<'a> {
    store: &'a Store,
    writes: &'a Writes,
}

impl Read for Batch<'_> {
    fn bytes(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, LedgerError> {
        if let Some(pending) = self.writes.rows.get(&(space, key.to_vec())) {
            return Ok(pending.clone());
        }
        let found = self.store.space(space).get(key);
        found.map(|value| value.map(|value| value.to_vec())).map_err(|error| LedgerError(error.to_string()))
    }
}

impl Holder for Shared {
    /// What runs is found by the next start.
    fn holds(&self, _: Turn) {}

    fn let_go(&self, _: Turn) {}

    fn end(self: Arc<Self>, turn: Turn, end: End) {
        self.ends.lock().insert(turn, end);
        if let Err(error) = self.submit(self.ending(turn, end)) {
            tracing::error!(%error, "a claim that nobody holds any more is ended when the ledger can write again");
        }
    }
}
