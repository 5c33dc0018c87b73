//! Creates a payment, at most once per idempotency key.
//!
//! [`create_payment`] is the request path from parsing on: parse → route → claim → execute. [`execute_payment`] is its
//! end, which a queued payment shares: filters → provider call → settle → respond. What precedes is in
//! `Gateway::serve`, because all operations share it.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use jiff::Timestamp;
use tollgate_ledger::{ClaimResult, CreateRequest, Destination, ExecutionPermit, Intent, Payment, Record, RecordState};
use tollgate_plugins::error::Error;
use tollgate_plugins::payment::{Method, Operation, Outcome, Pay, provider_number};
use tollgate_plugins::provider::ProviderSpec;

use super::claim_key::claim_key;
use super::execution::{ExecutionContext, conclude, new_record_answer, settle_and_respond};
use super::query::order;
use super::request_body::{NewPayment, idempotency_key};
use super::responses::{respond_ledger_failure, respond_to_claim, task_failed};
use super::{Gateway, RequestContext, respond_async};
use crate::clock;
use crate::problem::{Problem, Retryable};
use crate::routing::{self, NoChannel, Question};
use crate::snapshot::{Channel, Snapshot};

/// `POST /v1/payments`. Returns after the execution, or at once if another request decided the outcome.
pub(super) async fn create_payment(
    gateway: &Arc<Gateway>,
    request: &RequestContext,
) -> Result<Response<Bytes>, Problem> {
    let is_async = respond_async::is_preferred(&request.incoming.headers);
    let now = clock::now();

    // Parse.
    let key = claim_key(request, idempotency_key(&request.incoming.headers)?);
    let input = NewPayment::read(&request.incoming.body)?;
    let order_id = input.order_id.clone();

    // Route.
    let routed = route(&request.snapshot, &request.merchant.name, &input, now);
    if let Err(none @ NoChannel::Refused(_)) = &routed {
        refuse_if_new(gateway, &request.merchant.name, &order_id, none).await?;
    }
    let payment = new_payment(request, &input, routed.as_deref().ok().and_then(<[_]>::first), now, is_async);
    let content = payment.content.clone();
    // The expiry is checked for new payments only: a repeated request must still find the existing payment.
    let routed = input.check_expiry(now).and_then(|()| routed.map_err(|none| no_channel(&none)));

    // Claim. A request without a channel is claimed and released, so that a repetition finds an earlier response.
    let claimed = match &routed {
        Ok(_) => respond_async::claim(gateway, request, key, Intent::Pay(payment), now).await,
        Err(_) => gateway.ledger.claim(key, Intent::Pay(payment), now).await,
    };
    let permit = match claimed {
        Ok(ClaimResult::Run(permit)) => permit,
        Ok(other) => {
            let tokens = match other {
                ClaimResult::AlreadyExists(_) | ClaimResult::Accepted(_) | ClaimResult::Queued(_) => {
                    gateway.watch_tokens.key(&gateway.ledger).await
                }
                _ => None,
            };
            return respond_to_claim(other, &order_id, StatusCode::CREATED, is_async, tokens.as_ref());
        }
        Err(error) => {
            let known = gateway.ledger.payment(&request.merchant.name, &order_id).await;
            let known = known.map(|known| known.map(|known| (known.content == content, Record::Payment(known))));
            let tokens = gateway.watch_tokens.known_key();
            return respond_ledger_failure(&error, known, &order_id, tokens.as_ref());
        }
    };

    // Filters, provider call, settle, respond: in a task of their own, so that a disconnecting caller cannot abort a
    // payment.
    let planned = routed.map(|channels| PaymentPlan { input, channels });
    tokio::spawn(execute_payment(Arc::clone(gateway), request.execution_context(), permit, planned))
        .await
        .unwrap_or_else(|_| Err(task_failed().order(order_id)))
}

/// Plans a queued payment: parses its body again, and selects the channels that are eligible now.
pub(super) fn plan_job(snapshot: &Snapshot, merchant: &str, body: String) -> Result<PaymentPlan, Problem> {
    let input = NewPayment::read(&Bytes::from(body))?;
    let channels = route(snapshot, merchant, &input, clock::now()).map_err(|none| no_channel(&none))?;
    Ok(PaymentPlan { input, channels })
}

/// New payment, and the channels to try, best first.
pub(super) struct PaymentPlan {
    input: NewPayment,
    channels: Vec<Arc<Channel>>,
}

/// Executes a claimed payment, synchronous or queued: filters → provider call → settle → respond. Without a plan,
/// nothing is sent and the claim ends.
pub(super) async fn execute_payment(
    gateway: Arc<Gateway>,
    context: ExecutionContext,
    mut permit: ExecutionPermit,
    planned: Result<PaymentPlan, Problem>,
) -> Result<Response<Bytes>, Problem> {
    let order_id = permit.subject.order_id.clone();
    let plan = match planned {
        Ok(plan) => plan,
        Err(problem) => {
            let not_sent = Error::NotSent(problem.detail().to_owned());
            let ended = respond_async::requeue_or_release(&gateway, permit, &not_sent).await;
            ended.map_err(|error| Problem::ledger(&error).order(order_id.clone()))?;
            return Err(problem.order(order_id));
        }
    };
    match conclude(try_channels(&gateway, &context, &plan, &mut permit).await) {
        Ok(conclusion) => {
            let tokens = gateway.watch_tokens.key(&gateway.ledger).await;
            Ok(settle_and_respond(&gateway, &context, permit, conclusion, tokens, new_record_answer).await)
        }
        Err(error) => {
            let ended = respond_async::requeue_or_release(&gateway, permit, &error).await;
            ended.map_err(|error| Problem::ledger(&error).order(order_id.clone()))?;
            Err(Problem::from_exchange(&error).order(order_id))
        }
    }
}

