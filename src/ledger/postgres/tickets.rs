//! Of which running claims this process has the ticket, and what is to become of the others.

use std::collections::BTreeMap;

use crate::ledger::claim_guard::{Abandoned, ExecutionId};

/// Every claim that this process began and that has no end in the tables yet.
#[derive(Default)]
pub(super) struct Tickets {
    /// With the term of the lease in which each was given out.
    held: BTreeMap<ExecutionId, u64>,
    dropped: BTreeMap<ExecutionId, Abandoned>,
}

impl Tickets {
    /// Before it is committed, so that nobody finds it running without a ticket.
    pub(super) fn given(&mut self, turn: ExecutionId, term: u64) {
        self.held.insert(turn, term);
    }

    pub(super) fn dropped(&mut self, turn: ExecutionId, end: Abandoned) {
        self.held.remove(&turn);
        self.dropped.insert(turn, end);
    }

    pub(super) fn ended(&mut self, turn: ExecutionId) {
        self.held.remove(&turn);
        self.dropped.remove(&turn);
    }

    pub(super) fn term(&self, turn: ExecutionId) -> Option<u64> {
        self.held.get(&turn).copied()
    }

    /// How a claim that runs is to be ended; `None` while somebody has its ticket.
    pub(super) fn end(&self, turn: ExecutionId) -> Option<Abandoned> {
        if self.held.contains_key(&turn) {
            return None;
        }
        Some(self.dropped.get(&turn).copied().unwrap_or(Abandoned::MaybeSent))
    }
}
