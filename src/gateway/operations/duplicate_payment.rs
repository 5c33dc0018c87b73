//! Refunds or flags money that arrived on a channel which the payment had left.

use tollgate_ledger::{
    Answer, ClaimKey, ClaimResult, Intent, LedgerError, Payment, Record, RecordId, RecordState, Refund, TimelineEvent,
};
use tollgate_plugins::payment::{Status, provider_number};

use super::responses::body_of;
use super::{Gateway, refund};
use crate::clock;
use crate::operator_events::manual_review;
use crate::routing::DoublePayment;
use crate::snapshot::Snapshot;

/// Refund id of the automatic refund. Each abandoned attempt has at most one.
const REFUND_ID: &str = "double-payment";

/// Handles money found on an abandoned channel. Returns false if nothing could be done yet and a retry is due.
pub(crate) async fn handle_duplicate(
    gateway: &Gateway,
    snapshot: &Snapshot,
    found: &Payment,
) -> Result<bool, LedgerError> {
    match snapshot.routes.double_payment() {
        DoublePayment::Flag => {
            let why = "money arrived on a channel that the payment had left; refund it or deliver twice";
            require_manual_review(gateway, found, why).await?;
            Ok(true)
        }
        DoublePayment::Refund => refund_duplicate(gateway, snapshot, found).await,
    }
}

async fn refund_duplicate(gateway: &Gateway, snapshot: &Snapshot, found: &Payment) -> Result<bool, LedgerError> {
    let now = clock::now();
    // An empty path cannot collide with a merchant's request.
    let key = ClaimKey {
        merchant: found.merchant.clone(),
        method: String::new(),
        path: String::new(),
        key: found.order_id.clone(),
        fingerprint: [0; 32],
    };
    let mut permit = match gateway.ledger.claim(key, Intent::Refund(draft(found)), now).await? {
        ClaimResult::Run(permit) => permit,
        // The refund was sent before; its own inquiry determines the outcome.
        ClaimResult::Replay(_) | ClaimResult::AlreadyExists(_) => return Ok(true),
        ClaimResult::Running => return Ok(false),
        unexpected => {
            tracing::error!(
                order_id = found.order_id,
                ?unexpected,
                "a duplicate payment cannot be refunded automatically; refund it manually"
            );
            require_manual_review(gateway, found, "the duplicate payment could not be refunded automatically").await?;
            return Ok(true);
        }
    };
    let timeout = snapshot.channels.get(&found.channel).map(|channel| channel.upstream.timeouts().total);
    let Ok(conclusion) = refund::send_refund(gateway, snapshot, &mut permit, timeout.unwrap_or_default()).await else {
        gateway.ledger.release(permit).await?;
        return Ok(false);
    };
    let answer = |record: &Record| Answer { status: 201, content_type: String::new(), body: body_of(record) };
    let (record, _) = gateway.ledger.settle(permit, conclusion.update, now, answer).await?;
    if matches!(&record, Record::Refund(refund) if refund.status == Status::Failed) {
        require_manual_review(gateway, found, "the provider refused to refund the duplicate payment").await?;
    }
    Ok(true)
}

fn draft(found: &Payment) -> Refund {
    let now = clock::now();
    Refund {
        merchant: found.merchant.clone(),
        order_id: found.order_id.clone(),
        refund_id: REFUND_ID.to_owned(),
        provider_refund_no: provider_number(&[&found.merchant, &found.order_id, REFUND_ID]),
        content: REFUND_ID.to_owned(),
        amount: found.amount,
        reason: None,
        channel: found.channel.clone(),
        provider_refund_id: None,
        refunded_at: None,
        state: RecordState::new(now),
    }
}

async fn require_manual_review(gateway: &Gateway, found: &Payment, why: &str) -> Result<(), LedgerError> {
    let (merchant, order_id) = (found.merchant.clone(), found.order_id.clone());
    let subject = RecordId { merchant, order_id, refund_id: None };
    gateway
        .ledger
        .append_timeline(&subject, vec![TimelineEvent::ManualReview { why: why.to_owned() }], clock::now())
        .await?;
    manual_review(&subject, &found.channel, why);
    Ok(())
}