/// Returns the result of the first channel on which anything may have been sent.
async fn try_channels(
    gateway: &Gateway,
    context: &ExecutionContext,
    plan: &PaymentPlan,
    permit: &mut ExecutionPermit,
) -> Result<Outcome, Error> {
    let mut last = Err(Error::NotSent("no channel could be tried".to_owned()));
    for channel in &plan.channels {
        if let Some(to) = changed_destination(context, &plan.input, channel, permit) {
            match gateway.ledger.reroute(permit, to, clock::now()).await {
                Ok(payment) => permit.payment = payment,
                // Without a recorded channel nothing may be sent, and nothing was sent so far.
                Err(error) => {
                    tracing::error!(%error, order_id = permit.subject.order_id, "nothing is sent: the next channel could not be recorded");
                    return Err(Error::NotSent("the gateway could not use its ledger".to_owned()));
                }
            }
        }
        let operation = operation(context, &plan.input, channel, permit);
        let result = gateway.call_provider(channel, &operation, context.remaining(), permit).await;
        last = match (last, result) {
            // Report the shortest `retry_after` of all rejecting channels.
            (Err(Error::Rejected { retry_after: other, .. }), Err(Error::Rejected { why, retry_after })) => {
                Err(Error::Rejected { why, retry_after: retry_after.min(other) })
            }
            (_, result) => result,
        };
        match &last {
            Err(Error::NotSent(_) | Error::Rejected { .. } | Error::Unverifiable { .. }) => {
                tracing::warn!(
                    channel = channel.name,
                    order_id = plan.input.order_id,
                    "nothing was sent on this channel; the next one is tried if there is one"
                );
            }
            _ => break,
        }
    }
    last
}

/// Returns the destination to record before sending, if the ledger does not have it yet. The destination must be
/// durable first, so that a repeated create and the order's expiry equal the first ones. A queued payment may have
/// been recorded for another account or `public_url`, or without the channel's expiry.
fn changed_destination(
    context: &ExecutionContext,
    input: &NewPayment,
    channel: &Channel,
    permit: &ExecutionPermit,
) -> Option<Destination> {
    let payment = &permit.payment;
    let is_elsewhere = channel.name != payment.channel || channel.account() != payment.account;
    let may_be_known = permit.job.as_ref().is_some_and(|job| job.may_be_known);
    if may_be_known && !is_elsewhere {
        return None;
    }
    let begins_at = payment.sent_at.unwrap_or(payment.created_at);
    let expires_at = expires_at_on(channel, input, Some(begins_at));
    let public_url = &context.snapshot.process.public_url;
    let is_other_url = payment.create_request.as_ref().is_some_and(|create| create.public_url != *public_url);
    (is_elsewhere || expires_at != payment.expires_at || is_other_url).then(|| Destination {
        channel: channel.name.clone(),
        account: channel.account(),
        expires_at,
        public_url: public_url.clone(),
    })
}

fn operation(context: &ExecutionContext, input: &NewPayment, channel: &Channel, permit: &ExecutionPermit) -> Operation {
    let stored_url = permit.payment.create_request.as_ref().map(|create| &create.public_url);
    let public_url = stored_url.unwrap_or(&context.snapshot.process.public_url);
    Operation::Pay(Pay {
        order: order(&permit.payment),
        description: input.description.clone(),
        payer: input.payer.clone(),
        return_url: input.return_url.clone(),
        notify_url: format!("{public_url}/notify/{}", channel.name),
    })
}

/// Rejects a new payment with the operator's static response, without a claim. A repeated request must still find the
/// existing payment.
async fn refuse_if_new(gateway: &Gateway, merchant: &str, order_id: &str, refused: &NoChannel) -> Result<(), Problem> {
    match gateway.ledger.payment(merchant, order_id).await {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(no_channel(refused).order(order_id)),
        Err(error) => Err(Problem::ledger_unknown(&error).order(order_id)),
    }
}

/// Returns the payment to claim, for the best channel if there is one.
fn new_payment(
    request: &RequestContext,
    input: &NewPayment,
    channel: Option<&Arc<Channel>>,
    now: Timestamp,
    is_async: bool,
) -> Payment {
    let merchant = request.merchant.name.clone();
    let create_request = channel.filter(|channel| repeats_create(channel, input.method)).map(|_| {
        Box::new(CreateRequest {
            description: input.description.clone(),
            payer: input.payer.clone(),
            return_url: input.return_url.clone(),
            public_url: request.snapshot.process.public_url.clone(),
        })
    });
    // A queued payment's order starts when it is sent. Until then only the merchant's own expiry applies.
    let begins_at = (!is_async).then_some(now);
    let expires_at = channel.map_or(input.expires_at, |channel| expires_at_on(channel, input, begins_at));
    let (channel, account) = channel.map(|channel| (channel.name.clone(), channel.account())).unwrap_or_default();
    Payment {
        content: input.digest(),
        provider_order_no: provider_number(&[&merchant, &input.order_id]),
        merchant,
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

/// Returns the eligible channels, best first.
fn route(
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
