//! Linux tells of changed files. It is asked here, and not by a library, to hear of changes only: a reload opens ten thousand
//! files, and whoever hears of each takes a third of its time.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init, remove_watch};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::task::JoinHandle;

/// Watches directories, each without what is below it.
pub(super) struct Inotify {
    fd: OwnedFd,
    watched: BTreeMap<PathBuf, i32>,
    listening: JoinHandle<()>,
}

impl Inotify {
    /// Calls it with each change; some that come together count once.
    pub(super) fn new(changed: impl Fn() + Send + 'static) -> io::Result<Self> {
        let fd = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        // What is told is read as from a pipe.
        let told = Receiver::from_owned_fd_unchecked(fd.try_clone()?)?;
        let listening = tokio::spawn(listen(told, changed));
        Ok(Self { fd, watched: BTreeMap::new(), listening })
    }

    pub(super) fn watch(&mut self, dir: &Path) -> io::Result<()> {
        let changes = WatchFlags::CREATE
            | WatchFlags::MODIFY
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::ATTRIB
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE;
        let watch = add_watch(&self.fd, dir, changes | WatchFlags::ONLYDIR)?;
        self.watched.insert(dir.to_owned(), watch);
        Ok(())
    }

    pub(super) fn unwatch(&mut self, dir: &Path) {
        let Some(watch) = self.watched.remove(dir) else { return };
        // One directory is watched once, by however many names.
        if !self.watched.values().any(|other| *other == watch) {
            // It may be gone already.
            let _ = remove_watch(&self.fd, watch);
        }
    }
}

impl Drop for Inotify {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn listen(mut told: Receiver, changed: impl Fn()) {
    let mut buffer = [0; 4096];
    loop {
        match told.read(&mut buffer).await {
            Ok(_) => changed(),
            Err(error) => {
                tracing::error!(%error, "the configuration is not watched any more: reload by SIGHUP after a change");
                return;
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn changes_are_told_and_reading_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        fs::create_dir(&one).unwrap();
        std::os::unix::fs::symlink("one", &other).unwrap();
        fs::write(one.join("file"), "1").unwrap();
        let (changes, mut changed) = mpsc::unbounded_channel();
        let mut inotify = Inotify::new(move || changes.send(()).unwrap()).unwrap();
        inotify.watch(&one).unwrap();
        inotify.watch(&other).unwrap();
        inotify.unwatch(&one);
        assert!(inotify.watch(&dir.path().join("none")).is_err());

        // Nobody else reads what is told until this waits.
        let fd = inotify.fd.try_clone().unwrap();
        let is_silent = || rustix::io::read(&fd, &mut [0; 4096]) == Err(rustix::io::Errno::AGAIN);
        fs::read(one.join("file")).unwrap();
        fs::read_dir(&one).unwrap().for_each(drop);
        assert!(is_silent());
        let changes: [&dyn Fn(); 4] = [
            &|| fs::write(one.join("file"), "2").unwrap(),
            &|| fs::rename(one.join("file"), one.join("moved")).unwrap(),
            &|| fs::remove_file(one.join("moved")).unwrap(),
            &|| fs::create_dir(one.join("dir")).unwrap(),
        ];
        for change in changes {
            change();
            changed.recv().await.unwrap();
        }
        inotify.unwatch(&other);
        changed.recv().await.unwrap();
        fs::write(one.join("file"), "3").unwrap();
        assert!(is_silent());
    }
}
