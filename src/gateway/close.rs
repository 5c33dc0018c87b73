//! Closing an unpaid payment, once.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use jiff::Timestamp;
use tollgate_plugins::error::Error;
use tollgate_plugins::payment::{Operation, Outcome, Status};

use super::form::{idempotency_key, is_identifier, nothing};
use super::{Asked, Gateway, body_of, broken_off, channel_of, kept, not_run, query, refused};
use crate::config::Channel;
use crate::idempotency::claim_key;
use crate::ledger::{Answer, Claimed, Intent, News, Record, Subject, Ticket};
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
    let claimed = gateway.ledger.claim(key, Intent::Close(subject), Timestamp::now()).await;
    let ticket = match claimed.map_err(|error| Problem::ledger(&error))? {
        Claimed::Run(ticket) => ticket,
        other => return not_run(other, order_id, StatusCode::OK),
    };
    let (gateway, asked) = (Arc::clone(gateway), Arc::clone(asked));
    tokio::spawn(finish(gateway, asked, ticket)).await.unwrap_or_else(|_| Err(broken_off()))
}

async fn finish(gateway: Arc<Gateway>, asked: Arc<Asked>, ticket: Ticket) -> Result<Response<Bytes>, Problem> {
    let order_id = ticket.subject.order_id.clone();
    let result = match asked.snapshot.channels.get(&ticket.payment.channel) {
        Some(channel) => ask(&gateway, &asked, channel, &ticket).await,
        None => Err(Error::NotSent(format!("the channel `{}` is not configured any more", ticket.payment.channel))),
    };
    let news = match &result {
        Ok(outcome) => News::Outcome(outcome.clone()),
        Err(error) if error.provably_not_executed() => {
            gateway.ledger.release(ticket).await.map_err(|error| Problem::ledger(&error))?;
            return Err(Problem::from_exchange(error).order(order_id));
        }
        // It refused to close, and said nothing new of the money.
        Err(Error::Declined(_)) => News::Outcome(Outcome::of(Status::Pending)),
        Err(_) => News::Unknown,
    };
    let request_id = asked.request_id().to_owned();
    let error = result.err();
    let answer = move |record: &Record| answer(record, error.as_ref(), &request_id);
    let settled = gateway.ledger.settle(ticket, news, Timestamp::now(), answer).await;
    let (record, answer) = settled.map_err(|error| Problem::ledger(&error).order(order_id))?;
    Ok(kept(answer, channel_of(&record)))
}

/// Closes; where the provider says that the payment is in another state, asks in which and adopts it.
async fn ask(gateway: &Gateway, asked: &Asked, channel: &Arc<Channel>, ticket: &Ticket) -> Result<Outcome, Error> {
    let order = query::order(&ticket.payment);
    let closed = gateway.exchanger.ask(channel, &Operation::Close(order.clone()), asked.patience()).await;
    match closed {
        Err(Error::Conflict(word)) => {
            match gateway.exchanger.ask(channel, &Operation::Query(order), asked.patience()).await {
                Ok(outcome) => Ok(outcome),
                Err(_) => Err(Error::Unclear { why: "the payment is in another state".to_owned(), word: Some(word) }),
            }
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
        (_, Some(Error::Declined(word))) => Problem::declined(word.clone()).answer(request_id),
        (_, Some(_)) => json(StatusCode::ACCEPTED),
        (Record::Payment(payment), None) if payment.status == Status::Succeeded => {
            refused(payment).order(payment.order_id.clone()).answer(request_id)
        }
        _ => json(StatusCode::OK),
    }
}
