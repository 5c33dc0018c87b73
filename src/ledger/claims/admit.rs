//! Claim admission: compares a request with existing claims and records, and inserts a new claim.

use jiff::Timestamp;
use tollgate_plugins::payment::Status;

use super::jobs::{self, AsyncRequest};
use super::row::{ClaimRow, KeyRow, State, schedule_job};
use crate::claim_guard::ExecutionId;
use crate::error::LedgerError;
use crate::ids::Id;
use crate::inquiries;
use crate::limits::QueueFull;
use crate::names::{self, key_name};
use crate::records::{
    ClaimKey, ClaimResult, ExecutionPermit, Intent, Job, Payment, Record, RecordId, RecordState, Refund,
};
use crate::retention::{self, Kind};
use crate::rows::{self, PaymentRow, RefundRow, TrackedRow};
use crate::timeline::{self, IntentKind, TimelineEvent};
use crate::transaction::{Space, Transaction};

/// Request with everything that can be computed before the transaction.
#[derive(Clone)]
pub(crate) struct Request {
    pub(super) request: ClaimRequest,
    pub(super) intent: Intent,
}

impl Request {
    /// Returns the request in a box, because each step on the way to the transaction would copy it.
    pub(crate) fn new(
        key: &ClaimKey,
        intent: Intent,
        asynchronous: Option<AsyncRequest>,
        now: Timestamp,
    ) -> Result<Box<Self>, LedgerError> {
        let (merchant, entry) = match &intent {
            Intent::Pay(payment) => {
                let Payment { merchant, order_id, provider_order_no, .. } = payment;
                let entry = names::order_entry(merchant, order_id);
                must_follow(provider_order_no, !payment.is_attempt() && names::entry_of_payment(payment) == entry)?;
                (merchant, entry)
            }
            Intent::Refund(refund) => {
                let Refund { merchant, order_id, refund_id, provider_refund_no, .. } = refund;
                let entry = names::refund_entry(merchant, order_id, refund_id);
                must_follow(provider_refund_no, names::entry_of_refund(refund) == entry)?;
                (merchant, entry)
            }
            Intent::Close(RecordId { merchant, order_id, .. }) => (merchant, names::order_entry(merchant, order_id)),
        };
        if *merchant != key.merchant {
            return Err(LedgerError::InvalidRequest("the key and the order belong to different merchants".to_owned()));
        }
        let request = ClaimRequest { name: key_name(key), fingerprint: key.fingerprint, entry, asynchronous, now };
        Ok(Box::new(Self { request, intent }))
    }
}

/// Checks that a provider number follows from the record's key. With another number the record could not be found,
/// and might receive the notifications of another one.
fn must_follow(number: &str, follows: bool) -> Result<(), LedgerError> {
    match follows {
        true => Ok(()),
        false => Err(LedgerError::InvalidRequest(format!(
            "`{number}` is not the provider number that follows from the order"
        ))),
    }
}

impl Request {
    /// Sets which limit of the queue is reached, for an asynchronous request.
    pub(crate) fn set_queue_full(&mut self, full: Option<QueueFull>) {
        if let Some(asynchronous) = &mut self.request.asynchronous {
            asynchronous.full = full;
        }
    }
}

/// Request without its intent.
#[derive(Clone)]
pub(super) struct ClaimRequest {
    /// Row id of the idempotency key.
    pub(super) name: Id,
    pub(super) fingerprint: [u8; 32],
    /// Index entry of the record to create or close.
    entry: Id,
    /// Asynchronous part, if the request is to be enqueued.
    asynchronous: Option<AsyncRequest>,
    now: Timestamp,
}

impl ClaimRequest {
    pub(super) fn pay(self, tx: &mut Transaction<'_>, payment: Payment) -> Result<ClaimResult, LedgerError> {
        let (now, entry) = (self.now, self.entry);
        if let Some(mut existing) = TrackedRow::<PaymentRow>::find(tx, entry)? {
            if existing.row.payment.content != payment.content {
                return Ok(ClaimResult::OrderIdReused);
            }
            if let Some(claim) = ClaimRow::load(tx, existing.row.claim)? {
                return self.bind_key(tx, existing.row.claim, claim);
            }
            existing.row.claim = self.insert_finished(tx, IntentKind::Pay, existing.id, None)?;
            existing.save(tx)?;
            return Ok(ClaimResult::AlreadyExists(Record::Payment(existing.row.payment)));
        }
        if let Some(full) = self.full() {
            return Ok(ClaimResult::QueueFull(full));
        }
        let payment = Payment { refunded: 0, state: RecordState::new(now), ..payment };
        let id = tx.new_id(now);
        let new_claim = self.insert(tx, &payment.merchant, IntentKind::Pay, id, None)?;
        tx.put(Space::Index, &entry.0, id.0);
        let (channel, amount) = (payment.channel.clone(), payment.amount);
        let mut tracked = TrackedRow::new(id, PaymentRow::new(payment, new_claim.claim));
        tracked.save(tx)?;
        timeline::begin(tx, id, TimelineEvent::Claimed { action: IntentKind::Pay, channel, amount }, now)?;
        new_claim.result(tx, id, tracked.row.payment, None, now)
    }

