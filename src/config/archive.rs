//! Archive of a generation's files, readable with `tar -I lz4`. One file instead of ten thousand keeps the ledger's fsyncs fast.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Bound;
use std::path::{Component, Path, PathBuf};

use lz4_flex::frame::{FrameDecoder, FrameEncoder, FrameInfo};
use tollgate_plugins::secret::Secret;

use super::cpu::yield_cpu;
use super::file_content::{Content, MAX_FILE_SIZE, read_small};

/// Archive in memory. A file in it has a path below the archive: `gen.tar.lz4/etc/tollgate/routes.toml` was
/// `/etc/tollgate/routes.toml`.
pub struct Archive {
    path: PathBuf,
    files: BTreeMap<PathBuf, Secret>,
}

impl Archive {
    /// Reads the whole archive at this path.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut tar = tar::Archive::new(FrameDecoder::new(io::BufReader::new(File::open(path)?)));
        let mut files = BTreeMap::new();
        for entry in tar.entries()? {
            yield_cpu();
            let mut entry = entry?;
            // Allocated at once, because growing would leave copies of a key in memory.
            let mut content = Vec::with_capacity(usize::try_from(entry.size()).unwrap_or(0).min(MAX_FILE_SIZE));
            entry.read_to_end(&mut content)?;
            files.insert(entry.path()?.into_owned(), Secret::new(content));
        }
        // The checksum over everything is at the end. A truncated archive is detected by the generation's hash.
        io::copy(&mut tar.into_inner(), &mut io::sink())?;
        if files.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive is empty"));
        }
        Ok(Self { path: path.to_owned(), files })
    }

    /// Writes an archive of files with their absolute paths, if each still has the given SHA-256. Data is synced to disk on return.
    pub fn write<'a>(to: File, files: impl Iterator<Item = (PathBuf, &'a PathBuf, &'a [u8; 32])>) -> io::Result<()> {
        let frame = FrameInfo::new().content_checksum(true);
        let mut tar = tar::Builder::new(FrameEncoder::with_frame_info(frame, io::BufWriter::new(to)));
        for (name, file, digest) in files {
            yield_cpu();
            let error = |why: &str| io::Error::other(format!("`{}`: {why}", file.display()));
            let content = Content::new(read_small(file).map_err(|why| error(&why))?);
            if content.digest != *digest {
                return Err(error("this file has changed since it was read"));
            }
            let mut header = tar::Header::new_gnu();
            header.set_size(content.expose().len() as u64);
            header.set_mode(0o600);
            tar.append_data(&mut header, archive_path(&name), content.expose())?;
        }
        tar.into_inner()?.finish()?.into_inner()?.sync_all()
    }

    pub(super) fn read(&self, path: &Path) -> Option<&Secret> {
        self.files.get(&self.name(path))
    }

    /// Returns whether the archive has files below this directory.
    pub fn has_dir(&self, dir: &Path) -> bool {
        let name = self.name(dir);
        self.entries_below(&name).any(|file| file != name)
    }

    /// Lists the files in a directory, without those in its subdirectories.
    pub(super) fn list(&self, dir: &Path) -> Vec<PathBuf> {
        let name = self.name(dir);
        let inside = self.entries_below(&name).filter(|file| file.parent() == Some(&name));
        inside.filter_map(Path::file_name).map(|file| dir.join(file)).collect()
    }

    fn entries_below<'a>(&'a self, name: &'a Path) -> impl Iterator<Item = &'a Path> {
        let files =
            self.files.range::<Path, _>((Bound::Included(name), Bound::Unbounded)).map(|(file, _)| file.as_path());
        files.take_while(move |file| file.starts_with(name))
    }

    /// Returns the key of a path. A path outside of the archive keeps its absolute meaning.
    fn name(&self, path: &Path) -> PathBuf {
        archive_path(path.strip_prefix(&self.path).unwrap_or(path))
    }
}

/// Replaces `..`, which would resolve differently behind a link and has no meaning in an archive.
const PARENT: &str = "^";

/// Returns the path as the archive stores it: relative, without resolving anything.
fn archive_path(path: &Path) -> PathBuf {
    let part = |part| match part {
        Component::Normal(name) => Some(name),
        Component::ParentDir => Some(OsStr::new(PARENT)),
        Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(part).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn archive(dir: &Path) -> PathBuf {
        std::fs::write(dir.join("one"), "1").unwrap();
        std::fs::write(dir.join("two"), vec![b'2'; 2_000]).unwrap();
        let path = dir.join("generation.tar.lz4");
        let long = format!("/etc/tollgate/{}", "long/".repeat(40));
        let names = [
            "/etc/tollgate/routes.toml",
            "/etc/tollgate/channels/a.toml",
            "/etc/tollgate/channels/../../keys/b.pem",
            "/etc/keys/b.pem",
            &long,
        ];
        let files = ["one", "two", "one", "two", "one"].map(|file| dir.join(file));
        let digests = files.clone().map(|file| Content::new(std::fs::read(file).unwrap()).digest);
        let files = names.iter().map(PathBuf::from).zip(&files).zip(&digests);
        Archive::write(File::create(&path).unwrap(), files.map(|((name, file), digest)| (name, file, digest))).unwrap();
        path
    }

    #[test]
    fn archived_files_are_read_by_their_original_paths() {
        let dir = tempfile::tempdir().unwrap();
        let path = archive(dir.path());
        let archive = Archive::open(&path).unwrap();
        let inside = |name: &str| path.join(name);
        let read = |path: &Path| archive.read(path).map(|content| content.expose().len());
        assert_eq!(read(&inside("etc/tollgate/routes.toml")), Some(1));
        assert_eq!(read(&inside("etc/tollgate/channels/./../../keys/b.pem")), Some(1), "`channels` may be a link");
        assert_eq!(read(Path::new("/etc/keys/b.pem")), Some(2_000));
        assert_eq!(read(Path::new("/etc/tollgate/channels/a.toml")), Some(2_000), "named by an absolute path");
        assert_eq!(read(&inside("etc/tollgate/channels/../../../../../keys.pem")), None);
        assert_eq!(read(&inside("etc/tollgate").join("long/".repeat(40))), Some(1));
        assert_eq!(archive.list(&inside("etc/tollgate")), [inside("etc/tollgate/routes.toml")]);
        assert!(archive.list(&inside("etc/toll")).is_empty());
        assert!(
            archive.has_dir(&inside("etc/tollgate/channels")) && !archive.has_dir(&inside("etc/tollgate/merchants"))
        );
    }

    #[test]
    fn damaged_archive_is_rejected() {
        let dir = tempfile::tempdir().unwrap();
        let path = archive(dir.path());
        let good = std::fs::read(&path).unwrap();
        let read = |content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            let archive = Archive::open(&path).ok()?;
            Some(archive.files.iter().map(|(name, file)| (name.clone(), file.expose().to_vec())).collect::<Vec<_>>())
        };
        let whole = read(&good);
        assert_eq!(whole.as_ref().map(Vec::len), Some(5));
        for length in [0, good.len() / 2, good.len() - 1] {
            assert!(read(&good[..length]).is_none(), "cut to {length}");
        }
        for place in 0..good.len() {
            let mut bad = good.clone();
            bad[place] ^= 1;
            // In a long run of zeros, a damaged copy length may still produce the same content.
            let found = read(&bad);
            assert!(found.is_none() || found == whole, "byte {place} of {}", good.len());
        }
    }
}
