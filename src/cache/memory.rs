//! Nonces in this machine's memory: each is accepted once, over restarts and a clock that is set back too.
//!
//! A nonce is remembered for as long as its signature could be accepted, counted by the monotonic clock, so that a wall clock
//! that jumps forgets nothing early. What was forgotten leaves a floor behind: a signature that ends at or before it is
//! refused, because its nonce may have been among those. With a [log](super::nonce_log) the next process begins with them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::nonce_log::{Logged, NonceLog};
use crate::telemetry::METRICS;

/// Nonces are forgotten a period at a time; seconds.
const PERIOD: u64 = 60;
/// Seconds that a nonce is kept longer than its signature is good, so that small steps of the wall clock do no harm.
const SLACK: u64 = 60;
/// Seconds by which two ways to count the time may differ without a step of the wall clock.
const STEP: u64 = 2;
/// Locks, so that one holds up few.
const SHARDS: usize = 16;

/// A nonce as it is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// Hash of key id and nonce.
    pub(super) hash: [u8; 16],
    /// The last second, by the wall clock, in which its signature can be accepted.
    pub(super) end: u64,
}

/// How many nonces may be remembered at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// Of all merchants.
    pub(crate) total: u64,
    /// Whether there are several merchants, so that each leaves room for the others.
    pub(crate) is_shared: bool,
}

/// What came of remembering a nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remembered {
    /// It was never seen; from now on it was.
    First,
    /// It was seen before.
    Seen,
    /// Nobody can tell any more whether it was seen.
    Forgotten,
    /// There is no room for it.
    Full,
}

/// The nonces that were seen.
pub(crate) struct Nonces {
    shards: Vec<Mutex<Shard>>,
    /// Chooses a nonce's shard. Its key is random, so that no caller can fill one shard.
    hasher: RandomState,
    usage: Mutex<Usage>,
    /// Signatures with this end or an earlier one may have been seen and forgotten.
    floor: AtomicU64,
    /// What earlier processes may have accepted and this one does not know, if anything.
    before: Option<BeforeStart>,
    /// Whether somebody was told that there is no room.
    alarmed: AtomicBool,
    started: Instant,
    log: Option<NonceLog>,
}

/// Signatures that earlier processes may have accepted without this one knowing them.
struct BeforeStart {
    /// The last end among them, by the clock of the start.
    end: u64,
    /// Unix seconds of the start.
    start: u64,
    /// Seconds that signatures are good before and after their time.
    window: u64,
}

impl BeforeStart {
    /// Returns the last end among them by the clock as it is now: at the start it may have been wrong. Some time after the
    /// start, none of them is good any more.
    fn floor(&self, (now, elapsed): (u64, Duration)) -> u64 {
        if elapsed.as_secs() > 2 * self.window {
            return 0;
        }
        in_present_time(self.start, (now, elapsed)) + self.end.saturating_sub(self.start)
    }
}

/// Returns the unix second of a moment by the clock as it is now. `then` is what the clock said at that moment; since then
/// `elapsed` has passed, which a step of the clock does not change.
pub(super) fn in_present_time(then: u64, (now, elapsed): (u64, Duration)) -> u64 {
    let counted = now.saturating_sub(elapsed.as_secs());
    // Counted in whole seconds it is not exact.
    if counted.abs_diff(then) <= STEP { then } else { counted }
}

#[derive(Default)]
struct Shard {
    seen: HashSet<[u8; 16]>,
    /// By when they may be forgotten, the first to go first.
    periods: VecDeque<Period>,
}

/// Nonces that are forgotten together.
struct Period {
    /// Counted from the start, in periods of the monotonic clock.
    number: u64,
    hashes: Vec<[u8; 16]>,
    /// The last end among them.
    end: u64,
    /// How many are whose.
    owners: HashMap<u32, usize>,
}

/// How many nonces are remembered, in all and by merchant.
#[derive(Default)]
struct Usage {
    total: usize,
    ids: HashMap<String, u32>,
    counts: Vec<usize>,
}

impl Default for Nonces {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            usage: Mutex::default(),
            floor: AtomicU64::new(0),
            before: None,
            alarmed: AtomicBool::new(false),
            started: Instant::now(),
            log: None,
        }
    }
}

