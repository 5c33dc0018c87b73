//! File operations of the write-ahead log: a directory on disk, or the simulated one of the tests.

use std::collections::HashMap;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;

/// Files of the log, by name. Nothing is durable before it is synced: bytes and length by [`sync`](Self::sync), names by
/// [`sync_directory`](Self::sync_directory).
pub(super) trait Storage: Send + Sync {
    /// Everything in a file; `None` if there is no such file.
    fn read(&self, name: &'static str) -> io::Result<Option<Vec<u8>>>;
    /// Writes at a position. Creates the file if there is none.
    fn write_at(&self, name: &'static str, bytes: &[u8], at: u64) -> io::Result<()>;
    /// Cuts a file.
    fn set_len(&self, name: &'static str, length: u64) -> io::Result<()>;
    /// Syncs a file's bytes and length.
    fn sync(&self, name: &'static str) -> io::Result<()>;
    /// Syncs over a file handle of its own. Linux reports a failed write-back once per handle, so this sync hides no failure
    /// from the thread that uses [`sync`](Self::sync).
    fn sync_apart(&self, name: &'static str) -> io::Result<()>;
    /// Renames a file over another.
    fn rename(&self, from: &'static str, to: &'static str) -> io::Result<()>;
    /// Syncs the names of the files.
    fn sync_directory(&self) -> io::Result<()>;
    /// Returns whether the file that is written still has its name. False if the file was removed, replaced or covered
    /// by a mount.
    fn is_in_place(&self, name: &'static str) -> bool;
    /// Path of a file, for messages.
    fn path(&self, name: &'static str) -> PathBuf;
}

/// A directory, locked against other processes while this value lives.
pub(super) struct Directory {
    path: PathBuf,
    /// Two handles of each file, opened together: later nothing fails because no descriptor is left.
    handles: RwLock<HashMap<&'static str, Handles>>,
    /// The directory itself; holds the lock.
    directory: File,
}

#[derive(Clone)]
struct Handles {
    written: Arc<File>,
    /// For [`Storage::sync_apart`].
    apart: Arc<File>,
}

impl Directory {
    /// Opens or creates the directory and locks it. Its own entry is durable when this returns.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        create_durably(path)?;
        let lock = File::open(path)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::new(ErrorKind::ResourceBusy, "another process uses this ledger; stop it first"));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        Ok(Self { path: path.to_owned(), handles: RwLock::default(), directory: lock })
    }

    fn handles(&self, name: &'static str) -> io::Result<Handles> {
        if let Some(known) = self.handles.read().get(name) {
            return Ok(known.clone());
        }
        let mut handles = self.handles.write();
        if let Some(known) = handles.get(name) {
            return Ok(known.clone());
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let written = Arc::new(options.open(self.path(name))?);
        let handles_of_file = Handles { written, apart: Arc::new(File::open(self.path(name))?) };
        handles.insert(name, handles_of_file.clone());
        Ok(handles_of_file)
    }
}

impl Storage for Directory {
    fn read(&self, name: &'static str) -> io::Result<Option<Vec<u8>>> {
        match std::fs::read(self.path(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn write_at(&self, name: &'static str, bytes: &[u8], at: u64) -> io::Result<()> {
        self.handles(name)?.written.write_all_at(bytes, at)
    }

    fn set_len(&self, name: &'static str, length: u64) -> io::Result<()> {
        self.handles(name)?.written.set_len(length)
    }

    fn sync(&self, name: &'static str) -> io::Result<()> {
        self.handles(name)?.written.sync_data()
    }

    fn sync_apart(&self, name: &'static str) -> io::Result<()> {
        self.handles(name)?.apart.sync_all()
    }

    fn rename(&self, from: &'static str, to: &'static str) -> io::Result<()> {
        let mut handles = self.handles.write();
        handles.remove(from);
        handles.remove(to);
        std::fs::rename(self.path(from), self.path(to))
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.directory.sync_all()
    }

    fn is_in_place(&self, name: &'static str) -> bool {
        let Ok(written) = self.handles(name).and_then(|handles| handles.written.metadata()) else { return false };
        let named = std::fs::metadata(self.path(name));
        named.is_ok_and(|named| (named.dev(), named.ino()) == (written.dev(), written.ino()))
    }

    fn path(&self, name: &'static str) -> PathBuf {
        self.path.join(name)
    }
}

/// Creates a directory that only its owner may enter, with those above it, and syncs the entry of each in its parent. An
/// existing one is synced too: an earlier start may have ended before it did so.
pub(in super::super) fn create_durably(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent.filter(|parent| !parent.exists()) {
        create_durably(parent)?;
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    match File::open(parent.unwrap_or(Path::new("."))).and_then(|parent| parent.sync_all()) {
        // A parent that may be entered but not read belongs to somebody else, who made this directory. A read-only file system
        // as the parent of a volume has nothing to sync.
        Err(error) if [ErrorKind::PermissionDenied, ErrorKind::InvalidInput].contains(&error.kind()) => Ok(()),
        synced => synced,
    }
}
