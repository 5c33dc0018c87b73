//! Watches the configuration's files for changes, and waits until they are quiet.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Config, Event, EventKind, PollWatcher, RecursiveMode, Watcher, recommended_watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use tollgate_config::cpu::yield_cpu;

/// Time without events after which the files count as quiet.
const QUIET: Duration = Duration::from_millis(200);
/// Maximum wait, for files that change all the time.
const MAX_WAIT: Duration = Duration::from_secs(2);
/// Polling interval if the system cannot report changes.
const FILE_POLL_INTERVAL: Duration = Duration::from_secs(2);

/// Watches directories without their subdirectories: the ledger may lie inside the configuration directory, and it writes all the
/// time. Directories are watched instead of files, because editors and secret stores replace files by new ones.
pub(super) struct Watch {
    watcher: Option<Box<dyn Watcher + Send>>,
    polling: bool,
    events: mpsc::Sender<()>,
    /// Watched directories with device and inode: a directory that was replaced must be watched anew.
    watched: BTreeMap<PathBuf, (u64, u64)>,
}

impl Watch {
    /// Returns a watch that sends changes through the channel. A capacity of one suffices.
    pub(super) fn new(events: mpsc::Sender<()>) -> Self {
        let watcher = recommended_watcher(event_handler(events.clone()));
        let mut watch = Self { watcher: None, polling: false, events, watched: BTreeMap::new() };
        match watcher {
            Ok(watcher) => watch.watcher = Some(Box::new(watcher)),
            Err(error) => watch.fall_back_to_polling(&error),
        }
        watch
    }

    /// Watches what concerns these files and nothing else. Returns whether a new directory is watched; earlier changes in it were
    /// missed.
    pub(super) fn follow(&mut self, files: &[PathBuf]) -> bool {
        let wanted = directories(files);
        let stale = |path: &PathBuf, id: &(u64, u64)| wanted.get(path) != Some(id);
        let stale: Vec<_> =
            self.watched.iter().filter(|(path, id)| stale(path, id)).map(|(path, _)| path.clone()).collect();
        for path in stale {
            self.watched.remove(&path);
            if let Some(watcher) = &mut self.watcher {
                // The directory may be gone already.
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
            // Removed in between: the event of its parent directory covers that.
            Err(_) if !path.exists() => {}
            Err(error) if self.polling => {
                tracing::error!(path = %path.display(), %error, "cannot watch this directory: send SIGHUP after a change");
                self.watched.insert(path.to_owned(), id);
            }
            Err(error) => {
                self.fall_back_to_polling(&error);
                let again = std::mem::take(&mut self.watched);
                again.into_iter().for_each(|(path, id)| self.add(&path, id));
                self.add(path, id);
            }
        }
    }

    fn fall_back_to_polling(&mut self, error: &notify::Error) {
        tracing::warn!(%error, "the system cannot report changed files: polling every 2 seconds instead");
        self.polling = true;
        let config = Config::default().with_poll_interval(FILE_POLL_INTERVAL);
        self.watcher = match PollWatcher::new(event_handler(self.events.clone()), config) {
            Ok(watcher) => Some(Box::new(watcher)),
            Err(error) => {
                tracing::error!(%error, "cannot watch the configuration: send SIGHUP after a change");
                None
            }
        };
    }
}

/// Returns once no event arrived for [`QUIET`], or after [`MAX_WAIT`]. Called after a first event.
pub(super) async fn wait_until_quiet(arrivals: &mut mpsc::Receiver<()>) {
    let latest = Instant::now() + MAX_WAIT;
    while Instant::now() < latest {
        match timeout_at((Instant::now() + QUIET).min(latest), arrivals.recv()).await {
            Ok(Some(())) => {}
            Ok(None) | Err(_) => return,
        }
    }
}

/// Returns an event handler. If an event is waiting already, further ones are dropped.
fn event_handler(events: mpsc::Sender<()>) -> impl FnMut(notify::Result<Event>) + Send + 'static {
    move |event| {
        // Reading a file is an event too, and every reload reads all files.
        let only_read = |kind: &EventKind| matches!(kind, EventKind::Access(access) if *access != AccessKind::Close(AccessMode::Write));
        if !event.is_ok_and(|event| only_read(&event.kind)) {
            let _ = events.try_send(());
        }
    }
}

/// Returns the directories in which a change of one of the files shows: the file's own directory, those with links on its path,
/// that of a link's target, and for a missing file its nearest existing ancestor.
fn directories(files: &[PathBuf]) -> BTreeMap<PathBuf, (u64, u64)> {
    let mut found = BTreeMap::new();
    // Each directory is examined once, even with ten thousand files in it.
    let mut seen = BTreeSet::new();
    for file in files {
        yield_cpu();
        let is_plain = file.symlink_metadata().is_ok_and(|metadata| metadata.is_file());
        if is_plain && file.parent().is_some_and(|parent| seen.contains(or_current_dir(parent))) {
            continue;
        }
        let mut path = file.clone();
        // The system also limits chains of links to 40.
        for _ in 0..40 {
            let nearest = path.ancestors().map(or_current_dir).find(|path| path.is_dir());
            let Some(nearest) = nearest else { break };
            if seen.insert(nearest.to_owned()) {
                watch_with_links(nearest, &mut found);
            }
            match std::fs::read_link(&path) {
                Ok(target) => path = path.parent().unwrap_or(Path::new("")).join(target),
                Err(_) => break,
            }
        }
    }
    found
}

/// Adds a directory, and each directory with a link on its path.
fn watch_with_links(directory: &Path, found: &mut BTreeMap<PathBuf, (u64, u64)>) {
    let Ok(metadata) = directory.metadata() else { return };
    if found.insert(directory.to_owned(), (metadata.dev(), metadata.ino())).is_some() {
        return;
    }
    let links = directory.ancestors().filter(|path| path.is_symlink());
    for link in links {
        let Some(parent) = link.parent().map(or_current_dir) else { continue };
        watch_with_links(parent, found);
        if let Ok(target) = std::fs::read_link(link) {
            watch_with_links(&parent.join(target), found);
        }
    }
}

fn or_current_dir(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_existing_directories_are_watched() {
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
    fn directories_of_links_on_the_path_are_watched() {
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
        // The directory of the second link, under any name.
        let is_root = |path: &PathBuf| path.canonicalize().unwrap() == root;
        assert!(found.iter().any(is_root), "{found:?}");
        assert!(found.iter().any(|path| path.canonicalize().unwrap() == root.join("revisions/1")), "{found:?}");
    }

    #[tokio::test]
    async fn changes_are_polled_if_the_system_reports_none() {
        let dir = tempfile::tempdir().unwrap();
        let (events, mut arrivals) = mpsc::channel(1);
        let mut watch = Watch::new(events);
        watch.fall_back_to_polling(&notify::Error::generic("a test"));
        assert!(watch.follow(&[dir.path().to_owned()]) && watch.polling);
        std::fs::write(dir.path().join("shop.toml"), "").unwrap();
        tokio::time::timeout(Duration::from_secs(10), arrivals.recv()).await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn wait_until_quiet_ends_after_the_last_event_or_the_maximum() {
        let (events, mut arrivals) = mpsc::channel(1);
        let start = Instant::now();
        wait_until_quiet(&mut arrivals).await;
        assert_eq!(start.elapsed(), QUIET);
        tokio::spawn(async move {
            loop {
                let _ = events.try_send(());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        let start = Instant::now();
        wait_until_quiet(&mut arrivals).await;
        assert_eq!(start.elapsed(), MAX_WAIT);
    }
}
