//! A refund, once.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use tollgate_plugins::error::Error;
use tollgate_plugins::payment::{Operation, Outcome, Status, provider_number};

use super::request_body::{NewRefund, idempotency_key, is_identifier};
use super::responses::{respond_ledger_failure, task_failed};
use super::{ExecutionContext, Gateway, RequestContext, pay, query, respond_async};
use crate::clock;
use crate::config::Snapshot;
use crate::idempotency::claim_key;
use crate::ledger::{ClaimResult, ExecutionPermit, Intent, MoneyState, Record, Refund, Update};
use crate::problem::Problem;

/// `POST /v1/payments/{order_id}/refunds`.
pub(super) async fn create(
    gateway: &Arc<Gateway>,
    asked: &Arc<RequestContext>,
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
        provider_refund_no: provider_number(&[&merchant, order_id, &form.refund_id]),
        content: form.digest(),
        merchant,
        order_id: order_id.to_owned(),
        refund_id: form.refund_id.clone(),
        status: Status::Pending,
        money_state: MoneyState::NotSent,
        amount: form.amount,
        reason: form.reason.clone(),
        channel: String::new(),
        provider_refund_id: None,
        provider_error: None,
        status_reason: None,
        version: 1,
        created_at: now,
        sent_at: None,
        updated_at: now,
        refunded_at: None,
        search: None,
    };
    let content = draft.content.clone();
    let ticket = match respond_async::claim(gateway, asked, key, Intent::Refund(draft), now).await {
        Ok(ClaimResult::Run(ticket)) => ticket,
        Ok(other) => return respond_async::not_run(asked, other, order_id, StatusCode::CREATED),
        Err(error) => {
            let known = gateway.ledger.refund(&asked.merchant.name, order_id, &form.refund_id).await;
            let known = known.map(|known| known.map(|known| (known.content == content, Record::Refund(known))));
            return respond_ledger_failure(&error, known, order_id);
        }
    };
    tokio::spawn(finish(Arc::clone(gateway), asked.execution_context(), ticket))
        .await
        .unwrap_or_else(|_| Err(task_failed()))
}

/// Makes the refund that was claimed, and answers.
pub(super) async fn finish(
    gateway: Arc<Gateway>,
    making: ExecutionContext,
    mut ticket: ExecutionPermit,
) -> Result<Response<Bytes>, Problem> {
    let order_id = ticket.subject.order_id.clone();
    let result = send(&gateway, &making.snapshot, &mut ticket, making.remaining()).await;
    let Some(news) = news(&result) else {
        let error = result.err().unwrap_or_else(|| Error::NotSent(String::new()));
        respond_async::requeue_or_release(&gateway, ticket, &error).await.map_err(|error| Problem::ledger(&error))?;
        return Err(Problem::from_exchange(&error).order(order_id));
    };
    pay::record_and_respond(&gateway, &making, ticket, news, result.err()).await
}

/// Sends the refund that was claimed.
pub(super) async fn send(
    gateway: &Gateway,
    snapshot: &Snapshot,
    ticket: &mut ExecutionPermit,
    patience: Duration,
) -> Result<Outcome, Error> {
    let channel = query::channel_for(snapshot, &ticket.payment)?;
    let refund = ticket.refund.as_ref().ok_or_else(|| Error::NotSent("the claim is about no refund".to_owned()))?;
    let operation = Operation::Refund(query::refund_operation(snapshot, &ticket.payment, refund));
    gateway.execute(ticket.execution, channel, &operation, patience, &mut ticket.evidence).await
}

/// What its end says of the refund; nothing when provably nothing was done.
pub(super) fn news(result: &Result<Outcome, Error>) -> Option<Update> {
    match result {
        Ok(outcome) => Some(Update::Outcome(outcome.clone())),
        Err(error) if error.provably_not_executed() => None,
        Err(Error::Declined(word) | Error::NotFound(word)) => Some(Update::Declined(word.clone())),
        Err(error) => Some(Update::Unknown(error.into())),
    }
}
