//! A new payment, once.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use jiff::Timestamp;
use tollgate_plugins::error::Error;
use tollgate_plugins::payment::{Method, Operation, Outcome, Pay, Status, provider_number};
use tollgate_plugins::provider::ProviderSpec;

use super::query::order;
use super::request_body::{NewPayment, idempotency_key};
use super::responses::{body_of, channel_of, json, respond_ledger_failure, stored_response, task_failed, unknown};
use super::{ExecutionContext, Gateway, RequestContext, respond_async};
use crate::clock;
use crate::config::{Channel, Snapshot};
use crate::idempotency::claim_key;
use crate::ledger::{
    Answer, ClaimResult, CreateRequest, Destination, ExecutionPermit, Intent, MoneyState, Payment, Record, Update,
};
use crate::problem::{Problem, Retryable};
use crate::routing::{self, NoChannel, Question};

/// `POST /v1/payments`.
pub(super) async fn create(gateway: &Arc<Gateway>, asked: &Arc<RequestContext>) -> Result<Response<Bytes>, Problem> {
    let key = claim_key(asked, idempotency_key(&asked.incoming.headers)?);
    let form = NewPayment::read(&asked.incoming.body)?;
    let merchant = asked.merchant.name.clone();
    let number = provider_number(&[&merchant, &form.order_id]);
    let now = clock::now();
    let channels = channels(&asked.snapshot, &merchant, &form, now);
    // What an operator answers by itself claims nothing; but a repetition has to find what became of it.
    if let Err(none @ NoChannel::Refused(_)) = &channels {
        match gateway.ledger.payment(&merchant, &form.order_id).await {
            Ok(Some(_)) => {}
            Ok(None) => return Err(no_channel(none).order(form.order_id)),
            Err(error) => return Err(Problem::ledger_unknown(&error).order(form.order_id)),
        }
    }
    let order_id = form.order_id.clone();
    let first = channels.as_ref().ok().and_then(|list| list.first());
    let repeats = |channel: &Arc<Channel>| repeats_create(channel, form.method);
    let create_request = first.filter(|channel| repeats(channel)).map(|_| {
        Box::new(CreateRequest {
            description: form.description.clone(),
            payer: form.payer.clone(),
            return_url: form.return_url.clone(),
            public_url: asked.snapshot.process.public_url.clone(),
        })
    });
    // The order of a queued payment begins when it is sent: until then it has the merchant's own end only.
    let is_queued = respond_async::is_preferred(&asked.incoming.headers);
    let begins_at = (!is_queued).then_some(now);
    let (channel, account) = first.map(|channel| (channel.name.clone(), channel.account())).unwrap_or_default();
    let expires_at = first.map_or(form.expires_at, |channel| end_of(channel, &form, begins_at));
    let draft = Payment {
        content: form.digest(),
        merchant,
        provider_order_no: number,
        status: Status::Pending,
        money_state: MoneyState::NotSent,
        amount: form.amount,
        refunded: 0,
        refunded_elsewhere: 0,
        method: form.method,
        channel,
        account,
        provider_payment_id: None,
        action: None,
        provider_error: None,
        status_reason: None,
        create_request,
        version: 1,
        created_at: now,
        sent_at: None,
        updated_at: now,
        expires_at,
        paid_at: None,
        metadata: form.metadata.clone(),
        search: None,
        order_id: form.order_id.clone(),
    };
    let ledger = &gateway.ledger;
    let content = draft.content.clone();
    // Only of what is new: a repetition has to find what became of it.
    let possible = form.check_expiry(now).and_then(|()| channels.map_err(|none| no_channel(&none)));
    let claimed = match &possible {
        Ok(_) => respond_async::claim(gateway, asked, key, Intent::Pay(draft), now).await,
        Err(_) => ledger.claim(key, Intent::Pay(draft), now).await,
    };
    let ticket = match claimed {
        Ok(ClaimResult::Run(ticket)) => ticket,
        Ok(other) => return respond_async::not_run(asked, other, &order_id, StatusCode::CREATED),
        Err(error) => {
            let known = ledger.payment(&asked.merchant.name, &order_id).await;
            let known = known.map(|known| known.map(|known| (known.content == content, Record::Payment(known))));
            return respond_ledger_failure(&error, known, &order_id);
        }
    };
    let channels = match possible {
        Ok(channels) => channels,
        Err(problem) => {
            ledger.release(ticket).await.map_err(|error| Problem::ledger(&error))?;
            return Err(problem.order(order_id));
        }
    };
    let run = PaymentExecution { gateway: Arc::clone(gateway), making: asked.execution_context(), form, channels };
    // On its own task: a caller that hangs up must not stop a payment half-way.
    tokio::spawn(run.finish(ticket)).await.unwrap_or_else(|_| Err(task_failed().order(order_id)))
}

