//! Embedded engine. One thread runs all transactions in batches, and each batch is synced together (group commit).
//!
//! ```text
//! claim, settle, … ─▶ writer: run each transaction ▶ append to the WAL ─▶ reply (Applied)
//!                        │                              └─▶ WAL sync thread: fsync ─▶ reply (Durable)
//!                        └─▶ a full WAL segment ─▶ checkpoint thread: write to the tables
//! ```
//! A batch without `Durable` transactions shares the sync of a later batch, at most 20 ms later. The rows of the WAL
//! are also in the memtables, which readers merge with the tables. A start writes the WAL's rows to the tables first.
//!
//! Transactions run one after another, so they cannot race. A failed commit or sync is never retried, because nobody
//! can know what reached the disk. All waiting transactions get an error, and the ledger stays read-only until the
//! process restarts.
//!
//! A full disk is the exception: once there is room again, the tables are reopened and the WAL continues after its
//! last complete batch. This is rare, because new claims are rejected while less than the reserve is free.

mod checkpoint;
mod directory;
mod disk;
mod disk_space;
#[cfg(test)]
mod failpoints;
mod failure;
mod memtable;
mod shared;
mod store;
mod tables;
mod view;
mod wal;
mod wal_sync;
mod write_request;
mod writer;

use std::path::Path;
use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{oneshot, watch};

pub(super) use self::directory::holds_ledger;
use self::disk::Disk;
use self::shared::Shared;
pub(super) use self::view::View;
use self::wal::Wal;
use self::write_request::{WriteRequest, reply_to};
use self::writer::Writer;
use super::change_feed::ChangeListener;
use super::environment::Environment;
use super::error::LedgerError;
use super::ids::{Ids, millis_at, time};
use super::limits::{QueueFull, QueueLimit};
use super::outbox;
use super::records::ClaimResult;
use super::schedule::Schedule;
use super::transaction::{Durability, Pair, Read, Rows, Space, Transaction, Value};

/// Maximum number of transactions in a batch. Larger batches would add latency without saving much of the sync.
const MAX_BATCH: usize = 128;

/// Maximum delay of the sync of `Applied` transactions, which share the sync of a later batch.
const MAX_SYNC_DELAY: Duration = Duration::from_millis(20);

/// Interval of the checks for free space after the disk was full.
const FULL_DISK_RECHECK_INTERVAL: Duration = Duration::from_millis(250);

/// Size in bytes at which a WAL segment is full. Its rows are in memory too, and are read at each start.
const SEGMENT_BYTES: u64 = 32 << 20;

/// Name of the WAL's directory in the ledger's directory.
const LOG: &str = "wal";

/// Embedded engine with its threads. When dropped, it completes the pending transactions and joins the threads.
pub(super) struct Engine {
    shared: Arc<Shared>,
    /// The writer, then the sync and checkpoint threads, which end after it.
    threads: Vec<JoinHandle<()>>,
}

