//! The tables on disk, how much room they have there, and how they are opened again after the disk was full.

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

use super::memtable::{Layer, Memtables, View};
use super::wal::{Segment, Wal, create_durably};
use super::{LOG, SEGMENT};
use super::{directory, tables};
use crate::ledger::records::LedgerError;
use crate::ledger::transaction::{Read, Space, Value};

/// So much is free at least before a database that met a full disk is opened again, whatever the reserve: for what is still to be
/// filed.
const TO_GO_ON: u64 = SEGMENT;

/// Why something could not be written.
pub(super) struct Failure {
    pub(super) why: String,
    /// The disk was full, and all that was written before is as it was.
    pub(super) is_full: bool,
}

impl Failure {
    pub(super) fn of(error: &(dyn Error + 'static), room: &DiskSpace) -> Self {
        let is_full = match error.downcast_ref() {
            // Somebody behind the scenes met it first; what it was is not told.
            Some(fjall::Error::Poisoned) => !room.has(room.reserve),
            _ => says_full(error),
        };
        Self { why: error.to_string(), is_full }
    }

    pub(super) fn for_good(error: &io::Error) -> Self {
        Self { why: error.to_string(), is_full: false }
    }
}

/// Whether a full disk is at the bottom of it.
fn says_full(error: &(dyn Error + 'static)) -> bool {
    match error.downcast_ref().map(io::Error::kind) {
        Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => true,
        _ => error.source().is_some_and(says_full),
    }
}

/// The space under the database.
pub(super) struct DiskSpace {
    path: PathBuf,
    /// What is kept free for the ends of what is under way.
    reserve: u64,
    was_enough: AtomicBool,
    /// When it was looked last whether that is free, and whether it was.
    looked: Mutex<Option<(Instant, bool)>>,
    #[cfg(test)]
    pretended: Mutex<Option<u64>>,
}

/// For so long it is not looked again: much less is written in it than a usual reserve holds.
const LOOK: Duration = Duration::from_millis(20);

impl DiskSpace {
    fn new(path: &Path, reserve: u64) -> Self {
        Self {
            path: path.to_owned(),
            reserve,
            was_enough: AtomicBool::new(true),
            looked: Mutex::default(),
            #[cfg(test)]
            pretended: Mutex::default(),
        }
    }

    /// Whether more than the reserve is free.
    pub(super) fn check(&self) -> Result<(), LedgerError> {
        let is_enough = self.has_reserve();
        let was_enough = self.was_enough.swap(is_enough, Ordering::Relaxed);
        match is_enough {
            true if !was_enough => tracing::info!("there is room on the ledger's disk again: payments go on"),
            false if was_enough => tracing::error!(
                path = %self.path.display(),
                reserve = self.reserve,
                "the ledger's disk is nearly full: no new payment is begun until there is room again"
            ),
            _ => {}
        }
        if is_enough {
            return Ok(());
        }
        let (path, reserve) = (self.path.display(), self.reserve >> 20);
        let why = format!("no more than {reserve} MiB are free under {path}; free some, and it goes on by itself");
        Err(LedgerError(why))
    }

    fn has_reserve(&self) -> bool {
        let mut looked = self.looked.lock();
        match *looked {
            Some((at, is_enough)) if at.elapsed() < LOOK => is_enough,
            _ => looked.insert((Instant::now(), self.has(self.reserve))).1,
        }
    }

    fn has(&self, least: u64) -> bool {
        // Where it cannot be told, writing will show it.
        self.free().is_none_or(|free| free >= least)
    }

    #[cfg(not(test))]
    fn free(&self) -> Option<u64> {
        self.really_free()
    }

    #[cfg(test)]
    fn free(&self) -> Option<u64> {
        self.pretended.lock().or_else(|| self.really_free())
    }

    fn really_free(&self) -> Option<u64> {
        let disk = rustix::fs::statvfs(&self.path).ok()?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    #[cfg(test)]
    pub(in crate::ledger) fn pretend(&self, free: Option<u64>) {
        *self.pretended.lock() = free;
        *self.looked.lock() = None;
    }
}

/// The tables in use, what lies over them, and the disk under them.
pub(super) struct Disk {
    pub(super) room: DiskSpace,
    path: PathBuf,
    /// None while they could be shut, but not yet opened again.
    store: RwLock<Option<Arc<Store>>>,
    pub(super) layers: RwLock<Memtables>,
    pub(super) wal: Arc<Wal>,
    /// Next segment of the log, as soon as what was in its file is in the tables, with the room for its rows.
    spare: Mutex<Option<(Segment, Layer)>>,
    is_spare: Condvar,
}

impl Disk {
    /// Opens the tables and the log. Returns the segment to write too.
    pub(super) fn open(path: &Path, reserve: u64) -> Result<(Self, Segment), LedgerError> {
        let cannot = |error: &dyn Display| LedgerError(format!("cannot open {}: {error}", path.display()));
        // The tables' files are made by threads of the database, which sets no mode: this process's mask does.
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
        // From here on, what was read from the log is durable in another place, whether the log is or not.
        store.ingest(&rows).map_err(|error| cannot(&error))?;
        let [active, spare] = Arc::clone(&wal).begin().map_err(|error| cannot(&error))?;
        let disk = Self {
            room: DiskSpace::new(path, reserve),
            path: path.to_owned(),
            store: RwLock::new(Some(Arc::new(store))),
            layers: RwLock::new(Memtables { active: rows.emptied(), immutable: None }),
            wal,
            spare: Mutex::new(Some((spare, Layer::default()))),
            is_spare: Condvar::new(),
        };
        Ok((disk, active))
    }

    pub(super) fn store(&self) -> Result<Arc<Store>, LedgerError> {
        let store = self.store.read().clone();
        store.ok_or_else(|| LedgerError("it is being opened again, since the disk was full".to_owned()))
    }

    /// Everything that was written, as it is at this moment.
    pub(super) fn view(&self) -> Result<View<'_>, LedgerError> {
        let store = self.store()?;
        Ok(View::new(self.layers.read(), store))
    }

    /// The segment after the one that is full, if there is one by then.
    pub(super) fn spare(&self, patience: Duration) -> Option<(Segment, Layer)> {
        let mut spare = self.spare.lock();
        if spare.is_none() && !patience.is_zero() {
            self.is_spare.wait_for(&mut spare, patience);
        }
        spare.take()
    }

    /// Files what was sealed into the tables, durably. Done twice, it is as if it had been done once.
    pub(super) fn file(&self) -> Result<(), Failure> {
        let store = self.store().map_err(|error| Failure { why: error.0, is_full: true })?;
        let sealed = self.layers.read().immutable.clone();
        sealed.map_or(Ok(()), |rows| store.ingest(&rows)).map_err(|error| Failure::of(&error, &self.room))
    }

    /// The log does not need the sealed segment any more: its file may be written again.
    pub(super) fn filed(&self, segment: &Segment) -> io::Result<()> {
        let next = Arc::clone(&self.wal).recycle(segment)?;
        let filed = self.layers.write().immutable.take();
        // Nobody waits while it is emptied.
        let empty = filed.and_then(Arc::into_inner).map_or_else(Layer::default, Layer::emptied);
        *self.spare.lock() = Some((next, empty));
        self.is_spare.notify_all();
        Ok(())
    }

    /// Shuts the tables and opens them again once there is room. False when it must be tried again later; until they are shut,
    /// reading goes on.
    pub(super) fn reopen(&self) -> Result<bool, LedgerError> {
        if !self.room.has(self.room.reserve.max(TO_GO_ON)) || !self.shut() {
            return Ok(false);
        }
        *self.store.write() = Some(Arc::new(Store::open(&self.path)?));
        Ok(true)
    }

    /// False while somebody reads: the old ones must have their end before others begin to write there.
    fn shut(&self) -> bool {
        let mut place = self.store.write();
        let Some(store) = place.take() else { return true };
        match Arc::try_unwrap(store) {
            Ok(store) => {
                // Nobody waits for it.
                drop(place);
                drop(store);
                true
            }
            Err(store) => {
                *place = Some(store);
                false
            }
        }
    }
}

/// A row at a time: nobody waits for whoever reads.
impl Read for Disk {
    fn bytes(&self, space: Space, key: &[u8]) -> Result<Option<Value>, LedgerError> {
        self.view()?.bytes(space, key)
    }
}

/// The tables.
pub(super) struct Store {
    database: Database,
    spaces: Vec<Keyspace>,
}

impl Store {
    fn open(path: &Path) -> Result<Self, LedgerError> {
        let cannot = |error| LedgerError(format!("cannot open {}: {error}", path.display()));
        // One thread behind the scenes: of several, the first hands all compaction on and does nothing else for as long as it lasts.
        let database = Database::builder(path).worker_threads(1).open().map_err(cannot)?;
        let spaces = Space::ALL.iter().map(|space| database.keyspace(space.name(), KeyspaceCreateOptions::default));
        let spaces = spaces.collect::<Result<Vec<_>, _>>().map_err(cannot)?;
        Ok(Self { database, spaces })
    }

    pub(super) fn space(&self, space: Space) -> &Keyspace {
        &self.spaces[space as usize]
    }

    /// Makes a sorted table of each space's rows, past the database's own journal: ours has them until they are synced here.
    fn ingest(&self, rows: &Layer) -> fjall::Result<()> {
        // Says whether somebody behind the scenes has failed.
        self.database.persist(PersistMode::Buffer)?;
        for space in Space::ALL {
            let keyspace = self.space(space);
            let mut table = None;
            for (key, value) in rows.of(space) {
                // What came and went in between leaves nothing behind.
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
