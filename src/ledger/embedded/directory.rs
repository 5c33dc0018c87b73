//! Directory of the ledger: which entries belong to it, and their access rights.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{LOG, tables};
use crate::moved::MARK;

/// Directory of the nonces of signed requests, beside the tables.
const NONCES: &str = "nonces";

/// Returns whether a ledger exists, complete or not.
pub(crate) fn holds_ledger(path: &Path) -> io::Result<bool> {
    Ok(path.join(LOG).try_exists()? || tables::any(path)?)
}

/// Rejects a directory with other content, because `ledger.path` is then probably mistyped.
pub(super) fn refuse_foreign(path: &Path) -> io::Result<()> {
    if holds_ledger(path)? {
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        let is_hidden = name.as_encoded_bytes().starts_with(b".");
        if !is_own(&name) && !is_hidden && name != "lost+found" {
            let why = format!(
                "there is no ledger in this directory, but other files, as {}: name a directory of the ledger's own",
                name.display()
            );
            return Err(io::Error::new(ErrorKind::DirectoryNotEmpty, why));
        }
    }
    Ok(())
}

/// Removes all access rights of group and others from the directory and the ledger's entries. Other entries stay as
/// they are.
pub(super) fn close_to_others(path: &Path) -> io::Result<()> {
    restrict(path)?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if is_own(&entry.file_name()) {
            close_entry(&entry.path())?;
        }
    }
    Ok(())
}

/// Returns whether an entry belongs to the ledger. Files like `0.jnl` are fjall's journals.
fn is_own(name: &OsStr) -> bool {
    let is_journal = Path::new(name).extension().is_some_and(|extension| extension == "jnl");
    is_journal || tables::NAMES.iter().chain(&[LOG, NONCES, MARK]).any(|own| name == *own)
}

fn close_entry(path: &Path) -> io::Result<()> {
    let is_directory = match restrict(path) {
        // The process that owned the entry has removed it meanwhile.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        restricted => restricted?,
    };
    if is_directory {
        for entry in fs::read_dir(path)? {
            close_entry(&entry?.path())?;
        }
    }
    Ok(())
}

/// Removes the rights of group and others from one entry, unless it is a link. Returns whether it is a directory.
fn restrict(path: &Path) -> io::Result<bool> {
    let found = fs::symlink_metadata(path)?;
    let mode = found.permissions().mode();
    if !found.is_symlink() && mode & 0o077 != 0 {
        match fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o700)) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => tracing::warn!(
                path = %path.display(),
                "others may read this part of the ledger, and it belongs to another user: change its owner or its mode"
            ),
            changed => changed?,
        }
    }
    Ok(found.is_dir())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn directory_with_foreign_files_and_no_ledger_is_rejected_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("srv");
        fs::create_dir_all(path.join("www")).unwrap();
        set_mode(&path, 0o755);
        assert!(refuse_foreign(&path).unwrap_err().to_string().contains("www"));
        let opened = crate::Ledger::open(&path).err().unwrap();
        assert!(opened.to_string().contains("a directory of the ledger's own"), "{opened}");
        assert_eq!(mode(&path), 0o755);
        fs::create_dir(path.join(LOG)).unwrap();
        assert!(refuse_foreign(&path).is_ok(), "a ledger whose files lie beside others goes on");
    }

    #[test]
    fn volume_root_is_accepted_and_foreign_entries_keep_their_modes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("volume");
        for name in ["lost+found", ".snapshots", LOG] {
            fs::create_dir_all(path.join(name)).unwrap();
            set_mode(&path.join(name), 0o755);
        }
        fs::write(path.join(LOG).join("0"), "").unwrap();
        set_mode(&path.join(LOG).join("0"), 0o644);
        close_to_others(&path).unwrap();
        assert_eq!((mode(&path), mode(&path.join(LOG)), mode(&path.join(LOG).join("0"))), (0o700, 0o700, 0o600));
        assert_eq!((mode(&path.join("lost+found")), mode(&path.join(".snapshots"))), (0o755, 0o755));
        fs::remove_dir_all(path.join(LOG)).unwrap();
        assert!(refuse_foreign(&path).is_ok());
    }
}
