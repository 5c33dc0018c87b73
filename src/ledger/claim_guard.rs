//! RAII guard of a running claim: a claim whose holder is gone must not stay running.

use std::sync::{Arc, Weak};

use super::error::LedgerError;
use super::ids::Id;

/// Identifies one execution of a claim (fencing token). A job may be executed again after provably nothing was sent.
/// A holder of an older execution id can then change nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExecutionId {
    pub(super) claim: Id,
    /// `None` for a claim that is executed only once, when it is created.
    pub(super) number: Option<Id>,
}

impl ExecutionId {
    /// Reads an execution id from a row of [`Space::Running`](super::transaction::Space::Running).
    pub(super) fn listed(claim: &[u8], number: &[u8]) -> Result<Self, LedgerError> {
        // In the row of a job the merchant follows the number.
        let number = number.get(..16).unwrap_or(number);
        let number = if number.is_empty() { None } else { Some(Id::from_bytes(number)?) };
        Ok(Self { claim: Id::from_bytes(claim)?, number })
    }
}

/// Engine callbacks of the guard.
pub(super) trait ClaimOwner: Send + Sync {
    /// Registers that a permit for this execution exists.
    fn acquired(&self, execution: ExecutionId);
    /// Registers that the execution has ended.
    fn released(&self, execution: ExecutionId);
    /// Ends a claim whose permit was dropped, at once or as soon as the engine can write.
    fn abandon(self: Arc<Self>, execution: ExecutionId, end: Abandoned);
}

/// End of an abandoned claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Abandoned {
    /// The permit never reached the caller, so nothing was sent.
    NotSent,
    /// Something may have been sent, by a gateway that stopped or lost the ledger.
    Interrupted,
    /// Something may have been sent, and this gateway has no result.
    MaybeSent,
}

/// Guard in a permit: ends the claim when the permit is dropped without a result.
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

    /// Marks that the caller has the permit: from here on something may be sent.
    pub(super) fn reached_caller(&mut self) {
        self.reached_caller = true;
    }

    /// Marks that the claim has ended.
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
