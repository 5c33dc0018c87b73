//! Where a configuration's files are read: on the disk, or in a generation that was kept.

use std::collections::HashMap;
use std::fs::{DirEntry, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::OFlags;
use sha2::{Digest, Sha256};
use tollgate_plugins::secret::Secret;

use super::archive::Archive;
use super::background::yield_cpu;

/// No key, certificate or configuration is longer (a hundred thousand routes have a third of it); what is, is a mistake in a path.
pub(super) const LARGEST: usize = 32 << 20;
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
        yield_cpu();
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

    /// The files in a directory, and whatever else in it is no directory; nothing when there is none.
    pub(super) fn files_in(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        if let Some(archive) = &self.kept {
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
        // Where a link leads the directory does not say.
        Ok(known) if !known.is_symlink() => known.is_dir(),
        _ => {
            yield_cpu();
            path.is_dir()
        }
    };
    (!is_dir).then_some(path)
}

/// Nothing that ends.
const NO_FILE: &str = "this is not a file";

/// The whole of a file; says what is wrong in a sentence.
pub(super) fn read_small(path: &Path) -> Result<Vec<u8>, String> {
    let told = |error: io::Error| match error.kind() {
        ErrorKind::NotFound => "this file does not exist".to_owned(),
        ErrorKind::PermissionDenied => "this file may not be read by the user that tollgate runs as".to_owned(),
        _ => format!("this file cannot be read: {error}"),
    };
    // To wait for who opens the other end of a named pipe would stop the reload.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    let file = match opened {
        // Another machine writes it over the network; whoever waits gets it when that is done.
        Err(error) if error.kind() == ErrorKind::WouldBlock && path.is_file() => File::open(path).map_err(told)?,
        Err(_) if path.exists() && !path.is_file() => return Err(NO_FILE.to_owned()),
        opened => opened.map_err(told)?,
    };
    let metadata = file.metadata().map_err(told)?;
    // A device could fill the memory.
    if !metadata.is_file() {
        return Err(NO_FILE.to_owned());
    }
    let size = usize::try_from(metadata.len()).ok().filter(|size| *size <= LARGEST);
    let too_large = || format!("this file has more than {LARGEST} bytes: it cannot be the right one");
    let mut content = Vec::with_capacity(size.ok_or_else(too_large)?);
    // It may grow meanwhile.
    file.take(LARGEST as u64 + 1).read_to_end(&mut content).map_err(told)?;
    if content.len() > LARGEST { Err(too_large()) } else { Ok(content) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_files_are_read_and_none_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let read = |name: &str| Origin::default().read(&at(name));
        let made = std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap();
        assert!(made.success());
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        std::fs::create_dir(at("directory")).unwrap();
        for name in ["pipe", "socket", "directory", "/dev/zero"] {
            assert_eq!(read(name).unwrap_err(), NO_FILE, "{name}");
        }
        let file = File::create(at("file")).unwrap();
        for (size, is_read) in [(0, true), (LARGEST, true), (LARGEST + 1, false)] {
            file.set_len(size as u64).unwrap();
            match read("file") {
                Ok(content) => assert!(is_read && content.len() == size, "{size}"),
                Err(message) => assert!(!is_read && message.contains("more than 33554432 bytes"), "{size} {message}"),
            }
        }
        assert_eq!(read("gone").unwrap_err(), "this file does not exist");
    }

    #[test]
    fn a_link_to_a_file_is_one_and_a_link_to_a_directory_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("directory")).unwrap();
        std::fs::write(at("file"), "").unwrap();
        for name in ["directory", "file", "nothing"] {
            std::os::unix::fs::symlink(name, at(&format!("to {name}"))).unwrap();
        }
        let mut found = Origin::default().files_in(dir.path()).unwrap();
        found.sort();
        assert_eq!(found, ["file", "to file", "to nothing"].map(at));
        assert!(Origin::default().files_in(&at("none")).unwrap().is_empty());
    }

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
