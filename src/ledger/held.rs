//! Whoever runs a claim holds it; when the holder is gone, the claim must not stay behind.

use std::sync::{Arc, Weak};

use super::claims::{Attempt, lost, release};
use super::ids::Id;
use super::records::LedgerError;
use super::timeline::LossCause;
use super::transaction::Transaction;
use crate::clock;

/// One time that a claim runs. What the queue gives out may run again once provably nothing was sent: whoever had an
/// earlier turn has no say about a later one, whatever comes late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Turn {
    pub(super) claim: Id,
    /// None of a claim that runs but once, when it is made.
    pub(super) number: Option<Id>,
}

impl Turn {
    /// As the list of what runs has it.
    pub(super) fn listed(claim: &[u8], number: &[u8]) -> Result<Self, LedgerError> {
        // Behind the number of a job stands its merchant.
        let number = number.get(..16).unwrap_or(number);
        let number = if number.is_empty() { None } else { Some(Id::from_bytes(number)?) };
        Ok(Self { claim: Id::from_bytes(claim)?, number })
    }
}

/// The engine, as tickets see it.
pub(super) trait Holder: Send + Sync {
    /// The claim has a ticket from now on.
    fn holds(&self, turn: Turn);
    /// The claim has its end.
    fn let_go(&self, turn: Turn);
    /// Ends a claim whose ticket is gone, now or as soon as it can.
    fn end(self: Arc<Self>, turn: Turn, end: End);
}

/// How a claim ends of which nobody has the ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Nobody ever had the ticket, so nothing was sent.
    Released,
    /// Something may have been sent, by a gateway that stopped or lost the ledger.
    Abandoned,
    /// Something may have been sent, and this gateway has no result.
    Lost,
}

impl End {
    pub(super) fn of(self, tx: &mut Transaction<'_>, turn: Turn) -> Result<(), LedgerError> {
        match self {
            Self::Released => release(tx, turn, Attempt::None, Vec::new(), clock::now()),
            Self::Abandoned => lost(tx, turn, LossCause::Abandoned, clock::now()),
            Self::Lost => lost(tx, turn, LossCause::NoResult, clock::now()),
        }
    }
}

/// What a ticket holds so that a claim is not left running for ever when the task that ran it is gone.
#[derive(Default)]
pub(crate) struct Held {
    turn: Option<(Weak<dyn Holder>, Turn)>,
    reached_caller: bool,
}

impl Held {
    pub(super) fn new(ledger: Weak<dyn Holder>, turn: Turn) -> Self {
        if let Some(ledger) = ledger.upgrade() {
            ledger.holds(turn);
        }
        Self { turn: Some((ledger, turn)), reached_caller: false }
    }

    /// From here on something may be sent.
    pub(super) fn reached_caller(&mut self) {
        self.reached_caller = true;
    }

    /// The claim has its end.
    pub(super) fn done(&mut self) {
        if let Some((ledger, turn)) = self.turn.take()
            && let Some(ledger) = ledger.upgrade()
        {
            ledger.let_go(turn);
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
        let Some((ledger, turn)) = self.turn.take() else { return };
        if let Some(ledger) = ledger.upgrade() {
            ledger.end(turn, if self.reached_caller { End::Lost } else { End::Released });
        }
    }
}
