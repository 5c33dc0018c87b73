//! Money on a channel that a payment went away from: back to the payer, or to a person.

use tollgate_plugins::payment::{Status, provider_number};

use super::responses::body_of;
use super::{Gateway, refund};
use crate::clock;
use crate::config::Snapshot;
use crate::ledger::{
    Answer, ClaimKey, ClaimResult, Intent, LedgerError, MoneyState, Payment, Record, RecordId, Refund, TimelineEvent,
};
use crate::routing::DoublePayment;
use crate::telemetry::METRICS;

/// The refund's id; there is never more than one for what was left on one channel.
const REFUND_ID: &str = "double-payment";

/// Settles what was found there. False when nothing could be done yet: it is to be tried again.
pub(crate) async fn handle_duplicate(
    gateway: &Gateway,
    snapshot: &Snapshot,
    found: &Payment,
) -> Result<bool, LedgerError> {
    match snapshot.routes.double_payment {
        DoublePayment::Flag => {
            let why = "money was found on a channel that the payment had gone away from; give it back or deliver twice";
            ask_a_person(gateway, found, why).await?;
            Ok(true)
        }
        DoublePayment::Refund => give_back(gateway, snapshot, found).await,
    }
}

async fn give_back(gateway: &Gateway, snapshot: &Snapshot, found: &Payment) -> Result<bool, LedgerError> {
    let now = clock::now();
    // No request of a merchant has an empty path.
    let key = ClaimKey {
        merchant: found.merchant.clone(),
        method: String::new(),
        path: String::new(),
        key: found.order_id.clone(),
        fingerprint: [0; 32],
    };
    let mut ticket = match gateway.ledger.claim(key, Intent::Refund(draft(found)), now).await? {
        ClaimResult::Run(ticket) => ticket,
        // It was sent before; a search of its own finds out what became of it.
        ClaimResult::Replay(_) | ClaimResult::AlreadyExists(_) => return Ok(true),
        ClaimResult::Running => return Ok(false),
        other => {
            tracing::error!(order_id = found.order_id, ?other, "money on two channels cannot be given back");
            ask_a_person(gateway, found, "money on two channels could not be given back by itself").await?;
            return Ok(true);
        }
    };
    let patience = snapshot.channels.get(&found.channel).map(|channel| channel.upstream.timeouts().total);
    let result = refund::send(gateway, snapshot, &mut ticket, patience.unwrap_or_default()).await;
    let Some(news) = refund::news(&result) else {
        gateway.ledger.release(ticket).await?;
        return Ok(false);
    };
    let answer = |record: &Record| Answer { status: 201, content_type: String::new(), body: body_of(record) };
    let (record, _) = gateway.ledger.settle(ticket, news, now, answer).await?;
    if matches!(&record, Record::Refund(refund) if refund.status == Status::Failed) {
        ask_a_person(gateway, found, "the provider refused to give back money on two channels").await?;
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
        status: Status::Pending,
        money_state: MoneyState::NotSent,
        amount: found.amount,
        reason: None,
        channel: found.channel.clone(),
        provider_refund_id: None,
        provider_error: None,
        status_reason: None,
        version: 1,
        created_at: now,
        sent_at: None,
        updated_at: now,
        refunded_at: None,
        search: None,
    }
}

async fn ask_a_person(gateway: &Gateway, found: &Payment, why: &str) -> Result<(), LedgerError> {
    let (merchant, order_id) = (found.merchant.clone(), found.order_id.clone());
    let subject = RecordId { merchant, order_id, refund_id: None };
    gateway
        .ledger
        .append_timeline(&subject, vec![TimelineEvent::ManualReview { why: why.to_owned() }], clock::now())
        .await?;
    METRICS.manual_review_total.with_label_values(&[found.channel.as_str()]).inc();
    Ok(())
}