impl Nonces {
    /// Begins with the nonces that earlier processes logged in a directory, and logs there. `now` is unix seconds; signatures
    /// are good for `window` seconds before and after their time.
    pub(super) fn open(directory: &Path, now: u64, window: u64) -> io::Result<Self> {
        // Together with `now`: to read a log takes time.
        let (started, kept) = (Instant::now(), 2 * window + SLACK);
        let (log, Logged { marks, floor, missing }) = NonceLog::open(directory, now, window, kept)?;
        let before = (missing > 0).then_some(BeforeStart { end: missing, start: now, window });
        let mut nonces = Self { log: Some(log), floor: AtomicU64::new(floor), before, started, ..Self::default() };
        marks.into_iter().for_each(|mark| nonces.insert_logged(mark, kept));
        Ok(nonces)
    }

    /// Without a log: refuses what was signed before `now`, because earlier processes may have seen it.
    pub(super) fn without_log(now: u64, window: u64) -> Self {
        let before = Some(BeforeStart { end: now + window, start: now, window });
        Self { before, ..Self::default() }
    }

    /// Returns the last end that a signature may have which was seen and is not known any more.
    fn floor(&self, now: (u64, Duration)) -> u64 {
        let before = self.before.as_ref().map_or(0, |before| before.floor(now));
        self.floor.load(Ordering::Acquire).max(before)
    }

    /// Whether it was seen.
    pub(super) fn is_seen(&self, mark: &Mark) -> bool {
        self.shard(mark).is_some_and(|shard| shard.lock().seen.contains(&mark.hash))
    }

    /// Remembers a merchant's nonce; `now` is unix seconds.
    pub(super) fn remember(&self, mark: Mark, merchant: &str, capacity: Capacity, now: u64) -> Remembered {
        let now = (now, self.started.elapsed());
        let remembered = self.insert(mark, merchant, capacity, now);
        if remembered == Remembered::First
            && let Some(log) = &self.log
        {
            log.append(mark, self.floor(now), now);
        }
        remembered
    }

    fn insert(&self, mark: Mark, merchant: &str, capacity: Capacity, now: (u64, Duration)) -> Remembered {
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
                let left = mark.end.saturating_sub(now.0) + SLACK;
                shard.list(mark, owner, (now.1.as_secs() + left) / PERIOD);
                return Remembered::First;
            }
            drop(shard);
            if !is_last_try {
                self.shards.iter().for_each(|shard| self.forget(&mut shard.lock(), now));
            }
        }
        self.alarm(merchant, capacity);
        Remembered::Full
    }

    fn insert_logged(&mut self, mark: Mark, kept: u64) {
        let index = self.index(&mark);
        let Some(shard) = self.shards.get_mut(index).map(Mutex::get_mut) else { return };
        if shard.seen.insert(mark.hash) {
            // Whose it was the log does not say.
            let unlimited = Capacity { total: u64::MAX, is_shared: false };
            let owner = self.usage.get_mut().enter("", unlimited).unwrap_or_default();
            shard.list(mark, owner, kept / PERIOD);
        }
    }

    /// Forgets what no signature can be accepted for any more, by both clocks.
    fn forget(&self, shard: &mut Shard, (now, elapsed): (u64, Duration)) {
        let is_over = |period: &Period| (period.number + 1) * PERIOD < elapsed.as_secs();
        if !shard.periods.front().is_some_and(is_over) {
            return;
        }
        let mut kept = VecDeque::new();
        for period in std::mem::take(&mut shard.periods) {
            // A clock that was set back would accept it again.
            if !is_over(&period) || period.end >= now {
                kept.push_back(period);
                continue;
            }
            self.floor.fetch_max(period.end, Ordering::AcqRel);
            for hash in &period.hashes {
                shard.seen.remove(hash);
            }
            self.usage.lock().leave(&period.owners);
            self.alarmed.store(false, Ordering::Release);
        }
        shard.periods = kept;
    }

    /// Says once until something is forgotten that there is no room.
    fn alarm(&self, merchant: &str, capacity: Capacity) {
        METRICS.nonces_refused_total.with_label_values(&["full"]).inc();
        if !self.alarmed.swap(true, Ordering::AcqRel) {
            let limit = capacity.total;
            tracing::error!(
                merchant,
                limit,
                "no more nonces can be remembered, requests are answered 503; limit the merchant's rate or raise `cache.nonces`"
            );
        }
    }

    fn shard(&self, mark: &Mark) -> Option<&Mutex<Shard>> {
        self.shards.get(self.index(mark))
    }

    fn index(&self, mark: &Mark) -> usize {
        self.hasher.hash_one(mark.hash) as usize % SHARDS
    }
}

impl Shard {
    fn list(&mut self, Mark { hash, end }: Mark, owner: u32, number: u64) {
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
    /// Counts one more of a merchant, if there is room for it. Of several merchants each may have as many as are left: one
    /// alone gets half, two a third each, and there is always room for the next.
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
