//! Limits of the job queue, in total and for each merchant.

use std::collections::HashMap;

/// Maximum number of jobs that are queued or executing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimit {
    /// For all merchants together.
    pub total: u64,
    /// For one merchant.
    pub each: u64,
}

impl From<u64> for QueueLimit {
    fn from(total: u64) -> Self {
        Self { total, each: total }
    }
}

/// Limit of the queue that is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueFull {
    /// Limit for all merchants together.
    Total,
    /// Limit for this merchant.
    Share,
}

impl QueueLimit {
    /// Returns the limit that is reached with `total` jobs, `own` of them the merchant's.
    pub(super) fn reached(self, total: u64, own: u64) -> Option<QueueFull> {
        if total >= self.total {
            return Some(QueueFull::Total);
        }
        (own >= self.each).then_some(QueueFull::Share)
    }
}

/// Maximum number of due jobs to return.
#[derive(Clone, Debug, Default)]
pub struct DueLimit {
    /// In total.
    pub total: usize,
    /// Maximum number of jobs of one merchant that are executed at once.
    pub each: usize,
    /// Number of jobs of each merchant that this process is executing.
    pub under_way: HashMap<String, usize>,
}
