//! Generations that were in force, kept on disk: to start on when the files are broken, and to go back to.
//!
//! They lie beside the configuration's directory, as in `conf.generations/00000007-4f1d…/`: every file that went into one,
//! keys and certificates too, readable by the owner only, in the tree in which they were found. Files that are named by
//! an absolute path are read where they are.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use super::file;
use super::parallel::give_way;
use super::reload::Report;
use super::report::Mistake;
use super::{LedgerPlace, Process, Snapshot};

/// How many are kept.
const MOST: usize = 20;
/// Names the configuration that was taken back, by its hash, so that no restart puts it in force again.
const REFUSED: &str = "taken-back";

/// What follows its name in the name of the report beside it.
const REPORT: &str = ".report.json";

/// Where they are kept.
#[derive(Clone, Debug)]
pub struct Generations {
    /// As it was named.
    given: PathBuf,
    /// The same, absolute. A directory that is a link is known by the link's name: where it leads changes with each revision.
    conf: PathBuf,
    dir: PathBuf,
}

/// One that was in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its number.
    pub number: u64,
    /// The first digits of its hash.
    pub hash: String,
    path: PathBuf,
}

impl Kept {
    fn report(&self) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(REPORT);
        name.into()
    }
}

impl Generations {
    /// Of the configuration in this directory.
    pub fn of(conf: &Path) -> Self {
        let given = conf.to_owned();
        let conf = match conf.file_name() {
            Some(_) => absolute(conf),
            None => fs::canonicalize(conf),
        };
        let conf = conf.unwrap_or_else(|_| given.clone());
        let name = conf.file_name().map_or_else(|| "conf".into(), |name| name.to_string_lossy().into_owned());
        let dir = conf.with_file_name(format!("{name}.generations"));
        Self { given, conf, dir }
    }

