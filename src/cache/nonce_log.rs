//! Nonces on this machine's disk, so that a request that one process accepted is not accepted by the next.
//!
//! A record is written before its request goes on and is not synced: it outlives the process, not the machine. A process that
//! finds a log of an earlier boot, or a damaged one, therefore knows that the log may lack its end.
//!
//! ```text
//! NONCES/1780000000123-4711.log   header: magic, boot id, floor, check; then records: hash, end, check
//! ```

use std::fs::{DirBuilder, File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use sha2::{Digest, Sha256};

use super::memory::Mark;

/// So long one file is written to; a file goes as a whole.
const SEGMENT: Duration = Duration::from_secs(300);
/// So long nothing is tried after a failure.
const PAUSE: Duration = Duration::from_secs(10);
/// So many records of earlier processes are copied into the own file, and their files taken away.
const MOST_COPIED: usize = 100_000;
/// Seconds after their end when signatures in a file of an earlier process are forgotten. A clock that is wrong by less than this
/// at one start forgets nothing.
const LONG_OVER: u64 = 3600;
const MAGIC: &[u8; 16] = b"tollgate-nonce-1";
/// What `/proc` calls a boot.
const BOOT_ID: usize = 36;
const CHECK: usize = 8;
const HEADER: usize = MAGIC.len() + BOOT_ID + 8 + CHECK;
const RECORD: usize = 16 + 8 + CHECK;

/// Where nonces are written down.
pub(super) struct NonceLog {
    directory: PathBuf,
    /// Seconds that a record may still matter after it was written or read.
    kept: u64,
    state: RwLock<State>,
}

/// What earlier processes wrote.
#[derive(Debug, Default)]
pub(super) struct Logged {
    pub(super) marks: Vec<Mark>,
    /// Signatures with this end or an earlier one may have been seen and forgotten. It is in the past.
    pub(super) floor: u64,
    /// Signatures with this end or an earlier one may have been seen without being among the marks, by a clock that may be
    /// wrong; 0 where nothing is missing.
    pub(super) missing: u64,
}

#[derive(Default)]
struct State {
    active: Option<Segment>,
    /// Files that are written no more, until nothing in them matters.
    old: Vec<Old>,
    /// When writing failed last.
    failed: Option<Duration>,
}

struct Segment {
    file: File,
    path: PathBuf,
    began: Duration,
    end: AtomicU64,
}

struct Old {
    path: PathBuf,
    /// Open, and so locked: while a process lives, no other takes its files away.
    file: File,
    until: Duration,
    end: u64,
}

impl NonceLog {
    /// Reads what earlier processes wrote in a directory, which is made if it is missing, and goes on in a file of its own.
    /// `now` is unix seconds; signatures are good for `window` seconds before and after their time.
    pub(super) fn open(directory: &Path, now: u64, window: u64, kept: u64) -> io::Result<(Self, Logged)> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let (boot, mut logged) = (boot_id(), Logged::default());
        let (mut is_complete, mut is_first, mut old) = (true, true, Vec::new());
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "log") {
                continue;
            }
            let mut content = Vec::new();
            let mut file = File::options().read(true).write(true).open(&path)?;
            file.read_to_end(&mut content)?;
            let (is_whole, end) = logged.read(&content, &boot, now);
            is_complete &= is_whole;
            is_first = false;
            // A live process takes away its own.
            if !matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
                if end + LONG_OVER < now {
                    logged.floor = logged.floor.max(end);
                }
                old.push(Old { path, file, until: Duration::from_secs(kept), end });
            }
        }
        // The floor refuses them without a record each. A process that restarts every minute would otherwise keep every file.
        logged.marks.retain(|mark| mark.end > logged.floor);
        // What is missing was signed before now, by clocks that are right. Where no log is, it may have been lost; callers may
        // sign in the second of this start, though.
        let before_now = now + window - 1;
        logged.missing = match (is_complete, is_first) {
            (false, _) => now + window,
            (true, true) => before_now,
            // The clock of an earlier start may have been wrong.
            (true, false) => logged.missing.min(before_now),
        };
        let segment = Segment::create(directory, logged.floor.max(logged.missing), Duration::ZERO)?;
        old.retain(|old| old.end > logged.floor || std::fs::remove_file(&old.path).is_err());
        if logged.marks.len() <= MOST_COPIED {
            let records: Vec<u8> = logged.marks.iter().flat_map(|mark| record(*mark)).collect();
            (&segment.file).write_all(&records)?;
            segment.end.fetch_max(logged.marks.iter().map(|mark| mark.end).max().unwrap_or(0), Ordering::AcqRel);
            old.retain(|old| std::fs::remove_file(&old.path).is_err());
        }
        let state = RwLock::new(State { active: Some(segment), old, failed: None });
        Ok((Self { directory: directory.to_owned(), kept, state }, logged))
    }

    /// Writes one down. What cannot be written is told, and known to be missing by the next process.
    pub(super) fn append(&self, mark: Mark, floor: u64, (now, elapsed): (u64, Duration)) {
        for _ in 0..2 {
            let state = self.state.read();
            if state.failed.is_some_and(|failed| elapsed < failed + PAUSE) {
                return;
            }
            let Some(segment) = state.active.as_ref().filter(|segment| elapsed < segment.began + SEGMENT) else {
                drop(state);
                self.turn(floor, (now, elapsed));
                continue;
            };
            segment.end.fetch_max(mark.end, Ordering::AcqRel);
            let Err(error) = (&segment.file).write_all(&record(mark)) else { return };
            let is_known = spoil(&segment.file).is_ok();
            drop(state);
            let mut state = self.state.write();
            state.failed = Some(elapsed);
            self.retire(&mut state, elapsed);
            drop(state);
            self.complain(&error, is_known);
            return;
        }
    }

    /// Goes on in a new file, and takes those away in which nothing matters any more.
    fn turn(&self, floor: u64, (now, elapsed): (u64, Duration)) {
        let mut state = self.state.write();
        if state.active.as_ref().is_some_and(|segment| elapsed < segment.began + SEGMENT) {
            return;
        }
        self.retire(&mut state, elapsed);
        let is_over = |old: &Old| elapsed > old.until && now > old.end;
        let floor = state.old.iter().filter(|old| is_over(old)).map(|old| old.end).fold(floor, u64::max);
        match Segment::create(&self.directory, floor, elapsed) {
            Ok(segment) => {
                state.active = Some(segment);
                // What they say is in the new file's floor now.
                state.old.retain(|old| !is_over(old) || std::fs::remove_file(&old.path).is_err());
            }
            Err(error) => {
                state.failed = Some(elapsed);
                let is_known = state.old.iter().any(|old| spoil(&old.file).is_ok());
                drop(state);
                self.complain(&error, is_known);
            }
        }
    }

    fn retire(&self, state: &mut State, elapsed: Duration) {
        if let Some(Segment { file, path, end, .. }) = state.active.take() {
            let until = elapsed + Duration::from_secs(self.kept);
            state.old.push(Old { path, file, until, end: end.into_inner() });
        }
    }

    fn complain(&self, error: &io::Error, is_known: bool) {
        let directory = self.directory.display().to_string();
        tracing::error!(
            %error,
            directory,
            is_known,
            "nonces cannot be written down: a request could be repeated after a restart; free space or make the directory writable"
        );
    }
}

