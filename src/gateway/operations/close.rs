//! Closes an unpaid payment, at most once per idempotency key: parse → claim → execute.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use tollgate_ledger::{Answer, ClaimResult, ExecutionPermit, Intent, Record, RecordId};
use tollgate_plugins::error::Error;
use tollgate_plugins::payment::{Operation, Outcome, Status};

use super::claim_key::claim_key;
use super::execution::{ExecutionContext, conclude, settle_and_respond};
use super::request_body::{idempotency_key, is_identifier, require_empty_body};
use super::responses::{body_of, invalid_state, respond_to_claim, task_failed};
use super::watch_token::TokenKey;
use super::{Gateway, RequestContext, query, respond_async};
use crate::clock;
use crate::problem::Problem;
use crate::snapshot::Channel;

/// `POST /v1/payments/{order_id}/close`. The channel is the payment's, so nothing is routed.
pub(super) async fn close_payment(
    gateway: &Arc<Gateway>,
    request: &RequestContext,
    order_id: &str,
) -> Result<Response<Bytes>, Problem> {
    let is_async = respond_async::is_preferred(&request.incoming.headers);

    // Parse.
    if !is_identifier(order_id) {
        return Err(Problem::not_found("There is no such payment."));
    }
    let key = claim_key(request, idempotency_key(&request.incoming.headers)?);
    require_empty_body(&request.incoming.body)?;

    // Claim.
    let merchant = request.merchant.name.clone();
    let subject = RecordId { merchant, order_id: order_id.to_owned(), refund_id: None };
    let permit = match respond_async::claim(gateway, request, key, Intent::Close(subject), clock::now()).await {
        Ok(ClaimResult::Run(permit)) => permit,
        Ok(ClaimResult::AlreadyExists(record)) => {
            let success = success_status(&record);
            return respond_to_claim(ClaimResult::AlreadyExists(record), order_id, success, is_async, None);
        }
        Ok(other) => return respond_to_claim(other, order_id, StatusCode::OK, is_async, None),
        Err(error) => return Err(Problem::ledger_unknown(&error).order(order_id)),
    };

    // Filters, provider call, settle, respond.
    tokio::spawn(execute_close(Arc::clone(gateway), request.execution_context(), permit))
        .await
        .unwrap_or_else(|_| Err(task_failed().order(order_id)))
}

/// Executes a claimed close, synchronous or queued: filters → provider call → settle → respond.
pub(super) async fn execute_close(
    gateway: Arc<Gateway>,
    context: ExecutionContext,
    mut permit: ExecutionPermit,
) -> Result<Response<Bytes>, Problem> {
    let order_id = permit.subject.order_id.clone();
    let result = match query::channel_for(&context.snapshot, &permit.payment) {
        Ok(channel) => close_or_query(&gateway, &context, channel, &mut permit).await,
        Err(error) => Err(error),
    };
    match conclude(result) {
        Ok(conclusion) => Ok(settle_and_respond(&gateway, &context, permit, conclusion, None, close_answer).await),
        Err(error) => {
            let money_state = permit.payment.money_state;
            let ended = respond_async::requeue_or_release(&gateway, permit, &error).await;
            ended.map_err(|error| Problem::ledger_unknown(&error).order(order_id.clone()))?;
            Err(Problem::from_exchange(&error).money(money_state).order(order_id))
        }
    }
}

/// Closes the payment. If the provider reports another state, queries that state and returns it if it is final. A
/// pending outcome does not confirm a close.
async fn close_or_query(
    gateway: &Gateway,
    context: &ExecutionContext,
    channel: &Arc<Channel>,
    permit: &mut ExecutionPermit,
) -> Result<Outcome, Error> {
    let order = query::order(&permit.payment);
    let close = Operation::Close(order.clone());
    match gateway.call_provider(channel, &close, context.remaining(), permit).await {
        Err(Error::Conflict(provider_error)) => {
            let (query, limit, evidence) = (Operation::Query(order), context.remaining(), &mut permit.evidence);
            match gateway.provider_client.call(channel, &query, limit, evidence).await {
                Ok(outcome) if outcome.status.is_final() => Ok(outcome),
                _ => Err(Error::Unclear {
                    why: "the provider reports a conflicting state".to_owned(),
                    provider_error: Some(provider_error),
                }),
            }
        }
        Ok(outcome) if !outcome.status.is_final() => Err(Error::Unclear {
            why: "the provider asks to repeat the reversal".to_owned(),
            provider_error: outcome.reason,
        }),
        other => other,
    }
}

/// Returns the answer about a close. A refusal says nothing about the money.
fn close_answer(record: &Record, error: Option<&Error>, request_id: &str, _: Option<&TokenKey>) -> Answer {
    let json_response = |status: StatusCode| Answer {
        status: status.as_u16(),
        content_type: "application/json".to_owned(),
        body: body_of(record),
    };
    match (record, error) {
        (Record::Payment(payment), _) if payment.status == Status::Succeeded => {
            invalid_state(payment).order(payment.order_id.clone()).answer(request_id)
        }
        (Record::Payment(payment), Some(Error::Declined(provider_error))) => {
            let problem = Problem::close_refused(provider_error.clone(), payment.money_state);
            problem.order(payment.order_id.clone()).answer(request_id)
        }
        _ => json_response(success_status(record)),
    }
}

/// Returns 200 if the record is final, 202 otherwise.
fn success_status(record: &Record) -> StatusCode {
    if record.state().status.is_final() { StatusCode::OK } else { StatusCode::ACCEPTED }
}
