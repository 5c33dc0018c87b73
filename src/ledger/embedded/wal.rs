//! Write-ahead log (WAL). A batch is durable once it is appended here and synced; a checkpoint writes it to the
//! tables later.
//!
//! ```text
//! wal/manifest:  which segments exist and how long their files are
//! wal/0:         record │ record │ record │ zeros        being written
//! wal/1:         record │ record │ record │ zeros        full: written to the tables, then filled with zeros again
//! ```
//! The two files alternate. They are filled with zeros in advance, so that a sync changes no metadata of the file
//! system.
//!
//! A start reads both segments, writes their rows to the tables durably, and begins with empty segments. It therefore
//! never serves data that only the page cache has. After a failed sync, pages count as clean although the disk does
//! not have them, and another sync would prove nothing.
//!
//! Damage is distinguished from a torn end (see `record`). A start with a damaged WAL fails and changes nothing.
//!
//! fjall's own journal does not guarantee this. fjall 3.1 stops reading at the first invalid tag, truncates the file
//! there and continues without an error (`journal/reader.rs`, `maybe_truncate_file_to_last_valid_pos`): one flipped
//! bit destroys all acknowledged data behind it. It replaces a missing journal by a new one (`journal/recovery.rs`).
//! It fails to open after a power cut that lost a sector in the middle of the last batch (`journal/batch_reader.rs`,
//! `ChecksumMismatch`). None of this can be configured, so we have a WAL of our own although it is not faster.
//! Measured with whole payments at saturation, one build, five alternating rounds, medians, 2 shared cores: 1,000/s
//! and 615 µs CPU a payment with this WAL; 993/s and 600 µs with fjall's journal, `SyncAll` and the same group
//! commit.

mod manifest;
mod record;
mod segment;
#[cfg(test)]
mod simulated;
mod storage;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use self::manifest::{MANIFEST, Manifest};
use self::record::Contents;
pub(super) use self::segment::Segment;
pub(super) use self::storage::create_durably;
use self::storage::{Directory, Storage};
use super::memtable::Memtable;
use crate::error::{Corruption, LedgerError};

/// File names of the segments.
const SEGMENTS: [&str; 2] = ["0", "1"];
/// Size in bytes of one write of zeros.
const PIECE: usize = 1 << 20;

/// Position in the WAL: a segment and a byte offset in its file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) segment: u64,
    pub(super) end: u64,
}

/// Reason why the WAL cannot be opened.
#[derive(Debug)]
pub(super) enum OpenError {
    Io(io::Error),
    /// Data that was durable is missing or changed.
    Damaged {
        file: PathBuf,
        at: u64,
        why: String,
    },
}

impl OpenError {
    /// Returns the error of the ledger in this directory.
    pub(super) fn of(self, path: &Path) -> LedgerError {
        match self {
            Self::Io(error) => LedgerError::CannotOpen { path: path.to_owned(), source: Arc::new(error) },
            Self::Damaged { .. } => Corruption::File(self.to_string()).into(),
        }
    }
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Damaged { file, at, why } => write!(
                f,
                "the ledger is damaged: {} at byte {at}: {why}. Nothing was started and no file was changed. Keep a copy of \
                 the directory, check the disk, and restore the directory from a backup. Do not delete files from it: the \
                 payments in them would be forgotten and could be made a second time",
                file.display()
            ),
        }
    }
}

/// State of the WAL that all threads share, without the segments.
pub(super) struct Wal {
    storage: Arc<dyn Storage>,
    manifest: Mutex<Manifest>,
    /// Position up to which the WAL is synced.
    synced: Mutex<Position>,
    /// Last synced position that was written to the manifest.
    marked: Mutex<Position>,
    /// Used length of each file whose content is obsolete.
    obsolete: [usize; 2],
}

