//! Tables, memtables and WAL of one ledger, and how they are reopened after the disk was full.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, RwLock};
use rustix::fs::Mode;

use super::disk_space::DiskSpace;
use super::failure::Failure;
use super::memtable::{Memtable, Memtables};
use super::store::Store;
use super::view::View;
use super::wal::{Segment, Wal, create_durably};
use super::{LOG, SEGMENT_BYTES};
use super::{directory, tables};
use crate::error::LedgerError;
use crate::transaction::{Read, Space, Value};

/// Minimum free space in bytes to reopen a database after a full disk, whatever the reserve: room for the pending
/// checkpoint.
const MIN_FREE_TO_REOPEN: u64 = SEGMENT_BYTES;

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
        let cannot = |error: io::Error| LedgerError::CannotOpen { path: path.to_owned(), source: Arc::new(error) };
        // fjall creates its files without a mode, so the process's umask protects them.
        let mask = rustix::process::umask(Mode::RWXG | Mode::RWXO);
        rustix::process::umask(mask | Mode::RWXG | Mode::RWXO);
        create_durably(path).map_err(cannot)?;
        directory::refuse_foreign(path)
            .and_then(|()| directory::close_to_others(&path.canonicalize()?))
            .map_err(cannot)?;
        let has_tables = tables::any(path).map_err(cannot)?;
        let (wal, rows) = Wal::open(&path.join(LOG), has_tables).map_err(|error| error.of(path))?;
        let wal = Arc::new(wal);
        match wal.tables() {
            known if known.is_empty() => tables::remove_unfinished(path).map_err(cannot)?,
            known => tables::check(path, &known)?,
        }
        let store = Store::open(path)?;
        tables::list(path).and_then(|found| wal.set_tables(found)).map_err(cannot)?;
        // From here on the rows of the WAL are durable in the tables, too.
        let ingested = store.ingest(&rows);
        ingested.map_err(|error| LedgerError::CannotOpen { path: path.to_owned(), source: Arc::new(error) })?;
        let [active, free_segment] = Arc::clone(&wal).begin().map_err(cannot)?;
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
        store.ok_or_else(|| {
            let source = Arc::new(io::Error::from(ErrorKind::StorageFull));
            LedgerError::DiskFull { step: "the tables are being reopened", source }
        })
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
        let store = self.store().map_err(|error| Failure { cause: Arc::new(error), is_full: true })?;
        let immutable = self.memtables.read().immutable.clone();
        immutable.map_or(Ok(()), |rows| store.ingest(&rows)).map_err(|error| Failure::of(error, &self.disk_space))
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
        if !self.disk_space.has_reserve_and(MIN_FREE_TO_REOPEN) || !self.shut() {
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
