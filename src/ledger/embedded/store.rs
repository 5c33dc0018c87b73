//! The database on disk, how much room it has there, and how it is opened again after the disk was full.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use parking_lot::RwLock;

use crate::ledger::records::LedgerError;
use crate::ledger::transaction::{Space, View, Writes};

/// So much is free at least before a database that met a full disk is opened again, whatever the reserve.
const TO_GO_ON: u64 = 8 << 20;

/// Why something could not be written.
pub(super) struct Failure {
    pub(super) why: String,
    /// The disk was full, and all that was written before is as it was.
    pub(super) is_full: bool,
}

impl Failure {
    fn of(error: &fjall::Error, room: &Room) -> Self {
        let is_full = match error {
            fjall::Error::Io(error) => matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded),
            // Somebody behind the scenes met it first; what it was is not told.
            fjall::Error::Poisoned => room.check().is_err(),
            _ => false,
        };
        Self { why: error.to_string(), is_full }
    }
}

/// The space under the database.
pub(super) struct Room {
    path: PathBuf,
    /// What is kept free for the ends of what is under way.
    reserve: u64,
    was_enough: AtomicBool,
    #[cfg(test)]
    pretended: parking_lot::Mutex<Option<u64>>,
}

impl Room {
    fn new(path: &Path, reserve: u64) -> Self {
        Self {
            path: path.to_owned(),
            reserve,
            was_enough: AtomicBool::new(true),
            #[cfg(test)]
            pretended: parking_lot::Mutex::default(),
        }
    }

    /// Whether more than the reserve is free.
    pub(super) fn check(&self) -> Result<(), LedgerError> {
        let is_enough = self.has(self.reserve);
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
    }
}

/// The database in use, and the disk under it.
pub(super) struct Disk {
    pub(super) room: Room,
    path: PathBuf,
    /// None while it could be shut, but not yet opened again.
    store: RwLock<Option<Arc<Store>>>,
}

impl Disk {
    pub(super) fn open(path: &Path, reserve: u64) -> Result<Self, LedgerError> {
        let store = RwLock::new(Some(Arc::new(Store::open(path)?)));
        Ok(Self { room: Room::new(path, reserve), path: path.to_owned(), store })
    }

    pub(super) fn store(&self) -> Result<Arc<Store>, LedgerError> {
        let store = self.store.read().clone();
        store.ok_or_else(|| LedgerError("it is being opened again, since the disk was full".to_owned()))
    }

    /// Everything that was committed, as it is at this moment.
    pub(super) fn view(&self) -> Result<View, LedgerError> {
        let store = self.store()?;
        Ok(View { snapshot: store.database.snapshot(), spaces: store.spaces.clone(), _base: store })
    }

    pub(super) fn commit(&self, writes: &Writes) -> Result<(), Failure> {
        self.write(|store| store.commit(writes))
    }

    pub(super) fn sync(&self) -> Result<(), Failure> {
        // What was not synced then may be lost, although a later sync would say nothing of it.
        self.write(Store::sync).map_err(|failure| Failure { is_full: false, ..failure })
    }

    fn write(&self, work: impl FnOnce(&Store) -> fjall::Result<()>) -> Result<(), Failure> {
        let store = self.store().map_err(|error| Failure { why: error.0, is_full: true })?;
        work(&store).map_err(|error| Failure::of(&error, &self.room))
    }

    /// Shuts the database and opens it again once there is room: what it finds on the disk is the truth. False when it must
    /// be tried again later; until it is shut, reading goes on.
    pub(super) fn reopen(&self) -> Result<bool, LedgerError> {
        if !self.room.has(self.room.reserve.max(TO_GO_ON)) {
            return Ok(false);
        }
        if !self.shut() {
            return Ok(false);
        }
        let store = Store::open(&self.path)?;
        store.sync().map_err(|error| LedgerError(error.to_string()))?;
        *self.store.write() = Some(Arc::new(store));
        Ok(true)
    }

    /// False while somebody reads: the old journal must have its end before another begins to write to it.
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

    pub(super) fn space(&self, space: Space) -> &Keyspace {
        &self.spaces[space as usize]
    }

    fn commit(&self, writes: &Writes) -> fjall::Result<()> {
        let mut batch = self.database.batch();
        for ((space, key), value) in &writes.rows {
            match value {
                Some(value) => batch.insert(self.space(*space), key.as_slice(), value.as_slice()),
                None => batch.remove(self.space(*space), key.as_slice()),
            }
        }
        batch.commit()?;
        // Into the kernel: from here on it survives the end of this process, though not yet a power cut.
        self.database.persist(PersistMode::Buffer)
    }

    fn sync(&self) -> fjall::Result<()> {
        self.database.persist(PersistMode::SyncAll)
    }
}