    pub(super) fn refund(self, tx: &mut Transaction<'_>, refund: Refund) -> Result<ClaimResult, LedgerError> {
        let (now, entry) = (self.now, self.entry);
        if let Some(mut existing) = TrackedRow::<RefundRow>::find(tx, entry)? {
            if existing.row.refund.content != refund.content {
                return Ok(ClaimResult::OrderIdReused);
            }
            if let Some(claim) = ClaimRow::load(tx, existing.row.claim)? {
                return self.bind_key(tx, existing.row.claim, claim);
            }
            existing.row.claim =
                self.insert_finished(tx, IntentKind::Refund, existing.row.payment, Some(existing.id))?;
            existing.save(tx)?;
            return Ok(ClaimResult::AlreadyExists(Record::Refund(existing.row.refund)));
        }
        let Some(mut tracked) = rows::find_payment(tx, &refund.merchant, &refund.order_id)? else {
            return Ok(ClaimResult::NotFound);
        };
        let paid = &tracked.row.payment;
        if paid.status != Status::Succeeded || paid.amount.currency != refund.amount.currency {
            return Ok(ClaimResult::Refused(tracked.row.payment));
        }
        let left = paid.amount.value.saturating_sub(tracked.row.refunding);
        if refund.amount.value > left {
            return Ok(ClaimResult::ExceedsBalance { left });
        }
        if let Some(full) = self.full() {
            return Ok(ClaimResult::QueueFull(full));
        }
        let refund = Refund { channel: paid.channel.clone(), state: RecordState::new(now), ..refund };
        let id = tx.new_id(now);
        let new_claim = self.insert(tx, &refund.merchant, IntentKind::Refund, tracked.id, Some(id))?;
        tx.put(Space::Index, &entry.0, id.0);
        let (previous, released) = (tracked.row.last_refund, false);
        let row = RefundRow {
            refund: refund.clone(),
            payment: tracked.id,
            claim: new_claim.claim,
            previous,
            released,
            mismatch: None,
            elsewhere: None,
        };
        TrackedRow::new(id, row).save(tx)?;
        tracked.row.last_refund = Some(id);
        tracked.row.refunding = tracked.row.refunding.saturating_add(refund.amount.value);
        tracked.save(tx)?;
        let (channel, amount) = (refund.channel.clone(), refund.amount);
        let action = TimelineEvent::Claimed { action: IntentKind::Refund, channel, amount };
        timeline::add(tx, tracked.id, Some(&refund.refund_id), action, now)?;
        new_claim.result(tx, tracked.id, tracked.row.payment, Some(refund), now)
    }

    pub(super) fn close(self, tx: &mut Transaction<'_>) -> Result<ClaimResult, LedgerError> {
        let Some(mut tracked) = TrackedRow::<PaymentRow>::find(tx, self.entry)? else {
            return Ok(ClaimResult::NotFound);
        };
        match tracked.row.payment.status {
            Status::Succeeded => return Ok(ClaimResult::Refused(tracked.row.payment)),
            Status::Failed | Status::Closed => {
                return Ok(ClaimResult::AlreadyExists(Record::Payment(tracked.row.payment)));
            }
            // The close is scheduled until the payment is known to be open.
            Status::Unknown => {
                inquiries::after_close(tx, &mut tracked, self.now)?;
                return Ok(ClaimResult::AlreadyExists(Record::Payment(tracked.row.payment)));
            }
            Status::Pending => {}
        }
        // A close that overtakes its payment's request would find nothing to close, and the payment would stay open.
        for id in [Some(tracked.row.claim), tracked.row.close].into_iter().flatten() {
            let Some(claim) = ClaimRow::load(tx, id)? else { continue };
            match claim.state {
                State::Running => return Ok(ClaimResult::Running),
                State::Queued if claim.action == IntentKind::Pay => {
                    return jobs::cancel_queued(tx, id, claim, tracked, self.now);
                }
                State::Queued => return claim.repeat(tx),
                State::Done(_) | State::Unknown => {}
            }
        }
        if let Some(full) = self.full() {
            return Ok(ClaimResult::QueueFull(full));
        }
        let (now, channel, amount) = (self.now, tracked.row.payment.channel.clone(), tracked.row.payment.amount);
        let new_claim = self.insert(tx, &tracked.row.payment.merchant, IntentKind::Close, tracked.id, None)?;
        timeline::add(
            tx,
            tracked.id,
            None,
            TimelineEvent::Claimed { action: IntentKind::Close, channel, amount },
            now,
        )?;
        tracked.row.close = Some(new_claim.claim);
        tracked.save(tx)?;
        new_claim.result(tx, tracked.id, tracked.row.payment, None, now)
    }

