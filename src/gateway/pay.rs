//! Creates a payment, at most once per idempotency key.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use jiff::Timestamp;
use tollgate_plugins::error::Error;
use tollgate_plugins::payment::{Method, Operation, Outcome, Pay, Status, provider_number};
use tollgate_plugins::provider::ProviderSpec;

use super::claim_key::claim_key;
use super::query::order;
use super::request_body::{NewPayment, idempotency_key};
use super::responses::{
    body_of, channel_of, json_response, respond_ledger_failure, respond_to_claim, stored_response, task_failed,
    with_unknown_outcome,
};
use super::{ExecutionContext, Gateway, RequestContext, respond_async};
use crate::clock;
use crate::config::{Channel, Snapshot};
use crate::ledger::{
    Answer, ClaimResult, CreateRequest, Destination, ExecutionPermit, Intent, Payment, Record, RecordState, Update,
};
use crate::problem::{Problem, Retryable};
use crate::routing::{self, NoChannel, Question};

/// `POST /v1/payments`.
pub(super) async fn create(gateway: &Arc<Gateway>, request: &Arc<RequestContext>) -> Result<Response<Bytes>, Problem> {
    let key = claim_key(request, idempotency_key(&request.incoming.headers)?);
    let input = NewPayment::read(&request.incoming.body)?;
    let merchant = request.merchant.name.clone();
    let number = provider_number(&[&merchant, &input.order_id]);
    let now = clock::now();
    let channels = channels(&request.snapshot, &merchant, &input, now);
    // An operator's static response creates no claim. A repeated request must still find the existing payment.
    if let Err(none @ NoChannel::Refused(_)) = &channels {
        match gateway.ledger.payment(&merchant, &input.order_id).await {
            Ok(Some(_)) => {}
            Ok(None) => return Err(no_channel(none).order(input.order_id)),
            Err(error) => return Err(Problem::ledger_unknown(&error).order(input.order_id)),
        }
    }
    let order_id = input.order_id.clone();
    let first = channels.as_ref().ok().and_then(|list| list.first());
    let repeats = |channel: &Arc<Channel>| repeats_create(channel, input.method);
    let create_request = first.filter(|channel| repeats(channel)).map(|_| {
        Box::new(CreateRequest {
            description: input.description.clone(),
            payer: input.payer.clone(),
            return_url: input.return_url.clone(),
            public_url: request.snapshot.process.public_url.clone(),
        })
    });
    // A queued payment's order starts when it is sent. Until then only the merchant's own expiry applies.
    let is_queued = respond_async::is_preferred(&request.incoming.headers);
    let begins_at = (!is_queued).then_some(now);
    let (channel, account) = first.map(|channel| (channel.name.clone(), channel.account())).unwrap_or_default();
    let expires_at = first.map_or(input.expires_at, |channel| expires_at_on(channel, &input, begins_at));
    let draft = Payment {
        content: input.digest(),
        merchant,
        provider_order_no: number,
        amount: input.amount,
        refunded: 0,
        refunded_elsewhere: 0,
        method: input.method,
        channel,
        account,
        provider_payment_id: None,
        action: None,
        create_request,
        expires_at,
        paid_at: None,
        metadata: input.metadata.clone(),
        order_id: input.order_id.clone(),
        state: RecordState::new(now),
    };
    let ledger = &gateway.ledger;
    let content = draft.content.clone();
    // Applies to new payments only: a repeated request must still find the existing payment.
    let possible = input.check_expiry(now).and_then(|()| channels.map_err(|none| no_channel(&none)));
    let claimed = match &possible {
        Ok(_) => respond_async::claim(gateway, request, key, Intent::Pay(draft), now).await,
        Err(_) => ledger.claim(key, Intent::Pay(draft), now).await,
    };
    let permit = match claimed {
        Ok(ClaimResult::Run(permit)) => permit,
        Ok(other) => return respond_to_claim(other, &order_id, StatusCode::CREATED, is_queued),
        Err(error) => {
            let known = ledger.payment(&request.merchant.name, &order_id).await;
            let known = known.map(|known| known.map(|known| (known.content == content, Record::Payment(known))));
            return respond_ledger_failure(&error, known, &order_id);
        }
    };
    let channels = match possible {
        Ok(channels) => channels,
        Err(problem) => {
            ledger.release(permit).await.map_err(|error| Problem::ledger(&error))?;
            return Err(problem.order(order_id));
        }
    };
    let run = PaymentExecution { gateway: Arc::clone(gateway), context: request.execution_context(), input, channels };
    // Runs in its own task, so that a disconnecting caller cannot abort a payment.
    tokio::spawn(run.finish(permit)).await.unwrap_or_else(|_| Err(task_failed().order(order_id)))
}

