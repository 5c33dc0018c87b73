//! What must not be forgotten: claims, payments, refunds, events. Each method is one transaction.
//!
//! ```text
//! idempotency ─▶ claim ─▶ (moved_to) ─▶ settle | release       once only
//! notify ──────▶ record          resolve ─▶ due_searches, apply, searched
//!                   └─▶ event ─▶ outbox ─▶ delivery: due_deliveries, delivered | postpone
//! ```
//! The rules of money are plain functions: `rules` says how news changes a record, `claims` who may run what, `changes`
//! and `outbox` what the merchant hears of it. How bytes become durable is `embedded`'s matter. A method that returns
//! has done its work durably, except where its doc says otherwise.

mod agenda;
mod changes;
mod claims;
mod embedded;
mod held;
mod outbox;
mod records;
mod rows;
mod rules;
mod searches;
#[cfg(test)]
mod tests;
mod transaction;

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::watch;
use tollgate_plugins::payment::Event as ProviderEvent;

use self::embedded::Durability::{Applied, Durable};
use self::embedded::Engine;
use self::held::Held;
pub use self::records::*;
#[cfg(test)]
pub(crate) use self::tests::a_payment;

/// The ledger. Clones share it.
#[derive(Clone)]
pub struct Ledger {
    engine: Arc<Engine>,
}

