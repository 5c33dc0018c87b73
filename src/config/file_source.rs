//! Access to the files of a configuration: on disk, or in the archive of a generation.

use std::collections::HashMap;
use std::fs::DirEntry;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::archive::Archive;
use super::cpu::yield_cpu;
use super::file_content::{Content, read_small};

/// Maximum number of cached file contents. Enough for the files of several interleaved accounts.
const MAX_CACHED_CONTENTS: usize = 256;

/// Reads files. Recently read contents are cached while one generation is loaded, because ten thousand channels of one account
/// name the same few files.
#[derive(Default)]
pub(super) struct FileSource {
    /// Archive to read from; the disk if `None`.
    archived: Option<Archive>,
    contents: Mutex<HashMap<PathBuf, Arc<Content>>>,
}

impl FileSource {
    /// Returns a source that reads from an archive.
    pub(super) fn archived(archive: Archive) -> Self {
        Self { archived: Some(archive), ..Self::default() }
    }

    /// Reads a file. The error is a sentence for a diagnostic.
    pub(super) fn read(&self, path: &Path) -> Result<Vec<u8>, String> {
        yield_cpu();
        match &self.archived {
            None => read_small(path),
            Some(archive) => archive
                .read(path)
                .map(|content| content.expose().to_vec())
                .ok_or_else(|| "this file is not in the archive".to_owned()),
        }
    }

    /// Reads a file that many others name.
    pub(super) fn read_shared(&self, path: &Path) -> Result<Arc<Content>, String> {
        let known = self.contents.lock().get(path).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let content = Arc::new(Content::new(self.read(path)?));
        let mut contents = self.contents.lock();
        if contents.len() >= MAX_CACHED_CONTENTS {
            contents.clear();
        }
        contents.insert(path.to_owned(), Arc::clone(&content));
        Ok(content)
    }

    /// Returns whether it is certain that nothing exists at the path.
    pub(super) fn is_missing(&self, path: &Path) -> bool {
        match &self.archived {
            None => path.try_exists().is_ok_and(|exists| !exists),
            Some(archive) => archive.read(path).is_none(),
        }
    }

    pub(super) fn is_dir(&self, path: &Path) -> bool {
        match &self.archived {
            None => path.is_dir(),
            Some(archive) => archive.has_dir(path),
        }
    }

    /// Lists the entries of a directory that are not directories; empty if the directory does not exist.
    pub(super) fn files_in(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        if let Some(archive) = &self.archived {
            return Ok(archive.list(dir));
        }
        match std::fs::read_dir(dir) {
            Ok(entries) => entries.filter_map(|entry| entry.map(path_of_file).transpose()).collect(),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

fn path_of_file(entry: DirEntry) -> Option<PathBuf> {
    let path = entry.path();
    let is_dir = match entry.file_type() {
        // The directory entry of a link does not reveal the type of its target.
        Ok(known) if !known.is_symlink() => known.is_dir(),
        _ => {
            yield_cpu();
            path.is_dir()
        }
    };
    (!is_dir).then_some(path)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn link_to_a_file_is_listed_and_link_to_a_directory_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("directory")).unwrap();
        std::fs::write(at("file"), "").unwrap();
        for name in ["directory", "file", "nothing"] {
            std::os::unix::fs::symlink(name, at(&format!("to {name}"))).unwrap();
        }
        let mut found = FileSource::default().files_in(dir.path()).unwrap();
        found.sort();
        assert_eq!(found, ["file", "to file", "to nothing"].map(at));
        assert!(FileSource::default().files_in(&at("none")).unwrap().is_empty());
    }

    #[test]
    fn file_named_by_many_is_read_once_per_generation() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let origin = FileSource::default();
        let read =
            |origin: &FileSource, name: &str| origin.read_shared(&dir.path().join(name)).unwrap().expose().to_vec();
        put("a", "one");
        assert_eq!(read(&origin, "a"), b"one");
        put("a", "two");
        assert_eq!((read(&origin, "a"), read(&FileSource::default(), "a")), (b"one".to_vec(), b"two".to_vec()));
        for number in 0..MAX_CACHED_CONTENTS {
            put(&number.to_string(), "");
            read(&origin, &number.to_string());
        }
        assert!(origin.contents.lock().len() <= MAX_CACHED_CONTENTS);
        assert!(origin.read_shared(&dir.path().join("gone")).is_err());
    }
}