/// Executes a queued payment with the channels that are eligible now.
pub(super) async fn resume(
    gateway: &Arc<Gateway>,
    context: ExecutionContext,
    permit: ExecutionPermit,
    body: String,
) -> Result<Response<Bytes>, Problem> {
    let possible = NewPayment::read(&Bytes::from(body)).and_then(|input| {
        let chosen = channels(&context.snapshot, &permit.subject.merchant, &input, clock::now());
        chosen.map(|channels| (input, channels)).map_err(|none| no_channel(&none))
    });
    match possible {
        Ok((input, channels)) => {
            PaymentExecution { gateway: Arc::clone(gateway), context, input, channels }.finish(permit).await
        }
        Err(problem) => {
            gateway.ledger.release(permit).await.map_err(|error| Problem::ledger(&error))?;
            Err(problem)
        }
    }
}

struct PaymentExecution {
    gateway: Arc<Gateway>,
    context: ExecutionContext,
    input: NewPayment,
    channels: Vec<Arc<Channel>>,
}

impl PaymentExecution {
    async fn finish(self, mut permit: ExecutionPermit) -> Result<Response<Bytes>, Problem> {
        let result = self.try_channels(&mut permit).await;
        let update = match &result {
            Ok(outcome) => Update::Outcome(outcome.clone()),
            Err(error) if error.provably_not_executed() => {
                let requeued = respond_async::requeue_or_release(&self.gateway, permit, error).await;
                requeued.map_err(|error| Problem::ledger(&error))?;
                return Err(Problem::from_exchange(error).order(self.input.order_id.clone()));
            }
            Err(Error::Declined(provider_error)) => Update::Declined(provider_error.clone()),
            Err(error) => Update::Unknown(error.into()),
        };
        record_and_respond(&self.gateway, &self.context, permit, update, result.err()).await
    }

    /// Returns the result of the first channel on which anything may have been sent.
    async fn try_channels(&self, permit: &mut ExecutionPermit) -> Result<Outcome, Error> {
        let mut last = Err(Error::NotSent("no channel could be tried".to_owned()));
        for channel in &self.channels {
            if let Some(to) = self.another_destination(channel, permit) {
                let moved = self.gateway.ledger.reroute(permit, to, clock::now()).await;
                match moved {
                    Ok(payment) => permit.payment = payment,
                    // Without a recorded channel nothing may be sent, and nothing was sent so far.
                    Err(error) => return Err(Error::NotSent(error.to_string())),
                }
            }
            let operation = self.operation(channel, permit);
            let request = self
                .gateway
                .execute(permit.execution, channel, &operation, self.context.remaining(), &mut permit.evidence)
                .await;
            last = match (last, request) {
                // Report the shortest `retry_after` of all rejecting channels.
                (Err(Error::Rejected { retry_after: other, .. }), Err(Error::Rejected { why, retry_after })) => {
                    Err(Error::Rejected { why, retry_after: retry_after.min(other) })
                }
                (_, request) => request,
            };
            match &last {
                Err(Error::NotSent(_) | Error::Rejected { .. } | Error::Unverifiable { .. }) => {
                    tracing::warn!(
                        channel = channel.name,
                        order_id = self.input.order_id,
                        "nothing was sent on this channel; the next one is tried if there is one"
                    );
                }
                _ => break,
            }
        }
        last
    }

    /// Returns the destination to record before sending, if the ledger does not have it yet. The destination must be
    /// durable first, so that a repeated create and the order's expiry equal the first ones. A queued payment may
    /// have been recorded for another account or `public_url`, or without the channel's expiry.
    fn another_destination(&self, channel: &Channel, permit: &ExecutionPermit) -> Option<Destination> {
        let payment = &permit.payment;
        let is_elsewhere = channel.name != payment.channel || channel.account() != payment.account;
        let may_be_known = permit.job.as_ref().is_some_and(|job| job.may_be_known);
        if may_be_known && !is_elsewhere {
            return None;
        }
        let begins_at = payment.sent_at.unwrap_or(payment.created_at);
        let expires_at = expires_at_on(channel, &self.input, Some(begins_at));
        let public_url = &self.context.snapshot.process.public_url;
        let is_other_url = payment.create_request.as_ref().is_some_and(|create| create.public_url != *public_url);
        (is_elsewhere || expires_at != payment.expires_at || is_other_url).then(|| Destination {
            channel: channel.name.clone(),
            account: channel.account(),
            expires_at,
            public_url: public_url.clone(),
        })
    }

    fn operation(&self, channel: &Channel, permit: &ExecutionPermit) -> Operation {
        let stored_url = permit.payment.create_request.as_ref().map(|create| &create.public_url);
        let public_url = stored_url.unwrap_or(&self.context.snapshot.process.public_url);
        Operation::Pay(Pay {
            order: order(&permit.payment),
            description: self.input.description.clone(),
            payer: self.input.payer.clone(),
            return_url: self.input.return_url.clone(),
            notify_url: format!("{public_url}/notify/{}", channel.name),
        })
    }
}

