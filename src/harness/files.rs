//! Files of a gateway's configuration.

use std::io;
use std::path::Path;

/// Copies a directory with everything in it.
pub fn copy_directory(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type()?.is_dir() {
            true => copy_directory(&from, &to)?,
            false => std::fs::copy(&from, &to).map(drop)?,
        }
    }
    Ok(())
}
