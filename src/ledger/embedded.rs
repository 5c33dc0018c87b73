//! How bytes become durable: one thread owns all writes, takes everything that waits, and syncs it together.
//!
//! ```text
//! claim, settle, … ─▶ writer: run each against what there is so far ▶ append to the log ─▶ (Applied)
//!                        │                                               └─▶ syncer: sync ─▶ (Durable)
//!                        └─▶ a full segment of the log ─▶ filing: into the tables
//! ```
//! A batch for whose sync nobody waits shares that of a later one, which soon comes. What the log holds is in memory as
//! well and lies over the tables; a start writes it to the tables before anything else.
//!
//! Because transactions run one after another, none of them can race; because they share one sync, many cost little
//! more than one. A commit or sync that failed is never tried again: nobody can know what reached the disk, so all
//! who wait get an error, nothing more is written until the process starts anew, and only reading goes on. One failure
//! is known: a full disk. Nothing is written after it either, until there is room; then the tables
//! are opened again, and the log goes on behind its last whole batch. It hardly comes to that: nothing new begins once no
//! more than the reserve is free, so that there is room for the end of what is under way.

mod checkpoint;
mod directory;
#[cfg(test)]
mod failpoints;
mod memtable;
mod store;
mod tables;
mod wal;
mod wal_sync;
mod write_request;
mod writer;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{oneshot, watch};

pub(super) use self::directory::holds_ledger;
pub(super) use self::memtable::View;
use self::store::{Disk, Failure};
use self::wal::Wal;
use self::write_request::{WriteRequest, reply_to};
use self::writer::Writer;
use super::change_feed::ChangeListener;
use super::claim_guard::{Abandoned, ClaimOwner, ExecutionId};
pub(super) use super::engine::Durability;
use super::ids::{Ids, millis_at, time};
use super::limits::{QueueFull, QueueLimit};
use super::records::{ClaimResult, LedgerError};
use super::schedule::Schedule;
use super::transaction::{Pair, Read, Rows, Space, Transaction, Value};

/// Transactions in one batch at most: by then the sync is shared by so many that more would only make them wait.
const BATCH: usize = 128;

/// How long at most a transaction that need not wait for the disk may share the sync of a later one.
const SYNC_LAG: Duration = Duration::from_millis(20);

/// How often it is seen whether there is room again after the disk was full.
const AGAIN: Duration = Duration::from_millis(250);

/// A segment of the log is full then. What it holds is in memory as well, and read at each start.
const SEGMENT: u64 = 32 << 20;

/// Directory of the log, in the ledger's.
const LOG: &str = "journal";

/// The ledger with its threads. Dropped, it finishes what waits and ends them.
pub(super) struct Engine {
    shared: Arc<Shared>,
    /// The writing one, and those that sync and file for it and end after it.
    threads: Vec<JoinHandle<()>>,
}

