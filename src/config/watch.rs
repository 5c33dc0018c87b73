//! Notices that something about the configuration's files changed, and waits until it is quiet.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Config, Event, EventKind, PollWatcher, RecursiveMode, Watcher, recommended_watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::background::yield_cpu;

/// Nothing happened for this long: whoever writes is done.
const QUIET: Duration = Duration::from_millis(200);
/// Somebody writes all the time: look nevertheless.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// How often to look when the system tells nothing by itself.
const POLL: Duration = Duration::from_secs(2);

/// Watches directories, each without what is below it: the ledger may lie inside the configuration, and it writes all the
/// time. Directories and not files, because editors and secret stores put new files in the place of old ones.
pub(super) struct Watch {
    watcher: Option<Box<dyn Watcher + Send>>,
    polling: bool,
    events: mpsc::Sender<()>,
    /// With what the file system calls them: a directory that was put in the place of another must be watched anew.
    watched: BTreeMap<PathBuf, (u64, u64)>,
}

impl Watch {
    /// Tells of changes through the channel, which needs room for one only.
    pub(super) fn new(events: mpsc::Sender<()>) -> Self {
        let watcher = recommended_watcher(teller(events.clone()));
        let mut watch = Self { watcher: None, polling: false, events, watched: BTreeMap::new() };
        match watcher {
            Ok(watcher) => watch.watcher = Some(Box::new(watcher)),
            Err(error) => watch.poll_instead(&error),
        }
        watch
    }

    /// Watches what concerns these files and nothing else; says whether something is watched that was not before (then
    /// what happened to it until now was missed).
    pub(super) fn follow(&mut self, files: &[PathBuf]) -> bool {
        let wanted = directories(files);
        let stale = |path: &PathBuf, id: &(u64, u64)| wanted.get(path) != Some(id);
        let stale: Vec<_> =
            self.watched.iter().filter(|(path, id)| stale(path, id)).map(|(path, _)| path.clone()).collect();
        for path in stale {
            self.watched.remove(&path);
            if let Some(watcher) = &mut self.watcher {
                // It may be gone already.
                let _ = watcher.unwatch(&path);
            }
        }
        let new: Vec<_> = wanted.into_iter().filter(|(path, _)| !self.watched.contains_key(path)).collect();
        for (path, id) in &new {
            self.add(path, *id);
        }
        !new.is_empty()
    }

    fn add(&mut self, path: &Path, id: (u64, u64)) {
        let Some(watcher) = &mut self.watcher else { return };
        match watcher.watch(path, RecursiveMode::NonRecursive) {
            Ok(()) => drop(self.watched.insert(path.to_owned(), id)),
            // Gone in between: the directory above it tells.
            Err(_) if !path.exists() => {}
            Err(error) if self.polling => {
                tracing::error!(path = %path.display(), %error, "not watched: reload by SIGHUP after a change");
                self.watched.insert(path.to_owned(), id);
            }
            Err(error) => {
                self.poll_instead(&error);
                let again = std::mem::take(&mut self.watched);
                again.into_iter().for_each(|(path, id)| self.add(&path, id));
                self.add(path, id);
            }
        }
    }

    fn poll_instead(&mut self, error: &notify::Error) {
        tracing::warn!(%error, "the system cannot tell of changed files: looking every 2 seconds instead");
        self.polling = true;
        let config = Config::default().with_poll_interval(POLL);
        self.watcher = match PollWatcher::new(teller(self.events.clone()), config) {
            Ok(watcher) => Some(Box::new(watcher)),
            Err(error) => {
                tracing::error!(%error, "the configuration is not watched: reload by SIGHUP after a change");
                None
            }
        };
    }
}

/// After a first event: returns when no other has come for a while.
pub(super) async fn quiet(arrivals: &mut mpsc::Receiver<()>) {
    let latest = Instant::now() + LONGEST_WAIT;
    while Instant::now() < latest {
        match timeout_at((Instant::now() + QUIET).min(latest), arrivals.recv()).await {
            Ok(Some(())) => {}
            Ok(None) | Err(_) => return,
        }
    }
}

/// One event waiting says as much as many.
fn teller(events: mpsc::Sender<()>) -> impl FnMut(notify::Result<Event>) + Send + 'static {
    move |event| {
        // Reading the files is an event too, and every reload reads them.
        let only_read = |kind: &EventKind| matches!(kind, EventKind::Access(access) if *access != AccessKind::Close(AccessMode::Write));
        if !event.is_ok_and(|event| only_read(&event.kind)) {
            let _ = events.try_send(());
        }
    }
}

