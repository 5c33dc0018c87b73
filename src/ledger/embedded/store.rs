//! Tables on disk, their free disk space, and how they are reopened after the disk was full.

use std::error::Error;
use std::fmt::Display;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use parking_lot::{Condvar, Mutex, RwLock};
use rustix::fs::Mode;

use super::memtable::{Memtable, Memtables, View};
use super::wal::{Segment, Wal, create_durably};
use super::{LOG, SEGMENT_BYTES};
use super::{directory, tables};
use crate::records::LedgerError;
use crate::transaction::{Read, Space, Value};

/// Minimum free space in bytes to reopen a database after a full disk, whatever the reserve: room for the pending
/// checkpoint.
const MIN_FREE_TO_REOPEN: u64 = SEGMENT_BYTES;

/// Why a write failed.
pub(super) struct Failure {
    pub(super) why: String,
    /// The disk was full, and all earlier writes are intact.
    pub(super) is_full: bool,
}

impl Failure {
    pub(super) fn of(error: &(dyn Error + 'static), disk_space: &DiskSpace) -> Self {
        let is_full = match error.downcast_ref() {
            // A background thread of fjall met the error first; its kind is not reported.
            Some(fjall::Error::Poisoned) => !disk_space.has(disk_space.reserve),
            _ => is_disk_full_error(error),
        };
        Self { why: error.to_string(), is_full }
    }

    pub(super) fn permanent(error: &io::Error) -> Self {
        Self { why: error.to_string(), is_full: false }
    }
}

/// Returns whether a full disk is the root cause.
fn is_disk_full_error(error: &(dyn Error + 'static)) -> bool {
    match error.downcast_ref().map(io::Error::kind) {
        Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => true,
        _ => error.source().is_some_and(is_disk_full_error),
    }
}

/// Free space of the disk under the database.
pub(super) struct DiskSpace {
    path: PathBuf,
    /// Bytes kept free for claims in progress.
    reserve: u64,
    was_enough: AtomicBool,
    /// Time and result of the last check.
    last_check: Mutex<Option<(Instant, bool)>>,
    #[cfg(test)]
    simulated_free: Mutex<Option<u64>>,
}

/// How long a check is valid. Within that time much less than a usual reserve is written.
const FREE_SPACE_CHECK_INTERVAL: Duration = Duration::from_millis(20);

impl DiskSpace {
    fn new(path: &Path, reserve: u64) -> Self {
        Self {
            path: path.to_owned(),
            reserve,
            was_enough: AtomicBool::new(true),
            last_check: Mutex::default(),
            #[cfg(test)]
            simulated_free: Mutex::default(),
        }
    }

    /// Checks that the reserve is free.
    pub(super) fn check(&self) -> Result<(), LedgerError> {
        let is_enough = self.has_reserve();
        let was_enough = self.was_enough.swap(is_enough, Ordering::Relaxed);
        match is_enough {
            true if !was_enough => {
                tracing::info!("the ledger's disk has enough free space again: new payments are accepted")
            }
            false if was_enough => tracing::error!(
                path = %self.path.display(),
                reserve = self.reserve,
                "the ledger's disk is nearly full: new payments are rejected until space is freed"
            ),
            _ => {}
        }
        if is_enough {
            return Ok(());
        }
        let (path, reserve) = (self.path.display(), self.reserve >> 20);
        let why = format!("less than {reserve} MiB free on {path}: new payments are rejected until space is freed");
        Err(LedgerError(why))
    }

    fn has_reserve(&self) -> bool {
        let mut last_check = self.last_check.lock();
        match *last_check {
            Some((at, is_enough)) if at.elapsed() < FREE_SPACE_CHECK_INTERVAL => is_enough,
            _ => last_check.insert((Instant::now(), self.has(self.reserve))).1,
        }
    }

    fn has(&self, least: u64) -> bool {
        // If the free space is unknown, writing will show it.
        self.free().is_none_or(|free| free >= least)
    }

    #[cfg(not(test))]
    fn free(&self) -> Option<u64> {
        self.measured_free()
    }

    #[cfg(test)]
    fn free(&self) -> Option<u64> {
        self.simulated_free.lock().or_else(|| self.measured_free())
    }

    fn measured_free(&self) -> Option<u64> {
        let disk = rustix::fs::statvfs(&self.path).ok()?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    #[cfg(test)]
    pub(crate) fn simulate_free(&self, free: Option<u64>) {
        *self.simulated_free.lock() = free;
        *self.last_check.lock() = None;
    }
}

/// Tables, memtables, WAL and disk space.
pub(super) struct Disk {
    pub(super) disk_space: DiskSpace,
    path: PathBuf,
    /// `None` while the tables are closed and cannot be reopened yet.
    store: RwLock<Option<Arc<Store>>>,
    pub(super) memtables: RwLock<Memtables>,
    pub(super) wal: Arc<Wal>,
    /// Next WAL segment with a reusable memtable, once the rows of its file are in the tables.
    free_segment: Mutex<Option<(Segment, Memtable)>>,
    segment_freed: Condvar,
}

impl Disk {
    /// Opens the tables and the WAL. Returns the active segment as well.
    pub(super) fn open(path: &Path, reserve: u64) -> Result<(Self, Segment), LedgerError> {
        let cannot = |error: &dyn Display| LedgerError(format!("cannot open {}: {error}", path.display()));
        // fjall creates its files without a mode, so the process's umask protects them.
        let mask = rustix::process::umask(Mode::RWXG | Mode::RWXO);
        rustix::process::umask(mask | Mode::RWXG | Mode::RWXO);
        create_durably(path).map_err(|error| cannot(&error))?;
        directory::refuse_foreign(path)
            .and_then(|()| directory::close_to_others(&path.canonicalize()?))
            .map_err(|error| cannot(&error))?;
        let has_tables = tables::any(path).map_err(|error| cannot(&error))?;
        let (wal, rows) = Wal::open(&path.join(LOG), has_tables).map_err(|error| cannot(&error))?;
        let wal = Arc::new(wal);
        match wal.tables() {
            known if known.is_empty() => tables::remove_unfinished(path).map_err(|error| cannot(&error))?,
            known => tables::check(path, &known).map_err(LedgerError)?,
        }
        let store = Store::open(path)?;
        tables::list(path).and_then(|found| wal.set_tables(found)).map_err(|error| cannot(&error))?;
        // From here on the rows of the WAL are durable in the tables, too.
        store.ingest(&rows).map_err(|error| cannot(&error))?;
        let [active, free_segment] = Arc::clone(&wal).begin().map_err(|error| cannot(&error))?;
        let disk = Self {
            disk_space: DiskSpace::new(path, reserve),
            path: path.to_owned(),
            store: RwLock::new(Some(Arc::new(store))),
            memtables: RwLock::new(Memtables { active: rows.cleared(), immutable: None }),
            wal,
            free_segment: Mutex::new(Some((free_segment, Memtable::default()))),
            segment_freed: Condvar::new(),
        };
        Ok((disk, active))
    }

    pub(super) fn store(&self) -> Result<Arc<Store>, LedgerError> {
        let store = self.store.read().clone();
        store.ok_or_else(|| LedgerError("the ledger is being reopened after the disk was full".to_owned()))
    }

    /// Returns a consistent view of all writes.
    pub(super) fn view(&self) -> Result<View<'_>, LedgerError> {
        let store = self.store()?;
        Ok(View::new(self.memtables.read(), store))
    }

    /// Returns the next segment, waiting for at most `timeout` until one is free.
    pub(super) fn take_free_segment(&self, timeout: Duration) -> Option<(Segment, Memtable)> {
        let mut free_segment = self.free_segment.lock();
        if free_segment.is_none() && !timeout.is_zero() {
            self.segment_freed.wait_for(&mut free_segment, timeout);
        }
        free_segment.take()
    }

    /// Writes the immutable memtable to the tables, durably. Idempotent.
    pub(super) fn checkpoint(&self) -> Result<(), Failure> {
        let store = self.store().map_err(|error| Failure { why: error.0, is_full: true })?;
        let immutable = self.memtables.read().immutable.clone();
        immutable.map_or(Ok(()), |rows| store.ingest(&rows)).map_err(|error| Failure::of(&error, &self.disk_space))
    }

    /// Recycles the file of a segment whose rows are in the tables.
    pub(super) fn recycle_segment(&self, segment: &Segment) -> io::Result<()> {
        let next = Arc::clone(&self.wal).recycle(segment)?;
        let checkpointed = self.memtables.write().immutable.take();
        // Cleared outside the lock.
        let empty = checkpointed.and_then(Arc::into_inner).map_or_else(Memtable::default, Memtable::cleared);
        *self.free_segment.lock() = Some((next, empty));
        self.segment_freed.notify_all();
        Ok(())
    }

    /// Closes and reopens the tables if there is room. Returns false if that must be retried later. Reads work until
    /// the tables are closed.
    pub(super) fn reopen(&self) -> Result<bool, LedgerError> {
        if !self.disk_space.has(self.disk_space.reserve.max(MIN_FREE_TO_REOPEN)) || !self.shut() {
            return Ok(false);
        }
        *self.store.write() = Some(Arc::new(Store::open(&self.path)?));
        Ok(true)
    }

    /// Closes the tables. Returns false while a reader uses them, because two open instances must not overlap.
    fn shut(&self) -> bool {
        let mut slot = self.store.write();
        let Some(store) = slot.take() else { return true };
        match Arc::try_unwrap(store) {
            Ok(store) => {
                // Closed outside the lock.
                drop(slot);
                drop(store);
                true
            }
            Err(store) => {
                *slot = Some(store);
                false
            }
        }
    }
}

/// Reads one row at a time, without blocking writers.
impl Read for Disk {
    fn bytes(&self, space: Space, key: &[u8]) -> Result<Option<Value>, LedgerError> {
        self.view()?.bytes(space, key)
    }
}

/// The tables, one keyspace for each space.
pub(super) struct Store {
    database: Database,
    spaces: Vec<Keyspace>,
}

impl Store {
    fn open(path: &Path) -> Result<Self, LedgerError> {
        let cannot = |error| LedgerError(format!("cannot open {}: {error}", path.display()));
        // One worker thread: of several, the first would hand over all compaction and do nothing else while it lasts.
        let database = Database::builder(path).worker_threads(1).open().map_err(cannot)?;
        let spaces = Space::ALL.iter().map(|space| database.keyspace(space.name(), KeyspaceCreateOptions::default));
        let spaces = spaces.collect::<Result<Vec<_>, _>>().map_err(cannot)?;
        Ok(Self { database, spaces })
    }

    pub(super) fn space(&self, space: Space) -> &Keyspace {
        &self.spaces[space as usize]
    }

    /// Ingests the rows of each space as a sorted table, bypassing fjall's own journal. Our WAL has them until they
    /// are synced here.
    fn ingest(&self, rows: &Memtable) -> fjall::Result<()> {
        // Fails if a background thread of fjall has failed.
        self.database.persist(PersistMode::Buffer)?;
        for space in Space::ALL {
            let keyspace = self.space(space);
            let mut table = None;
            for (key, value) in rows.of(space) {
                // A row inserted and deleted since the last checkpoint leaves no tombstone.
                if value.is_none() && !keyspace.contains_key(key)? {
                    continue;
                }
                let table = match &mut table {
                    Some(table) => table,
                    none => none.insert(keyspace.start_ingestion()?),
                };
                match value {
                    Some(value) => table.write(key.clone(), value.clone())?,
                    None => table.write_tombstone(key.clone())?,
                }
            }
            table.map_or(Ok(()), |table| table.finish())?;
        }
        self.database.persist(PersistMode::Buffer)
    }
}

impl Read for Store {
    fn bytes(&self, space: Space, key: &[u8]) -> Result<Option<Value>, LedgerError> {
        let found = self.space(space).get(key);
        found.map_err(|error| LedgerError(error.to_string()))
    }
}