impl Engine {
    /// Opens or creates the ledger and runs `recover` with the claims that were running before anybody else may write. Nothing
    /// new begins while no more than `reserve` bytes are free on its disk.
    pub(super) fn open(
        path: &Path,
        reserve: u64,
        recover: impl FnOnce(&mut Transaction<'_>, Vec<Pair>) -> Result<(), LedgerError> + Send + 'static,
    ) -> Result<Self, LedgerError> {
        Self::open_with(path, reserve, SEGMENT, recover)
    }

    /// As [`open`](Self::open), with segments of another size.
    pub(super) fn open_with(
        path: &Path,
        reserve: u64,
        segment: u64,
        recover: impl FnOnce(&mut Transaction<'_>, Vec<Pair>) -> Result<(), LedgerError> + Send + 'static,
    ) -> Result<Self, LedgerError> {
        let (disk, log) = Disk::open(path, reserve)?;
        let view = disk.view()?;
        let (schedule, ids) = (Schedule::read(&view)?, Ids::after(&view)?);
        let running = view.all(Space::Running)?;
        drop(view);
        let (sender, receiver) = channel();
        let shared = Arc::new(Shared {
            disk,
            segment,
            jobs: Mutex::new(Some(sender)),
            failed: Mutex::default(),
            ends: Mutex::default(),
            schedule: Mutex::new(schedule),
            wake: watch::Sender::new(0),
            listener: OnceLock::new(),
            #[cfg(test)]
            hooks: failpoints::Hooks::default(),
        });
        let (filing, full) = channel();
        let filer = thread("ledger filing", {
            let shared = shared.clone();
            move || full.into_iter().for_each(|segment| shared.file(&segment))
        })?;
        let (syncing, wanted) = channel();
        let syncer = thread("ledger sync", {
            let shared = shared.clone();
            move || shared.sync(&wanted)
        })?;
        let mut writer = Writer { ids: Mutex::new(ids), log, syncing, filing, unsynced: None, rows: Rows::default() };
        let (reply, recovered) = channel();
        let told = move |recovered| drop(reply.send(recovered));
        shared.commit(vec![WriteRequest::new(Durability::Durable, move |tx| recover(tx, running), told)], &mut writer);
        recovered.recv().unwrap_or_else(|_| Err(shared.refusal()))?;
        let writer = thread("ledger", {
            let shared = shared.clone();
            move || shared.run(&receiver, writer)
        })?;
        Ok(Self { shared, threads: vec![writer, syncer, filer] })
    }

    /// Runs one transaction. An error of `work` leaves nothing written.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        durability: Durability,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let (reply, answer) = oneshot::channel();
        let runtime = Handle::try_current().ok().filter(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread);
        self.shared.submit(WriteRequest { runtime, ..WriteRequest::new(durability, work, reply_to(reply)) })?;
        answer.await.unwrap_or_else(|_| Err(self.shared.refusal()))
    }

    /// Everything that was answered, as it is at this moment.
    pub(super) fn view(&self) -> Result<View<'_>, LedgerError> {
        self.shared.disk.view()
    }

    /// The first keys of a space from one on and before another.
    pub(super) fn keys(
        &self,
        space: Space,
        from: &[u8],
        until: &[u8],
        limit: usize,
    ) -> Result<Vec<Vec<u8>>, LedgerError> {
        self.view()?.keys(space, from, until).take(limit).collect()
    }

    /// Returns the time of the newest row in these spaces, whose keys begin with their times.
    pub(super) fn newest(&self, spaces: &[Space]) -> Result<Option<Timestamp>, LedgerError> {
        let view = self.view()?;
        let keys = spaces.iter().map(|space| view.last_key(*space)).collect::<Result<Vec<_>, _>>()?;
        Ok(keys.into_iter().flatten().map(|key| time(millis_at(&key))).max())
    }

    /// Whether there is room on the disk for something new.
    pub(super) fn check_disk_space(&self) -> Result<(), LedgerError> {
        self.shared.disk.room.check()
    }

    /// As [`Engine::accept`](super::engine::Engine::accept): transactions run one after another, and each sees what those
    /// before it in the batch accepted.
    pub(super) async fn enqueue(
        &self,
        merchant: String,
        limit: QueueLimit,
        mut work: impl FnMut(&mut Transaction<'_>, Option<QueueFull>) -> Result<ClaimResult, LedgerError> + Send + 'static,
    ) -> Result<ClaimResult, LedgerError> {
        let shared = Arc::clone(&self.shared);
        let work = move |tx: &mut Transaction<'_>| {
            let full = shared.schedule.lock().queue_is(&merchant, limit);
            let claimed = work(tx, full)?;
            if matches!(claimed, ClaimResult::Accepted(_)) {
                shared.schedule.lock().accepted(&merchant);
            }
            Ok(claimed)
        };
        self.write(Durability::Durable, work).await
    }

    /// What is waiting, by when it is due.
    pub(super) fn schedule<T>(&self, look: impl FnOnce(&Schedule) -> T) -> T {
        look(&self.shared.schedule.lock())
    }

    /// Changes whenever something became due sooner.
    pub(super) fn wake(&self) -> watch::Receiver<u64> {
        self.shared.wake.subscribe()
    }

