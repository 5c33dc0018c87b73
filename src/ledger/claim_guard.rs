//! Whoever runs a claim holds it; when the holder is gone, the claim must not stay behind.

use std::sync::{Arc, Weak};

use super::claims::{Attempt, mark_interrupted, release};
use super::ids::Id;
use super::records::LedgerError;
use super::timeline::LossCause;
use super::transaction::Transaction;
use crate::clock;

/// One time that a claim runs. What the queue gives out may run again once provably nothing was sent: whoever had an
/// earlier turn has no say about a later one, whatever comes late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ExecutionId {
    pub(super) claim: Id,
    /// None of a claim that runs but once, when it is made.
    pub(super) number: Option<Id>,
}

impl ExecutionId {
    /// As the list of what runs has it.
    pub(super) fn listed(claim: &[u8], number: &[u8]) -> Result<Self, LedgerError> {
        // Behind the number of a job stands its merchant.
        let number = number.get(..16).unwrap_or(number);
        let number = if number.is_empty() { None } else { Some(Id::from_bytes(number)?) };
        Ok(Self { claim: Id::from_bytes(claim)?, number })
    }
}

/// The engine, as tickets see it.
pub(super) trait ClaimOwner: Send + Sync {
    /// The claim has a ticket from now on.
    fn acquired(&self, execution: ExecutionId);
    /// The claim has its end.
    fn released(&self, execution: ExecutionId);
    /// Ends a claim whose ticket is gone, now or as soon as it can.
    fn abandon(self: Arc<Self>, execution: ExecutionId, end: Abandoned);
}

/// How a claim ends of which nobody has the ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Abandoned {
    /// Nobody ever had the ticket, so nothing was sent.
    NotSent,
    /// Something may have been sent, by a gateway that stopped or lost the ledger.
    Abandoned,
    /// Something may have been sent, and this gateway has no result.
    MaybeSent,
}

impl Abandoned {
    pub(super) fn of(self, tx: &mut Transaction<'_>, execution: ExecutionId) -> Result<(), LedgerError> {
        match self {
            Self::NotSent => release(tx, execution, Attempt::None, Vec::new(), clock::now()),
            Self::Abandoned => mark_interrupted(tx, execution, LossCause::Abandoned, clock::now()),
            Self::MaybeSent => mark_interrupted(tx, execution, LossCause::NoResult, clock::now()),
        }
    }
}

/// What a ticket holds so that a claim is not left running for ever when the task that ran it is gone.
#[derive(Default)]
pub(crate) struct ClaimGuard {
    execution: Option<(Weak<dyn ClaimOwner>, ExecutionId)>,
    reached_caller: bool,
}

impl ClaimGuard {
    pub(super) fn new(ledger: Weak<dyn ClaimOwner>, execution: ExecutionId) -> Self {
        if let Some(ledger) = ledger.upgrade() {
            ledger.acquired(execution);
        }
        Self { execution: Some((ledger, execution)), reached_caller: false }
    }

    /// From here on something may be sent.
    pub(super) fn reached_caller(&mut self) {
        self.reached_caller = true;
    }

    /// The claim has its end.
    pub(super) fn done(&mut self) {
        if let Some((ledger, execution)) = self.execution.take()
            && let Some(ledger) = ledger.upgrade()
        {
            ledger.released(execution);
        }
    }
}

impl std::fmt::Debug for ClaimGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Held").field("reached_caller", &self.reached_caller).finish_non_exhaustive()
    }
}

impl Drop for ClaimGuard {
    fn drop(&mut self) {
        let Some((ledger, execution)) = self.execution.take() else { return };
        if let Some(ledger) = ledger.upgrade() {
            ledger.abandon(execution, if self.reached_caller { Abandoned::MaybeSent } else { Abandoned::NotSent });
        }
    }
}
