//! Reads the content of one file, with a size limit.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use sha2::{Digest, Sha256};
use tollgate_plugins::secret::Secret;

/// Maximum file size in bytes. A hundred thousand routes need a third of it; a longer file is the wrong file.
pub(super) const MAX_FILE_SIZE: usize = 32 << 20;

/// Content of a file.
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

/// Error for a path that is not a regular file.
const NOT_A_FILE: &str = "this is not a file";

/// Reads a whole file. The error is a sentence for a diagnostic.
pub(super) fn read_small(path: &Path) -> Result<Vec<u8>, String> {
    let sentence = |error: io::Error| match error.kind() {
        ErrorKind::NotFound => "this file does not exist".to_owned(),
        ErrorKind::PermissionDenied => "this file may not be read by the user that tollgate runs as".to_owned(),
        _ => format!("this file cannot be read: {error}"),
    };
    // Without NONBLOCK, opening a named pipe would block until a writer opens it.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    let file = match opened {
        // A network file system may report that another client is writing: a blocking open waits for that.
        Err(error) if error.kind() == ErrorKind::WouldBlock && path.is_file() => File::open(path).map_err(sentence)?,
        Err(_) if path.exists() && !path.is_file() => return Err(NOT_A_FILE.to_owned()),
        opened => opened.map_err(sentence)?,
    };
    let metadata = file.metadata().map_err(sentence)?;
    // A device could fill the memory.
    if !metadata.is_file() {
        return Err(NOT_A_FILE.to_owned());
    }
    let size = usize::try_from(metadata.len()).ok().filter(|size| *size <= MAX_FILE_SIZE);
    let too_large = || format!("this file has more than {MAX_FILE_SIZE} bytes: name the right file");
    let mut content = Vec::with_capacity(size.ok_or_else(too_large)?);
    // The file may grow while it is read.
    file.take(MAX_FILE_SIZE as u64 + 1).read_to_end(&mut content).map_err(sentence)?;
    if content.len() > MAX_FILE_SIZE { Err(too_large()) } else { Ok(content) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_up_to_the_size_limit_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let read = |name: &str| read_small(&at(name));
        let made = std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap();
        assert!(made.success());
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        std::fs::create_dir(at("directory")).unwrap();
        for name in ["pipe", "socket", "directory", "/dev/zero"] {
            assert_eq!(read(name).unwrap_err(), NOT_A_FILE, "{name}");
        }
        let file = File::create(at("file")).unwrap();
        for (size, is_read) in [(0, true), (MAX_FILE_SIZE, true), (MAX_FILE_SIZE + 1, false)] {
            file.set_len(size as u64).unwrap();
            match read("file") {
                Ok(content) => assert!(is_read && content.len() == size, "{size}"),
                Err(message) => assert!(!is_read && message.contains("more than 33554432 bytes"), "{size} {message}"),
            }
        }
        assert_eq!(read("gone").unwrap_err(), "this file does not exist");
    }
}
