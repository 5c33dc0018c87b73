//! State of the money of a payment or refund.

use serde::{Deserialize, Serialize};

/// State of the money, as far as it is certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MoneyState {
    /// No request left this machine.
    NotSent,
    /// A request was sent, and no trustworthy answer came.
    Unknown,
    /// The provider's verified answer says that money moved.
    Moved,
    /// The provider's verified answer says that no money moved (or not yet).
    NotMoved,
}
