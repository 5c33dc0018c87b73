//! Executions of claims. Synchronous requests and queued jobs share them: provider call → settle → respond.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Response, StatusCode};
use tollgate_ledger::{Answer, ExecutionPermit, Record, Update};
use tollgate_plugins::error::Error;
use tollgate_plugins::payment::{Operation, Outcome, Status};

use super::Gateway;
use super::responses::{body_with_token, channel_of, json_response, stored_response, with_unknown_outcome};
use super::watch_token::TokenKey;
use crate::clock;
use crate::problem::Problem;
use crate::snapshot::{Channel, Snapshot};

/// The inputs of an execution, synchronous or queued: configuration, request id and deadline.
pub(crate) struct ExecutionContext {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) request_id: String,
    pub(super) deadline: Instant,
}

impl ExecutionContext {
    /// Returns the time left until the deadline. A channel's own timeout may be shorter.
    pub(super) fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

impl Gateway {
    /// Calls the provider if this process may still send for this execution. Another gateway may have taken the claim
    /// over.
    pub(super) async fn call_provider(
        &self,
        channel: &Arc<Channel>,
        operation: &Operation,
        limit: Duration,
        permit: &mut ExecutionPermit,
    ) -> Result<Outcome, Error> {
        match self.ledger.may_send(permit.execution) {
            Ok(()) => self.provider_client.call(channel, operation, limit, &mut permit.evidence).await,
            Err(error) => {
                tracing::error!(%error, order_id = permit.subject.order_id, "nothing is sent: this gateway may not execute the claim");
                Err(Error::NotSent("the gateway could not use its ledger".to_owned()))
            }
        }
    }
}

/// The update to record after a provider call, and the call's error.
pub(super) struct Conclusion {
    pub(super) update: Update,
    pub(super) error: Option<Error>,
}

/// Concludes from the result of a provider call. The error is of a call that provably executed nothing.
pub(super) fn conclude(result: Result<Outcome, Error>) -> Result<Conclusion, Error> {
    match result {
        Ok(outcome) => Ok(Conclusion { update: Update::Outcome(outcome), error: None }),
        Err(error) if error.provably_not_executed() => Err(error),
        Err(error) => {
            let update = match &error {
                Error::Declined(provider_error) => Update::Declined(provider_error.clone()),
                _ => Update::Unknown((&error).into()),
            };
            Ok(Conclusion { update, error: Some(error) })
        }
    }
}

/// Builds the answer about a record from the error of its call, the request id and the key of watch tokens.
type AnswerOf = fn(&Record, Option<&Error>, &str, Option<&TokenKey>) -> Answer;

/// Records the result, then responds with `answer`. The answer is stored with the claim for repeated requests. A new
/// payment gets its watch token from `tokens`.
pub(super) async fn settle_and_respond(
    gateway: &Gateway,
    context: &ExecutionContext,
    permit: ExecutionPermit,
    Conclusion { update, error }: Conclusion,
    tokens: Option<TokenKey>,
    answer: AnswerOf,
) -> Response<Bytes> {
    let now = clock::now();
    let subject = permit.subject.clone();
    let claimed = match &permit.refund {
        Some(refund) => Record::Refund(refund.clone()),
        None => Record::Payment(permit.payment.clone()),
    };
    let request_id = context.request_id.clone();
    let is_mismatch = matches!(error, Some(Error::Mismatch(_)));
    let stored_tokens = tokens.clone();
    let answer = move |record: &Record| answer(record, error.as_ref(), &request_id, stored_tokens.as_ref());
    let (record, answer) = match gateway.ledger.settle(permit, update, now, answer).await {
        Ok(settled) => settled,
        // The request was sent. The dropped permit ends the claim as unknown, and the resolver queries.
        Err(error) => {
            tracing::error!(%error, order_id = subject.order_id, "the outcome could not be recorded; the resolver will query the provider");
            return json_response(StatusCode::ACCEPTED, &with_unknown_outcome(claimed), tokens.as_ref());
        }
    };
    if is_mismatch && let Err(error) = gateway.ledger.mismatch(&subject, now).await {
        tracing::error!(%error, order_id = subject.order_id, "the mismatch between provider and ledger could not be recorded; review this order manually");
    }
    stored_response(answer, channel_of(&record))
}

/// Returns the answer about a new payment or refund: 201, 402, or 202 while the outcome is unknown.
pub(super) fn new_record_answer(
    record: &Record,
    error: Option<&Error>,
    request_id: &str,
    tokens: Option<&TokenKey>,
) -> Answer {
    let (status, order_id, provider_error) = match record {
        Record::Payment(payment) => (payment.status, &payment.order_id, &payment.provider_error),
        Record::Refund(refund) => (refund.status, &refund.order_id, &refund.provider_error),
    };
    let success = if status == Status::Unknown { StatusCode::ACCEPTED } else { StatusCode::CREATED };
    match (status, error, provider_error) {
        (Status::Failed, Some(_), Some(provider_error)) => {
            Problem::declined(provider_error.clone()).order(order_id.clone()).answer(request_id)
        }
        _ => Answer {
            status: success.as_u16(),
            content_type: "application/json".to_owned(),
            body: body_with_token(record, tokens),
        },
    }
}

#[cfg(test)]
#[allow(clippy::panic)]
mod tests {
    use tollgate_plugins::error::ProviderError;

    use super::*;

    /// "Uncertain means unknown": only what the provider said decides about money.
    #[test]
    fn only_a_refusal_ends_a_call_as_declined_and_only_proof_as_not_executed() {
        let word = || ProviderError { code: "A".to_owned(), message: "b".to_owned() };
        let kind = |result| match conclude(result) {
            Ok(Conclusion { update: Update::Outcome(_), error: None }) => "outcome",
            Ok(Conclusion { update: Update::Declined(_), error: Some(_) }) => "declined",
            Ok(Conclusion { update: Update::Unknown(_), error: Some(_) }) => "unknown",
            Err(error) if error.provably_not_executed() => "not executed",
            _ => panic!("no conclusion fits"),
        };
        assert_eq!(kind(Ok(Outcome::of(Status::Pending))), "outcome");
        assert_eq!(kind(Err(Error::Declined(word()))), "declined");
        for error in [Error::NotFound(word()), Error::Conflict(word()), Error::unclear("cut"), Error::Probe] {
            assert_eq!(kind(Err(error)), "unknown");
        }
        for error in [Error::NotSent(String::new()), Error::ProviderBusy(word()), Error::Unauthorized(word())] {
            assert_eq!(kind(Err(error)), "not executed");
        }
    }
}