/// The directories where something happens when one of the files changes: its own, those with links on the way to it, that
/// of the file which a link leads to, and for a missing one the nearest that exists.
fn directories(files: &[PathBuf]) -> BTreeMap<PathBuf, (u64, u64)> {
    let mut found = BTreeMap::new();
    // Of ten thousand files in one directory it is looked at once.
    let mut seen = BTreeSet::new();
    for file in files {
        yield_cpu();
        let is_plain = file.symlink_metadata().is_ok_and(|metadata| metadata.is_file());
        if is_plain && file.parent().is_some_and(|parent| seen.contains(or_here(parent))) {
            continue;
        }
        let mut path = file.clone();
        // No chain of links is longer for the system either.
        for _ in 0..40 {
            let nearest = path.ancestors().map(or_here).find(|path| path.is_dir());
            let Some(nearest) = nearest else { break };
            if seen.insert(nearest.to_owned()) {
                watched(nearest, &mut found);
            }
            match std::fs::read_link(&path) {
                Ok(target) => path = path.parent().unwrap_or(Path::new("")).join(target),
                Err(_) => break,
            }
        }
    }
    found
}

/// A directory, and each one that has a link in it by which it was found.
fn watched(directory: &Path, found: &mut BTreeMap<PathBuf, (u64, u64)>) {
    let Ok(metadata) = directory.metadata() else { return };
    if found.insert(directory.to_owned(), (metadata.dev(), metadata.ino())).is_some() {
        return;
    }
    let links = directory.ancestors().filter(|path| path.is_symlink());
    for link in links {
        let Some(parent) = link.parent().map(or_here) else { continue };
        watched(parent, found);
        if let Ok(target) = std::fs::read_link(link) {
            watched(&parent.join(target), found);
        }
    }
}

fn or_here(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_directories_are_watched() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("real")).unwrap();
        std::fs::write(root.join("real/key.pem"), "").unwrap();
        std::fs::create_dir(root.join("conf")).unwrap();
        std::os::unix::fs::symlink(root.join("real/key.pem"), root.join("conf/key.pem")).unwrap();
        let files = ["conf", "conf/key.pem", "none/deep/key.pem"].map(|name| root.join(name));
        let found: Vec<_> = directories(&files).into_keys().collect();
        assert_eq!(found, [root.clone(), root.join("conf"), root.join("real")]);
    }

    #[test]
    fn so_is_where_a_link_on_the_way_would_be_swapped() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("revisions/1/channels")).unwrap();
        std::fs::create_dir(root.join("etc")).unwrap();
        std::fs::write(root.join("revisions/1/channels/a.toml"), "").unwrap();
        std::os::unix::fs::symlink("revisions/1", root.join("current")).unwrap();
        std::os::unix::fs::symlink("../current", root.join("etc/conf")).unwrap();
        let file = root.join("etc/conf/channels/a.toml");
        let found: Vec<_> = directories(std::slice::from_ref(&file)).into_keys().collect();
        for wanted in ["etc", "etc/conf/channels"] {
            assert!(found.contains(&root.join(wanted)), "{wanted}: {found:?}");
        }
        // Where the second link lies, by whatever name.
        let is_root = |path: &PathBuf| path.canonicalize().unwrap() == root;
        assert!(found.iter().any(is_root), "{found:?}");
        assert!(found.iter().any(|path| path.canonicalize().unwrap() == root.join("revisions/1")), "{found:?}");
    }

    #[tokio::test]
    async fn where_the_system_tells_nothing_it_is_looked_for() {
        let dir = tempfile::tempdir().unwrap();
        let (events, mut arrivals) = mpsc::channel(1);
        let mut watch = Watch::new(events);
        watch.poll_instead(&notify::Error::generic("a test"));
        assert!(watch.follow(&[dir.path().to_owned()]) && watch.polling);
        std::fs::write(dir.path().join("shop.toml"), "").unwrap();
        tokio::time::timeout(Duration::from_secs(10), arrivals.recv()).await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn quiet_waits_for_the_last_event_but_not_for_ever() {
        let (events, mut arrivals) = mpsc::channel(1);
        let start = Instant::now();
        quiet(&mut arrivals).await;
        assert_eq!(start.elapsed(), QUIET);
        tokio::spawn(async move {
            loop {
                let _ = events.try_send(());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        let start = Instant::now();
        quiet(&mut arrivals).await;
        assert_eq!(start.elapsed(), LONGEST_WAIT);
    }
}