/// Makes the payment that was accepted with this body, over the channels that are right for it now.
pub(super) async fn resume(
    gateway: &Arc<Gateway>,
    making: ExecutionContext,
    ticket: ExecutionPermit,
    body: String,
) -> Result<Response<Bytes>, Problem> {
    let possible = NewPayment::read(&Bytes::from(body)).and_then(|form| {
        let chosen = channels(&making.snapshot, &ticket.subject.merchant, &form, clock::now());
        chosen.map(|channels| (form, channels)).map_err(|none| no_channel(&none))
    });
    match possible {
        Ok((form, channels)) => {
            PaymentExecution { gateway: Arc::clone(gateway), making, form, channels }.finish(ticket).await
        }
        Err(problem) => {
            gateway.ledger.release(ticket).await.map_err(|error| Problem::ledger(&error))?;
            Err(problem)
        }
    }
}

struct PaymentExecution {
    gateway: Arc<Gateway>,
    making: ExecutionContext,
    form: NewPayment,
    channels: Vec<Arc<Channel>>,
}

impl PaymentExecution {
    async fn finish(self, mut ticket: ExecutionPermit) -> Result<Response<Bytes>, Problem> {
        let result = self.try_channels(&mut ticket).await;
        let news = match &result {
            Ok(outcome) => Update::Outcome(outcome.clone()),
            Err(error) if error.provably_not_executed() => {
                let given_back = respond_async::requeue_or_release(&self.gateway, ticket, error).await;
                given_back.map_err(|error| Problem::ledger(&error))?;
                return Err(Problem::from_exchange(error).order(self.form.order_id.clone()));
            }
            Err(Error::Declined(word)) => Update::Declined(word.clone()),
            Err(error) => Update::Unknown(error.into()),
        };
        record_and_respond(&self.gateway, &self.making, ticket, news, result.err()).await
    }

    /// The outcome of the first channel to which anything was sent.
    async fn try_channels(&self, ticket: &mut ExecutionPermit) -> Result<Outcome, Error> {
        let mut last = Err(Error::NotSent("no channel could be tried".to_owned()));
        for channel in &self.channels {
            if let Some(to) = self.another_destination(channel, ticket) {
                let moved = self.gateway.ledger.reroute(ticket, to, clock::now()).await;
                match moved {
                    Ok(payment) => ticket.payment = payment,
                    // Nothing was sent so far, and nothing may be sent now.
                    Err(error) => return Err(Error::NotSent(error.to_string())),
                }
            }
            let operation = self.operation(channel, ticket);
            let asked = self
                .gateway
                .execute(ticket.execution, channel, &operation, self.making.remaining(), &mut ticket.evidence)
                .await;
            last = match (last, asked) {
                // The first of them that takes calls again is what to wait for.
                (Err(Error::Rejected { retry_after: other, .. }), Err(Error::Rejected { why, retry_after })) => {
                    Err(Error::Rejected { why, retry_after: retry_after.min(other) })
                }
                (_, asked) => asked,
            };
            match &last {
                Err(Error::NotSent(_) | Error::Rejected { .. } | Error::Unverifiable { .. }) => {
                    tracing::warn!(
                        channel = channel.name,
                        order_id = self.form.order_id,
                        "nothing was sent on this channel"
                    );
                }
                _ => break,
            }
        }
        last
    }

    /// Where the payment goes, if the ledger does not say so yet. It is durable before anything is sent, so that the identical
    /// create and the order's end are those of the first sending. A queued payment may have been written down for another
    /// account, another `public_url`, and without the end that the channel sets.
    fn another_destination(&self, channel: &Channel, ticket: &ExecutionPermit) -> Option<Destination> {
        let payment = &ticket.payment;
        let is_elsewhere = channel.name != payment.channel || channel.account() != payment.account;
        let may_be_known = ticket.job.as_ref().is_some_and(|errand| errand.may_be_known);
        if may_be_known && !is_elsewhere {
            return None;
        }
        let begins_at = payment.sent_at.unwrap_or(payment.created_at);
        let expires_at = end_of(channel, &self.form, Some(begins_at));
        let public_url = &self.making.snapshot.process.public_url;
        let is_other_url = payment.create_request.as_ref().is_some_and(|create| create.public_url != *public_url);
        (is_elsewhere || expires_at != payment.expires_at || is_other_url).then(|| Destination {
            channel: channel.name.clone(),
            account: channel.account(),
            expires_at,
            public_url: public_url.clone(),
        })
    }

