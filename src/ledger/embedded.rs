//! How bytes become durable: one thread owns all writes, takes everything that waits, and syncs it together.
//!
//! ```text
//! claim, settle, … ─▶ channel ─▶ thread: run each against what the batch has so far ▶ commit ▶ (Applied) ▶ sync ▶ (Durable)
//! ```
//! A batch for whose sync nobody waits shares that of a later one, which soon comes.
//!
//! Because transactions run one after another, none of them can race; because they share one sync, many cost little
//! more than one. A commit or sync that failed is never tried again: nobody can know what reached the disk, so all
//! who wait get an error, nothing more is written until the process starts anew, and only reading goes on.

#[cfg(test)]
mod hooks;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use super::agenda::Agenda;
pub(super) use super::engine::Durability;
use super::held::{End, Holder};
use super::records::LedgerError;
use super::rows::{Id, Ids};
use super::transaction::{Read, Space, Transaction, View, Writes};
use crate::telemetry::METRICS;

/// Transactions in one batch at most: by then the sync is shared by so many that more would only make them wait.
const BATCH: usize = 128;

/// How long at most a transaction that need not wait for the disk may share the sync of a later one.
const SYNC_LAG: Duration = Duration::from_millis(20);

/// The database with its writing thread. Dropped, it finishes what waits and ends the thread.
pub(super) struct Engine {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    /// Opens or creates the database and runs `recover` before anybody else may write.
    pub(super) fn open(
        path: &Path,
        recover: impl FnOnce(&mut Transaction<'_>, &View) -> Result<(), LedgerError> + Send + 'static,
    ) -> Result<Self, LedgerError> {
        let store = Store::open(path)?;
        let view = store.view();
        let agenda = Agenda::read(&view)?;
        let (sender, receiver) = channel();
        let shared = Arc::new(Shared {
            store,
            jobs: Mutex::new(Some(sender)),
            failed: OnceLock::new(),
            agenda: Mutex::new(agenda),
            wake: watch::Sender::new(0),
            #[cfg(test)]
            hooks: hooks::Hooks::default(),
        });
        let mut writer = Writer { ids: Mutex::new(Ids::after(&view)?), unsynced: None };
        let (reply, mut recovered) = oneshot::channel();
        shared.commit(vec![Job::new(Durability::Durable, move |tx| recover(tx, &view), Some(reply))], &mut writer);
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
        self.shared.submit(Job::new(durability, work, Some(reply)))?;
        answer.await.unwrap_or_else(|_| Err(self.shared.refusal()))
    }

    /// Everything that was answered, as it is at this moment.
    pub(super) fn view(&self) -> View {
        self.shared.store.view()
    }

    /// What is waiting, by when it is due.
    pub(super) fn agenda<T>(&self, look: impl FnOnce(&Agenda) -> T) -> T {
        look(&self.shared.agenda.lock())
    }

    /// Changes whenever something became due sooner.
    pub(super) fn wake(&self) -> watch::Receiver<u64> {
        self.shared.wake.subscribe()
    }

    /// Whether it can still write.
    pub(super) fn is_healthy(&self) -> bool {
        self.shared.failed.get().is_none()
    }

    /// A way back to the thread that does not keep the database open.
    pub(super) fn weak(&self) -> Weak<Shared> {
        Arc::downgrade(&self.shared)
    }

    #[cfg(test)]
    pub(super) fn hooks(&self) -> &hooks::Hooks {
        self.shared.hooks()
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
    store: Store,
    jobs: Mutex<Option<Sender<Job>>>,
    failed: OnceLock<String>,
    agenda: Mutex<Agenda>,
    wake: watch::Sender<u64>,
    #[cfg(test)]
    hooks: hooks::Hooks,
}

impl Shared {
    /// Runs one transaction that nobody waits for.
    fn send(
        &self,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<(), LedgerError> + Send + 'static,
    ) -> Result<(), LedgerError> {
        self.submit(Job::new(Durability::Durable, work, None))
    }

    fn submit(&self, job: Job) -> Result<(), LedgerError> {
        if self.failed.get().is_some() {
            return Err(self.refusal());
        }
        #[cfg(test)]
        self.hooks.submitted();
        // Not under the lock: a job that cannot be sent is dropped here, and what it holds may come back to us.
        let jobs = self.jobs.lock().clone();
        jobs.and_then(|jobs| jobs.send(job).ok()).ok_or_else(|| self.refusal())
    }

    fn refusal(&self) -> LedgerError {
        LedgerError(self.failed.get().cloned().unwrap_or_else(|| "it is shut".into()))
    }

    fn fail(&self, why: String) {
        tracing::error!(%why, "the ledger cannot write any more: nothing is sent until the process starts anew");
        let _ = self.failed.set(why);
    }

    fn run(&self, jobs: &Receiver<Job>, mut writer: Writer) {
        loop {
            let first = match writer.unsynced {
                Some(since) => jobs.recv_timeout(SYNC_LAG.saturating_sub(since.elapsed())),
                None => jobs.recv().map_err(RecvTimeoutError::from),
            };
            let is_last = matches!(first, Err(RecvTimeoutError::Disconnected));
            let batch = first.into_iter().chain(jobs.try_iter().take(BATCH - 1)).collect();
            // What the storage engine panics about is as fatal as what it says.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.commit(batch, &mut writer))) {
                self.fail(format!("it panicked: {}", words(panic.as_ref())));
                writer.unsynced = None;
            }
            if is_last {
                return;
            }
        }
    }

    /// Dropping a job or its answer tells the waiter that it was not done. An empty batch syncs what is unsynced.
    fn commit(&self, batch: Vec<Job>, writer: &mut Writer) {
        if self.failed.get().is_some() {
            writer.unsynced = None;
            return;
        }
        let size = batch.len();
        let mut writes = Writes::default();
        let (mut applied, mut durable) = (Vec::new(), Vec::new());
        for job in batch {
            let batch = Batch { store: &self.store, writes: &writes };
            let mut transaction = Transaction::new(&batch, &writer.ids);
            let (verdict, answer) = (job.work)(&mut transaction);
            let own = transaction.into_writes();
            match verdict {
                Verdict::Keep => writes.merge(own),
                Verdict::Forget => {}
                Verdict::Panicked(why) => {
                    self.fail(why);
                    answer();
                    break;
                }
            }
            if job.durability == Durability::Applied { applied.push(answer) } else { durable.push(answer) }
        }
        let start = Instant::now();
        if !writes.is_empty() {
            if let Err(why) = self.trip("commit").and_then(|()| self.store.commit(&writes)) {
                return self.fail(format!("a commit failed: {why}"));
            }
            writer.unsynced.get_or_insert(start);
            self.agenda.lock().follow(&writes);
        }
        applied.into_iter().for_each(|answer| answer());
        let is_due = writer.unsynced.is_some_and(|since| size == 0 || since.elapsed() >= SYNC_LAG);
        // What a read says may rest on what is not synced yet.
        if writer.unsynced.is_some() && (is_due || writes.wakes || !durable.is_empty()) {
            if let Err(why) = self.trip("sync").and_then(|()| self.store.sync()) {
                return self.fail(format!("a sync failed: {why}"));
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
    fn trip(&self, _step: &str) -> Result<(), String> {
        Ok(())
    }

    #[cfg(test)]
    fn trip(&self, step: &str) -> Result<(), String> {
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
    /// The next start finds what runs.
    fn holds(&self, _: Id) {}

    fn let_go(&self, _: Id) {}

    fn end(self: Arc<Self>, claim: Id, end: End) {
        let ended = self.send(move |tx| {
            end.of(tx, claim).inspect_err(|error| {
                tracing::error!(%error, "a claim that nobody holds any more cannot be ended; the next start ends it");
            })
        });
        if let Err(error) = ended {
            tracing::error!(%error, "a claim that nobody holds any more is ended by the next start");
        }
    }
}

type Answer = Box<dyn FnOnce() + Send>;
type Work = Box<dyn FnOnce(&mut Transaction<'_>) -> (Verdict, Answer) + Send>;

/// What becomes of a transaction's writes.
enum Verdict {
    Keep,
    Forget,
    Panicked(String),
}

/// One transaction on its way: what becomes of its writes, and whom to tell once they are safe.
struct Job {
    durability: Durability,
    work: Work,
}

impl Job {
    fn new<T: Send + 'static>(
        durability: Durability,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<T, LedgerError> + Send + 'static,
        reply: Option<oneshot::Sender<Result<T, LedgerError>>>,
    ) -> Self {
        let work = move |transaction: &mut Transaction<'_>| {
            let (verdict, result) = match catch_unwind(AssertUnwindSafe(|| work(transaction))) {
                Ok(Ok(value)) => (Verdict::Keep, Ok(value)),
                Ok(Err(error)) => (Verdict::Forget, Err(error)),
                Err(panic) => {
                    let why = format!("a transaction panicked: {}", words(panic.as_ref()));
                    (Verdict::Panicked(why.clone()), Err(LedgerError(why)))
                }
            };
            let answer: Answer = Box::new(move || {
                if let Some(reply) = reply {
                    let _ = reply.send(result);
                }
            });
            (verdict, answer)
        };
        Self { durability, work: Box::new(work) }
    }
}

/// The keyspaces on disk.
pub(super) struct Store {
    database: Database,
    spaces: Vec<Keyspace>,
}

impl Store {
    fn open(path: &Path) -> Result<Self, LedgerError> {
        let cannot = |error| LedgerError(format!("cannot open {}: {error}", path.display()));
        let database = Database::builder(path).open().map_err(cannot)?;
        let spaces = Space::ALL.iter().map(|space| database.keyspace(space.name(), KeyspaceCreateOptions::default));
        let spaces = spaces.collect::<Result<Vec<_>, _>>().map_err(cannot)?;
        Ok(Self { database, spaces })
    }

    fn view(&self) -> View {
        View { snapshot: self.database.snapshot(), spaces: self.spaces.clone() }
    }

    fn space(&self, space: Space) -> &Keyspace {
        &self.spaces[space as usize]
    }

    fn commit(&self, writes: &Writes) -> Result<(), String> {
        let mut batch = self.database.batch();
        for ((space, key), value) in &writes.rows {
            match value {
                Some(value) => batch.insert(self.space(*space), key.as_slice(), value.as_slice()),
                None => batch.remove(self.space(*space), key.as_slice()),
            }
        }
        batch.commit().map_err(|error| error.to_string())?;
        // Into the kernel: from here on it survives the end of this process, though not yet a power cut.
        self.database.persist(PersistMode::Buffer).map_err(|error| error.to_string())
    }

    fn sync(&self) -> Result<(), String> {
        self.database.persist(PersistMode::SyncAll).map_err(|error| error.to_string())
    }
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a word".into())
}
