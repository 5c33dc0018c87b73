//! One attempt to return money.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tollgate_plugins::error::ProviderError;
use tollgate_plugins::payment::{Money, Status};

use super::inquiry::Inquiry;
use super::money_state::MoneyState;

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
    /// See [`Payment::content`].
    pub content: String,
    /// Status of the refund.
    pub status: Status,
    /// What is certain about the money.
    pub money_state: MoneyState,
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
    /// Provider's error code and message at the start or the end of the refund.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider_error: Option<ProviderError>,
    /// The gateway's reason for the status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_reason: Option<String>,
    /// Version, which each change increments by one.
    pub version: u64,
    /// When it was claimed.
    pub created_at: Timestamp,
    /// When the request was first sent; part of some providers' requests and queries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<Timestamp>,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When the money moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refunded_at: Option<Timestamp>,
    /// State of the inquiry, while the result is open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search: Option<Inquiry>,
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
        self.provider_refund_id.is_some() || self.search.as_ref().is_some_and(|search| search.confirmed)
    }
}
