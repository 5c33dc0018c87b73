//! Nonces in memory. Each is accepted once, also across restarts and when the clock is set back.
//!
//! A nonce is retained for as long as its signature could be valid. That time is measured by the monotonic clock, so a jump of the
//! wall clock evicts nothing early. Evicted nonces leave a floor: a signature that ends at or before it is rejected, because its
//! nonce may be among them. With a [log](super::nonce_log), the next process starts with the same nonces.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::nonce_log::{Logged, NonceLog};
use super::nonce_mark::NonceMark;
use crate::telemetry::METRICS;

/// Seconds of nonces that are evicted together.
const PERIOD_SECONDS: u64 = 60;
/// Seconds that a nonce is retained beyond its signature's validity, so that small steps of the wall clock do no harm.
const NONCE_SLACK_SECONDS: u64 = 60;
/// Seconds by which two time measurements may differ without a step of the wall clock.
const MAX_CLOCK_DRIFT: u64 = 2;
/// Number of locks.
const NONCE_SHARDS: usize = 16;

/// Maximum number of stored nonces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// Total over all merchants.
    pub(crate) total: u64,
    /// True if there are several merchants, so that each must leave room for the others.
    pub(crate) is_shared: bool,
}

/// Result of storing a nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remembered {
    /// New; it is stored now.
    First,
    /// Used before.
    Seen,
    /// Unknown, because it may have been evicted.
    Forgotten,
    /// No room for it.
    Full,
}

/// Store of used nonces.
pub(crate) struct Nonces {
    shards: Vec<Mutex<Shard>>,
    /// Chooses the shard of a nonce. The hash key is random, so that no caller can fill one shard.
    hasher: RandomState,
    usage: Mutex<Usage>,
    /// Signatures that end at or before this second may have been used and evicted.
    floor: AtomicU64,
    /// Signatures that earlier processes may have accepted and that are missing in the log, if any.
    before: Option<BeforeStart>,
    /// True after the lack of room was logged, until something is evicted.
    overflow_logged: AtomicBool,
    started: Instant,
    log: Option<NonceLog>,
}

/// Signatures that earlier processes may have accepted without a log record.
struct BeforeStart {
    /// Last end among them, by the clock at the start.
    end: u64,
    /// Start in Unix seconds.
    start: u64,
    /// Seconds that signatures are valid before and after their time.
    window: u64,
}

impl BeforeStart {
    /// Returns the last end among them, corrected by the clock as it is now: at the start the clock may have been wrong. Some time
    /// after the start, none of them is valid any more.
    fn floor(&self, (now, elapsed): (u64, Duration)) -> u64 {
        if elapsed.as_secs() > 2 * self.window {
            return 0;
        }
        in_present_time(self.start, (now, elapsed)) + self.end.saturating_sub(self.start)
    }
}

/// Converts a Unix second of an earlier clock reading to the clock as it is now. `then` is that reading; `elapsed` has passed since,
/// independent of steps of the clock.
pub(super) fn in_present_time(then: u64, (now, elapsed): (u64, Duration)) -> u64 {
    let counted = now.saturating_sub(elapsed.as_secs());
    // Whole seconds are inexact.
    if counted.abs_diff(then) <= MAX_CLOCK_DRIFT { then } else { counted }
}

#[derive(Default)]
struct Shard {
    seen: HashSet<[u8; 16]>,
    /// Nonces by the time at which they may be evicted, earliest first.
    periods: VecDeque<Period>,
}

/// Nonces that are evicted together.
struct Period {
    /// Number of the period since the start, by the monotonic clock.
    number: u64,
    hashes: Vec<[u8; 16]>,
    /// Last end among the nonces.
    end: u64,
    /// Number of nonces per merchant.
    owners: HashMap<u32, usize>,
}

/// Number of stored nonces, in total and per merchant.
#[derive(Default)]
struct Usage {
    total: usize,
    ids: HashMap<String, u32>,
    counts: Vec<usize>,
}

impl Default for Nonces {
    fn default() -> Self {
        Self {
            shards: (0..NONCE_SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            usage: Mutex::default(),
            floor: AtomicU64::new(0),
            before: None,
            overflow_logged: AtomicBool::new(false),
            started: Instant::now(),
            log: None,
        }
    }
}

impl Nonces {
    /// Loads the nonces that earlier processes logged in a directory, and continues the log. `now` is in Unix seconds; signatures are
    /// valid for `window` seconds before and after their time.
    pub(super) fn open(directory: &Path, now: u64, window: u64) -> io::Result<Self> {
        // Taken together with `now`, because reading the log takes time.
        let (started, retained) = (Instant::now(), 2 * window + NONCE_SLACK_SECONDS);
        let (log, Logged { marks, floor, missing }) = NonceLog::open(directory, now, window, retained)?;
        let before = (missing > 0).then_some(BeforeStart { end: missing, start: now, window });
        let mut nonces = Self { log: Some(log), floor: AtomicU64::new(floor), before, started, ..Self::default() };
        marks.into_iter().for_each(|mark| nonces.insert_logged(mark, retained));
        Ok(nonces)
    }

    /// Creates a store without a log. Rejects signatures from before `now`, because earlier processes may have accepted them.
    pub(super) fn without_log(now: u64, window: u64) -> Self {
        let before = Some(BeforeStart { end: now + window, start: now, window });
        Self { before, ..Self::default() }
    }

    /// Returns the last end of signatures that may have been used and are not stored any more.
    fn floor(&self, now: (u64, Duration)) -> u64 {
        let before = self.before.as_ref().map_or(0, |before| before.floor(now));
        self.floor.load(Ordering::Acquire).max(before)
    }

    /// Returns whether the nonce was used.
    pub(super) fn is_seen(&self, mark: &NonceMark) -> bool {
        self.shard(mark).is_some_and(|shard| shard.lock().seen.contains(&mark.hash))
    }

