//! Rows of claims and idempotency keys, and when they may be purged.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::claim_guard::ExecutionId;
use crate::due_index::job_key;
use crate::error::{Corruption, LedgerError};
use crate::ids::Id;
use crate::names;
use crate::records::{Answer, ClaimResult, Job};
use crate::retention::{self, Expired};
use crate::rows::{PaymentRow, RefundRow, Target, TrackedRow};
use crate::timeline::IntentKind;
use crate::transaction::{Read, Space, Transaction};

/// Returns the rows of an expired claim: the claim and the keys it began with. `None` while the claim is retained.
pub(crate) fn expired(
    from: &impl Read,
    id: Id,
    is_over: impl Fn(Timestamp) -> bool,
) -> Result<Option<Expired>, LedgerError> {
    let Some(claim) = ClaimRow::load(from, id)? else { return Ok(None) };
    if !is_over(claim.bound_at.unwrap_or(claim.created_at)) || claim.is_open(from)? {
        return Ok(None);
    }
    let payment = TrackedRow::<PaymentRow>::load(from, claim.payment)?.map(|tracked| tracked.row.payment);
    let order = payment.map(|payment| names::order_lock(&payment.merchant, &payment.order_id));
    let mut keys = vec![(Space::Claims, id.0.to_vec())];
    keys.extend(claim.names.iter().map(|name| (Space::Keys, name.0.to_vec())));
    Ok(Some(Expired { names: claim.names.into_iter().chain(order).collect(), rows: keys }))
}

/// Returns whether the claim of a key is still open.
pub(crate) fn is_key_open(from: &impl Read, name: Id) -> Result<bool, LedgerError> {
    let Some(key) = KeyRow::load(from, name)? else { return Ok(false) };
    ClaimRow::load(from, key.claim)?.map_or(Ok(false), |claim| claim.is_open(from))
}

/// Row of an idempotency key: claim id and fingerprint, 48 bytes. Older ledgers have JSON, which is longer.
#[derive(Deserialize)]
pub(super) struct KeyRow {
    pub(super) claim: Id,
    pub(super) fingerprint: [u8; 32],
}

impl KeyRow {
    pub(super) fn load(from: &impl Read, name: Id) -> Result<Option<Self>, LedgerError> {
        let Some(bytes) = from.bytes(Space::Keys, &name.0)? else { return Ok(None) };
        match (bytes.first_chunk(), bytes.last_chunk(), bytes.len()) {
            (Some(claim), Some(fingerprint), 48) => Ok(Some(Self { claim: Id(*claim), fingerprint: *fingerprint })),
            _ => from.row(Space::Keys, &name.0),
        }
    }

    pub(super) fn save(&self, tx: &mut Transaction<'_>, name: Id) {
        tx.put(Space::Keys, &name.0, [&self.claim.0[..], &self.fingerprint].concat());
    }
}

/// Row of a claim.
#[derive(Serialize, Deserialize)]
pub(super) struct ClaimRow {
    #[serde(rename = "what")]
    pub(super) action: IntentKind,
    pub(super) payment: Id,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) refund: Option<Id>,
    /// Row ids of its keys.
    pub(super) names: Vec<Id>,
    pub(super) state: State,
    pub(super) created_at: Timestamp,
    /// Time at which the last further key was bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bound_at: Option<Timestamp>,
    /// The job, until it ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) job: Option<Job>,
    /// Number of the running execution of a job.
    #[serde(rename = "fencing_token", skip_serializing_if = "Option::is_none")]
    pub(super) execution: Option<Id>,
}

/// State of a claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    /// Waits to be dequeued.
    Queued,
    Running,
    Done(Answer),
    /// The result is the state of the record.
    Unknown,
}

impl ClaimRow {
    pub(super) fn load(from: &impl Read, id: Id) -> Result<Option<Self>, LedgerError> {
        from.row(Space::Claims, &id.0)
    }

    pub(super) fn must(from: &impl Read, id: Id) -> Result<Self, LedgerError> {
        Self::load(from, id)?.ok_or_else(|| Corruption::MissingRow(Space::Claims.name()).into())
    }

