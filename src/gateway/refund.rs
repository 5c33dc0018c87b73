//! A refund, once.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use tollgate_plugins::error::Error;
use tollgate_plugins::payment::{Operation, Status, provider_number};

use super::form::{NewRefund, idempotency_key, is_identifier};
use super::{Asked, Gateway, broken_off, not_run, pay, query, unclaimed};
use crate::clock;
use crate::idempotency::claim_key;
use crate::ledger::{Claimed, Intent, MoneyState, News, Record, Refund, Ticket};
use crate::problem::Problem;

/// `POST /v1/payments/{order_id}/refunds`.
pub(super) async fn create(
    gateway: &Arc<Gateway>,
    asked: &Arc<Asked>,
    order_id: &str,
) -> Result<Response<Bytes>, Problem> {
    if !is_identifier(order_id) {
        return Err(Problem::not_found("There is no such payment."));
    }
    let key = claim_key(asked, idempotency_key(&asked.incoming.headers)?);
    let form = NewRefund::read(&asked.incoming.body)?;
    let merchant = asked.merchant.name.clone();
    let now = clock::now();
    let draft = Refund {
        number: provider_number(&[&merchant, order_id, &form.refund_id]),
        content: form.content(),
        merchant,
        order_id: order_id.to_owned(),
        refund_id: form.refund_id.clone(),
        status: Status::Pending,
        money_state: MoneyState::NotSent,
        amount: form.amount,
        reason: form.reason.clone(),
        channel: String::new(),
        provider_refund_id: None,
        word: None,
        version: 1,
        created_at: now,
        updated_at: now,
        refunded_at: None,
        search: None,
    };
    let content = draft.content.clone();
    let ticket = match gateway.ledger.claim(key, Intent::Refund(draft), now).await {
        Ok(Claimed::Run(ticket)) => ticket,
        Ok(other) => return not_run(other, order_id, StatusCode::CREATED),
        Err(error) => {
            let known = gateway.ledger.refund(&asked.merchant.name, order_id, &form.refund_id).await;
            let known = known.map(|known| known.map(|known| (known.content == content, Record::Refund(known))));
            return unclaimed(&error, known, order_id);
        }
    };
    let (gateway, asked) = (Arc::clone(gateway), Arc::clone(asked));
    let order_id = order_id.to_owned();
    tokio::spawn(finish(gateway, asked, ticket, order_id)).await.unwrap_or_else(|_| Err(broken_off()))
}

async fn finish(
    gateway: Arc<Gateway>,
    asked: Arc<Asked>,
    mut ticket: Ticket,
    order_id: String,
) -> Result<Response<Bytes>, Problem> {
    let result = match (&ticket.refund, query::channel_for(&asked.snapshot, &ticket.payment)) {
        (Some(refund), Ok(channel)) => {
            let operation = Operation::Refund(query::refund_operation(&asked.snapshot, &ticket.payment, refund));
            gateway.execute(channel, &operation, asked.patience(), &mut ticket.evidence).await
        }
        (None, _) => Err(Error::NotSent("the claim is about no refund".to_owned())),
        (_, Err(error)) => Err(error),
    };
    let news = match &result {
        Ok(outcome) => News::Outcome(outcome.clone()),
        Err(error) if error.provably_not_executed() => {
            gateway.ledger.release(ticket).await.map_err(|error| Problem::ledger(&error))?;
            return Err(Problem::from_exchange(error).order(order_id));
        }
        Err(Error::Declined(word) | Error::Absent(word)) => News::Declined(word.clone()),
        Err(_) => News::Unknown,
    };
    pay::settle(&gateway, &asked, ticket, news, result.err()).await
}
