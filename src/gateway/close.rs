//! Closing an unpaid payment, once.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use tollgate_plugins::error::Error;
use tollgate_plugins::payment::{Operation, Outcome, Status};

use super::request_body::{idempotency_key, is_identifier, require_empty_body};
use super::responses::{body_of, channel_of, json, refused, stored_response, task_failed, unknown};
use super::{ExecutionContext, Gateway, RequestContext, query, respond_async};
use crate::clock;
use crate::config::Channel;
use crate::idempotency::claim_key;
use crate::ledger::{Answer, ClaimResult, ExecutionPermit, Intent, Payment, Record, RecordId, Refund, Update};
use crate::problem::Problem;

/// `POST /v1/payments/{order_id}/close`.
pub(super) async fn close(
    gateway: &Arc<Gateway>,
    asked: &Arc<RequestContext>,
    order_id: &str,
) -> Result<Response<Bytes>, Problem> {
    if !is_identifier(order_id) {
        return Err(Problem::not_found("There is no such payment."));
    }
    let key = claim_key(asked, idempotency_key(&asked.incoming.headers)?);
    require_empty_body(&asked.incoming.body)?;
    let merchant = asked.merchant.name.clone();
    let subject = RecordId { merchant, order_id: order_id.to_owned(), refund_id: None };
    let ticket = match respond_async::claim(gateway, asked, key, Intent::Close(subject), clock::now()).await {
        Ok(ClaimResult::Run(ticket)) => ticket,
        Ok(ClaimResult::AlreadyExists(record)) => {
            let done = done(&record);
            return respond_async::not_run(asked, ClaimResult::AlreadyExists(record), order_id, done);
        }
        Ok(other) => return respond_async::not_run(asked, other, order_id, StatusCode::OK),
        Err(error) => return Err(Problem::ledger_unknown(&error).order(order_id)),
    };
    tokio::spawn(finish(Arc::clone(gateway), asked.execution_context(), ticket))
        .await
        .unwrap_or_else(|_| Err(task_failed()))
}

/// Closes what was claimed, and answers.
pub(super) async fn finish(
    gateway: Arc<Gateway>,
    making: ExecutionContext,
    mut ticket: ExecutionPermit,
) -> Result<Response<Bytes>, Problem> {
    let order_id = ticket.subject.order_id.clone();
    let result = match query::channel_for(&making.snapshot, &ticket.payment) {
        Ok(channel) => ask(&gateway, &making, channel, &mut ticket).await,
        Err(error) => Err(error),
    };
    let news = match &result {
        Ok(outcome) => Update::Outcome(outcome.clone()),
        Err(error) if error.provably_not_executed() => {
            let money_state = ticket.payment.money_state;
            let given_back = respond_async::requeue_or_release(&gateway, ticket, error).await;
            given_back.map_err(|error| Problem::ledger_unknown(&error))?;
            return Err(Problem::from_exchange(error).money(money_state).order(order_id));
        }
        // It refused to close, and said nothing new of the money.
        Err(Error::Declined(word)) => Update::Declined(word.clone()),
        Err(error) => Update::Unknown(error.into()),
    };
    let request_id = making.request_id;
    let error = result.err();
    let answer = move |record: &Record| answer(record, error.as_ref(), &request_id);
    let claimed = Record::Payment(ticket.payment.clone());
    match gateway.ledger.settle(ticket, news, clock::now(), answer).await {
        Ok((record, answer)) => Ok(stored_response(answer, channel_of(&record))),
        Err(error) => {
            tracing::error!(%error, order_id, "what became of a close could not be recorded");
            Ok(json(StatusCode::ACCEPTED, &unknown(claimed)))
        }
    }
}

/// Closes; where the provider says that the payment is in another state, asks in which and adopts it. That it is open is
/// no answer to a close.
async fn ask(
    gateway: &Gateway,
    making: &ExecutionContext,
    channel: &Arc<Channel>,
    ticket: &mut ExecutionPermit,
) -> Result<Outcome, Error> {
    let (turn, order, evidence) = (ticket.execution, query::order(&ticket.payment), &mut ticket.evidence);
    let closed = gateway.execute(turn, channel, &Operation::Close(order.clone()), making.remaining(), evidence).await;
    match closed {
        Err(Error::Conflict(word)) => {
            match gateway.exchanger.ask(channel, &Operation::Query(order), making.remaining(), evidence).await {
                Ok(outcome) if outcome.status.is_final() => Ok(outcome),
                _ => Err(Error::Unclear { why: "the payment is in another state".to_owned(), word: Some(word) }),
            }
        }
        Ok(outcome) if !outcome.status.is_final() => {
            Err(Error::Unclear { why: "the provider wants the reversal again".to_owned(), word: outcome.reason })
        }
        other => other,
    }
}

fn answer(record: &Record, error: Option<&Error>, request_id: &str) -> Answer {
    let json = |status: StatusCode| Answer {
        status: status.as_u16(),
        content_type: "application/json".to_owned(),
        body: body_of(record),
    };
    match (record, error) {
        (Record::Payment(payment), _) if payment.status == Status::Succeeded => {
            refused(payment).order(payment.order_id.clone()).answer(request_id)
        }
        (Record::Payment(payment), Some(Error::Declined(word))) => {
            let problem = Problem::close_refused(word.clone(), payment.money_state);
            problem.order(payment.order_id.clone()).answer(request_id)
        }
        _ => json(done(record)),
    }
}

/// Closed is only what has ended; the rest is on its way there.
fn done(record: &Record) -> StatusCode {
    let (Record::Payment(Payment { status, .. }) | Record::Refund(Refund { status, .. })) = record;
    if status.is_final() { StatusCode::OK } else { StatusCode::ACCEPTED }
}