impl Segment {
    fn create(directory: &Path, floor: u64, began: Duration) -> io::Result<Self> {
        let name = format!(
            "{}-{}-{:08x}.log",
            jiff::Timestamp::now().as_millisecond(),
            std::process::id(),
            rand::random::<u32>()
        );
        let path = directory.join(name);
        let file = File::options().append(true).create_new(true).mode(0o600).open(&path)?;
        // Held until the process ends. Where a file system has no locks, no two processes may have one directory.
        let _ = file.try_lock();
        if let Err(error) = (&file).write_all(&header(floor)) {
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        Ok(Self { file, path, began, end: AtomicU64::new(0) })
    }
}

impl Logged {
    /// Takes in a file that was perhaps written in this boot. Gives whether nothing in it can be missing, and the last end in it.
    /// `now` is unix seconds.
    fn read(&mut self, content: &[u8], boot: &[u8; BOOT_ID], now: u64) -> (bool, u64) {
        let Some((head, records)) = content.split_at_checked(HEADER) else { return (false, 0) };
        let (said, sum) = head.split_at(HEADER - CHECK);
        let (magic, rest) = said.split_at(MAGIC.len());
        let (written_in, floor) = rest.split_at(BOOT_ID);
        if magic != MAGIC || sum != check(said) {
            return (false, 0);
        }
        let floor = number(floor);
        let known = if floor < now { &mut self.floor } else { &mut self.missing };
        *known = floor.max(*known);
        let (mut is_complete, mut last) = (written_in == boot && boot[0] != 0, 0);
        // A record that is not whole is of a request that went no further.
        for record in records.chunks_exact(RECORD) {
            let (said, sum) = record.split_at(RECORD - CHECK);
            let Some((hash, end)) = said.split_first_chunk().filter(|_| sum == check(said)) else {
                is_complete = false;
                continue;
            };
            let end = number(end);
            self.marks.push(Mark { hash: *hash, end });
            last = last.max(end);
        }
        (is_complete, last)
    }
}

/// Cuts a file to what is no header: the next process knows by it that something is missing.
fn spoil(file: &File) -> io::Result<()> {
    file.set_len(1)
}

fn header(floor: u64) -> Vec<u8> {
    let said = [&MAGIC[..], &boot_id(), &floor.to_be_bytes()].concat();
    [&said[..], &check(&said)].concat()
}

fn record(Mark { hash, end }: Mark) -> Vec<u8> {
    let said = [&hash[..], &end.to_be_bytes()].concat();
    [&said[..], &check(&said)].concat()
}

fn check(said: &[u8]) -> [u8; CHECK] {
    let mut sum = [0; CHECK];
    sum.copy_from_slice(&Sha256::digest(said)[..CHECK]);
    sum
}

fn number(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// Differs after each start of the machine; zeros where the system does not say.
fn boot_id() -> [u8; BOOT_ID] {
    let said = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    said.first_chunk().copied().unwrap_or([0; BOOT_ID])
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;
