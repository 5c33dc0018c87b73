//! One attempt to return money.

use std::ops::{Deref, DerefMut};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tollgate_plugins::payment::{Money, Status};

use super::money_state::MoneyState;
use super::state::RecordState;

/// One attempt to return money.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refund {
    /// Merchant that owns the refund.
    pub merchant: String,
    /// The payment's order id.
    pub order_id: String,
    /// The merchant's own number of the refund.
    pub refund_id: String,
    /// The number that the provider sees.
    pub provider_refund_no: String,
    /// See [`Payment::content`](super::payment::Payment::content).
    pub content: String,
    /// Status, versions, times and inquiry.
    #[serde(flatten)]
    pub state: RecordState,
    /// Amount to be returned.
    pub amount: Money,
    /// Reason that the payer sees.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Channel of the payment.
    pub channel: String,
    /// The provider's own number of the refund.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider_refund_id: Option<String>,
    /// Time at which the money moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refunded_at: Option<Timestamp>,
}

impl Refund {
    /// Returns whether the provider's repeated "not found" ends the refund: its status is unknown, or it was accepted
    /// by an answer that does not prove that the provider has it.
    pub(crate) fn ends_by_absence(&self) -> bool {
        match self.status {
            Status::Unknown => true,
            Status::Pending => self.money_state != MoneyState::NotSent && !self.is_confirmed(),
            _ => false,
        }
    }

    /// Returns whether the provider has confirmed the refund, by a number of its own or in answer to a query.
    pub(crate) fn is_confirmed(&self) -> bool {
        self.provider_refund_id.is_some() || self.inquiry.as_ref().is_some_and(|inquiry| inquiry.confirmed)
    }
}

/// The fields of its [`state`](Refund::state) are read and changed as the record's own.
impl Deref for Refund {
    type Target = RecordState;

    fn deref(&self) -> &RecordState {
        &self.state
    }
}

impl DerefMut for Refund {
    fn deref_mut(&mut self) -> &mut RecordState {
        &mut self.state
    }
}
