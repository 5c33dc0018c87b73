//! What must not be forgotten: claims, payments, refunds, events. Each method is one transaction.
//!
//! ```text
//! idempotency ─▶ claim ─▶ (moved_to) ─▶ settle | release       once only
//! notify ──────▶ record          resolve ─▶ due_searches, apply, searched
//!                   └─▶ event ─▶ outbox ─▶ delivery: due_deliveries, delivered | postpone
//! ```
//! The rules of money are plain functions: `rules` says how news changes a record, `claims` who may run what, `changes`
//! and `outbox` what the merchant hears of it; `retention` says what may be forgotten. How bytes become durable is the engine's matter: `embedded` on one machine,
//! `postgres` for several. A method that returns has done its work durably, except where its doc says otherwise.

mod abandoned_attempts;
mod apply;
mod change_feed;
mod claim_guard;
mod claims;
mod elsewhere;
mod embedded;
mod engine;
mod ids;
mod inquiries;
mod known_time;
mod limits;
mod lock_scope;
mod migrate;
mod moved;
mod outbox;
mod postgres;
mod purge;
mod records;
mod refunds;
mod retention;
mod rows;
mod rules;
mod schedule;
#[cfg(test)]
mod tests;
mod timeline;
mod transaction;

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::watch;

pub use self::change_feed::{ChangeListener, Changes, RecordKey, Version};
use self::claim_guard::ClaimGuard;
pub(crate) use self::claim_guard::ExecutionId;
use self::claims::{AsyncRequest, Attempt, Request, jobs};
use self::engine::Durability::{Applied, Durable};
use self::engine::Engine;
pub(crate) use self::ids::Id as ClaimId;
pub use self::known_time::{PurgeGuard, PurgeTime};
pub use self::limits::{DueLimit, QueueFull, QueueLimit};
use self::lock_scope::LockScope;
pub use self::migrate::{Moved, migrate};
pub(crate) use self::moved::{MARK, Mark, refuse_moved};
pub use self::postgres::{Address, CONNECTIONS, FEWEST_CONNECTIONS};
pub use self::purge::Purge;
pub use self::records::*;
pub use self::retention::RetentionPolicy;
#[cfg(test)]
pub(crate) use self::tests::{a_payment, a_refund};
pub use self::timeline::*;
use crate::clock::{self, Reading};
use crate::telemetry::METRICS;

/// How much of the disk is kept free for the end of what is under way, where nothing else is said.
pub const RESERVE: u64 = 256 << 20;

/// The ledger. Clones share it.
#[derive(Clone)]
pub struct Ledger {
    engine: Engine,
    witness: known_time::Witness,
}