    pub(super) fn save(&self, tx: &mut Transaction<'_>, id: Id) -> Result<(), LedgerError> {
        tx.put_row(Space::Claims, &id.0, self)
    }

    /// Loads the claim if this execution of it is running.
    pub(super) fn running(from: &impl Read, execution: ExecutionId) -> Result<Option<Self>, LedgerError> {
        Ok(Self::load(from, execution.claim)?.filter(|claim| claim.runs(execution)))
    }

    pub(super) fn runs(&self, execution: ExecutionId) -> bool {
        self.state == State::Running && self.execution == execution.number
    }

    pub(super) fn end(mut self, tx: &mut Transaction<'_>, id: Id, state: State) -> Result<(), LedgerError> {
        match self.job.take() {
            Some(job) if self.state == State::Queued => unschedule_job(tx, id, &job),
            _ => tx.remove(Space::Running, &id.0),
        }
        self.state = state;
        self.save(tx, id)
    }

    pub(super) fn target(&self, from: &impl Read) -> Result<Target, LedgerError> {
        match self.refund {
            Some(refund) => TrackedRow::must(from, refund).map(Target::Refund),
            None => TrackedRow::must(from, self.payment).map(Target::Payment),
        }
    }

    /// Returns whether the claim runs, or its record is not final yet.
    fn is_open(&self, from: &impl Read) -> Result<bool, LedgerError> {
        if matches!(self.state, State::Queued | State::Running) {
            return Ok(true);
        }
        let is_open = match self.refund {
            Some(refund) => TrackedRow::<RefundRow>::load(from, refund)?
                .map(|tracked| retention::is_open(tracked.row.refund.status, tracked.row.refund.inquiry.as_ref())),
            None => TrackedRow::<PaymentRow>::load(from, self.payment)?
                .map(|tracked| retention::is_open(tracked.row.payment.status, tracked.row.payment.inquiry.as_ref())),
        };
        Ok(is_open.unwrap_or(false))
    }

    /// Returns the result of a repeated request.
    pub(super) fn repeat(self, from: &impl Read) -> Result<ClaimResult, LedgerError> {
        Ok(match &self.state {
            State::Queued => ClaimResult::Queued(self.target(from)?.record()),
            State::Running if self.job.is_some() => ClaimResult::Queued(self.target(from)?.record()),
            State::Running => ClaimResult::Running,
            State::Unknown => ClaimResult::AlreadyExists(self.target(from)?.record()),
            State::Done(answer) => ClaimResult::Replay(answer.clone()),
        })
    }
}

/// Adds a job to the due index.
pub(super) fn schedule_job(tx: &mut Transaction<'_>, id: Id, job: &Job, merchant: &str) {
    tx.put(Space::Jobs, &job_key(id, job), merchant.as_bytes());
    tx.wake();
}

/// Removes a job from the due index.
pub(super) fn unschedule_job(tx: &mut Transaction<'_>, id: Id, job: &Job) {
    tx.remove(Space::Jobs, &job_key(id, job));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::transaction::Value;

    struct One(Value);

    impl Read for One {
        fn bytes(&self, _: Space, _: &[u8]) -> Result<Option<Value>, LedgerError> {
            Ok(Some(self.0.clone()))
        }
    }

    #[test]
    fn key_row_is_read_as_written_and_in_the_json_of_older_ledgers() {
        let (claim, fingerprint) = (Id([0xab; 16]), [7; 32]);
        let written = [&claim.0[..], &fingerprint].concat();
        let older = serde_json::json!({ "claim": claim, "fingerprint": fingerprint }).to_string();
        for row in [written, older.into()] {
            let key = KeyRow::load(&One(row.into()), claim).unwrap().unwrap();
            assert_eq!((key.claim, key.fingerprint), (claim, fingerprint));
        }
        for wrong in ["", "{}", "0123456789abcdef0123456789abcdef0123456789abcde"] {
            assert!(KeyRow::load(&One(wrong.into()), claim).is_err());
        }
    }
}
