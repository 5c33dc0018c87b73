//! Nonces in this machine's memory.

use std::collections::{HashSet, VecDeque};

use parking_lot::Mutex;

/// Nonces are forgotten a period at a time; seconds.
const PERIOD: u64 = 60;
/// When so many are remembered in one of the shards, requests are refused rather than a nonce forgotten early.
const MOST_IN_A_SHARD: usize = 1 << 20;
const SHARDS: usize = 16;

/// In shards, so that one lock does not hold up all.
pub(crate) struct Nonces {
    shards: Vec<Mutex<Shard>>,
}

#[derive(Default)]
struct Shard {
    seen: HashSet<[u8; 16]>,
    /// By the period in which they may be forgotten, oldest first.
    ends: VecDeque<(u64, Vec<[u8; 16]>)>,
}

impl Default for Nonces {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }
}

impl Nonces {
    /// Whether this is the first time.
    pub(super) fn first_time(&self, mark: [u8; 16], end: u64, now: u64) -> bool {
        let Some(shard) = self.shards.get(usize::from(mark[0]) % SHARDS) else { return false };
        shard.lock().first_time(mark, end, now)
    }
}

impl Shard {
    fn first_time(&mut self, mark: [u8; 16], end: u64, now: u64) -> bool {
        while let Some((_, marks)) = self.ends.pop_front_if(|(period, _)| (*period + 1) * PERIOD < now) {
            for mark in marks {
                self.seen.remove(&mark);
            }
        }
        if self.seen.len() >= MOST_IN_A_SHARD || !self.seen.insert(mark) {
            return false;
        }
        let period = end / PERIOD;
        match self.ends.iter_mut().find(|(known, _)| *known == period) {
            Some((_, marks)) => marks.push(mark),
            None => {
                let at = self.ends.partition_point(|(known, _)| *known < period);
                self.ends.insert(at, (period, vec![mark]));
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::mark;
    use super::*;

    #[test]
    fn once_until_the_end_and_forgotten_after() {
        let nonces = Nonces::default();
        assert!(nonces.first_time(mark("k", "n"), 1600, 1000));
        assert!(!nonces.first_time(mark("k", "n"), 1600, 1500));
        assert!(nonces.first_time(mark("other", "n"), 1600, 1500));
        assert!(nonces.first_time(mark("k", "other"), 1600, 1500));
        assert!(nonces.first_time(mark("k", "n"), 2600, 2000), "forgotten after its end");
        let held: usize = nonces.shards.iter().map(|shard| shard.lock().seen.len()).sum();
        assert!(held <= 3, "{held}");
    }

    #[test]
    fn of_many_at_once_one_is_first() {
        let nonces = Nonces::default();
        let first = std::thread::scope(|scope| {
            let tries: Vec<_> = (0..8).map(|_| scope.spawn(|| nonces.first_time(mark("k", "n"), 1600, 1000))).collect();
            tries.into_iter().map(|handle| handle.join().unwrap_or(false)).filter(|first| *first).count()
        });
        assert_eq!(first, 1);
    }
}