impl Ledger {
    /// Opens the ledger in a directory or creates it. A claim that was running when the process ended is unknown now:
    /// so is its payment or refund, and the search for the truth is due at once.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        Self::open_with(path, RESERVE)
    }

    /// As [`open`](Self::open), with another reserve: while no more than so many bytes are free on its disk, no claim is let
    /// through, so that there is room for the end of what is under way.
    pub fn open_with(path: &Path, reserve: u64) -> Result<Self, LedgerError> {
        refuse_moved(path)?;
        let engine = embedded::Engine::open(path, reserve, |tx, running| claims::recover(tx, running, clock::now()))?;
        Ok(Self::over(Engine::Embedded(Arc::new(engine))))
    }

    /// Identity of the embedded ledger in a directory; `None` where there is none. Opens and changes nothing. Fails where
    /// the file that holds it is damaged.
    pub fn identity_in(path: &Path) -> Result<Option<String>, LedgerError> {
        embedded::identity_in(path)
    }

    /// Connects to a ledger in PostgreSQL, which several processes may share, and brings its tables up to date. A claim of
    /// a process that is gone (it has not renewed its lease) is unknown now, and so on as in [`open`](Self::open).
    pub fn connect(address: Address) -> Result<Self, LedgerError> {
        Self::connect_with(address, CONNECTIONS)
    }

    /// As [`connect`](Self::connect), with so many connections at most.
    pub fn connect_with(address: Address, connections: usize) -> Result<Self, LedgerError> {
        Ok(Self::over(Engine::Postgres(Arc::new(postgres::Engine::open(address, connections)?))))
    }

    fn over(engine: Engine) -> Self {
        Self { engine, witness: known_time::Witness::default() }
    }

    /// The name of a ledger in PostgreSQL, and the ids of the moves that filled it.
    pub(crate) fn origin(&self) -> Option<(&str, &[String])> {
        match &self.engine {
            Engine::Embedded(_) => None,
            Engine::Postgres(engine) => Some(engine.origin()),
        }
    }

    /// Asks for the right to run a request. [`Claimed::Run`] is given once; whatever else it says, nothing may be sent.
    ///
    /// A ticket that is dropped without [`settle`](Self::settle) or [`release`](Self::release) (its task was cancelled
    /// or panicked) makes its claim unknown, as a crash would: the provider is asked.
    pub async fn claim(&self, key: ClaimKey, intent: Intent, now: Timestamp) -> Result<ClaimResult, LedgerError> {
        let ledger = self.engine.holder();
        let scope = self.engine.lock_scope(|| LockScope::claim(&key, &intent));
        let disk_space = self.engine.check_disk_space();
        let is_merchants = !key.path.is_empty();
        let request = Request::new(&key, intent, None, now)?;
        let work = move |tx: &mut transaction::Transaction<'_>| {
            let mut claimed = claims::claim(tx, request.as_ref().clone())?;
            if let ClaimResult::Run(permit) = &mut claimed {
                disk_space.clone()?;
                permit.guard = ClaimGuard::new(ledger.clone(), permit.execution);
            }
            // As the request: large, and a long way back.
            Ok(Box::new(claimed))
        };
        let mut claimed = *self.engine.claim(scope, work).await?;
        if let ClaimResult::Run(permit) = &mut claimed {
            permit.guard.reached_caller();
            // The gateway's own claims have no path.
            if is_merchants {
                self.witness.agreed();
            }
        }
        Ok(claimed)
    }

    /// As [`claim`](Self::claim) for what nobody waits for: [`Claimed::Accepted`] means that it is durable and will be made,
    /// once, by whoever takes it. Once so many are waiting or being executed as `limit` says, nothing new is accepted.
    pub async fn enqueue(
        &self,
        key: ClaimKey,
        intent: Intent,
        body: String,
        limit: impl Into<QueueLimit>,
        now: Timestamp,
    ) -> Result<ClaimResult, LedgerError> {
        let later = AsyncRequest { body, full: None };
        let scope = LockScope::claim(&key, &intent);
        let disk_space = self.engine.check_disk_space();
        let request = Request::new(&key, intent, Some(later), now)?;
        let work = move |tx: &mut transaction::Transaction<'_>, full: Option<QueueFull>| {
            let mut request = request.as_ref().clone();
            request.queue_is(full);
            let claimed = claims::claim(tx, request)?;
            if matches!(claimed, ClaimResult::Accepted(_)) {
                disk_space.clone()?;
            }
            Ok(claimed)
        };
        let claimed = self.engine.enqueue(key.merchant, limit.into(), scope, work).await?;
        if matches!(claimed, ClaimResult::Accepted(_)) {
            self.witness.agreed();
        }
        Ok(claimed)
    }

    /// What was accepted and is due to be made, the longest due first, with its merchant. What one process was given is not
    /// given to another for a while.
    pub(crate) async fn due_jobs(&self, now: Timestamp, limit: DueLimit) -> Vec<(ClaimId, String)> {
        self.engine.due_jobs(now, limit).await
    }

    /// The same, whosever they are.
    #[cfg(test)]
    pub(crate) async fn due_job_ids(&self, now: Timestamp, limit: usize) -> Vec<ClaimId> {
        let limit = DueLimit { total: limit, each: limit, ..DueLimit::default() };
        self.engine.due_jobs(now, limit).await.into_iter().map(|(claim, _)| claim).collect()
    }

    /// The right to make what was accepted, durable when it is given. `None`: somebody else has it, or nothing is left to be
    /// done. A [`release`](Self::release) puts it back, to be due a while later; the rest is as with [`claim`](Self::claim).
    pub(crate) async fn dequeue(
        &self,
        claim: ClaimId,
        by: &str,
        now: Timestamp,
    ) -> Result<Option<ExecutionPermit>, LedgerError> {
        let (ledger, by, disk_space) = (self.engine.holder(), by.to_owned(), self.engine.check_disk_space());
        let work = move |tx: &mut transaction::Transaction<'_>| {
            disk_space.clone()?;
            let mut dequeued = jobs::take(tx, claim, &by, now)?;
            if let Some(permit) = &mut dequeued {
                permit.guard = ClaimGuard::new(ledger.clone(), permit.execution);
            }
            Ok(dequeued)
        };
        let mut dequeued = self.engine.write(Durable, LockScope::Claim(claim), work).await?;
        if let Some(permit) = &mut dequeued {
            permit.guard.reached_caller();
        }
        Ok(dequeued)
    }

    /// Writes down that the payment goes to another channel, because nothing was sent on the one before. An error when
    /// the payment is not unsent any more (a notification came): then nothing may be sent.
    pub async fn reroute(
        &self,
        permit: &mut ExecutionPermit,
        to: Destination,
        now: Timestamp,
    ) -> Result<Payment, LedgerError> {
        let (execution, scope) = (permit.execution, LockScope::subject(&permit.subject));
        let evidence = std::mem::take(&mut permit.evidence);
        self.engine
            .write(Durable, scope, move |tx| claims::reroute(tx, execution, to.clone(), evidence.clone(), now))
            .await
    }

    /// Gives the claim back, because provably nothing was sent: it is as if it had never been made, or taken. If something
    /// was heard of the payment or refund meanwhile, it stays and the provider is asked.
    pub async fn release(&self, permit: ExecutionPermit) -> Result<(), LedgerError> {
        self.release_after(Attempt::Made, permit).await
    }

    /// Releases a job that was never tried, without counting a try; see [`release`](Self::release).
    pub(crate) async fn release_untried(&self, permit: ExecutionPermit) -> Result<(), LedgerError> {
        self.release_after(Attempt::None, permit).await
    }

    async fn release_after(&self, attempt: Attempt, mut permit: ExecutionPermit) -> Result<(), LedgerError> {
        let (execution, scope) = (permit.execution, LockScope::subject(&permit.subject));
        let evidence = std::mem::take(&mut permit.evidence);
        let work = move |tx: &mut transaction::Transaction<'_>| {
            claims::release(tx, execution, attempt, evidence.clone(), clock::now())
        };
        self.engine.write(Durable, scope, work).await?;
        permit.guard.done();
        Ok(())
    }

    /// Writes down how the request ended, and the answer for repetitions, unless the end is unknown. Does not wait for
    /// the disk: everyone sees it at once, the sync follows, and a crash in between makes it unknown, not untrue.
    ///
    /// News about a close is about the payment, but [`News::Unknown`] leaves its status and only starts a search, and
    /// [`News::Declined`] means that the close was refused, which says nothing about the payment.
    pub async fn settle(
        &self,
        mut permit: ExecutionPermit,
        update: Update,
        now: Timestamp,
        answer: impl Fn(&Record) -> Answer + Send + 'static,
    ) -> Result<(Record, Answer), LedgerError> {
        let (execution, scope) = (permit.execution, self.engine.lock_scope(|| LockScope::subject(&permit.subject)));
        let update = UpdateWithEvidence { update, evidence: std::mem::take(&mut permit.evidence) };
        let work =
            move |tx: &mut transaction::Transaction<'_>| claims::settle(tx, execution, update.clone(), now, &answer);
        let settled = self.engine.write(Applied, scope, work).await?;
        permit.guard.done();
        Ok(settled)
    }

    /// Takes in what the provider answered to a question. `None`: there is no such payment or refund.
    pub async fn apply(
        &self,
        subject: &RecordId,
        update: impl Into<UpdateWithEvidence>,
        now: Timestamp,
    ) -> Result<Option<Record>, LedgerError> {
        let (scope, subject, update) = (LockScope::subject(subject), subject.clone(), update.into());
        self.engine.write(Durable, scope, move |tx| apply::apply(tx, &subject, update.clone(), now)).await
    }

    /// Takes in a notification: told apart from its repetitions, applied, its event in the outbox.
    pub async fn record(
        &self,
        channel: &str,
        notification: impl Into<Notification>,
        now: Timestamp,
    ) -> Result<Recorded, LedgerError> {
        let (channel, notification) = (channel.to_owned(), notification.into());
        let scope = LockScope::Number(notification.event.order_number.clone());
        self.engine.write(Durable, scope, move |tx| apply::record(tx, &channel, &notification, now)).await
    }

    /// Adds to the timeline what changed nothing. Does not wait for the disk: what is lost in a power cut was no news.
    pub async fn append_timeline(
        &self,
        subject: &RecordId,
        notes: Vec<TimelineEvent>,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let (scope, subject) = (LockScope::subject(subject), subject.clone());
        self.engine.write(Applied, scope, move |tx| apply::append_timeline(tx, &subject, notes.clone(), now)).await
    }

    /// Writes down that a person must look at what stays unknown, and tells the merchant once more that it is. Says whether
    /// that is new.
    pub async fn escalate(&self, subject: &RecordId, why: &str, now: Timestamp) -> Result<bool, LedgerError> {
        let (scope, subject, why) = (LockScope::subject(subject), subject.clone(), why.to_owned());
        self.engine.write(Durable, scope, move |tx| apply::escalate(tx, &subject, why.clone(), now)).await
    }

    /// A payment as it stands, and everything that is known to have happened to it.
    pub async fn timeline(&self, merchant: &str, order_id: &str) -> Result<Option<(Payment, Timeline)>, LedgerError> {
        let (merchant, order_id) = (merchant.to_owned(), order_id.to_owned());
        let look = move |from: &dyn transaction::Read| {
            let Some(tracked) = rows::find_payment(&from, &merchant, &order_id)? else { return Ok(None) };
            Ok(Some((tracked.row.payment, timeline::read(&from, tracked.id)?)))
        };
        self.engine.read(look).await
    }

    /// The payments that a person may mean: each of these merchants' with this order id, and the one that the provider
    /// knows by this number.
    pub async fn find_histories(
        &self,
        named: &str,
        merchants: Vec<String>,
    ) -> Result<Vec<PaymentHistory>, LedgerError> {
        let named = named.to_owned();
        self.engine.read(move |from| timeline::find_histories(&from, &named, &merchants)).await
    }

    /// A payment as it stands.
    pub async fn payment(&self, merchant: &str, order_id: &str) -> Result<Option<Payment>, LedgerError> {
        METRICS.ledger_reads_total.inc();
        let (merchant, order_id) = (merchant.to_owned(), order_id.to_owned());
        let look = move |from: &dyn transaction::Read| rows::find_payment(&from, &merchant, &order_id);
        Ok(self.engine.read(look).await?.map(|tracked| tracked.row.payment))
    }

    /// A refund as it stands.
    pub async fn refund(&self, merchant: &str, order_id: &str, refund_id: &str) -> Result<Option<Refund>, LedgerError> {
        METRICS.ledger_reads_total.inc();
        let (merchant, order_id, refund_id) = (merchant.to_owned(), order_id.to_owned(), refund_id.to_owned());
        let look = move |from: &dyn transaction::Read| rows::find_refund(&from, &merchant, &order_id, &refund_id);
        Ok(self.engine.read(look).await?.map(|tracked| tracked.row.refund))
    }

    /// Returns payments and refunds about which the provider must be asked now, none of the channels that are `busy`. What is
    /// unknown or waited for comes before what is only pending; of each kind the longest due comes first. What one process was
    /// given is not given to another for a while.
    pub async fn due_searches(&self, now: Timestamp, limit: usize, busy: &[String]) -> Vec<Record> {
        self.engine.due_searches(now, limit, busy).await
    }

    /// Writes down how a search stands while it goes on, or that nothing more is expected of it. Changes no version; nothing
    /// happens, and false is told, when the search has ended.
    pub async fn save_inquiry(&self, subject: &RecordId, search: Option<Inquiry>) -> Result<bool, LedgerError> {
        let (scope, subject) = (LockScope::subject(subject), subject.clone());
        self.engine.write(Durable, scope, move |tx| inquiries::save_inquiry(tx, &subject, search.clone())).await
    }

    /// Events to deliver now, the longest due first, of each merchant at most as many as `free` says it has places, and
    /// none that is `under_way` by its id. Only the oldest of each payment is among them, so that a merchant hears of one
    /// payment in order. What one process was given is not given to another for a while. No power cut takes back what was
    /// given.
    pub async fn due_deliveries(
        &self,
        now: Timestamp,
        limit: usize,
        free: impl Fn(&str) -> usize,
        under_way: impl Fn(&str, &str) -> bool,
    ) -> Vec<Delivery> {
        self.engine.due_deliveries(now, limit, free, under_way).await
    }

    /// The merchant has the event: the next of the same payment is due.
    pub async fn delivered(&self, event_id: &str, now: Timestamp) -> Result<(), LedgerError> {
        self.delivery_ended(event_id, None, now).await
    }

    /// The merchant does not have the event and it is not sent any more: the next of the same payment is due.
    pub async fn dropped(&self, event_id: &str, why: &str, now: Timestamp) -> Result<(), LedgerError> {
        self.delivery_ended(event_id, Some(why.to_owned()), now).await
    }

    async fn delivery_ended(&self, event_id: &str, dropped: Option<String>, now: Timestamp) -> Result<(), LedgerError> {
        let (scope, event_id) = (LockScope::Event(event_id.to_owned()), event_id.to_owned());
        self.engine.write(Durable, scope, move |tx| outbox::complete(tx, &event_id, dropped.clone(), now)).await
    }

    /// The merchant did not take the event: it is due again then.
    pub async fn postpone(&self, event_id: &str, due: Timestamp, tries: u32) -> Result<(), LedgerError> {
        let (scope, event_id) = (LockScope::Event(event_id.to_owned()), event_id.to_owned());
        self.engine.write(Durable, scope, move |tx| outbox::postpone(tx, &event_id, due, tries)).await
    }

    /// Tells somebody of every change from now on, on every machine that shares the ledger. There is one who listens.
    pub fn listen(&self, listener: Arc<dyn ChangeListener>) -> Result<(), LedgerError> {
        self.engine.listen(listener)
    }

    /// Whether the listener has been told of every record that anybody was told is durable before this was asked. Looks at
    /// no record.
    pub async fn caught_up(&self) -> bool {
        self.engine.caught_up().await
    }

    /// Tells a ledger that several machines share from every other.
    pub async fn cluster_id(&self) -> Result<Option<String>, LedgerError> {
        self.engine.cluster_id().await
    }

    /// Returns once all that the listener could have been told of before this was asked can be read, or never will be.
    pub async fn quiesce(&self) -> Result<(), LedgerError> {
        self.engine.quiesce().await
    }

    /// Of all names (and others: whatever [`Changes::born`] tells of) the first behind one, in order.
    pub async fn names(&self, after: Option<RecordKey>, limit: usize) -> Result<Vec<RecordKey>, LedgerError> {
        self.engine.names(after, limit).await
    }

    /// Changes whenever a delivery or a search became due sooner.
    pub fn wake(&self) -> watch::Receiver<u64> {
        self.engine.wake()
    }

    /// How much is waiting.
    pub async fn waiting(&self) -> Result<Backlog, LedgerError> {
        self.engine.waiting().await
    }

    /// Tells the merchant that the provider names another amount or account; once per version of the record.
    pub async fn mismatch(&self, subject: &RecordId, now: Timestamp) -> Result<(), LedgerError> {
        let (scope, subject) = (LockScope::subject(subject), subject.clone());
        self.engine.write(Durable, scope, move |tx| apply::mismatch(tx, &subject, now)).await
    }

    /// Counts the ledger's own time on, and returns by which time may be purged now, if by any.
    pub(crate) async fn purge_time(&self, guard: &mut PurgeGuard, clock: Reading) -> Result<PurgeTime, LedgerError> {
        known_time::purge_time(&self.engine, &self.witness, guard, clock).await
    }

    /// Lets the next few go of what is older than `keep` says; true at the end of a round. An error leaves the purge where it
    /// was.
    pub async fn purge(&self, purge: &mut Purge, keep: &RetentionPolicy, now: Timestamp) -> Result<bool, LedgerError> {
        purge::step(&self.engine, purge, keep, now).await
    }

    /// Whether there is room on the disk for a new claim; an error says how little there is.
    pub fn check_disk_space(&self) -> Result<(), LedgerError> {
        self.engine.check_disk_space()
    }

    /// Whether something may be sent for a claim now: the process still has the right to it, and had it without a break
    /// since the ticket was given.
    /// Asked last before sending; an error means that another process may be finding out already what became of it.
    pub(crate) fn may_send(&self, execution: ExecutionId) -> Result<(), LedgerError> {
        self.engine.may_send(execution)
    }

    /// Why this process should get no new requests, in PostgreSQL: it cannot be reached, or this process's lease is over.
    pub(crate) fn not_ready(&self) -> Option<String> {
        match &self.engine {
            Engine::Embedded(_) => None,
            Engine::Postgres(engine) => engine.not_ready(),
        }
    }

    /// Whether background work may begin: the ledger can write, and this process has its lease.
    pub(crate) fn may_work(&self) -> bool {
        self.is_healthy() && self.not_ready().is_none()
    }

    /// Whether it can write. Embedded, false for good once a commit or sync failed, or until there is room again on a disk that
    /// was full; PostgreSQL may come back.
    pub fn is_healthy(&self) -> bool {
        self.engine.is_healthy()
    }
}
