//! Lock scope of a transaction. Two transactions about one order never run at the same time.

use super::claims;
use super::error::LedgerError;
use super::ids::Id;
use super::names::{key_name, order_lock};
use super::outbox;
use super::records::{ClaimKey, Intent, Payment, RecordId, Refund};
use super::rows::{self, PaymentRow, TrackedRow};
use super::transaction::Read;

/// Scope that a transaction locks.
#[derive(Clone, Debug)]
pub(super) enum LockScope {
    /// These names, in any order.
    Names(Vec<Id>),
    /// The order of a claim.
    Claim(Id),
    /// The order with this number at its provider.
    Number(String),
    /// The order of an event.
    Event(String),
}

impl LockScope {
    pub(super) fn order(merchant: &str, order_id: &str) -> Self {
        Self::Names(vec![order_lock(merchant, order_id)])
    }

    pub(super) fn subject(subject: &RecordId) -> Self {
        Self::order(&subject.merchant, &subject.order_id)
    }

    /// Returns the scope of a claim: its order and its key, which may already belong to another order.
    pub(super) fn claim(key: &ClaimKey, intent: &Intent) -> Self {
        let (Intent::Pay(Payment { merchant, order_id, .. })
        | Intent::Refund(Refund { merchant, order_id, .. })
        | Intent::Close(RecordId { merchant, order_id, .. })) = intent;
        Self::Names(vec![key_name(key), order_lock(merchant, order_id)])
    }

    /// Returns the names to lock, always sorted, so that no deadlock arises. `None` if the record does not exist.
    pub(super) fn names(&self, from: &impl Read) -> Result<Option<Vec<Id>>, LedgerError> {
        let payment = match self {
            Self::Names(names) => {
                let mut names = names.clone();
                names.sort();
                return Ok(Some(names));
            }
            Self::Claim(claim) => claims::payment_of(from, *claim)?,
            Self::Number(number) => rows::payment_by_number(from, number)?.map(|tracked| tracked.id),
            Self::Event(event) => return Ok(outbox::lock_of(from, event)?.map(|lock| vec![lock])),
        };
        let Some(payment) = payment else { return Ok(None) };
        let payment = TrackedRow::<PaymentRow>::load(from, payment)?;
        Ok(payment.map(|tracked| vec![order_lock(&tracked.row.payment.merchant, &tracked.row.payment.order_id)]))
    }
}
