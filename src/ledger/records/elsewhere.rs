//! Records of refunds that were made outside this gateway.

use serde::{Deserialize, Serialize};
use tollgate_plugins::payment::Status;

use super::Refund;

/// Prefix of the refund id of a refund that was made outside this gateway. The provider's number follows. Merchants
/// cannot address such a record, because their refund ids contain no `/`.
pub const ELSEWHERE_PREFIX: &str = "elsewhere/";

impl Refund {
    /// Returns whether the refund was made outside this gateway. No merchant sees it. Its amount is 0 until the
    /// provider names it.
    pub fn is_elsewhere(&self) -> bool {
        self.refund_id.starts_with(ELSEWHERE_PREFIX)
    }

    /// Returns whether the record stands for refunds of which only the sum is known, so that no provider can be
    /// queried.
    pub fn is_known_by_sum(&self) -> bool {
        self.refund_id == ELSEWHERE_PREFIX
    }

    /// Returns whether no query is needed: nobody can be queried, or a verified message has proved the amount and only
    /// the payment's own result is missing.
    pub fn needs_no_query(&self) -> bool {
        let is_proven = self.status == Status::Unknown && self.amount.value > 0;
        self.is_elsewhere() && (self.is_known_by_sum() || is_proven)
    }
}

/// Further state of a refund made elsewhere, in minor units.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct ElsewhereState {
    /// Highest sum of all refunds of the payment that a notification about this refund named.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) total: u64,
    /// Part of the payment row's `refunding` that the refund reserves while its amount is unknown.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) reserved: u64,
}

fn is_zero(sum: &u64) -> bool {
    *sum == 0
}