    fn operation(&self, channel: &Channel, ticket: &ExecutionPermit) -> Operation {
        let kept = ticket.payment.create_request.as_ref().map(|create| &create.public_url);
        let public_url = kept.unwrap_or(&self.making.snapshot.process.public_url);
        Operation::Pay(Pay {
            order: order(&ticket.payment),
            description: self.form.description.clone(),
            payer: self.form.payer.clone(),
            return_url: self.form.return_url.clone(),
            notify_url: format!("{public_url}/notify/{}", channel.name),
        })
    }
}

/// Whether the channel's provider documents that the identical create of this method gives the same unpaid order again.
pub(crate) fn repeats_create(channel: &Channel, method: Method) -> bool {
    let row = ProviderSpec::named(channel.provider_name);
    row.is_some_and(|row| !method.is_scanned() && row.repeats_create.contains(&method.as_str()))
}

/// The create that was sent for this payment, once more. Nothing where its content is not kept.
pub(crate) fn identical_create(payment: &Payment) -> Option<Operation> {
    let CreateRequest { description, payer, return_url, public_url } = *payment.create_request.clone()?;
    let notify_url = format!("{public_url}/notify/{}", payment.channel);
    Some(Operation::Pay(Pay { order: order(payment), description, payer, return_url, notify_url }))
}

/// Writes down what became of a new payment or refund, then answers: 201, 402, or 202 while the end is unknown.
pub(super) async fn record_and_respond(
    gateway: &Gateway,
    making: &ExecutionContext,
    ticket: ExecutionPermit,
    news: Update,
    error: Option<Error>,
) -> Result<Response<Bytes>, Problem> {
    let now = clock::now();
    let subject = ticket.subject.clone();
    let claimed = match &ticket.refund {
        Some(refund) => Record::Refund(refund.clone()),
        None => Record::Payment(ticket.payment.clone()),
    };
    let request_id = making.request_id.clone();
    let mismatched = matches!(error, Some(Error::Mismatch(_)));
    let answer = move |record: &Record| answer(record, error.as_ref(), &request_id);
    let (record, answer) = match gateway.ledger.settle(ticket, news, now, answer).await {
        Ok(settled) => settled,
        // What was sent stays sent: the claim is found at the next start, and the truth is searched then.
        Err(error) => {
            tracing::error!(%error, order_id = subject.order_id, "what became of it could not be recorded");
            return Ok(json(StatusCode::ACCEPTED, &unknown(claimed)));
        }
    };
    if mismatched && let Err(error) = gateway.ledger.mismatch(&subject, now).await {
        tracing::error!(%error, order_id = subject.order_id, "a mismatch could not be recorded");
    }
    Ok(stored_response(answer, channel_of(&record)))
}

fn answer(record: &Record, error: Option<&Error>, request_id: &str) -> Answer {
    let (status, order_id, word) = match record {
        Record::Payment(payment) => (payment.status, &payment.order_id, &payment.provider_error),
        Record::Refund(refund) => (refund.status, &refund.order_id, &refund.provider_error),
    };
    let success = if status == Status::Unknown { StatusCode::ACCEPTED } else { StatusCode::CREATED };
    match (status, error, word) {
        (Status::Failed, Some(_), Some(word)) => {
            Problem::declined(word.clone()).order(order_id.clone()).answer(request_id)
        }
        _ => Answer { status: success.as_u16(), content_type: "application/json".to_owned(), body: body_of(record) },
    }
}

/// The channels for a payment, best first.
fn channels(
    snapshot: &Snapshot,
    merchant: &str,
    form: &NewPayment,
    now: Timestamp,
) -> Result<Vec<Arc<Channel>>, NoChannel> {
    let question = Question {
        merchant,
        method: form.method,
        amount: form.amount,
        metadata: form.metadata.as_ref(),
        pinned: form.channel.as_deref(),
        number: &provider_number(&[merchant, &form.order_id]),
        at: now,
    };
    routing::choose(snapshot, &question)
}

/// When the order ends unpaid: the merchant's own end, else the one that the channel sets for an order that begins then.
fn end_of(channel: &Channel, form: &NewPayment, begins_at: Option<Timestamp>) -> Option<Timestamp> {
    let lifetime = || begins_at?.checked_add(channel.provider.default_expiry()?).ok();
    form.expires_at.or_else(lifetime)
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
