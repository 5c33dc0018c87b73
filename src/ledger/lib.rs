//! Durable state of the gateway: claims, payments, refunds, events. Each method is one transaction.
//!
//! ```text
//! claim_key ─▶ claim ─▶ (reroute) ─▶ settle | release            executed once
//! notify ──────▶ record          resolver ─▶ due_searches, apply, save_inquiry
//!                   └─▶ event ─▶ outbox ─▶ delivery: due_deliveries, delivered | postpone
//! ```
//! The rules are plain functions. `rules` is the state machine of a record, `claims` decides who may execute a
//! request, `apply` and `outbox` publish events, `retention` decides what may be purged.
//!
//! An engine makes the bytes durable: `embedded` on one machine, `postgres` for several. A method returns after its
//! writes are durable, except where its documentation says otherwise.

mod abandoned_attempts;
mod apply;
mod change_feed;
mod claim_guard;
mod claims;
mod double_payment;
mod elsewhere;
mod embedded;
mod engine;
mod environment;
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
#[cfg(any(test, feature = "testing"))]
pub mod testing;
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
pub use self::claim_guard::ExecutionId;
use self::claims::{AsyncRequest, Attempt, Request, jobs};
use self::engine::Durability::{Applied, Durable};
use self::engine::Engine;
pub use self::environment::{Clock, Environment, Measurement, Metrics, Reading};
pub use self::ids::Id as ClaimId;
pub use self::known_time::{PurgeGuard, PurgeTime};
pub use self::limits::{DueLimit, QueueFull, QueueLimit};
use self::lock_scope::LockScope;
pub use self::migrate::{Moved, migrate};
pub use self::moved::{MARK, Mark, refuse_moved};
pub use self::postgres::{Address, CONNECTIONS, FEWEST_CONNECTIONS};
pub use self::purge::Purge;
pub use self::records::*;
pub use self::retention::RetentionPolicy;
pub use self::timeline::*;

/// Default reserve in bytes: disk space kept free so that claims in progress can still be completed.
pub const RESERVE: u64 = 256 << 20;

/// Handle of the ledger. Clones share one engine.
#[derive(Clone)]
pub struct Ledger {
    engine: Engine,
    witness: known_time::Witness,
}

impl Ledger {
    /// Opens the ledger in a directory, or creates it. A claim that was running when the last process ended becomes
    /// unknown, and so does its payment or refund. Its inquiry is due at once.
    ///
    /// While less than `reserve` bytes are free on the disk, new claims are rejected, so that claims in progress can
    /// still be completed.
    pub fn open_with(path: &Path, reserve: u64, environment: Environment) -> Result<Self, LedgerError> {
        refuse_moved(path)?;
        let now = environment.now();
        let recover = move |tx: &mut transaction::Transaction<'_>, running| claims::recover(tx, running, now);
        let engine = embedded::Engine::open(path, reserve, environment, recover)?;
        Ok(Self::over(Engine::Embedded(Arc::new(engine))))
    }

    /// Returns the identity of the embedded ledger in a directory, or `None` if the directory holds no ledger.
    /// Changes nothing. Fails if the file with the identity is damaged.
    pub fn identity_in(path: &Path) -> Result<Option<String>, LedgerError> {
        embedded::identity_in(path)
    }

    /// Connects to a ledger in PostgreSQL, which several processes may share, and migrates its tables. A claim of a
    /// process whose lease has expired becomes unknown, as in [`open_with`](Self::open_with). Uses at most this many
    /// connections.
    pub fn connect_with(address: Address, connections: usize, environment: Environment) -> Result<Self, LedgerError> {
        Ok(Self::over(Engine::Postgres(Arc::new(postgres::Engine::open(address, connections, environment)?))))
    }

    fn over(engine: Engine) -> Self {
        Self { engine, witness: known_time::Witness::default() }
    }

    /// Returns the name of a ledger in PostgreSQL and the ids of the migrations that filled it.
    pub fn origin(&self) -> Option<(&str, &[String])> {
        match &self.engine {
            Engine::Embedded(_) => None,
            Engine::Postgres(engine) => Some(engine.origin()),
        }
    }

