//! Whoever runs a claim holds it; when the holder is gone, the claim must not stay behind.

use std::sync::Weak;

use jiff::Timestamp;

use super::claims::{lost, release};
use super::embedded::Shared;
use super::rows::Id;

/// What a ticket holds so that a claim is not left running for ever when the task that ran it is gone.
#[derive(Debug, Default)]
pub(crate) struct Held {
    ledger: Weak<Shared>,
    claim: Option<Id>,
    reached_caller: bool,
}

impl Held {
    pub(super) fn new(ledger: Weak<Shared>, claim: Id) -> Self {
        Self { ledger, claim: Some(claim), reached_caller: false }
    }

    /// From here on something may be sent.
    pub(super) fn reached_caller(&mut self) {
        self.reached_caller = true;
    }

    /// The claim has its end.
    pub(super) fn done(&mut self) {
        self.claim = None;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let (Some(claim), Some(ledger)) = (self.claim, self.ledger.upgrade()) else { return };
        let end = if self.reached_caller { lost } else { release };
        let ended = ledger.send(move |tx| {
            end(tx, claim, Timestamp::now()).inspect_err(|error| {
                tracing::error!(%error, "a claim that nobody holds any more cannot be ended; the next start ends it");
            })
        });
        if let Err(error) = ended {
            tracing::error!(%error, "a claim that nobody holds any more is ended by the next start");
        }
    }
}
