//! Refunds made outside the gateway: sums that no provider can be queried about, and what a person must see.

use tollgate_ledger::{Record, RecordId, Refund, Update, merchants_order_id};
use tollgate_plugins::payment::Status;

use super::schedule::{MIN_INTERVAL, status_of};
use crate::clock;
use crate::operations::Gateway;
use crate::operator_events::{REFUNDED_ELSEWHERE, manual_review};

/// Reason for manual review.
const ABSENT_REFUND: &str =
    "the provider notified of a refund that its query does not find: look it up in the provider's console";

/// Settles a refund made elsewhere that needs no query, or only a sum of refunds, about which no provider can be
/// queried.
pub(super) async fn settle_without_query(gateway: &Gateway, refund: &Refund) {
    let subject = refund_subject(refund);
    match gateway.ledger.apply(&subject, Update::NotFoundAtProvider, clock::now()).await {
        Ok(after) => report_refund_elsewhere(&Record::Refund(refund.clone()), after.as_ref()),
        Err(error) => {
            tracing::error!(%error, order_id = subject.order_id, "a refund that was not made through this gateway could not be settled; this is retried");
            tokio::time::sleep(MIN_INTERVAL).await;
        }
    }
}

fn refund_subject(refund: &Refund) -> RecordId {
    let refund_id = Some(refund.refund_id.clone());
    RecordId { merchant: refund.merchant.clone(), order_id: refund.order_id.clone(), refund_id }
}

/// Logs what a query has shown about a refund made elsewhere, if a person must look at it.
pub(super) fn report_refund_elsewhere(before: &Record, after: Option<&Record>) {
    let (Record::Refund(before), Some(Record::Refund(after))) = (before, after) else { return };
    if !after.is_elsewhere() {
        return;
    }
    let (order_id, number) = (merchants_order_id(&after.order_id), &after.provider_refund_no);
    let is_counted = match after.is_known_by_sum() {
        true => after.amount.value > before.amount.value,
        false => after.status == Status::Succeeded && before.status != Status::Succeeded,
    };
    if is_counted {
        tracing::error!(
            channel = after.channel,
            order_id,
            number,
            amount = %after.amount,
            "{REFUNDED_ELSEWHERE}"
        );
        manual_review(&refund_subject(after), &after.channel, REFUNDED_ELSEWHERE);
    }
}

/// Logs that the provider's query does not find a refund that the provider notified of.
pub(super) fn report_absent_refund(after: Option<&Record>) {
    let Some(Record::Refund(refund)) = after.filter(|after| !status_of(after).is_final()) else { return };
    if !refund.is_elsewhere() {
        return;
    }
    let order_id = merchants_order_id(&refund.order_id);
    tracing::error!(channel = refund.channel, order_id, number = refund.provider_refund_no, "{ABSENT_REFUND}");
    manual_review(&refund_subject(refund), &refund.channel, ABSENT_REFUND);
}
