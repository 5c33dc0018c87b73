//! A payment or a refund, and its key.

use serde::{Deserialize, Serialize};

use super::payment::Payment;
use super::refund::Refund;
use super::state::RecordState;

/// Key of a payment or refund.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RecordId {
    /// Merchant that owns the record.
    pub merchant: String,
    /// Order id of the payment.
    pub order_id: String,
    /// Id of the refund, if the record is a refund.
    pub refund_id: Option<String>,
}

/// A payment or a refund.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// A payment.
    Payment(Payment),
    /// A refund.
    Refund(Refund),
}

impl Record {
    /// Returns the state that payments and refunds share.
    pub fn state(&self) -> &RecordState {
        match self {
            Self::Payment(payment) => &payment.state,
            Self::Refund(refund) => &refund.state,
        }
    }

    /// Returns the state for changes.
    pub fn state_mut(&mut self) -> &mut RecordState {
        match self {
            Self::Payment(payment) => &mut payment.state,
            Self::Refund(refund) => &mut refund.state,
        }
    }

    /// Returns whether the provider's repeated "not found" ends the record.
    pub fn ends_by_absence(&self) -> bool {
        match self {
            Self::Payment(payment) => payment.ends_by_absence(),
            Self::Refund(refund) => refund.ends_by_absence(),
        }
    }
}
