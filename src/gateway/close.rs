//! Closing an unpaid payment, once.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use tollgate_plugins::error::Error;
use tollgate_plugins::payment::{Operation, Outcome, Status};

use super::answers::{body_of, broken_off, channel_of, json, kept, refused, unknown};
use super::form::{idempotency_key, is_identifier, nothing};
use super::{Asked, Gateway, Making, later, query};
use crate::clock;
use crate::config::Channel;
use crate::idempotency::claim_key;
use crate::ledger::{Answer, Claimed, Intent, News, Payment, Record, Refund, Subject, Ticket};
use crate::problem::Problem;

/// `POST /v1/payments/{order_id}/close`.
pub(super) async fn close(
    gateway: &Arc<Gateway>,
    asked: &Arc<Asked>,
    order_id: &str,
) -> Result<Response<Bytes>, Problem> {
    if !is_identifier(order_id) {
        return Err(Problem::not_found("There is no such payment."));
    }
    let key = claim_key(asked, idempotency_key(&asked.incoming.headers)?);
    nothing(&asked.incoming.body)?;
    let merchant = asked.merchant.name.clone();
    let subject = Subject { merchant, order_id: order_id.to_owned(), refund_id: None };
    let ticket = match later::claim(gateway, asked, key, Intent::Close(subject), clock::now()).await {
        Ok(Claimed::Run(ticket)) => ticket,
        Ok(Claimed::Present(record)) => {
            let done = done(&record);
            return later::not_run(asked, Claimed::Present(record), order_id, done);
        }
        Ok(other) => return later::not_run(asked, other, order_id, StatusCode::OK),
        Err(error) => return Err(Problem::ledger_unknown(&error).order(order_id)),
    };
    tokio::spawn(finish(Arc::clone(gateway), asked.making(), ticket)).await.unwrap_or_else(|_| Err(broken_off()))
}

/// Closes what was claimed, and answers.
pub(super) async fn finish(
    gateway: Arc<Gateway>,
    making: Making,
    mut ticket: Ticket,
) -> Result<Response<Bytes>, Problem> {
    let order_id = ticket.subject.order_id.clone();
    let result = match query::channel_for(&making.snapshot, &ticket.payment) {
        Ok(channel) => ask(&gateway, &making, channel, &mut ticket).await,
        Err(error) => Err(error),
    };
    let news = match &result {
        Ok(outcome) => News::Outcome(outcome.clone()),
        Err(error) if error.provably_not_executed() => {
            let money_state = ticket.payment.money_state;
            let given_back = later::not_done(&gateway, ticket, error).await;
            given_back.map_err(|error| Problem::ledger_unknown(&error))?;
            return Err(Problem::from_exchange(error).money(money_state).order(order_id));
        }
        // It refused to close, and said nothing new of the money.
        Err(Error::Declined(word)) => News::Declined(word.clone()),
        Err(error) => News::Unknown(error.into()),
    };
    let request_id = making.request_id;
    let error = result.err();
    let answer = move |record: &Record| answer(record, error.as_ref(), &request_id);
    let claimed = Record::Payment(ticket.payment.clone());
    match gateway.ledger.settle(ticket, news, clock::now(), answer).await {
        Ok((record, answer)) => Ok(kept(answer, channel_of(&record))),
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
    making: &Making,
    channel: &Arc<Channel>,
    ticket: &mut Ticket,
) -> Result<Outcome, Error> {
    let (turn, order, evidence) = (ticket.turn, query::order(&ticket.payment), &mut ticket.evidence);
    let closed = gateway.execute(turn, channel, &Operation::Close(order.clone()), making.patience(), evidence).await;
    match closed {
        Err(Error::Conflict(word)) => {
            match gateway.exchanger.ask(channel, &Operation::Query(order), making.patience(), evidence).await {
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
