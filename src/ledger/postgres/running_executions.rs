//! Of which running claims this process has the ticket, and what is to become of the others.

use std::collections::BTreeMap;

use crate::ledger::claim_guard::{Abandoned, ExecutionId};

/// Every claim that this process began and that has no end in the tables yet.
#[derive(Default)]
pub(super) struct RunningExecutions {
    /// With the term of the lease in which each was given out.
    permitted: BTreeMap<ExecutionId, u64>,
    dropped: BTreeMap<ExecutionId, Abandoned>,
}

impl RunningExecutions {
    /// Before it is committed, so that nobody finds it running without a ticket.
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

    /// How a claim that runs is to be ended; `None` while somebody has its ticket.
    pub(super) fn end(&self, execution: ExecutionId) -> Option<Abandoned> {
        if self.permitted.contains_key(&execution) {
            return None;
        }
        Some(self.dropped.get(&execution).copied().unwrap_or(Abandoned::MaybeSent))
    }
}
