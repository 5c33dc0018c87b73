//! Of which running claims this process has the ticket, and what is to become of the others.

use std::collections::{BTreeMap, BTreeSet};

use crate::ledger::held::End;
use crate::ledger::rows::Id;

/// Every claim that this process began and that has no end in the tables yet.
#[derive(Default)]
pub(super) struct Tickets {
    held: BTreeSet<Id>,
    dropped: BTreeMap<Id, End>,
}

impl Tickets {
    /// Before it is committed, so that nobody finds it running without a ticket.
    pub(super) fn given(&mut self, claim: Id) {
        self.held.insert(claim);
    }

    pub(super) fn dropped(&mut self, claim: Id, end: End) {
        self.held.remove(&claim);
        self.dropped.insert(claim, end);
    }

    pub(super) fn ended(&mut self, claim: Id) {
        self.held.remove(&claim);
        self.dropped.remove(&claim);
    }

    /// How a claim that runs is to be ended; `None` while somebody has its ticket.
    pub(super) fn end(&self, claim: Id) -> Option<End> {
        if self.held.contains(&claim) {
            return None;
        }
        Some(self.dropped.get(&claim).copied().unwrap_or(End::Lost))
    }
}