    /// Binds another key to the claim of the same content.
    fn bind_key(self, tx: &mut Transaction<'_>, id: Id, mut claim: ClaimRow) -> Result<ClaimResult, LedgerError> {
        KeyRow { claim: id, fingerprint: self.fingerprint }.save(tx, self.name);
        // Only a running claim can be released, and then its keys are deleted with it. Later keys expire by
        // themselves, so that the claim stays small.
        if claim.state == State::Running && claim.job.is_none() {
            claim.names.push(self.name);
        } else {
            retention::index_for_expiry(tx, Kind::LateKeys, self.name, self.now);
        }
        claim.bound_at = Some(self.now);
        claim.save(tx, id)?;
        claim.repeat(tx)
    }

    /// Inserts a finished claim for a repetition of a request whose claim was purged. The caller gets the record's
    /// present state.
    fn insert_finished(
        self,
        tx: &mut Transaction<'_>,
        action: IntentKind,
        payment: Id,
        refund: Option<Id>,
    ) -> Result<Id, LedgerError> {
        self.insert_row(tx, action, payment, refund, State::Unknown, None)
    }

    fn full(&self) -> Option<QueueFull> {
        self.asynchronous.as_ref().and_then(|asynchronous| asynchronous.full)
    }

    /// Inserts a claim that runs now or is queued.
    fn insert(
        mut self,
        tx: &mut Transaction<'_>,
        merchant: &str,
        action: IntentKind,
        payment: Id,
        refund: Option<Id>,
    ) -> Result<NewClaim, LedgerError> {
        let now = self.now;
        let job = self.asynchronous.take().map(|asynchronous| asynchronous.job(action, now));
        let state = if job.is_some() { State::Queued } else { State::Running };
        let claim = self.insert_row(tx, action, payment, refund, state, job.clone())?;
        match &job {
            Some(job) => schedule_job(tx, claim, job, merchant),
            None => tx.put(Space::Running, &claim.0, []),
        }
        Ok(NewClaim { claim, action, is_queued: job.is_some() })
    }

    fn insert_row(
        self,
        tx: &mut Transaction<'_>,
        action: IntentKind,
        payment: Id,
        refund: Option<Id>,
        state: State,
        job: Option<Job>,
    ) -> Result<Id, LedgerError> {
        let id = tx.new_id(self.now);
        let names = vec![self.name];
        let (created_at, bound_at) = (self.now, None);
        ClaimRow { action, payment, refund, names, state, created_at, bound_at, job, execution: None }.save(tx, id)?;
        KeyRow { claim: id, fingerprint: self.fingerprint }.save(tx, self.name);
        Ok(id)
    }
}

/// Claim that was just inserted.
struct NewClaim {
    claim: Id,
    action: IntentKind,
    /// True if the claim waits in the queue.
    is_queued: bool,
}

impl NewClaim {
    /// Returns the result for the caller.
    fn result(
        self,
        tx: &mut Transaction<'_>,
        tracked: Id,
        payment: Payment,
        refund: Option<Refund>,
        now: Timestamp,
    ) -> Result<ClaimResult, LedgerError> {
        if !self.is_queued {
            let execution = ExecutionId { claim: self.claim, number: None };
            return Ok(ClaimResult::Run(ExecutionPermit::new(execution, payment, refund)));
        }
        let refund_id = refund.as_ref().map(|refund| refund.refund_id.as_str());
        timeline::add(tx, tracked, refund_id, TimelineEvent::Queued { action: self.action }, now)?;
        Ok(ClaimResult::Accepted(refund.map_or(Record::Payment(payment), Record::Refund)))
    }
}
