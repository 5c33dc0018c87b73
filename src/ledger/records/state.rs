//! State that payments and refunds share.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tollgate_plugins::error::ProviderError;
use tollgate_plugins::payment::Status;

use super::inquiry::Inquiry;
use super::money_state::MoneyState;

/// State of a payment or refund. Stored among the record's own fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordState {
    /// Status of the record.
    pub status: Status,
    /// State of the money, as far as it is certain.
    pub money_state: MoneyState,
    /// Provider's error code and message of a refusal or of an answer that left the result open. A payment's is
    /// cleared when money has moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider_error: Option<ProviderError>,
    /// The gateway's reason for the status, where the provider gave no error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_reason: Option<String>,
    /// Version, which each change increments by one.
    pub version: u64,
    /// Time of the claim.
    pub created_at: Timestamp,
    /// Time at which the request was first sent, where a query or a later request names this time. Never changes once a
    /// request may have left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<Timestamp>,
    /// Time of the last change.
    pub updated_at: Timestamp,
    /// State of the inquiry, while the result is open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inquiry: Option<Inquiry>,
}

impl RecordState {
    /// Returns the state of a record of which nothing was sent.
    pub fn new(now: Timestamp) -> Self {
        Self {
            status: Status::Pending,
            money_state: MoneyState::NotSent,
            provider_error: None,
            status_reason: None,
            version: 1,
            created_at: now,
            sent_at: None,
            updated_at: now,
            inquiry: None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::records::{Payment, Refund};
    use crate::testing::{a_payment, a_refund};

    #[test]
    fn state_is_stored_among_the_fields_of_its_record() {
        let (payment, refund) = (a_payment("o"), a_refund("o", "r", 10));
        for row in [serde_json::to_value(&payment).unwrap(), serde_json::to_value(&refund).unwrap()] {
            assert_eq!((row["status"].as_str(), row["version"].as_u64()), (Some("pending"), Some(1)), "{row}");
            assert!(row.get("state").is_none() && row["money_state"] == "not_sent", "{row}");
        }
        let row = serde_json::to_string(&payment).unwrap();
        assert_eq!(serde_json::from_str::<Payment>(&row).unwrap(), payment);
        let row = serde_json::to_string(&refund).unwrap();
        assert_eq!(serde_json::from_str::<Refund>(&row).unwrap(), refund);
    }
}
