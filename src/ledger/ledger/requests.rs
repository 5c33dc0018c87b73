//! Requests of merchants: claimed, executed once, settled or released.

use jiff::Timestamp;

use super::Ledger;
use crate::claim_guard::{ClaimGuard, ExecutionId};
use crate::claims::{self, AsyncRequest, Attempt, Request, jobs};
use crate::error::LedgerError;
use crate::ids::Id as ClaimId;
use crate::limits::{DueLimit, QueueFull, QueueLimit};
use crate::lock_scope::LockScope;
use crate::records::{Answer, ClaimKey, ClaimResult, Destination, ExecutionPermit, Intent, Payment, Record, Update};
use crate::timeline::UpdateWithEvidence;
use crate::transaction::Durability::{Applied, Durable};
use crate::transaction::Transaction;

impl Ledger {
    /// Claims the right to execute a request. [`ClaimResult::Run`] is returned once per claim; with every other
    /// result nothing may be sent.
    ///
    /// If the permit is dropped without [`settle`](Self::settle) or [`release`](Self::release), because its task was
    /// cancelled or panicked, the claim becomes unknown as after a crash. The provider is then queried.
    pub async fn claim(&self, key: ClaimKey, intent: Intent, now: Timestamp) -> Result<ClaimResult, LedgerError> {
        let ledger = self.engine.holder();
        let scope = self.engine.lock_scope(|| LockScope::claim(&key, &intent));
        let disk_space = self.engine.check_disk_space();
        let is_merchants = !key.path.is_empty();
        let request = Request::new(&key, intent, None, now)?;
        let work = move |tx: &mut Transaction<'_>| {
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
        let work = move |tx: &mut Transaction<'_>, full: Option<QueueFull>| {
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
        let work = move |tx: &mut Transaction<'_>| {
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
        let evidence = permit.evidence.clone();
        let work = move |tx: &mut Transaction<'_>| claims::reroute(tx, execution, to.clone(), evidence.clone(), now);
        let payment = self.engine.write(Durable, scope, work).await?;
        // Until it is recorded, the release still needs the evidence.
        permit.evidence.clear();
        Ok(payment)
    }

    /// Releases a claim of which provably nothing was sent: the claim is deleted, or its job is requeued. If an
    /// update of the payment or refund arrived meanwhile, the record stays and the provider is queried.
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
        let work = move |tx: &mut Transaction<'_>| {
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
        let work = move |tx: &mut Transaction<'_>| claims::settle(tx, execution, update.clone(), now, &answer);
        let settled = self.engine.write(Applied, scope, work).await?;
        permit.guard.done();
        Ok(settled)
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
}