impl Wal {
    /// Returns the identity of the WAL in a directory; `None` if there is no WAL.
    pub(super) fn identity_in(path: &Path) -> Result<Option<String>, OpenError> {
        let file = path.join(MANIFEST);
        match std::fs::read(&file) {
            Ok(bytes) => match Manifest::read(&bytes) {
                Ok((manifest, _)) => Ok(Some(manifest.identity.iter().map(|byte| format!("{byte:02x}")).collect())),
                Err((at, why)) => Err(OpenError::Damaged { file, at, why: why.to_owned() }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens or creates the WAL in a directory. Returns the rows to write to the tables before
    /// [`begin`](Self::begin). If `has_tables`, a missing WAL is an error.
    pub(super) fn open(path: &Path, has_tables: bool) -> Result<(Self, Memtable), OpenError> {
        Self::open_on(Arc::new(Directory::open(path)?), has_tables)
    }

    fn open_on(storage: Arc<dyn Storage>, has_tables: bool) -> Result<(Self, Memtable), OpenError> {
        let damaged = |name, at, why: &str| {
            let file = storage.path(name);
            Err(OpenError::Damaged { file, at, why: why.to_owned() })
        };
        let files = [storage.read(SEGMENTS[0])?, storage.read(SEGMENTS[1])?];
        let Some(bytes) = storage.read(MANIFEST)? else {
            let used = files.iter().flatten().any(|bytes| record::used(bytes) > 0);
            if has_tables || used {
                return damaged(MANIFEST, 0, "the file is missing, although the ledger was in use");
            }
            let manifest = Manifest::new();
            manifest.create(&*storage)?;
            return Ok((Self::new(storage, manifest, [0; 2]), Memtable::default()));
        };
        let (mut manifest, is_spoiled) = match Manifest::read(&bytes) {
            Ok(read) => read,
            Err((at, why)) => return damaged(MANIFEST, at, why),
        };
        if !manifest.tables.is_empty() && !has_tables {
            return damaged(
                MANIFEST,
                0,
                "the ledger was in use, and the tables beside the directory of this file are missing",
            );
        }
        let mut contents = Vec::new();
        for ((slot, name), bytes) in manifest.slots.iter().zip(SEGMENTS).zip(&files) {
            let bytes = match bytes {
                _ if slot.number == 0 => continue,
                None if slot.size > 0 => return damaged(name, 0, "the file is missing"),
                Some(bytes) if (bytes.len() as u64) < slot.size => {
                    let why = format!("the file is too short: {} of {} bytes are there", bytes.len(), slot.size);
                    return damaged(name, bytes.len() as u64, &why);
                }
                bytes => bytes.as_deref().unwrap_or_default(),
            };
            contents.push((slot.number, name, Contents::of(bytes, slot)));
        }
        contents.sort_by_key(|(number, ..)| *number);
        let mut statements = manifest.marked.clone();
        statements.extend(contents.iter().flat_map(|(.., contents)| &contents.statements));
        for (_, name, contents) in &contents {
            if let Some(why) = contents.damage(&statements) {
                return damaged(name, contents.end as u64, why);
            }
        }
        let mut rows = Memtable::default();
        for (_, name, contents) in &contents {
            for record in contents.records() {
                if segment::take(record, &mut rows).is_none() {
                    return damaged(name, 0, "a newer version of tollgate wrote this file; start that version");
                }
            }
        }
        if is_spoiled {
            let file = storage.path(MANIFEST);
            tracing::warn!(file = %file.display(), "a part of this file is invalid, after a power cut or by damage, and is replaced by its copy");
        }
        let mut obsolete = [0; 2];
        for (at, name) in SEGMENTS.into_iter().enumerate() {
            let read = contents.iter().find(|(_, of, _)| *of == name);
            // An obsolete file may have been partly filled with zeros.
            let unread = || files[at].as_ref().map_or(0, Vec::len);
            obsolete[at] = read.map_or_else(unread, |(.., contents)| contents.used());
        }
        // Written even without changes: after a failed sync, content and name may exist only in the page cache.
        manifest.save(&*storage)?;
        storage.sync_directory()?;
        Ok((Self::new(storage, manifest, obsolete), rows))
    }

    fn new(storage: Arc<dyn Storage>, manifest: Manifest, obsolete: [usize; 2]) -> Self {
        Self { storage, manifest: Mutex::new(manifest), synced: Mutex::default(), marked: Mutex::default(), obsolete }
    }

    /// Empties both segments, durably, once all rows are in the tables. Returns the active and the free segment.
    pub(super) fn begin(self: Arc<Self>) -> io::Result<[Segment; 2]> {
        {
            let mut manifest = self.manifest.lock();
            if self.obsolete != [0; 2] || manifest.slots.iter().any(|slot| slot.number == 0) {
                for file in [0, 1] {
                    manifest.free(file);
                }
                manifest.save(&*self.storage)?;
                for (name, obsolete) in SEGMENTS.into_iter().zip(self.obsolete) {
                    fill_with_zeros(&*self.storage, name, obsolete)?;
                }
                for file in [0, 1] {
                    manifest.renew(file);
                }
                manifest.save(&*self.storage)?;
            }
        }
        let mut slots: Vec<_> = self.manifest.lock().slots.into_iter().enumerate().collect();
        slots.sort_by_key(|(_, slot)| slot.number);
        let mut segments = slots.into_iter().map(|(file, slot)| Segment::new(Arc::clone(&self), file, slot));
        match (segments.next(), segments.next()) {
            (Some(first), Some(second)) => Ok([first, second]),
            _ => Err(io::Error::other("the log has no segments")),
        }
    }

    /// Empties a segment, durably, once all its rows are in the tables.
    pub(super) fn recycle(self: Arc<Self>, full: &Segment) -> io::Result<Segment> {
        let file = full.file;
        {
            let mut manifest = self.manifest.lock();
            manifest.free(file);
            manifest.save(&*self.storage)?;
        }
        fill_with_zeros(&*self.storage, SEGMENTS[file], full.reach())?;
        let slot = {
            let mut manifest = self.manifest.lock();
            let slot = manifest.renew(file);
            manifest.save(&*self.storage)?;
            slot
        };
        Ok(Segment::new(self, file, slot))
    }

    /// Records that a segment's file has grown; a shorter file then counts as damaged.
    fn grew(&self, file: usize, size: u64) -> io::Result<()> {
        let mut manifest = self.manifest.lock();
        manifest.slots[file].size = size;
        manifest.save(&*self.storage)
    }

    /// Syncs a segment up to this position. Only one thread may call this.
    pub(super) fn sync(&self, file: usize, upto: Position) -> io::Result<()> {
        self.storage.sync(SEGMENTS[file])?;
        if !self.storage.is_in_place(SEGMENTS[file]) {
            return Err(self.is_gone());
        }
        let mut synced = self.synced.lock();
        *synced = upto.max(*synced);
        Ok(())
    }

    /// Returns the position up to which the WAL is synced.
    pub(super) fn synced(&self) -> Position {
        *self.synced.lock()
    }

    /// Writes the synced position to the manifest, durably. Records contain the position before them; this covers the
    /// last ones.
    pub(super) fn mark(&self) -> io::Result<()> {
        let synced = self.synced();
        if !self.is_marked() {
            self.manifest.lock().mark(synced, &*self.storage)?;
            *self.marked.lock() = synced;
        }
        Ok(())
    }

    /// Returns whether [`mark`](Self::mark) has nothing to write.
    pub(super) fn is_marked(&self) -> bool {
        *self.marked.lock() == self.synced()
    }

    /// Fails if the directory was removed, replaced or covered by a mount.
    pub(super) fn check_in_place(&self) -> io::Result<()> {
        if self.storage.is_in_place(MANIFEST) { Ok(()) } else { Err(self.is_gone()) }
    }

    fn is_gone(&self) -> io::Error {
        let file = self.storage.path(MANIFEST);
        let folder = file.parent().and_then(Path::parent).unwrap_or(&file);
        io::Error::other(format!(
            "the ledger's directory {} was removed, replaced or unmounted while it was in use; bring it back or restore it \
             from a backup, then restart",
            folder.display()
        ))
    }

    /// Returns the table directories that must exist; empty until the tables were created.
    pub(super) fn tables(&self) -> Vec<u32> {
        self.manifest.lock().tables.clone()
    }

    /// Records which table directories must exist from now on.
    pub(super) fn set_tables(&self, tables: Vec<u32>) -> io::Result<()> {
        let mut manifest = self.manifest.lock();
        if manifest.tables == tables {
            return Ok(());
        }
        manifest.tables = tables;
        manifest.save(&*self.storage)
    }
}

/// Fills the beginning of a segment's file with zeros, durably.
fn fill_with_zeros(storage: &dyn Storage, name: &'static str, length: usize) -> io::Result<()> {
    if length == 0 {
        return Ok(());
    }
    let zeros = vec![0; PIECE.min(length)];
    for at in (0..length).step_by(PIECE) {
        storage.write_at(name, &zeros[..PIECE.min(length - at)], at as u64)?;
    }
    storage.sync_apart(name)
}
