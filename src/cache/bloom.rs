//! A set of names in 16 bits each, that never forgets one and takes one of a thousand others for one of its own.
//!
//! All bits of a name are in one block of 64 bytes, so that a look costs one line of memory. Names are hashed with keys of
//! this process's own: nobody can choose order numbers that crowd one block.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::ledger::RecordKey;

const BITS_A_NAME: u64 = 16;
const WORDS: usize = 8;
/// Of a name; 9 bits of a hash choose each.
const BITS: u32 = 7;
/// So many blocks are counted to estimate how full all are.
const SAMPLE: usize = 4096;

pub(super) struct BloomFilter {
    blocks: Vec<[AtomicU64; WORDS]>,
    most: u64,
    count: AtomicU64,
    keys: [RandomState; 2],
}

impl BloomFilter {
    /// For so many names.
    pub(super) fn new(most: u64) -> Self {
        let blocks = (most * BITS_A_NAME).div_ceil(64 * WORDS as u64).max(1);
        Self {
            blocks: (0..blocks).map(|_| <[AtomicU64; WORDS]>::default()).collect(),
            most,
            count: AtomicU64::new(0),
            keys: [RandomState::new(), RandomState::new()],
        }
    }

    /// From now on it has the name.
    pub(super) fn insert(&self, name: RecordKey) {
        let (block, bits) = self.place(name);
        let mut is_new = false;
        for (word, bits) in block.iter().zip(bits) {
            is_new |= bits != 0 && word.fetch_or(bits, Ordering::SeqCst) & bits != bits;
        }
        if is_new {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// False only for a name that was never put in.
    pub(super) fn may_have(&self, name: RecordKey) -> bool {
        let (block, bits) = self.place(name);
        block.iter().zip(bits).all(|(word, bits)| word.load(Ordering::SeqCst) & bits == bits)
    }

    /// How many were put in, without those that it had, or seemed to have.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    pub(super) fn is_full(&self) -> bool {
        self.count() > self.most
    }

    #[cfg(test)]
    pub(super) fn most(&self) -> u64 {
        self.most
    }

    pub(super) fn bytes(&self) -> usize {
        self.blocks.len() * WORDS * 8
    }

    /// Of names that were never put in, the part that it seems to have; estimated from how full it is.
    pub(super) fn false_positives(&self) -> f64 {
        let step = (self.blocks.len() / SAMPLE).max(1);
        let sample: Vec<f64> = self.blocks.iter().step_by(step).map(of_block).collect();
        sample.iter().sum::<f64>() / sample.len() as f64
    }

    fn place(&self, RecordKey(name): RecordKey) -> (&[AtomicU64; WORDS], [u64; WORDS]) {
        let [which, mut chooses] = [0, 1].map(|key| self.keys[key].hash_one(name));
        let block = (u128::from(which) * self.blocks.len() as u128) >> 64;
        let mut bits = [0; WORDS];
        for _ in 0..BITS {
            bits[(chooses >> 6) as usize % WORDS] |= 1 << (chooses & 63);
            chooses >>= 9;
        }
        (&self.blocks[block as usize], bits)
    }
}

fn of_block(block: &[AtomicU64; WORDS]) -> f64 {
    let set: u32 = block.iter().map(|word| word.load(Ordering::Relaxed).count_ones()).sum();
    (f64::from(set) / (64 * WORDS) as f64).powi(BITS as i32)
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
    fn what_is_in_is_found_and_few_others_are() {
        const MOST: u64 = 50_000;
        let filter = BloomFilter::new(MOST);
        assert_eq!(filter.false_positives(), 0.0);
        (0..MOST).for_each(|number| filter.insert(name(number)));
        assert!((0..MOST).all(|number| filter.may_have(name(number))));
        assert!(!filter.is_full() && filter.count() > MOST * 99 / 100, "{}", filter.count());
        let wrong = (MOST..MOST * 5).filter(|number| filter.may_have(name(*number))).count();
        let (measured, told) = (wrong as f64 / (MOST * 4) as f64, filter.false_positives());
        assert!(measured < 0.002, "{measured}");
        assert!((0.7..1.3).contains(&(measured / told)), "measured {measured}, told {told}");
    }

    #[test]
    fn the_same_again_fills_nothing_and_too_many_are_noticed() {
        let filter = BloomFilter::new(100);
        (0..1000).for_each(|_| filter.insert(name(1)));
        assert_eq!(filter.count(), 1);
        (0..110).for_each(|number| filter.insert(name(number)));
        assert!(filter.is_full());
        assert_eq!(filter.bytes(), 256);
    }
}
