//! What callers are answered: records as they stand, kept answers, and what is said to a claim that must not run.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use tollgate_plugins::payment::Status;

use super::{AccessLabels, respond_async};
use crate::ledger::{Answer, ClaimResult, LedgerError, MoneyState, Payment, QueueFull, Record, Refund};
use crate::problem::{Code, Problem, Retryable};
use crate::view;

/// The channel that a response concerns, put into its extensions where it is known.
#[derive(Clone)]
pub(super) struct OnChannel(pub(super) String);

pub(super) fn served(mut response: Response<Bytes>, served: AccessLabels) -> Response<Bytes> {
    response.extensions_mut().insert(served);
    response
}

/// A record as a merchant sees it.
pub(super) fn body_of(record: &Record) -> String {
    let text = match record {
        Record::Payment(payment) => serde_json::to_string(&view::payment_view(payment)),
        Record::Refund(refund) => serde_json::to_string(&view::refund_view(refund)),
    };
    text.unwrap_or_default()
}

pub(super) fn channel_of(record: &Record) -> &str {
    match record {
        Record::Payment(payment) => &payment.channel,
        Record::Refund(refund) => &refund.channel,
    }
}

pub(super) fn json(status: StatusCode, record: &Record) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body_of(record)));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, json);
    response.extensions_mut().insert(OnChannel(channel_of(record).to_owned()));
    response
}

/// An answer as it is kept.
pub(super) fn stored_response(answer: Answer, channel: &str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(answer.body));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Ok(value) = HeaderValue::from_str(&answer.content_type) {
        response.headers_mut().insert(http::header::CONTENT_TYPE, value);
    }
    if answer.status == StatusCode::PAYMENT_REQUIRED.as_u16() {
        response.extensions_mut().insert(Code("declined".into()));
    }
    response.extensions_mut().insert(OnChannel(channel.to_owned()));
    response
}

pub(super) fn replayed(mut response: Response<Bytes>) -> Response<Bytes> {
    response.headers_mut().insert("idempotent-replayed", HeaderValue::from_static("true"));
    response
}

/// What is said to a claim that must not run here and now; `done` is the status of a success of this operation.
pub(super) fn not_run(claimed: ClaimResult, order_id: &str, done: StatusCode) -> Result<Response<Bytes>, Problem> {
    let other = |code, detail: &str| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, code, Retryable::NewKey, detail);
    Err(match claimed {
        ClaimResult::Replay(answer) => return Ok(replayed(stored_response(answer, ""))),
        ClaimResult::AlreadyExists(record) => {
            let (Record::Payment(Payment { status, .. }) | Record::Refund(Refund { status, .. })) = &record;
            let code = if *status == Status::Unknown { StatusCode::ACCEPTED } else { done };
            return Ok(replayed(json(code, &record)));
        }
        ClaimResult::Accepted(record) => {
            return Ok(respond_async::with_preference_applied(json(StatusCode::ACCEPTED, &record)));
        }
        ClaimResult::Queued(record) => {
            return Ok(respond_async::with_preference_applied(replayed(json(StatusCode::ACCEPTED, &record))));
        }
        ClaimResult::InDoubt(error) => Problem::acceptance_unknown(&error),
        ClaimResult::QueueFull(QueueFull::Total) => Problem::queue_full(),
        ClaimResult::QueueFull(QueueFull::Share) => Problem::queue_share_full(),
        ClaimResult::Running => Problem::running(),
        ClaimResult::KeyReused => other(
            "idempotency_key_reused",
            "This `Idempotency-Key` was used for another request. Use a new key for a new request.",
        ),
        ClaimResult::OrderIdReused => other(
            "id_conflict",
            "This number was used before with other content. Use a new number for another payment or refund.",
        ),
        ClaimResult::NotFound => Problem::not_found("There is no such payment."),
        ClaimResult::Refused(payment) => refused(&payment),
        ClaimResult::ExceedsBalance { left } => {
            let detail = format!("The refund is more than what is left of the payment: {left} minor units.");
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "refund_exceeds_balance", Retryable::NewKey, detail)
        }
        ClaimResult::Run(_) => Problem::ledger(&LedgerError("a claim that may run came where none may".to_owned())),
    }
    .order(order_id))
}

/// What is said when the ledger cannot take a claim: what it knows of the same request (reading goes on), or that nothing
/// was sent. `known` tells whether its content is the same.
pub(super) fn respond_ledger_failure(
    error: &LedgerError,
    known: Result<Option<(bool, Record)>, LedgerError>,
    order_id: &str,
) -> Result<Response<Bytes>, Problem> {
    match known {
        Ok(Some((true, record))) if is_sent(&record) => {
            not_run(ClaimResult::AlreadyExists(record), order_id, StatusCode::CREATED)
        }
        Ok(None) => Err(Problem::ledger(error).order(order_id)),
        _ => Err(Problem::ledger_unknown(error).order(order_id)),
    }
}

pub(super) fn is_sent(record: &Record) -> bool {
    let (Record::Payment(Payment { money_state, .. }) | Record::Refund(Refund { money_state, .. })) = record;
    *money_state != MoneyState::NotSent
}

/// A record of which nobody could write down what became of it.
pub(super) fn unknown(mut record: Record) -> Record {
    let (Record::Payment(Payment { status, money_state, .. }) | Record::Refund(Refund { status, money_state, .. })) =
        &mut record;
    (*status, *money_state) = (Status::Unknown, MoneyState::Unknown);
    record
}

/// The task that served a request broke off; a claim that it held is settled by asking the provider.
pub(super) fn task_failed() -> Problem {
    let detail = "The gateway failed while serving this. What became of it is being found out; ask for its status.";
    let problem = Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", Retryable::SameKey, detail);
    problem.money(MoneyState::Unknown)
}

pub(super) fn refused(payment: &Payment) -> Problem {
    let status = payment.status.as_str();
    let detail = format!("The payment is {status}; this cannot be done to it. Ask for its status and decide anew.");
    Problem::new(StatusCode::CONFLICT, "invalid_state", Retryable::NewKey, detail).money(payment.money_state)
}
