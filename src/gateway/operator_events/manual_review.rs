//! Payments and refunds that need a person.

use tollgate_config::OperatorEventType;
use tollgate_ledger::{RecordId, merchants_order_id};

use super::event::{Details, OperatorEvent};
use super::queue::emit;
use crate::telemetry::METRICS;

/// Reason for manual review, found by a notification or by a query.
pub(crate) const REFUNDED_ELSEWHERE: &str =
    "the payer received a refund that was not made through this gateway: compare it manually with the sale";

/// Counts a payment or refund that needs manual review, and emits an operator event.
pub(crate) fn manual_review(subject: &RecordId, channel: &str, why: &str) {
    METRICS.manual_review_total.with_label_values(&[channel]).inc();
    let details = Details {
        cause: why.to_owned(),
        channel: channel.to_owned(),
        merchant: subject.merchant.clone(),
        order_id: merchants_order_id(&subject.order_id).to_owned(),
        refund_id: subject.refund_id.clone(),
        ..Details::default()
    };
    emit([OperatorEvent::new(OperatorEventType::ManualReview, details)]);
}