/// Returns whether the provider documents that an identical create of this method returns the same unpaid order.
pub(crate) fn repeats_create(channel: &Channel, method: Method) -> bool {
    let row = ProviderSpec::named(channel.provider_name);
    row.is_some_and(|row| !method.is_scanned() && row.repeats_create.contains(&method.as_str()))
}

/// Rebuilds the create that was sent for this payment; `None` if its content was not stored.
pub(crate) fn identical_create(payment: &Payment) -> Option<Operation> {
    let CreateRequest { description, payer, return_url, public_url } = *payment.create_request.clone()?;
    let notify_url = format!("{public_url}/notify/{}", payment.channel);
    Some(Operation::Pay(Pay { order: order(payment), description, payer, return_url, notify_url }))
}

/// Records the result of a new payment or refund and builds the response: 201, 402, or 202 while the outcome is
/// unknown.
pub(super) async fn record_and_respond(
    gateway: &Gateway,
    context: &ExecutionContext,
    permit: ExecutionPermit,
    update: Update,
    error: Option<Error>,
) -> Result<Response<Bytes>, Problem> {
    let now = clock::now();
    let subject = permit.subject.clone();
    let claimed = match &permit.refund {
        Some(refund) => Record::Refund(refund.clone()),
        None => Record::Payment(permit.payment.clone()),
    };
    let request_id = context.request_id.clone();
    let mismatched = matches!(error, Some(Error::Mismatch(_)));
    let answer = move |record: &Record| answer(record, error.as_ref(), &request_id);
    let (record, answer) = match gateway.ledger.settle(permit, update, now, answer).await {
        Ok(settled) => settled,
        // The request was sent and stays claimed: the resolver queries the outcome after the next start.
        Err(error) => {
            tracing::error!(%error, order_id = subject.order_id, "the outcome could not be recorded; the resolver will query the provider");
            return Ok(json_response(StatusCode::ACCEPTED, &with_unknown_outcome(claimed)));
        }
    };
    if mismatched && let Err(error) = gateway.ledger.mismatch(&subject, now).await {
        tracing::error!(%error, order_id = subject.order_id, "the mismatch between provider and ledger could not be recorded; review this order manually");
    }
    Ok(stored_response(answer, channel_of(&record)))
}

fn answer(record: &Record, error: Option<&Error>, request_id: &str) -> Answer {
    let (status, order_id, provider_error) = match record {
        Record::Payment(payment) => (payment.status, &payment.order_id, &payment.provider_error),
        Record::Refund(refund) => (refund.status, &refund.order_id, &refund.provider_error),
    };
    let success = if status == Status::Unknown { StatusCode::ACCEPTED } else { StatusCode::CREATED };
    match (status, error, provider_error) {
        (Status::Failed, Some(_), Some(provider_error)) => {
            Problem::declined(provider_error.clone()).order(order_id.clone()).answer(request_id)
        }
        _ => Answer { status: success.as_u16(), content_type: "application/json".to_owned(), body: body_of(record) },
    }
}

/// Returns the eligible channels, best first.
fn channels(
    snapshot: &Snapshot,
    merchant: &str,
    input: &NewPayment,
    now: Timestamp,
) -> Result<Vec<Arc<Channel>>, NoChannel> {
    let question = Question {
        merchant,
        method: input.method,
        amount: input.amount,
        metadata: input.metadata.as_ref(),
        pinned: input.channel.as_deref(),
        number: &provider_number(&[merchant, &input.order_id]),
        at: now,
    };
    routing::choose(snapshot, &question)
}

/// Returns when the unpaid order expires: the merchant's own time, else the channel's default lifetime after
/// `begins_at`.
fn expires_at_on(channel: &Channel, input: &NewPayment, begins_at: Option<Timestamp>) -> Option<Timestamp> {
    let lifetime = || begins_at?.checked_add(channel.provider.default_expiry()?).ok();
    input.expires_at.or_else(lifetime)
}

fn no_channel(none: &NoChannel) -> Problem {
    let detail = format!("Nothing was sent: {none}.");
    match none {
        NoChannel::NoRoute => Problem::new(StatusCode::SERVICE_UNAVAILABLE, "no_route", Retryable::SameKey, detail),
        NoChannel::Refused(refusal) => {
            let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
            let retryable = if refusal.retry_after.is_some() { Retryable::SameKey } else { Retryable::NewKey };
            let problem = Problem::new(status, refusal.code.clone(), retryable, refusal.detail.clone());
            refusal.retry_after.iter().fold(problem, |problem, seconds| problem.retry_after(*seconds))
        }
        NoChannel::Maintenance(seconds) => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "maintenance", Retryable::SameKey, detail)
                .retry_after(*seconds)
        }
        _ => Problem::new(StatusCode::BAD_REQUEST, "unknown_channel", Retryable::NewKey, detail),
    }
}
