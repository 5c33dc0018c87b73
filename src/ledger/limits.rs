//! How much the job queue takes in and gives out, in all and of each merchant.

use std::collections::HashMap;

/// How many jobs may be in the queue, those included that are being executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimit {
    /// Of all merchants.
    pub total: u64,
    /// Of one merchant.
    pub each: u64,
}

impl From<u64> for QueueLimit {
    fn from(total: u64) -> Self {
        Self { total, each: total }
    }
}

/// Which limit of the queue is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueFull {
    /// That of all merchants.
    Total,
    /// That of this merchant.
    Share,
}

impl QueueLimit {
    /// Which limit is reached by so many jobs in all, and so many of the merchant.
    pub(super) fn reached(self, total: u64, own: u64) -> Option<QueueFull> {
        if total >= self.total {
            return Some(QueueFull::Total);
        }
        (own >= self.each).then_some(QueueFull::Share)
    }
}

/// How many due jobs are given out.
#[derive(Clone, Debug, Default)]
pub struct DueLimit {
    /// In all.
    pub total: usize,
    /// At most so many of a merchant are executed at the same time.
    pub each: usize,
    /// How many of each merchant are being executed here.
    pub under_way: HashMap<String, usize>,
}
