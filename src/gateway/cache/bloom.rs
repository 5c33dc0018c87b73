//! Blocked Bloom filter: 16 bits per key, false-positive rate about 0.1 %, no false negatives.
//!
//! Own code, because it is small, and because the fill level must be readable for the metric of the false-positive rate.
//!
//! All bits of a key are in one block of 64 bytes, so a lookup touches one cache line. Keys are hashed with secrets of this
//! process, so that nobody can choose order ids that crowd one block.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use tollgate_ledger::RecordKey;

const BITS_PER_KEY: u64 = 16;
const WORDS_PER_BLOCK: usize = 8;
/// Bits set per key; 9 bits of a hash choose each.
const BITS_SET: u32 = 7;
/// Number of blocks sampled to estimate the fill level.
const SAMPLED_BLOCKS: usize = 4096;

pub(super) struct BloomFilter {
    blocks: Vec<[AtomicU64; WORDS_PER_BLOCK]>,
    capacity: u64,
    count: AtomicU64,
    keys: [RandomState; 2],
}

impl BloomFilter {
    /// Returns an empty filter for this number of keys.
    pub(super) fn new(capacity: u64) -> Self {
        let blocks = (capacity * BITS_PER_KEY).div_ceil(64 * WORDS_PER_BLOCK as u64).max(1);
        Self {
            blocks: (0..blocks).map(|_| <[AtomicU64; WORDS_PER_BLOCK]>::default()).collect(),
            capacity,
            count: AtomicU64::new(0),
            keys: [RandomState::new(), RandomState::new()],
        }
    }

    /// Inserts a key.
    pub(super) fn insert(&self, name: RecordKey) {
        let (block, bits) = self.locate(name);
        let mut is_new = false;
        for (word, bits) in block.iter().zip(bits) {
            is_new |= bits != 0 && word.fetch_or(bits, Ordering::SeqCst) & bits != bits;
        }
        if is_new {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns false only if the key was never inserted.
    pub(super) fn may_have(&self, name: RecordKey) -> bool {
        let (block, bits) = self.locate(name);
        block.iter().zip(bits).all(|(word, bits)| word.load(Ordering::SeqCst) & bits == bits)
    }

    /// Returns the number of inserted keys, without those that seemed to be present already.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    pub(super) fn is_full(&self) -> bool {
        self.count() > self.capacity
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    pub(super) fn bytes(&self) -> usize {
        self.blocks.len() * WORDS_PER_BLOCK * 8
    }

    /// Estimates the false-positive rate from the fill level.
    pub(super) fn false_positive_rate(&self) -> f64 {
        let step = (self.blocks.len() / SAMPLED_BLOCKS).max(1);
        let sample: Vec<f64> = self.blocks.iter().step_by(step).map(block_false_positive_rate).collect();
        sample.iter().sum::<f64>() / sample.len() as f64
    }

    fn locate(&self, RecordKey(name): RecordKey) -> (&[AtomicU64; WORDS_PER_BLOCK], [u64; WORDS_PER_BLOCK]) {
        let [which, mut chooses] = [0, 1].map(|key| self.keys[key].hash_one(name));
        let block = (u128::from(which) * self.blocks.len() as u128) >> 64;
        let mut bits = [0; WORDS_PER_BLOCK];
        for _ in 0..BITS_SET {
            bits[(chooses >> 6) as usize % WORDS_PER_BLOCK] |= 1 << (chooses & 63);
            chooses >>= 9;
        }
        (&self.blocks[block as usize], bits)
    }
}

fn block_false_positive_rate(block: &[AtomicU64; WORDS_PER_BLOCK]) -> f64 {
    let set: u32 = block.iter().map(|word| word.load(Ordering::Relaxed).count_ones()).sum();
    (f64::from(set) / (64 * WORDS_PER_BLOCK) as f64).powi(BITS_SET as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u64) -> RecordKey {
        let mut name = [0; 16];
        name[..8].copy_from_slice(&number.to_be_bytes());
        RecordKey(name)
    }

    #[test]
    fn inserted_keys_are_found_and_few_others() {
        const CAPACITY: u64 = 50_000;
        let filter = BloomFilter::new(CAPACITY);
        assert_eq!(filter.false_positive_rate(), 0.0);
        (0..CAPACITY).for_each(|number| filter.insert(name(number)));
        assert!((0..CAPACITY).all(|number| filter.may_have(name(number))));
        assert!(!filter.is_full() && filter.count() > CAPACITY * 99 / 100, "{}", filter.count());
        let wrong = (CAPACITY..CAPACITY * 5).filter(|number| filter.may_have(name(*number))).count();
        let (measured, estimated) = (wrong as f64 / (CAPACITY * 4) as f64, filter.false_positive_rate());
        assert!(measured < 0.002, "{measured}");
        assert!((0.7..1.3).contains(&(measured / estimated)), "measured {measured}, estimated {estimated}");
    }

    #[test]
    fn repeated_insert_is_not_counted_and_overflow_is_detected() {
        let filter = BloomFilter::new(100);
        (0..1000).for_each(|_| filter.insert(name(1)));
        assert_eq!(filter.count(), 1);
        (0..110).for_each(|number| filter.insert(name(number)));
        assert!(filter.is_full());
        assert_eq!(filter.bytes(), 256);
    }
}