impl Engine {
    /// Opens or creates the ledger and runs `recover` with the running claims before any other transaction. New
    /// claims are rejected while less than `reserve` bytes are free on the disk.
    pub(super) fn open(
        path: &Path,
        reserve: u64,
        environment: Environment,
        recover: impl FnOnce(&mut Transaction<'_>, Vec<Pair>) -> Result<(), LedgerError> + Send + 'static,
    ) -> Result<Self, LedgerError> {
        Self::open_with(path, reserve, SEGMENT_BYTES, environment, recover)
    }

    /// Opens the ledger like [`open`](Self::open), with another segment size in bytes.
    pub(super) fn open_with(
        path: &Path,
        reserve: u64,
        segment: u64,
        environment: Environment,
        recover: impl FnOnce(&mut Transaction<'_>, Vec<Pair>) -> Result<(), LedgerError> + Send + 'static,
    ) -> Result<Self, LedgerError> {
        let (disk, log) = Disk::open(path, reserve)?;
        let view = disk.view()?;
        let mut schedule = Schedule::read(|space| view.all(space))?;
        schedule.queued = outbox::queued(&view, &schedule)?;
        let ids = Ids::starting_at(next_millis(&view)?);
        let running = view.all(Space::Running)?;
        drop(view);
        let (sender, receiver) = channel();
        let shared = Arc::new(Shared {
            disk,
            environment,
            segment,
            requests: Mutex::new(Some(sender)),
            failed: Mutex::default(),
            ends: Mutex::default(),
            schedule: Mutex::new(schedule),
            wake: watch::Sender::new(0),
            listener: OnceLock::new(),
            #[cfg(test)]
            failpoints: failpoints::Failpoints::default(),
        });
        let (checkpoints, full) = channel();
        let checkpointer = thread("ledger ckpt", {
            let shared = shared.clone();
            move || full.into_iter().for_each(|segment| shared.checkpoint(&segment))
        })?;
        let (syncing, sync_requests) = channel();
        let syncer = thread("ledger sync", {
            let shared = shared.clone();
            move || shared.sync(&sync_requests)
        })?;
        let mut writer =
            Writer { ids: Mutex::new(ids), log, syncing, checkpoints, unsynced: None, rows: Rows::default() };
        let (reply, recovered) = channel();
        let reply = move |recovered| drop(reply.send(recovered));
        shared.commit(vec![WriteRequest::new(Durability::Durable, move |tx| recover(tx, running), reply)], &mut writer);
        recovered.recv().unwrap_or_else(|_| Err(shared.refusal()))?;
        let writer = thread("ledger", {
            let shared = shared.clone();
            move || shared.run(&receiver, writer)
        })?;
        Ok(Self { shared, threads: vec![writer, syncer, checkpointer] })
    }

    /// Runs one transaction. An error of `work` rolls it back.
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

    /// Returns a consistent view of everything that was acknowledged.
    pub(super) fn view(&self) -> Result<View<'_>, LedgerError> {
        self.shared.disk.view()
    }

    /// Returns the first keys of a space in the range from `from` (inclusive) to `until` (exclusive).
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

    /// Checks that the disk has room for a new claim.
    pub(super) fn check_disk_space(&self) -> Result<(), LedgerError> {
        self.shared.disk.disk_space.check()
    }

    /// Implements [`Engine::enqueue`](super::engine::Engine::enqueue). Each transaction sees the jobs that earlier
    /// ones in its batch enqueued.
    pub(super) async fn enqueue(
        &self,
        merchant: String,
        limit: QueueLimit,
        mut work: impl FnMut(&mut Transaction<'_>, Option<QueueFull>) -> Result<ClaimResult, LedgerError> + Send + 'static,
    ) -> Result<ClaimResult, LedgerError> {
        let shared = Arc::clone(&self.shared);
        let work = move |tx: &mut Transaction<'_>| {
            let full = shared.schedule.lock().reached_limit(&merchant, limit);
            let claimed = work(tx, full)?;
            if matches!(claimed, ClaimResult::Accepted(_)) {
                shared.schedule.lock().accepted(&merchant);
            }
            Ok(claimed)
        };
        self.write(Durability::Durable, work).await
    }

    /// Reads the due index.
    pub(super) fn schedule<T>(&self, read: impl FnOnce(&Schedule) -> T) -> T {
        read(&self.shared.schedule.lock())
    }

    /// Returns a counter that changes whenever something becomes due sooner.
    pub(super) fn wake(&self) -> watch::Receiver<u64> {
        self.shared.wake.subscribe()
    }

    /// Registers the first listener for all changes. No other process writes to this ledger.
    pub(super) fn listen(&self, listener: Arc<dyn ChangeListener>) {
        self.shared.listener.get_or_init(|| listener).subscribed(None);
    }

    pub(super) fn environment(&self) -> &Environment {
        &self.shared.environment
    }

    /// Returns why the ledger is not writable.
    pub(super) fn failure(&self) -> Option<LedgerError> {
        self.shared.failed.lock().clone()
    }

    /// Returns a weak reference to the shared state, which does not keep the database open.
    pub(super) fn weak(&self) -> Weak<Shared> {
        Arc::downgrade(&self.shared)
    }

    #[cfg(test)]
    pub(super) fn failpoints(&self) -> &failpoints::Failpoints {
        self.shared.failpoints()
    }

    /// Returns why the ledger is not writable.
    #[cfg(test)]
    pub(super) fn refusal(&self) -> String {
        self.shared.refusal().to_string()
    }

    /// Simulates this much free disk space.
    #[cfg(test)]
    pub(super) fn simulate_free(&self, free: Option<u64>) {
        self.shared.disk.disk_space.simulate_free(free);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shared.requests.lock().take();
        // If the last handle is dropped by a reply on the writer thread, that thread cannot join itself.
        let own = std::thread::current().id();
        if self.threads.iter().all(|thread| thread.thread().id() != own) {
            self.threads.drain(..).for_each(|thread| drop(thread.join()));
        }
    }
}

/// Reads each row at its own time, without blocking writers.
impl Read for Engine {
    fn bytes(&self, space: Space, key: &[u8]) -> Result<Option<Value>, LedgerError> {
        self.shared.disk.bytes(space, key)
    }
}

/// Implements [`Ledger::identity_in`](super::Ledger::identity_in).
pub(super) fn identity_in(path: &Path) -> Result<Option<String>, LedgerError> {
    Wal::identity_in(&path.join(LOG)).map_err(|error| error.of(path))
}

/// Creates a WAL without tables, like a start that was interrupted.
#[cfg(test)]
pub(super) fn create_log(path: &Path) {
    drop(Wal::open(&path.join(LOG), false));
}

/// Returns the millisecond after the newest id on disk.
fn next_millis(view: &View<'_>) -> Result<u64, LedgerError> {
    let spaces = [Space::Payments, Space::Refunds, Space::Claims, Space::Events];
    let keys = spaces.iter().map(|space| view.last_key(*space)).collect::<Result<Vec<_>, _>>()?;
    Ok(keys.into_iter().flatten().map(|key| millis_at(&key) + 1).max().unwrap_or(0))
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, LedgerError> {
    let thread = std::thread::Builder::new().name(name.into()).spawn(work);
    thread.map_err(|error| LedgerError::Internal(format!("the thread `{name}` cannot be started: {error}")))
}