impl Ledger {
    /// Opens the ledger in a directory or creates it. A claim that was running when the process ended is unknown now:
    /// so is its payment or refund, and the search for the truth is due at once.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let engine = Engine::open(path, |tx, view| claims::recover(tx, view, Timestamp::now()))?;
        Ok(Self { engine: Arc::new(engine) })
    }

    /// Asks for the right to run a request. [`Claimed::Run`] is given once; whatever else it says, nothing may be sent.
    ///
    /// A ticket that is dropped without [`settle`](Self::settle) or [`release`](Self::release) (its task was cancelled
    /// or panicked) makes its claim unknown, as a crash would: the provider is asked.
    pub async fn claim(&self, key: ClaimKey, intent: Intent, now: Timestamp) -> Result<Claimed, LedgerError> {
        let ledger = self.engine.weak();
        let work = move |tx: &mut embedded::Transaction<'_>| {
            let mut claimed = claims::claim(tx, &key, intent, now)?;
            if let Claimed::Run(ticket) = &mut claimed {
                ticket.held = Held::new(ledger, ticket.claim);
            }
            Ok(claimed)
        };
        let mut claimed = self.engine.write(Durable, work).await?;
        if let Claimed::Run(ticket) = &mut claimed {
            ticket.held.reached_caller();
        }
        Ok(claimed)
    }

    /// Writes down that the payment goes to another channel, because nothing was sent on the one before. An error when
    /// the payment is not unsent any more (a notification came): then nothing may be sent.
    pub async fn moved_to(
        &self,
        ticket: &Ticket,
        channel: &str,
        account: &str,
        now: Timestamp,
    ) -> Result<Payment, LedgerError> {
        let (claim, channel, account) = (ticket.claim, channel.to_owned(), account.to_owned());
        self.engine.write(Durable, move |tx| claims::moved_to(tx, claim, channel, account, now)).await
    }

    /// Gives the claim back, because provably nothing was sent: it is as if it had never been made. If something was
    /// heard of the payment or refund meanwhile, it stays and the provider is asked.
    pub async fn release(&self, mut ticket: Ticket) -> Result<(), LedgerError> {
        let claim = ticket.claim;
        self.engine.write(Durable, move |tx| claims::release(tx, claim, Timestamp::now())).await?;
        ticket.held.done();
        Ok(())
    }

    /// Writes down how the request ended, and the answer for repetitions, unless the end is unknown. Does not wait for
    /// the disk: everyone sees it at once, the sync follows, and a crash in between makes it unknown, not untrue.
    ///
    /// News about a close is about the payment, but [`News::Unknown`] leaves its status and only starts a search, and
    /// [`News::Declined`] means that the close was refused, which says nothing about the payment.
    pub async fn settle(
        &self,
        mut ticket: Ticket,
        news: News,
        now: Timestamp,
        answer: impl FnOnce(&Record) -> Answer + Send + 'static,
    ) -> Result<(Record, Answer), LedgerError> {
        let claim = ticket.claim;
        let settled = self.engine.write(Applied, move |tx| claims::settle(tx, claim, &news, now, answer)).await?;
        ticket.held.done();
        Ok(settled)
    }

    /// Takes in what the provider answered to a question. `None`: there is no such payment or refund.
    pub async fn apply(&self, subject: &Subject, news: News, now: Timestamp) -> Result<Option<Record>, LedgerError> {
        let subject = subject.clone();
        self.engine.write(Durable, move |tx| changes::apply(tx, &subject, &news, now)).await
    }

    /// Takes in a notification: told apart from its repetitions, applied, its event in the outbox.
    pub async fn record(&self, channel: &str, event: ProviderEvent, now: Timestamp) -> Result<Recorded, LedgerError> {
        let channel = channel.to_owned();
        self.engine.write(Durable, move |tx| changes::record(tx, &channel, &event, now)).await
    }

    /// A payment as it stands.
    pub async fn payment(&self, merchant: &str, order_id: &str) -> Result<Option<Payment>, LedgerError> {
        let found = rows::find_payment(&self.engine.view(), merchant, order_id)?;
        Ok(found.map(|kept| kept.row.payment))
    }

    /// A refund as it stands.
    pub async fn refund(&self, merchant: &str, order_id: &str, refund_id: &str) -> Result<Option<Refund>, LedgerError> {
        let found = rows::find_refund(&self.engine.view(), merchant, order_id, refund_id)?;
        Ok(found.map(|kept| kept.row.refund))
    }

    /// Payments and refunds about which the provider must be asked now, the longest due first.
    pub async fn due_searches(&self, now: Timestamp, limit: usize) -> Vec<Record> {
        let due = self.engine.agenda(|agenda| searches::due(agenda, now, limit));
        searches::records(&self.engine.view(), &due)
    }

    /// Writes down how a search stands while it goes on, or that nothing more is expected of it. Changes no version; nothing
    /// happens when the search has ended.
    pub async fn searched(&self, subject: &Subject, search: Option<Search>) -> Result<(), LedgerError> {
        let subject = subject.clone();
        self.engine.write(Durable, move |tx| searches::searched(tx, &subject, search)).await
    }

    /// Events to deliver now, the longest due first, of each merchant at most as many as `free` says it has places, and
    /// none that is `under_way` by its id. Only the oldest of each payment is among them, so that a merchant hears of one
    /// payment in order.
    pub async fn due_deliveries(
        &self,
        now: Timestamp,
        limit: usize,
        free: impl Fn(&str) -> usize,
        under_way: impl Fn(&str, &str) -> bool,
    ) -> Vec<Delivery> {
        let due = self.engine.agenda(|agenda| outbox::due(agenda, now, limit, free, under_way));
        outbox::deliveries(&self.engine.view(), due)
    }

    /// The merchant has the event, or it is given up: the next of the same payment is due.
    pub async fn delivered(&self, event_id: &str, now: Timestamp) -> Result<(), LedgerError> {
        let event_id = event_id.to_owned();
        self.engine.write(Durable, move |tx| outbox::delivered(tx, &event_id, now)).await
    }

    /// The merchant did not take the event: it is due again then.
    pub async fn postpone(&self, event_id: &str, due: Timestamp, tries: u32) -> Result<(), LedgerError> {
        let event_id = event_id.to_owned();
        self.engine.write(Durable, move |tx| outbox::postpone(tx, &event_id, due, tries)).await
    }

    /// Changes whenever a delivery or a search became due sooner.
    pub fn wake(&self) -> watch::Receiver<u64> {
        self.engine.wake()
    }

    /// How much is waiting. Costs no look at the disk.
    pub async fn waiting(&self) -> Result<Waiting, LedgerError> {
        Ok(self.engine.agenda(searches::waiting))
    }

    /// Tells the merchant that the provider names another amount or account; once per version of the record.
    pub async fn mismatch(&self, subject: &Subject, now: Timestamp) -> Result<(), LedgerError> {
        let subject = subject.clone();
        self.engine.write(Durable, move |tx| changes::mismatch(tx, &subject, now)).await
    }

    /// Whether it can write; false for good once a commit or sync failed.
    pub fn is_healthy(&self) -> bool {
        self.engine.is_healthy()
    }
}
