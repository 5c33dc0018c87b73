//! Outcomes of operations, and events of notifications.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Money;
use crate::error::ProviderError;

/// Status of a payment or refund.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The provider accepted the request; not final.
    Pending,
    /// Money moved; final.
    Succeeded,
    /// No money moved; final.
    Failed,
    /// Ended unpaid; final.
    Closed,
    /// A request was sent and no trustworthy response came. Only the gateway sets this status, never a provider.
    Unknown,
}

impl Status {
    /// Returns whether the status can no longer change.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Closed)
    }

    /// Returns the status's name, as in responses and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Closed => "closed",
            Self::Unknown => "unknown",
        }
    }
}

/// Next step of the payer's device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum NextAction {
    /// Show a QR code.
    Qr {
        /// Content of the code.
        data: String,
    },
    /// Call the provider's JavaScript API.
    Jsapi {
        /// Signed parameters, with the provider's names.
        params: BTreeMap<String, String>,
    },
    /// Call the provider's SDK in the app.
    App {
        /// Signed parameters, with the provider's names.
        params: BTreeMap<String, String>,
    },
    /// Redirect the payer's browser.
    Redirect {
        /// Target of the redirect.
        url: String,
    },
    /// Submit a form with `POST` in the payer's browser.
    Form {
        /// Target of the form.
        url: String,
        /// Fields of the form.
        fields: BTreeMap<String, String>,
    },
}

/// Result of an operation, from a verified response or notification of the provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Status; never [`Status::Unknown`].
    pub status: Status,
    /// Provider's own number of the payment or refund.
    pub provider_id: Option<String>,
    /// Amount that the provider names. If present, it must equal the requested amount.
    pub amount: Option<Money>,
    /// Next step of the payer's device.
    pub action: Option<NextAction>,
    /// Time at which the money moved.
    pub at: Option<Timestamp>,
    /// Reason for a manual review, if the provider cannot finish the operation by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needs_review: Option<String>,
    /// True if the provider requires the reversal of a failed scanned payment. Until then the payer may have been charged, so
    /// the status is [`Status::Pending`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub needs_reversal: bool,
    /// Provider's code and message that explain the status, if given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<ProviderError>,
}

impl Outcome {
    /// Returns an outcome with this status and no other data.
    pub fn of(status: Status) -> Self {
        Self {
            status,
            provider_id: None,
            amount: None,
            action: None,
            at: None,
            needs_review: None,
            needs_reversal: false,
            reason: None,
        }
    }
}

/// Decoded notification of a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Deduplication id: equal for every repetition of the notification. The ledger prefixes it with the channel's name.
    pub id: String,
    /// Number of the order.
    pub order_number: String,
    /// Number of the refund, if the notification concerns a refund.
    pub refund_number: Option<String>,
    /// Outcome of the order or refund; `None` if the notification alone is not sufficient evidence, and a query must follow.
    pub outcome: Option<Outcome>,
    /// Amount that a notification without an outcome names. A wrong amount causes no query.
    pub amount: Option<Money>,
    /// Refund data. Used only for a refund that was not created by this gateway.
    pub refunded: Option<Refunded>,
}

/// State of a refund's money in a notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refunded {
    /// Amount that this refund returned to the payer.
    Part(Money),
    /// Amount that all refunds of the order together returned to the payer.
    Total(Money),
    /// The refund failed; final. The merchant keeps the money.
    Failed,
    /// The provider cannot finish the refund by itself. A person must finish it in the provider's console.
    Abnormal,
    /// The refund is pending, or the notification does not name its state.
    Open,
}

impl fmt::Display for Refunded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Part(money) => write!(f, "part {money}"),
            Self::Total(money) => write!(f, "total {money}"),
            Self::Failed => f.write_str("failed"),
            Self::Abnormal => f.write_str("abnormal"),
            Self::Open => f.write_str("open"),
        }
    }
}
