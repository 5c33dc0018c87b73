//! Creates a refund, at most once per idempotency key.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use tollgate_plugins::error::Error;
use tollgate_plugins::payment::{Operation, Outcome, provider_number};

use super::claim_key::claim_key;
use super::request_body::{NewRefund, idempotency_key, is_identifier};
use super::responses::{respond_ledger_failure, respond_to_claim, task_failed};
use super::{ExecutionContext, Gateway, RequestContext, pay, query, respond_async};
use crate::clock;
use crate::config::Snapshot;
use crate::ledger::{ClaimResult, ExecutionPermit, Intent, Record, RecordState, Refund, Update};
use crate::problem::Problem;

/// `POST /v1/payments/{order_id}/refunds`.
pub(super) async fn create(
    gateway: &Arc<Gateway>,
    request: &Arc<RequestContext>,
    order_id: &str,
) -> Result<Response<Bytes>, Problem> {
    if !is_identifier(order_id) {
        return Err(Problem::not_found("There is no such payment."));
    }
    let key = claim_key(request, idempotency_key(&request.incoming.headers)?);
    let input = NewRefund::read(&request.incoming.body)?;
    let merchant = request.merchant.name.clone();
    let now = clock::now();
    let draft = Refund {
        provider_refund_no: provider_number(&[&merchant, order_id, &input.refund_id]),
        content: input.digest(),
        merchant,
        order_id: order_id.to_owned(),
        refund_id: input.refund_id.clone(),
        amount: input.amount,
        reason: input.reason.clone(),
        channel: String::new(),
        provider_refund_id: None,
        refunded_at: None,
        state: RecordState::new(now),
    };
    let content = draft.content.clone();
    let permit = match respond_async::claim(gateway, request, key, Intent::Refund(draft), now).await {
        Ok(ClaimResult::Run(permit)) => permit,
        Ok(other) => {
            return respond_to_claim(
                other,
                order_id,
                StatusCode::CREATED,
                respond_async::is_preferred(&request.incoming.headers),
            );
        }
        Err(error) => {
            let recorded = gateway.ledger.refund(&request.merchant.name, order_id, &input.refund_id).await;
            let recorded = recorded
                .map(|recorded| recorded.map(|recorded| (recorded.content == content, Record::Refund(recorded))));
            return respond_ledger_failure(&error, recorded, order_id);
        }
    };
    tokio::spawn(finish(Arc::clone(gateway), request.execution_context(), permit))
        .await
        .unwrap_or_else(|_| Err(task_failed()))
}

/// Executes a claimed refund, records the result and responds.
pub(super) async fn finish(
    gateway: Arc<Gateway>,
    context: ExecutionContext,
    mut permit: ExecutionPermit,
) -> Result<Response<Bytes>, Problem> {
    let order_id = permit.subject.order_id.clone();
    let result = send(&gateway, &context.snapshot, &mut permit, context.remaining()).await;
    let Some(update) = update_of(&result) else {
        let error = result.err().unwrap_or_else(|| Error::NotSent(String::new()));
        respond_async::requeue_or_release(&gateway, permit, &error).await.map_err(|error| Problem::ledger(&error))?;
        return Err(Problem::from_exchange(&error).order(order_id));
    };
    pay::record_and_respond(&gateway, &context, permit, update, result.err()).await
}

/// Sends a claimed refund.
pub(super) async fn send(
    gateway: &Gateway,
    snapshot: &Snapshot,
    permit: &mut ExecutionPermit,
    timeout: Duration,
) -> Result<Outcome, Error> {
    let channel = query::channel_for(snapshot, &permit.payment)?;
    let refund = permit.refund.as_ref().ok_or_else(|| Error::NotSent("the claim has no refund".to_owned()))?;
    let operation = Operation::Refund(query::refund_operation(snapshot, &permit.payment, refund));
    gateway.execute(permit.execution, channel, &operation, timeout, &mut permit.evidence).await
}

/// Returns the update that the result implies; `None` if provably nothing was executed.
pub(super) fn update_of(result: &Result<Outcome, Error>) -> Option<Update> {
    match result {
        Ok(outcome) => Some(Update::Outcome(outcome.clone())),
        Err(error) if error.provably_not_executed() => None,
        Err(Error::Declined(provider_error) | Error::NotFound(provider_error)) => {
            Some(Update::Declined(provider_error.clone()))
        }
        Err(error) => Some(Update::Unknown(error.into())),
    }
}