    /// Tells the first who asks for it of every change from now on; there are no others on this ledger.
    pub(super) fn listen(&self, listener: Arc<dyn ChangeListener>) {
        self.shared.listener.get_or_init(|| listener).subscribed(None);
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
    pub(super) fn hooks(&self) -> &failpoints::Hooks {
        self.shared.hooks()
    }

    /// Why it cannot write.
    #[cfg(test)]
    pub(super) fn refusal(&self) -> String {
        self.shared.refusal().0
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
        // An answer that owns the last handle is dropped on the writing thread itself, which cannot wait for its own end, nor
        // for what ends after it.
        let own = std::thread::current().id();
        if self.threads.iter().all(|thread| thread.thread().id() != own) {
            self.threads.drain(..).for_each(|thread| drop(thread.join()));
        }
    }
}

/// Each row as it is when it is read: nobody waits for whoever reads.
impl Read for Engine {
    fn bytes(&self, space: Space, key: &[u8]) -> Result<Option<Value>, LedgerError> {
        self.shared.disk.bytes(space, key)
    }
}

/// As [`Ledger::identity_in`](super::Ledger::identity_in).
pub(super) fn identity_in(path: &Path) -> Result<Option<String>, LedgerError> {
    Wal::identity_in(&path.join(LOG)).map_err(|error| LedgerError(error.to_string()))
}

/// Creates a log without tables, as a start does that is then interrupted.
#[cfg(test)]
pub(super) fn create_log(path: &Path) {
    drop(Wal::open(&path.join(LOG), false));
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, LedgerError> {
    std::thread::Builder::new().name(name.into()).spawn(work).map_err(|error| LedgerError(error.to_string()))
}

/// What the thread and the handles share.
pub(super) struct Shared {
    disk: Disk,
    /// How long a segment of the log becomes.
    segment: u64,
    jobs: Mutex<Option<Sender<WriteRequest>>>,
    /// Why nothing can be written, and whether it can again once there is room on the disk.
    failed: Mutex<Option<Failure>>,
    /// Claims that nobody holds any more and whose end is not written yet.
    ends: Mutex<BTreeMap<ExecutionId, Abandoned>>,
    schedule: Mutex<Schedule>,
    wake: watch::Sender<u64>,
    listener: OnceLock<Arc<dyn ChangeListener>>,
    #[cfg(test)]
    hooks: failpoints::Hooks,
}

impl Shared {
    fn submit(&self, job: WriteRequest) -> Result<(), LedgerError> {
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

    /// Opens the tables again if there is room by now. Whoever has a ticket goes on; what was dropped meanwhile is ended.
    fn resume_after_full_disk(self: &Arc<Self>) {
        match self.disk.reopen() {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => return tracing::warn!(%error, "the ledger cannot be opened again yet"),
        }
        if let Some(listener) = self.listener.get() {
            // What was being written when it failed may be there or not.
            listener.disconnected();
            listener.subscribed(None);
        }
        *self.failed.lock() = None;
        tracing::info!("the ledger can write again");
        let ends: Vec<_> = self.ends.lock().iter().map(|(execution, end)| (*execution, *end)).collect();
        for (execution, end) in ends {
            // One that cannot be handed over now stays on the list.
            let _ = self.submit(self.ending(execution, end));
        }
        self.wake.send_modify(|count| *count += 1);
    }

    /// Ends a claim that nobody holds any more.
    fn ending(self: &Arc<Self>, execution: ExecutionId, end: Abandoned) -> WriteRequest {
        let shared = Arc::downgrade(self);
        let told = move |ended: Result<(), LedgerError>| {
            if let Err(error) = ended {
                tracing::error!(%error, "a claim that nobody holds any more cannot be ended; the next start ends it");
            }
            if let Some(shared) = shared.upgrade() {
                shared.ends.lock().remove(&execution);
            }
        };
        WriteRequest::new(Durability::Durable, move |tx| end.of(tx, execution), told)
    }

    #[cfg(test)]
    pub(super) fn hooks(&self) -> &failpoints::Hooks {
        &self.hooks
    }

    #[cfg(not(test))]
    fn trip(&self, _step: &str) -> Result<(), Failure> {
        Ok(())
    }

    #[cfg(test)]
    fn trip(&self, step: &str) -> Result<(), Failure> {
        self.hooks.failpoint(step)
    }
}

impl ClaimOwner for Shared {
    /// What runs is found by the next start.
    fn acquired(&self, _: ExecutionId) {}

    fn released(&self, _: ExecutionId) {}

    fn abandon(self: Arc<Self>, execution: ExecutionId, end: Abandoned) {
        self.ends.lock().insert(execution, end);
        if let Err(error) = self.submit(self.ending(execution, end)) {
            tracing::error!(%error, "a claim that nobody holds any more is ended when the ledger can write again");
        }
    }
}
