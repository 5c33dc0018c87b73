//! Whoever runs a claim holds it; when the holder is gone, the claim must not stay behind.

use std::sync::{Arc, Weak};

use super::claims::{lost, release};
use super::records::LedgerError;
use super::rows::Id;
use super::transaction::Transaction;
use crate::clock;

/// The engine, as tickets see it.
pub(super) trait Holder: Send + Sync {
    /// The claim has a ticket from now on.
    fn holds(&self, claim: Id);
    /// The claim has its end.
    fn let_go(&self, claim: Id);
    /// Ends a claim whose ticket is gone, now or as soon as it can.
    fn end(self: Arc<Self>, claim: Id, end: End);
}

/// How a claim ends of which nobody has the ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Nobody ever had the ticket, so nothing was sent.
    Released,
    /// Something may have been sent.
    Lost,
}

impl End {
    pub(super) fn of(self, tx: &mut Transaction<'_>, claim: Id) -> Result<(), LedgerError> {
        match self {
            Self::Released => release(tx, claim, Vec::new(), clock::now()),
            Self::Lost => lost(tx, claim, clock::now()),
        }
    }
}

/// What a ticket holds so that a claim is not left running for ever when the task that ran it is gone.
#[derive(Default)]
pub(crate) struct Held {
    claim: Option<(Weak<dyn Holder>, Id)>,
    reached_caller: bool,
}

impl Held {
    pub(super) fn new(ledger: Weak<dyn Holder>, claim: Id) -> Self {
        if let Some(ledger) = ledger.upgrade() {
            ledger.holds(claim);
        }
        Self { claim: Some((ledger, claim)), reached_caller: false }
    }

    /// From here on something may be sent.
    pub(super) fn reached_caller(&mut self) {
        self.reached_caller = true;
    }

    /// The claim has its end.
    pub(super) fn done(&mut self) {
        if let Some((ledger, claim)) = self.claim.take()
            && let Some(ledger) = ledger.upgrade()
        {
            ledger.let_go(claim);
        }
    }
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Held").field("reached_caller", &self.reached_caller).finish_non_exhaustive()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some((ledger, claim)) = self.claim.take() else { return };
        if let Some(ledger) = ledger.upgrade() {
            ledger.end(claim, if self.reached_caller { End::Lost } else { End::Released });
        }
    }
}
