//! Where the money of a payment or refund is.

use serde::{Deserialize, Serialize};

/// Where the money is, as far as it is certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MoneyState {
    /// Nothing left this machine.
    NotSent,
    /// Something was sent, and no trustworthy answer came.
    Unknown,
    /// The provider's verified answer says that money moved.
    Moved,
    /// The provider's verified answer says that no money moved (or not yet).
    NotMoved,
}