    /// Stores a merchant's nonce; `now` is in Unix seconds.
    pub(super) fn remember(&self, mark: NonceMark, merchant: &str, capacity: Capacity, now: u64) -> Remembered {
        let now = (now, self.started.elapsed());
        let remembered = self.insert(mark, merchant, capacity, now);
        if remembered == Remembered::First
            && let Some(log) = &self.log
        {
            log.append(mark, self.floor(now), now);
        }
        remembered
    }

    fn insert(&self, mark: NonceMark, merchant: &str, capacity: Capacity, now: (u64, Duration)) -> Remembered {
        let Some(shard) = self.shard(&mark) else { return Remembered::Full };
        for is_last_try in [false, true] {
            let mut shard = shard.lock();
            self.forget(&mut shard, now);
            if shard.seen.contains(&mark.hash) {
                return Remembered::Seen;
            }
            if mark.end <= self.floor(now) {
                METRICS.nonces_refused_total.with_label_values(&["forgotten"]).inc();
                return Remembered::Forgotten;
            }
            if let Some(owner) = self.usage.lock().enter(merchant, capacity) {
                shard.seen.insert(mark.hash);
                let left = mark.end.saturating_sub(now.0) + NONCE_SLACK_SECONDS;
                shard.list(mark, owner, (now.1.as_secs() + left) / PERIOD_SECONDS);
                return Remembered::First;
            }
            drop(shard);
            if !is_last_try {
                self.shards.iter().for_each(|shard| self.forget(&mut shard.lock(), now));
            }
        }
        self.log_overflow(merchant, capacity);
        Remembered::Full
    }

    fn insert_logged(&mut self, mark: NonceMark, retained: u64) {
        let index = self.index(&mark);
        let Some(shard) = self.shards.get_mut(index).map(Mutex::get_mut) else { return };
        if shard.seen.insert(mark.hash) {
            // The log does not record the merchant.
            let unlimited = Capacity { total: u64::MAX, is_shared: false };
            let owner = self.usage.get_mut().enter("", unlimited).unwrap_or_default();
            shard.list(mark, owner, retained / PERIOD_SECONDS);
        }
    }

    /// Evicts nonces whose signatures can no longer be valid, by both clocks.
    fn forget(&self, shard: &mut Shard, (now, elapsed): (u64, Duration)) {
        let is_over = |period: &Period| (period.number + 1) * PERIOD_SECONDS < elapsed.as_secs();
        if !shard.periods.front().is_some_and(is_over) {
            return;
        }
        let mut retained = VecDeque::new();
        for period in std::mem::take(&mut shard.periods) {
            // Retained, because after a clock step back the signature would be valid again.
            if !is_over(&period) || period.end >= now {
                retained.push_back(period);
                continue;
            }
            self.floor.fetch_max(period.end, Ordering::AcqRel);
            for hash in &period.hashes {
                shard.seen.remove(hash);
            }
            self.usage.lock().leave(&period.owners);
            self.overflow_logged.store(false, Ordering::Release);
        }
        shard.periods = retained;
    }

    /// Logs the lack of room, once until something is evicted.
    fn log_overflow(&self, merchant: &str, capacity: Capacity) {
        METRICS.nonces_refused_total.with_label_values(&["full"]).inc();
        if !self.overflow_logged.swap(true, Ordering::AcqRel) {
            let limit = capacity.total;
            tracing::error!(
                merchant,
                limit,
                "no room for more nonces, requests are answered 503; limit the merchant's rate or raise `cache.nonces`"
            );
        }
    }

    fn shard(&self, mark: &NonceMark) -> Option<&Mutex<Shard>> {
        self.shards.get(self.index(mark))
    }

    fn index(&self, mark: &NonceMark) -> usize {
        self.hasher.hash_one(mark.hash) as usize % NONCE_SHARDS
    }
}

impl Shard {
    fn list(&mut self, NonceMark { hash, end }: NonceMark, owner: u32, number: u64) {
        let at = self.periods.partition_point(|period| period.number < number);
        if self.periods.get(at).is_none_or(|period| period.number != number) {
            self.periods.insert(at, Period { number, hashes: Vec::new(), end, owners: HashMap::new() });
        }
        let Some(period) = self.periods.get_mut(at) else { return };
        period.hashes.push(hash);
        period.end = period.end.max(end);
        *period.owners.entry(owner).or_default() += 1;
    }
}

impl Usage {
    /// Counts one more nonce of a merchant if there is room. With several merchants, each may have as many as are left: one alone
    /// gets half, two get a third each, and there is always room for the next.
    fn enter(&mut self, merchant: &str, capacity: Capacity) -> Option<u32> {
        let id = match self.ids.get(merchant) {
            Some(id) => *id,
            None => {
                let id = u32::try_from(self.counts.len()).ok()?;
                self.ids.insert(merchant.to_owned(), id);
                self.counts.push(0);
                id
            }
        };
        let count = self.counts.get_mut(id as usize)?;
        let left = capacity.total.saturating_sub(self.total as u64);
        let has_room = if capacity.is_shared { (*count as u64) < left } else { left > 0 };
        if !has_room {
            return None;
        }
        *count += 1;
        self.total += 1;
        METRICS.nonces_remembered.set(i64::try_from(self.total).unwrap_or(i64::MAX));
        Some(id)
    }

    fn leave(&mut self, owners: &HashMap<u32, usize>) {
        for (id, left) in owners {
            if let Some(count) = self.counts.get_mut(*id as usize) {
                *count = count.saturating_sub(*left);
            }
            self.total = self.total.saturating_sub(*left);
        }
        METRICS.nonces_remembered.set(i64::try_from(self.total).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
