//! Log of nonces on disk, so that the next process rejects a request that this one accepted.
//!
//! A record is written before its request proceeds and is not synced: it survives a crash of the process, not of the machine. A
//! process that finds a log of an earlier boot, or a damaged one, therefore assumes that records at its end are missing.
//!
//! Why it exists: a signature is valid for five minutes. Without the log, a restart would have to reject every request that was
//! signed before it, or accept each of them a second time. A record costs one write of 32 bytes without fsync.
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

use super::nonce_mark::NonceMark;

/// Time after which a new file is started. Files are deleted as a whole.
const SEGMENT_AGE: Duration = Duration::from_secs(300);
/// Time after a failed write in which none is attempted.
const WRITE_RETRY_PAUSE: Duration = Duration::from_secs(10);
/// Maximum number of records of earlier processes that are copied into the own file, so that their files can be deleted.
const MAX_COPIED: usize = 100_000;
/// Seconds after which expired signatures in a file of an earlier process are dropped. A clock that is wrong by less at one start
/// loses nothing.
const DROP_AFTER_SECONDS: u64 = 3600;
const MAGIC: &[u8; 16] = b"tollgate-nonce-1";
/// Length of a boot id in `/proc`.
const BOOT_ID: usize = 36;
const CHECK: usize = 8;
const HEADER: usize = MAGIC.len() + BOOT_ID + 8 + CHECK;
const RECORD: usize = 16 + 8 + CHECK;

/// Append-only log of nonces.
pub(super) struct NonceLog {
    directory: PathBuf,
    /// Seconds for which a record may matter after it was written or read.
    retained: u64,
    state: RwLock<State>,
}

/// Records of earlier processes.
#[derive(Debug, Default)]
pub(super) struct Logged {
    pub(super) marks: Vec<NonceMark>,
    /// Signatures that end at or before this second may have been used and dropped. It is in the past.
    pub(super) floor: u64,
    /// Signatures that end at or before this second may have been used without a record, by a clock that may be wrong; 0 if nothing
    /// is missing.
    pub(super) missing: u64,
}

#[derive(Default)]
struct State {
    active: Option<Segment>,
    /// Closed files that still matter.
    old: Vec<ClosedSegment>,
    /// Time of the last failed write.
    failed: Option<Duration>,
}

struct Segment {
    file: File,
    path: PathBuf,
    began: Duration,
    end: AtomicU64,
}

struct ClosedSegment {
    path: PathBuf,
    /// Open and therefore locked: other processes do not delete the files of a live process.
    file: File,
    until: Duration,
    end: u64,
}

