//! Checks that the tables' files exist. fjall treats a missing file as one that was never created. It drops a
//! keyspace whose directory is gone, deletes one without its `current` file, and deletes all if its list of names is
//! gone.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::error::Corruption;

/// File written when a database was created.
const VERSION: &str = "version";
/// Directory with a subdirectory for each keyspace.
const SPACES: &str = "keyspaces";
/// File with the present version of a keyspace.
const CURRENT: &str = "current";

/// Names of fjall's files and directories beside the WAL. Its journals are numbered, as in `0.jnl`.
pub(super) const NAMES: [&str; 3] = [VERSION, SPACES, "lock"];

/// Returns whether tables exist, complete or not.
pub(super) fn any(path: &Path) -> io::Result<bool> {
    Ok(path.join(VERSION).try_exists()? || path.join(SPACES).try_exists()?)
}

/// Returns the directories of the keyspaces.
pub(super) fn list(path: &Path) -> io::Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path.join(SPACES))? {
        found.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    found.sort_unstable();
    Ok(found)
}

/// Checks that all of these exist. The error names the missing file.
pub(super) fn check(path: &Path, known: &[u32]) -> Result<(), Corruption> {
    let version = path.join(VERSION);
    let files = known.iter().map(|space| path.join(SPACES).join(space.to_string()).join(CURRENT));
    match [version].into_iter().chain(files).find(|file| !is_file(file)) {
        Some(file) => Err(Corruption::File(format!(
            "the ledger is damaged: {} is missing. Nothing was started and no file was changed. Restore the directory from a \
             backup",
            file.display()
        ))),
        None => Ok(()),
    }
}

fn is_file(path: &PathBuf) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() > 0)
}

/// Removes the files of an interrupted creation. Nothing was ever written to such tables.
pub(super) fn remove_unfinished(path: &Path) -> io::Result<()> {
    let ignore_missing = |error: io::Error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) };
    fs::remove_dir_all(path.join(SPACES)).or_else(ignore_missing)?;
    ["lock", VERSION, "0.jnl"].into_iter().try_for_each(|name| fs::remove_file(path.join(name)).or_else(ignore_missing))
}
