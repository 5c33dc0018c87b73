//! Running executions of this process: which have a permit, and how the others are to be ended.

use std::collections::BTreeMap;

use crate::claim_guard::{Abandoned, ExecutionId};

/// Claims of this process whose end is not in the tables yet.
#[derive(Default)]
pub(super) struct RunningExecutions {
    /// Executions with a permit, with the lease term in which each was granted.
    permitted: BTreeMap<ExecutionId, u64>,
    dropped: BTreeMap<ExecutionId, Abandoned>,
}

impl RunningExecutions {
    /// Registers a permit. Called before the commit, so that the sweeper never sees a running claim without a permit.
    pub(super) fn permitted(&mut self, execution: ExecutionId, term: u64) {
        self.permitted.insert(execution, term);
    }

    pub(super) fn dropped(&mut self, execution: ExecutionId, end: Abandoned) {
        self.permitted.remove(&execution);
        self.dropped.insert(execution, end);
    }

    pub(super) fn ended(&mut self, execution: ExecutionId) {
        self.permitted.remove(&execution);
        self.dropped.remove(&execution);
    }

    pub(super) fn term(&self, execution: ExecutionId) -> Option<u64> {
        self.permitted.get(&execution).copied()
    }

    /// Returns how a running claim is to be ended; `None` while a permit for it exists.
    pub(super) fn end(&self, execution: ExecutionId) -> Option<Abandoned> {
        if self.permitted.contains_key(&execution) {
            return None;
        }
        Some(self.dropped.get(&execution).copied().unwrap_or(Abandoned::MaybeSent))
    }
}