    /// Claims the right to execute a request. [`ClaimResult::Run`] is returned once per claim; with every other
    /// result nothing may be sent.
    ///
    /// If the permit is dropped without [`settle`](Self::settle) or [`release`](Self::release), because its task was
    /// cancelled or panicked, the claim becomes unknown as after a crash. The provider is then asked.
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
            // Boxed like the request: the value is large and is moved through several layers.
            Ok(Box::new(claimed))
        };
        let mut claimed = *self.engine.claim(scope, work).await?;
        if let ClaimResult::Run(permit) = &mut claimed {
            permit.guard.reached_caller();
            // Only claims of merchants have a path; those of the gateway itself have none.
            if is_merchants {
                self.witness.agreed();
            }
        }
        Ok(claimed)
    }

    /// Claims a request and enqueues it for asynchronous execution. [`ClaimResult::Accepted`] means that the job is
    /// durable and will be executed once. Once `limit` jobs are queued or executing, new jobs are rejected.
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
            request.set_queue_full(full);
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

    /// Returns due jobs with their merchants, the longest due first. A job returned to one process is not returned to
    /// another for a while.
    pub async fn due_jobs(&self, now: Timestamp, limit: DueLimit) -> Vec<(ClaimId, String)> {
        self.engine.due_jobs(now, limit).await
    }

    /// Returns the claims of due jobs of all merchants.
    #[cfg(test)]
    pub(crate) async fn due_job_ids(&self, now: Timestamp, limit: usize) -> Vec<ClaimId> {
        let limit = DueLimit { total: limit, each: limit, ..DueLimit::default() };
        self.engine.due_jobs(now, limit).await.into_iter().map(|(claim, _)| claim).collect()
    }

    /// Dequeues a job and returns the permit to execute it, which is durable. `None` if another process has dequeued
    /// the job or the job has ended. [`release`](Self::release) requeues the job with a delay. All else is as in
    /// [`claim`](Self::claim).
    pub async fn dequeue(
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

    /// Moves a payment to another channel after provably nothing was sent on the present one. Fails if the payment is
    /// no longer unsent, for example because a notification came; then nothing may be sent.
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

    /// Releases a claim of which provably nothing was sent: the claim is deleted, or its job is requeued. If an
    /// update of the payment or refund arrived meanwhile, the record stays and the provider is asked.
    pub async fn release(&self, permit: ExecutionPermit) -> Result<(), LedgerError> {
        self.release_after(Attempt::Made, permit).await
    }

    /// Releases a job like [`release`](Self::release), without counting an attempt, because none was made.
    pub async fn release_untried(&self, permit: ExecutionPermit) -> Result<(), LedgerError> {
        self.release_after(Attempt::None, permit).await
    }

    async fn release_after(&self, attempt: Attempt, mut permit: ExecutionPermit) -> Result<(), LedgerError> {
        let (execution, scope) = (permit.execution, LockScope::subject(&permit.subject));
        let (evidence, environment) = (std::mem::take(&mut permit.evidence), self.engine.environment().clone());
        let work = move |tx: &mut transaction::Transaction<'_>| {
            claims::release(tx, execution, attempt, evidence.clone(), environment.now())
        };
        self.engine.write(Durable, scope, work).await?;
        permit.guard.done();
        Ok(())
    }

    /// Records the result of an execution and, unless the result is unknown, the response for replays. Returns before
    /// the sync: the result is visible at once, and a crash before the sync makes it unknown, never wrong.
    ///
    /// An update from a close applies to the payment, with two exceptions. [`Update::Unknown`] leaves the status
    /// unchanged and starts an inquiry. [`Update::Declined`] means that the provider refused the close; it says
    /// nothing about the payment.
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

    /// Applies the provider's answer to a query. `None` if there is no such payment or refund.
    pub async fn apply(
        &self,
        subject: &RecordId,
        update: impl Into<UpdateWithEvidence>,
        now: Timestamp,
    ) -> Result<Option<Record>, LedgerError> {
        let (scope, subject, update) = (LockScope::subject(subject), subject.clone(), update.into());
        self.engine.write(Durable, scope, move |tx| apply::apply(tx, &subject, update.clone(), now)).await
    }

    /// Records a notification: removes duplicates, applies the update and publishes its event, in one transaction.
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

    /// Appends events to the timeline that changed no record. Returns before the sync: a power cut may lose them.
    pub async fn append_timeline(
        &self,
        subject: &RecordId,
        notes: Vec<TimelineEvent>,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let (scope, subject) = (LockScope::subject(subject), subject.clone());
        self.engine.write(Applied, scope, move |tx| apply::append_timeline(tx, &subject, notes.clone(), now)).await
    }

    /// Marks an unknown record for manual review and publishes its unknown status once more. Returns whether the mark
    /// is new.
    pub async fn escalate(&self, subject: &RecordId, why: &str, now: Timestamp) -> Result<bool, LedgerError> {
        let (scope, subject, why) = (LockScope::subject(subject), subject.clone(), why.to_owned());
        self.engine.write(Durable, scope, move |tx| apply::escalate(tx, &subject, why.clone(), now)).await
    }

    /// Returns a payment with its timeline.
    pub async fn timeline(&self, merchant: &str, order_id: &str) -> Result<Option<(Payment, Timeline)>, LedgerError> {
        let (merchant, order_id) = (merchant.to_owned(), order_id.to_owned());
        let read = move |from: &dyn transaction::Read| {
            let Some(tracked) = rows::find_payment(&from, &merchant, &order_id)? else { return Ok(None) };
            Ok(Some((tracked.row.payment, timeline::read(&from, tracked.id)?)))
        };
        self.engine.read(read).await
    }

    /// Returns the payments that an operator may mean: for each merchant the payment with this order id, and the
    /// payment that has this number at its provider.
    pub async fn find_histories(
        &self,
        named: &str,
        merchants: Vec<String>,
    ) -> Result<Vec<PaymentHistory>, LedgerError> {
        let named = named.to_owned();
        self.engine.read(move |from| timeline::find_histories(&from, &named, &merchants)).await
    }

    /// Returns a payment.
    pub async fn payment(&self, merchant: &str, order_id: &str) -> Result<Option<Payment>, LedgerError> {
        self.engine.environment().metrics.record(Measurement::Read);
        let (merchant, order_id) = (merchant.to_owned(), order_id.to_owned());
        let read = move |from: &dyn transaction::Read| rows::find_payment(&from, &merchant, &order_id);
        Ok(self.engine.read(read).await?.map(|tracked| tracked.row.payment))
    }

    /// Returns a refund.
    pub async fn refund(&self, merchant: &str, order_id: &str, refund_id: &str) -> Result<Option<Refund>, LedgerError> {
        self.engine.environment().metrics.record(Measurement::Read);
        let (merchant, order_id, refund_id) = (merchant.to_owned(), order_id.to_owned(), refund_id.to_owned());
        let read = move |from: &dyn transaction::Read| rows::find_refund(&from, &merchant, &order_id, &refund_id);
        Ok(self.engine.read(read).await?.map(|tracked| tracked.row.refund))
    }

    /// Returns payments and refunds whose provider must be queried now, except those of `busy` channels. Unknown
    /// records and records that a caller waits for come before pending ones; within each group the longest due comes
    /// first. A record returned to one process is not returned to another for a while.
    pub async fn due_searches(&self, now: Timestamp, limit: usize, busy: &[String]) -> Vec<Record> {
        self.engine.due_searches(now, limit, busy).await
    }

    /// Saves the state of an inquiry, or ends it with `None`. The record's version stays. Returns false and changes
    /// nothing if the inquiry has already ended.
    pub async fn save_inquiry(&self, subject: &RecordId, search: Option<Inquiry>) -> Result<bool, LedgerError> {
        let (scope, subject) = (LockScope::subject(subject), subject.clone());
        self.engine.write(Durable, scope, move |tx| inquiries::save_inquiry(tx, &subject, search.clone())).await
    }

    /// Returns due deliveries, the longest due first. Each merchant gets at most as many as `free` returns for it,
    /// and none whose event id is `under_way`. Only the oldest event of each payment is returned, so that events of
    /// one payment are delivered in order. An event returned to one process is not returned to another for a while.
    /// Everything returned is durable.
    pub async fn due_deliveries(
        &self,
        now: Timestamp,
        limit: usize,
        free: impl Fn(&str) -> usize,
        under_way: impl Fn(&str, &str) -> bool,
    ) -> Vec<Delivery> {
        self.engine.due_deliveries(now, limit, free, under_way).await
    }

    /// Removes a delivered event from its queue. The next event of the same payment becomes due.
    pub async fn delivered(&self, event_id: &str, now: Timestamp) -> Result<(), LedgerError> {
        self.delivery_ended(event_id, None, now).await
    }

    /// Removes an event whose delivery is abandoned. The next event of the same payment becomes due.
    pub async fn dropped(&self, event_id: &str, why: &str, now: Timestamp) -> Result<(), LedgerError> {
        self.delivery_ended(event_id, Some(why.to_owned()), now).await
    }

    async fn delivery_ended(&self, event_id: &str, dropped: Option<String>, now: Timestamp) -> Result<(), LedgerError> {
        let (scope, event_id) = (LockScope::Event(event_id.to_owned()), event_id.to_owned());
        self.engine.write(Durable, scope, move |tx| outbox::complete(tx, &event_id, dropped.clone(), now)).await
    }

    /// Postpones an event that could not be delivered to `due`.
    pub async fn postpone(&self, event_id: &str, due: Timestamp, tries: u32) -> Result<(), LedgerError> {
        let (scope, event_id) = (LockScope::Event(event_id.to_owned()), event_id.to_owned());
        self.engine.write(Durable, scope, move |tx| outbox::postpone(tx, &event_id, due, tries)).await
    }

    /// Registers the listener for all changes, including those made by other machines that share the ledger. Only the
    /// first listener is registered.
    pub fn listen(&self, listener: Arc<dyn ChangeListener>) -> Result<(), LedgerError> {
        self.engine.listen(listener)
    }

    /// Returns whether the listener has received every change that was acknowledged as durable before this call.
    /// Reads no record.
    pub async fn caught_up(&self) -> bool {
        self.engine.caught_up().await
    }

    /// Returns the id that identifies a ledger shared by several machines.
    pub async fn cluster_id(&self) -> Result<Option<String>, LedgerError> {
        self.engine.cluster_id().await
    }

    /// Waits until every change that the listener received before this call is either readable or rolled back.
    pub async fn quiesce(&self) -> Result<(), LedgerError> {
        self.engine.quiesce().await
    }

    /// Returns the first record keys after `after`, in order. Includes everything that [`Changes::inserted`] reports.
    pub async fn names(&self, after: Option<RecordKey>, limit: usize) -> Result<Vec<RecordKey>, LedgerError> {
        self.engine.names(after, limit).await
    }

    /// Returns a counter that changes whenever a delivery, job or inquiry becomes due sooner.
    pub fn wake(&self) -> watch::Receiver<u64> {
        self.engine.wake()
    }

    /// Returns the backlog.
    pub async fn waiting(&self) -> Result<Backlog, LedgerError> {
        self.engine.waiting().await
    }

    /// Publishes that the provider names another amount or account, once per version of the record.
    pub async fn mismatch(&self, subject: &RecordId, now: Timestamp) -> Result<(), LedgerError> {
        let (scope, subject) = (LockScope::subject(subject), subject.clone());
        self.engine.write(Durable, scope, move |tx| apply::mismatch(tx, &subject, now)).await
    }

    /// Advances the ledger's own clock and returns the time up to which rows may be purged now.
    pub async fn purge_time(&self, guard: &mut PurgeGuard, clock: Reading) -> Result<PurgeTime, LedgerError> {
        known_time::purge_time(&self.engine, &self.witness, guard, clock).await
    }

    /// Purges the next rows that are older than the policy allows. Returns true at the end of a round. After an error
    /// the purge continues at the same position.
    pub async fn purge(&self, purge: &mut Purge, keep: &RetentionPolicy, now: Timestamp) -> Result<bool, LedgerError> {
        purge::step(&self.engine, purge, keep, now).await
    }

    /// Checks that the disk has room for a new claim. The error says how much is free.
    pub fn check_disk_space(&self) -> Result<(), LedgerError> {
        self.engine.check_disk_space()
    }

    /// Returns whether a request of this execution may be sent now. The process must have held its lease without a
    /// break since the permit was granted. Called last before sending. After an error another process may already
    /// have taken over the claim.
    pub fn may_send(&self, execution: ExecutionId) -> Result<(), LedgerError> {
        self.engine.may_send(execution)
    }

    /// Returns why this process must get no new requests, with PostgreSQL: the server is unreachable, or the lease of
    /// this process has expired.
    pub fn not_ready(&self) -> Option<String> {
        match &self.engine {
            Engine::Embedded(_) => None,
            Engine::Postgres(engine) => engine.not_ready(),
        }
    }

    /// Returns whether background work may start: the ledger is writable and this process holds its lease.
    pub fn may_work(&self) -> bool {
        self.is_healthy() && self.not_ready().is_none()
    }

    /// Returns whether the ledger is writable. The embedded ledger stays unwritable after a failed commit or sync,
    /// and after a full disk until space is free again. PostgreSQL may recover.
    pub fn is_healthy(&self) -> bool {
        self.engine.is_healthy()
    }
}
