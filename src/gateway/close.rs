//! Closes an unpaid payment, at most once per idempotency key.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use tollgate_plugins::error::Error;
use tollgate_plugins::payment::{Operation, Outcome, Status};

use super::claim_key::claim_key;
use super::request_body::{idempotency_key, is_identifier, require_empty_body};
use super::responses::{
    body_of, channel_of, invalid_state, json_response, respond_to_claim, stored_response, task_failed,
    with_unknown_outcome,
};
use super::{ExecutionContext, Gateway, RequestContext, query, respond_async};
use crate::clock;
use crate::config::Channel;
use crate::ledger::{Answer, ClaimResult, ExecutionPermit, Intent, Payment, Record, RecordId, Refund, Update};
use crate::problem::Problem;

/// `POST /v1/payments/{order_id}/close`.
pub(super) async fn close(
    gateway: &Arc<Gateway>,
    request: &Arc<RequestContext>,
    order_id: &str,
) -> Result<Response<Bytes>, Problem> {
    if !is_identifier(order_id) {
        return Err(Problem::not_found("There is no such payment."));
    }
    let key = claim_key(request, idempotency_key(&request.incoming.headers)?);
    require_empty_body(&request.incoming.body)?;
    let merchant = request.merchant.name.clone();
    let subject = RecordId { merchant, order_id: order_id.to_owned(), refund_id: None };
    let is_async = respond_async::is_preferred(&request.incoming.headers);
    let permit = match respond_async::claim(gateway, request, key, Intent::Close(subject), clock::now()).await {
        Ok(ClaimResult::Run(permit)) => permit,
        Ok(ClaimResult::AlreadyExists(record)) => {
            let success = success_status(&record);
            return respond_to_claim(ClaimResult::AlreadyExists(record), order_id, success, is_async);
        }
        Ok(other) => return respond_to_claim(other, order_id, StatusCode::OK, is_async),
        Err(error) => return Err(Problem::ledger_unknown(&error).order(order_id)),
    };
    tokio::spawn(finish(Arc::clone(gateway), request.execution_context(), permit))
        .await
        .unwrap_or_else(|_| Err(task_failed()))
}

/// Executes a claimed close, records the result and responds.
pub(super) async fn finish(
    gateway: Arc<Gateway>,
    context: ExecutionContext,
    mut permit: ExecutionPermit,
) -> Result<Response<Bytes>, Problem> {
    let order_id = permit.subject.order_id.clone();
    let result = match query::channel_for(&context.snapshot, &permit.payment) {
        Ok(channel) => close_or_query(&gateway, &context, channel, &mut permit).await,
        Err(error) => Err(error),
    };
    let update = match &result {
        Ok(outcome) => Update::Outcome(outcome.clone()),
        Err(error) if error.provably_not_executed() => {
            let money_state = permit.payment.money_state;
            let requeued = respond_async::requeue_or_release(&gateway, permit, error).await;
            requeued.map_err(|error| Problem::ledger_unknown(&error))?;
            return Err(Problem::from_exchange(error).money(money_state).order(order_id));
        }
        // The provider refused to close. The refusal says nothing about the money.
        Err(Error::Declined(provider_error)) => Update::Declined(provider_error.clone()),
        Err(error) => Update::Unknown(error.into()),
    };
    let request_id = context.request_id;
    let error = result.err();
    let answer = move |record: &Record| answer(record, error.as_ref(), &request_id);
    let claimed = Record::Payment(permit.payment.clone());
    match gateway.ledger.settle(permit, update, clock::now(), answer).await {
        Ok((record, answer)) => Ok(stored_response(answer, channel_of(&record))),
        Err(error) => {
            tracing::error!(%error, order_id, "the outcome of a close could not be recorded; the resolver will query the provider");
            Ok(json_response(StatusCode::ACCEPTED, &with_unknown_outcome(claimed)))
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
    let (execution, order, evidence) = (permit.execution, query::order(&permit.payment), &mut permit.evidence);
    let closed =
        gateway.execute(execution, channel, &Operation::Close(order.clone()), context.remaining(), evidence).await;
    match closed {
        Err(Error::Conflict(provider_error)) => {
            match gateway.provider_client.call(channel, &Operation::Query(order), context.remaining(), evidence).await {
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

fn answer(record: &Record, error: Option<&Error>, request_id: &str) -> Answer {
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
    let (Record::Payment(Payment { status, .. }) | Record::Refund(Refund { status, .. })) = record;
    if status.is_final() { StatusCode::OK } else { StatusCode::ACCEPTED }
}