    /// Those that are kept, the newest last.
    pub fn list(&self) -> Vec<Kept> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let kept = entries.filter_map(|entry| {
            let name = entry.file_name().into_string().ok().filter(|name| !name.ends_with(REPORT))?;
            let (number, hash) = name.split_once('-')?;
            Some(Kept { number: number.parse().ok()?, hash: hash.to_owned(), path: entry.path() })
        });
        let mut kept: Vec<Kept> = kept.collect();
        kept.sort_by_key(|kept| kept.number);
        kept
    }

    /// The newest.
    pub fn last(&self) -> Option<Kept> {
        self.list().pop()
    }

    /// Keeps a generation that is in force, made from its files or from an older copy. What cannot be written is said, and
    /// stops nothing.
    pub fn keep(&self, snapshot: &Snapshot, from: Option<&Kept>, report: Option<&Report>) {
        let hash = short(&snapshot.hash);
        if self.last().is_some_and(|last| (last.number, last.hash.as_str()) == (snapshot.generation, hash)) {
            return;
        }
        if let Err(error) = self.write(snapshot, from, hash, report) {
            let dir = self.dir.display();
            tracing::warn!(%error, %dir, "the generation cannot be kept: a restart with broken files would not start");
        }
        let mut old = self.list();
        old.truncate(old.len().saturating_sub(MOST));
        for old in old {
            let _ = fs::remove_dir_all(&old.path);
            let _ = fs::remove_file(old.report());
        }
    }

    fn write(&self, snapshot: &Snapshot, from: Option<&Kept>, hash: &str, report: Option<&Report>) -> io::Result<()> {
        private_dir(&self.dir)?;
        let unfinished = self.dir.join("unfinished");
        let _ = fs::remove_dir_all(&unfinished);
        match from {
            Some(kept) => copy_tree(&kept.path, &unfinished)?,
            None => self.copy(snapshot, &unfinished)?,
        }
        let name = format!("{:08}-{hash}", snapshot.generation);
        let _ = fs::remove_dir_all(self.dir.join(&name));
        // In one step: half a generation is never found.
        let path = self.dir.join(name);
        fs::rename(unfinished, &path)?;
        let Some(report) = report else { return Ok(()) };
        let kept = Kept { number: snapshot.generation, hash: hash.to_owned(), path };
        let mut file = private_file(&kept.report())?;
        file.write_all(&serde_json::to_vec(report)?)
    }

    /// What the reload did that put it in force; nothing when that is not known.
    pub fn report(&self, kept: &Kept) -> Option<Report> {
        serde_json::from_slice(&fs::read(kept.report()).ok()?).ok()
    }

    fn copy(&self, snapshot: &Snapshot, to: &Path) -> io::Result<()> {
        let mut made = BTreeSet::new();
        for file in snapshot.sources.files.iter().filter(|file| file.is_file()) {
            let copy = mirrored(to, &self.place(file)?);
            if let Some(parent) = copy.parent().filter(|parent| !made.contains(*parent)) {
                private_dir(parent)?;
                made.insert(parent.to_owned());
            }
            copy_file(file, &copy)?;
        }
        Ok(())
    }

    /// Where a file is, in the words of the configuration: links inside of it are not followed, since a copy has none.
    fn place(&self, file: &Path) -> io::Result<PathBuf> {
        match file.strip_prefix(&self.given) {
            Ok(rest) if rest.components().all(|part| matches!(part, Component::Normal(_))) => Ok(self.conf.join(rest)),
            _ => absolute(file),
        }
    }

    /// Reads one that was kept.
    pub fn load(&self, kept: &Kept, previous: Option<&Snapshot>) -> Result<Snapshot, Vec<Mistake>> {
        let mut snapshot = file::load(&mirrored(&kept.path, &self.conf), previous)?;
        // A file changed between reading and copying, or what the copy names outside of itself did since.
        if !snapshot.hash.starts_with(&kept.hash) {
            let advice = "choose another one with `tollgate rollback --to`";
            return Err(vec![Mistake::in_file(&kept.path, "this is not what was in force", Some(advice))]);
        }
        // The ledger stays where it is.
        if let LedgerPlace::Embedded(path) = &snapshot.process.ledger
            && let Ok(rest) = path.strip_prefix(&kept.path)
        {
            let ledger = LedgerPlace::Embedded(Path::new("/").join(rest));
            snapshot.process = Process { ledger, ..snapshot.process.as_ref().clone() }.into();
        }
        Ok(snapshot)
    }

    /// Remembers the configuration that was taken back, or that none is.
    pub fn take_back(&self, hash: Option<&str>) {
        let path = self.dir.join(REFUSED);
        let written = match hash {
            Some(hash) => fs::write(path, hash),
            None => fs::remove_file(path).or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            }),
        };
        if let Err(error) = written {
            tracing::warn!(%error, "what was taken back cannot be written down: a restart may put it in force again");
        }
    }

    /// Whether the configuration of this hash was taken back.
    pub fn is_taken_back(&self, hash: &str) -> bool {
        fs::read_to_string(self.dir.join(REFUSED)).is_ok_and(|refused| refused == hash)
    }
}

/// As much of a hash as people read.
fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

fn private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    give_way();
    io::copy(&mut fs::File::open(from)?, &mut private_file(to)?).map(drop)
}

fn private_file(path: &Path) -> io::Result<fs::File> {
    fs::File::options().create(true).truncate(true).write(true).mode(0o600).open(path)
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    private_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &to)?;
        } else {
            copy_file(&entry.path(), &to)?;
        }
    }
    Ok(())
}

/// Without following the last link: a file that is one is found under its own name.
fn absolute(file: &Path) -> io::Result<PathBuf> {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = file.file_name().ok_or_else(|| io::Error::other("a file without a name"))?;
    Ok(fs::canonicalize(parent)?.join(name))
}

/// The place of an absolute path inside a kept tree.
fn mirrored(root: &Path, absolute: &Path) -> PathBuf {
    root.join(absolute.components().filter(|part| matches!(part, Component::Normal(_))).collect::<PathBuf>())
}
