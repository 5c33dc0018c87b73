//! Where a configuration's files are read: on the disk, or in a generation that was kept.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tollgate_plugins::secret::Secret;

use super::archive::Archive;
use super::parallel::give_way;

/// No key, certificate or configuration is longer (a hundred thousand routes have a third of it); what is, is a mistake in a path.
pub(super) const LARGEST: u64 = 32 << 20;
/// Enough for the files of some accounts that take turns.
const MOST_CONTENTS: usize = 256;

/// A file that was read.
pub(super) struct Content {
    bytes: Secret,
    /// SHA-256 of the bytes.
    pub(super) digest: [u8; 32],
}

impl Content {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self { digest: Sha256::digest(&bytes).into(), bytes: Secret::new(bytes) }
    }

    pub(super) fn expose(&self) -> &[u8] {
        self.bytes.expose()
    }
}

/// Where they are read. What was read last is remembered as long as one generation is read: ten thousand channels of one
/// account name the same few.
#[derive(Default)]
pub(super) struct Origin {
    /// Nothing for the disk.
    kept: Option<Archive>,
    contents: Mutex<HashMap<PathBuf, Arc<Content>>>,
}

impl Origin {
    /// Those in an archive.
    pub(super) fn kept(archive: Archive) -> Self {
        Self { kept: Some(archive), ..Self::default() }
    }

    /// What a file holds; says what is wrong in a sentence.
    pub(super) fn read(&self, path: &Path) -> Result<Vec<u8>, String> {
        give_way();
        match &self.kept {
            None => read_small(path),
            Some(archive) => archive
                .read(path)
                .map(|content| content.expose().to_vec())
                .ok_or_else(|| "this file was not there".to_owned()),
        }
    }

    /// The same of a file that many others name.
    pub(super) fn read_shared(&self, path: &Path) -> Result<Arc<Content>, String> {
        let known = self.contents.lock().get(path).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let content = Arc::new(Content::new(self.read(path)?));
        let mut contents = self.contents.lock();
        if contents.len() >= MOST_CONTENTS {
            contents.clear();
        }
        contents.insert(path.to_owned(), Arc::clone(&content));
        Ok(content)
    }

    /// Whether it is sure that nothing is there.
    pub(super) fn is_missing(&self, path: &Path) -> bool {
        match &self.kept {
            None => path.try_exists().is_ok_and(|exists| !exists),
            Some(archive) => archive.read(path).is_none(),
        }
    }

    pub(super) fn is_dir(&self, path: &Path) -> bool {
        match &self.kept {
            None => path.is_dir(),
            Some(archive) => archive.has_dir(path),
        }
    }

    /// What is in a directory; nothing when there is none.
    pub(super) fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        if let Some(archive) = &self.kept {
            return Ok(archive.list(dir));
        }
        match std::fs::read_dir(dir) {
            Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect(),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

fn read_small(path: &Path) -> Result<Vec<u8>, String> {
    let told = |error: io::Error| match error.kind() {
        ErrorKind::NotFound => "this file does not exist".to_owned(),
        ErrorKind::PermissionDenied => "this file may not be read by the user that tollgate runs as".to_owned(),
        _ => format!("this file cannot be read: {error}"),
    };
    let metadata = std::fs::metadata(path).map_err(told)?;
    // A named pipe would stop the reload, a device could fill the memory.
    if !metadata.is_file() {
        return Err("this is not a file".to_owned());
    }
    if metadata.len() > LARGEST {
        return Err(format!("this file has more than {LARGEST} bytes: it cannot be the right one"));
    }
    std::fs::read(path).map_err(told)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_many_name_is_read_once_a_generation() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let origin = Origin::default();
        let read = |origin: &Origin, name: &str| origin.read_shared(&dir.path().join(name)).unwrap().expose().to_vec();
        put("a", "one");
        assert_eq!(read(&origin, "a"), b"one");
        put("a", "two");
        assert_eq!((read(&origin, "a"), read(&Origin::default(), "a")), (b"one".to_vec(), b"two".to_vec()));
        for number in 0..MOST_CONTENTS {
            put(&number.to_string(), "");
            read(&origin, &number.to_string());
        }
        assert!(origin.contents.lock().len() <= MOST_CONTENTS);
        assert!(origin.read_shared(&dir.path().join("gone")).is_err());
    }
}
