//! Lock scope of a transaction. Two transactions about one order never run at the same time.

use super::ids::{Id, index};
use super::records::{ClaimKey, Intent, LedgerError, Payment, RecordId, Refund, merchants_order_id};
use super::rows::{PaymentRow, TrackedRow};
use super::transaction::Read;
use super::{claims, outbox};

/// What a transaction locks.
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
        Self::Names(vec![name(merchant, order_id)])
    }

    pub(super) fn subject(subject: &RecordId) -> Self {
        Self::order(&subject.merchant, &subject.order_id)
    }

    /// Returns the scope of a claim: its order and its key, which may already belong to another order.
    pub(super) fn claim(key: &ClaimKey, intent: &Intent) -> Self {
        let (Intent::Pay(Payment { merchant, order_id, .. })
        | Intent::Refund(Refund { merchant, order_id, .. })
        | Intent::Close(RecordId { merchant, order_id, .. })) = intent;
        Self::Names(vec![claims::key_name(key), name(merchant, order_id)])
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
            Self::Number(number) => index_of(from, number)?,
            Self::Event(event) => outbox::payment_of(from, event)?,
        };
        let Some(payment) = payment else { return Ok(None) };
        let payment = TrackedRow::<PaymentRow>::load(from, payment)?;
        Ok(payment.map(|tracked| vec![name(&tracked.row.payment.merchant, &tracked.row.payment.order_id)]))
    }
}

/// Returns the lock of an order and its abandoned attempts.
pub(super) fn name(merchant: &str, order_id: &str) -> Id {
    index("order", &[merchant, merchants_order_id(order_id)])
}

fn index_of(from: &impl Read, number: &str) -> Result<Option<Id>, LedgerError> {
    Ok(super::rows::payment_by_number(from, number)?.map(|tracked| tracked.id))
}
