//! Creates a refund, at most once per idempotency key: parse → claim → execute.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use jiff::Timestamp;
use tollgate_ledger::{ClaimResult, ExecutionPermit, Intent, Record, RecordState, Refund, Update};
use tollgate_plugins::error::Error;
use tollgate_plugins::payment::{Operation, Outcome, provider_number};

use super::claim_key::claim_key;
use super::execution::{Conclusion, ExecutionContext, conclude, new_record_answer, settle_and_respond};
use super::request_body::{NewRefund, idempotency_key, is_identifier};
use super::responses::{respond_ledger_failure, respond_to_claim, task_failed};
use super::{Gateway, RequestContext, query, respond_async};
use crate::clock;
use crate::problem::Problem;
use crate::snapshot::Snapshot;

/// `POST /v1/payments/{order_id}/refunds`. The channel is the payment's, so nothing is routed.
pub(super) async fn create_refund(
    gateway: &Arc<Gateway>,
    request: &RequestContext,
    order_id: &str,
) -> Result<Response<Bytes>, Problem> {
    let is_async = respond_async::is_preferred(&request.incoming.headers);
    let now = clock::now();

    // Parse.
    if !is_identifier(order_id) {
        return Err(Problem::not_found("There is no such payment."));
    }
    let key = claim_key(request, idempotency_key(&request.incoming.headers)?);
    let input = NewRefund::read(&request.incoming.body)?;

    // Claim.
    let refund = new_refund(&request.merchant.name, order_id, &input, now);
    let content = refund.content.clone();
    let permit = match respond_async::claim(gateway, request, key, Intent::Refund(refund), now).await {
        Ok(ClaimResult::Run(permit)) => permit,
        Ok(other) => return respond_to_claim(other, order_id, StatusCode::CREATED, is_async, None),
        Err(error) => {
            let recorded = gateway.ledger.refund(&request.merchant.name, order_id, &input.refund_id).await;
            let recorded = recorded
                .map(|recorded| recorded.map(|recorded| (recorded.content == content, Record::Refund(recorded))));
            return respond_ledger_failure(&error, recorded, order_id, None);
        }
    };

    // Filters, provider call, settle, respond.
    tokio::spawn(execute_refund(Arc::clone(gateway), request.execution_context(), permit))
        .await
        .unwrap_or_else(|_| Err(task_failed().order(order_id)))
}

/// Executes a claimed refund, synchronous or queued: filters → provider call → settle → respond.
pub(super) async fn execute_refund(
    gateway: Arc<Gateway>,
    context: ExecutionContext,
    mut permit: ExecutionPermit,
) -> Result<Response<Bytes>, Problem> {
    let order_id = permit.subject.order_id.clone();
    match send_refund(&gateway, &context.snapshot, &mut permit, context.remaining()).await {
        Ok(conclusion) => Ok(settle_and_respond(&gateway, &context, permit, conclusion, None, new_record_answer).await),
        Err(error) => {
            let ended = respond_async::requeue_or_release(&gateway, permit, &error).await;
            ended.map_err(|error| Problem::ledger(&error).order(order_id.clone()))?;
            Err(Problem::from_exchange(&error).order(order_id))
        }
    }
}

/// Sends a claimed refund and concludes from the result. The error is of a call that provably executed nothing.
pub(super) async fn send_refund(
    gateway: &Gateway,
    snapshot: &Snapshot,
    permit: &mut ExecutionPermit,
    timeout: Duration,
) -> Result<Conclusion, Error> {
    let result = call_provider(gateway, snapshot, permit, timeout).await;
    match result {
        // The provider does not know the payment, so it refunded nothing.
        Err(Error::NotFound(provider_error)) => Ok(Conclusion {
            update: Update::Declined(provider_error.clone()),
            error: Some(Error::NotFound(provider_error)),
        }),
        other => conclude(other),
    }
}

async fn call_provider(
    gateway: &Gateway,
    snapshot: &Snapshot,
    permit: &mut ExecutionPermit,
    timeout: Duration,
) -> Result<Outcome, Error> {
    let channel = query::channel_for(snapshot, &permit.payment)?;
    let refund = permit.refund.as_ref().ok_or_else(|| Error::NotSent("the claim has no refund".to_owned()))?;
    let operation = Operation::Refund(query::refund_operation(snapshot, &permit.payment, refund));
    gateway.call_provider(channel, &operation, timeout, permit).await
}

/// Returns the refund to claim. The ledger adds the payment's channel.
fn new_refund(merchant: &str, order_id: &str, input: &NewRefund, now: Timestamp) -> Refund {
    Refund {
        provider_refund_no: provider_number(&[merchant, order_id, &input.refund_id]),
        content: input.digest(),
        merchant: merchant.to_owned(),
        order_id: order_id.to_owned(),
        refund_id: input.refund_id.clone(),
        amount: input.amount,
        reason: input.reason.clone(),
        channel: String::new(),
        provider_refund_id: None,
        refunded_at: None,
        state: RecordState::new(now),
    }
}
