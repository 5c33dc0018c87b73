//! Duplicate payment: money found on a channel that its payment was moved away from.

use super::environment::{Measurement, Metrics};

/// Money found on a channel that its payment was moved away from.
pub(super) struct DoublePayment {
    pub(super) order_id: String,
    pub(super) channel: String,
}

impl DoublePayment {
    /// Counts and logs the duplicate payment. Called only after the commit, because a transaction may be retried or
    /// rolled back.
    pub(super) fn report(&self, metrics: &dyn Metrics) {
        metrics.record(Measurement::DoublePayment { channel: &self.channel });
        tracing::error!(
            order_id = self.order_id,
            channel = self.channel,
            "money is on a channel that the payment left"
        );
    }
}