impl NonceLog {
    /// Reads the records of earlier processes in a directory, which is created if missing, and opens a new file. `now` is in Unix
    /// seconds; signatures are valid for `window` seconds before and after their time.
    pub(super) fn open(directory: &Path, now: u64, window: u64, retained: u64) -> io::Result<(Self, Logged)> {
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
            // A live process deletes its own files.
            if !matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
                if end + DROP_AFTER_SECONDS < now {
                    logged.floor = logged.floor.max(end);
                }
                old.push(ClosedSegment { path, file, until: Duration::from_secs(retained), end });
            }
        }
        // The floor rejects them without a record each. Otherwise a process that restarts every minute would retain every file.
        logged.marks.retain(|mark| mark.end > logged.floor);
        // A missing record is of a signature before now, if clocks are right. If there is no log, it may have been lost. Callers may
        // still sign in the second of this start.
        let before_now = now + window - 1;
        logged.missing = match (is_complete, is_first) {
            (false, _) => now + window,
            (true, true) => before_now,
            // The clock of an earlier start may have been wrong.
            (true, false) => logged.missing.min(before_now),
        };
        let segment = Segment::create(directory, logged.floor.max(logged.missing), Duration::ZERO)?;
        old.retain(|old| old.end > logged.floor || std::fs::remove_file(&old.path).is_err());
        if logged.marks.len() <= MAX_COPIED {
            let records: Vec<u8> = logged.marks.iter().flat_map(|mark| record(*mark)).collect();
            (&segment.file).write_all(&records)?;
            segment.end.fetch_max(logged.marks.iter().map(|mark| mark.end).max().unwrap_or(0), Ordering::AcqRel);
            old.retain(|old| std::fs::remove_file(&old.path).is_err());
        }
        let state = RwLock::new(State { active: Some(segment), old, failed: None });
        Ok((Self { directory: directory.to_owned(), retained, state }, logged))
    }

    /// Appends a record. A failed write is logged, and the next process detects that records are missing.
    pub(super) fn append(&self, mark: NonceMark, floor: u64, (now, elapsed): (u64, Duration)) {
        for _ in 0..2 {
            let state = self.state.read();
            if state.failed.is_some_and(|failed| elapsed < failed + WRITE_RETRY_PAUSE) {
                return;
            }
            let Some(segment) = state.active.as_ref().filter(|segment| elapsed < segment.began + SEGMENT_AGE) else {
                drop(state);
                self.rotate(floor, (now, elapsed));
                continue;
            };
            segment.end.fetch_max(mark.end, Ordering::AcqRel);
            let Err(error) = (&segment.file).write_all(&record(mark)) else { return };
            let is_known = invalidate(&segment.file).is_ok();
            drop(state);
            let mut state = self.state.write();
            state.failed = Some(elapsed);
            self.retire(&mut state, elapsed);
            drop(state);
            self.log_failure(&error, is_known);
            return;
        }
    }

    /// Starts a new file, and deletes files that no longer matter.
    fn rotate(&self, floor: u64, (now, elapsed): (u64, Duration)) {
        let mut state = self.state.write();
        if state.active.as_ref().is_some_and(|segment| elapsed < segment.began + SEGMENT_AGE) {
            return;
        }
        self.retire(&mut state, elapsed);
        let is_over = |old: &ClosedSegment| elapsed > old.until && now > old.end;
        let floor = state.old.iter().filter(|old| is_over(old)).map(|old| old.end).fold(floor, u64::max);
        match Segment::create(&self.directory, floor, elapsed) {
            Ok(segment) => {
                state.active = Some(segment);
                // The floor of the new file covers the deleted ones.
                state.old.retain(|old| !is_over(old) || std::fs::remove_file(&old.path).is_err());
            }
            Err(error) => {
                state.failed = Some(elapsed);
                let is_known = state.old.iter().any(|old| invalidate(&old.file).is_ok());
                drop(state);
                self.log_failure(&error, is_known);
            }
        }
    }

    fn retire(&self, state: &mut State, elapsed: Duration) {
        if let Some(Segment { file, path, end, .. }) = state.active.take() {
            let until = elapsed + Duration::from_secs(self.retained);
            state.old.push(ClosedSegment { path, file, until, end: end.into_inner() });
        }
    }

    fn log_failure(&self, error: &io::Error, is_known: bool) {
        let directory = self.directory.display().to_string();
        tracing::error!(
            %error,
            directory,
            is_known,
            "nonces cannot be logged: a request could be replayed after a restart; free space or make the directory writable"
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
        // Locked until the process ends. On a file system without locks, each process needs a directory of its own.
        let _ = file.try_lock();
        if let Err(error) = (&file).write_all(&header(floor)) {
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        Ok(Self { file, path, began, end: AtomicU64::new(0) })
    }
}

impl Logged {
    /// Reads a file, possibly of this boot. Returns whether it is complete, and the last end in it. `now` is in Unix seconds.
    fn read(&mut self, content: &[u8], boot: &[u8; BOOT_ID], now: u64) -> (bool, u64) {
        let Some((head, records)) = content.split_at_checked(HEADER) else { return (false, 0) };
        let (payload, sum) = head.split_at(HEADER - CHECK);
        let (magic, rest) = payload.split_at(MAGIC.len());
        let (written_in, floor) = rest.split_at(BOOT_ID);
        if magic != MAGIC || sum != check(payload) {
            return (false, 0);
        }
        let floor = number(floor);
        let known = if floor < now { &mut self.floor } else { &mut self.missing };
        *known = floor.max(*known);
        let (mut is_complete, mut last) = (written_in == boot && boot[0] != 0, 0);
        // A partial record is of a request that did not proceed.
        for record in records.chunks_exact(RECORD) {
            let (payload, sum) = record.split_at(RECORD - CHECK);
            let Some((hash, end)) = payload.split_first_chunk().filter(|_| sum == check(payload)) else {
                is_complete = false;
                continue;
            };
            let end = number(end);
            self.marks.push(NonceMark { hash: *hash, end });
            last = last.max(end);
        }
        (is_complete, last)
    }
}

/// Truncates the header, by which the next process detects that records are missing.
fn invalidate(file: &File) -> io::Result<()> {
    file.set_len(1)
}

fn header(floor: u64) -> Vec<u8> {
    let payload = [&MAGIC[..], &boot_id(), &floor.to_be_bytes()].concat();
    [&payload[..], &check(&payload)].concat()
}

fn record(NonceMark { hash, end }: NonceMark) -> Vec<u8> {
    let payload = [&hash[..], &end.to_be_bytes()].concat();
    [&payload[..], &check(&payload)].concat()
}

fn check(payload: &[u8]) -> [u8; CHECK] {
    let mut sum = [0; CHECK];
    sum.copy_from_slice(&Sha256::digest(payload)[..CHECK]);
    sum
}

fn number(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// Returns the id of this boot; zeros if the system does not provide one.
fn boot_id() -> [u8; BOOT_ID] {
    let payload = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    payload.first_chunk().copied().unwrap_or([0; BOOT_ID])
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;
