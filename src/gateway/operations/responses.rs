//! Builds HTTP responses from records, stored answers and claim results.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use tollgate_ledger::{Answer, ClaimResult, LedgerError, MoneyState, Payment, QueueFull, Record};
use tollgate_plugins::payment::Status;

use super::AccessLabels;
use super::watch_token::TokenKey;
use crate::problem::{Code, Problem, Retryable};
use crate::view;

/// The preference for an asynchronous response (RFC 7240).
pub(super) const RESPOND_ASYNC: &str = "respond-async";

/// The channel of a response, in its extensions.
#[derive(Clone)]
pub(super) struct ResponseChannel(pub(super) String);

pub(super) fn with_access_labels(mut response: Response<Bytes>, labels: AccessLabels) -> Response<Bytes> {
    response.extensions_mut().insert(labels);
    response
}

/// Serializes a payment as the body of the response to its creation, with the token for the payer's browser.
pub(super) fn body_with_token(record: &Record, tokens: Option<&TokenKey>) -> String {
    match (record, tokens) {
        (Record::Payment(payment), Some(tokens)) => {
            serde_json::to_string(&view::created_payment_view(payment, &tokens.token(payment))).unwrap_or_default()
        }
        _ => body_of(record),
    }
}

/// Serializes a record as the merchant's JSON body.
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

pub(super) fn json_response(status: StatusCode, record: &Record, tokens: Option<&TokenKey>) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body_with_token(record, tokens)));
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, content_type);
    response.extensions_mut().insert(ResponseChannel(channel_of(record).to_owned()));
    response
}

/// Converts a stored answer into a response.
pub(super) fn stored_response(answer: Answer, channel: &str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(answer.body));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Ok(value) = HeaderValue::from_str(&answer.content_type) {
        response.headers_mut().insert(http::header::CONTENT_TYPE, value);
    }
    if answer.status == StatusCode::PAYMENT_REQUIRED.as_u16() {
        response.extensions_mut().insert(Code("declined".into()));
    }
    response.extensions_mut().insert(ResponseChannel(channel.to_owned()));
    response
}

pub(super) fn replayed(mut response: Response<Bytes>) -> Response<Bytes> {
    response.headers_mut().insert("idempotent-replayed", HeaderValue::from_static("true"));
    response
}

/// Adds `Preference-Applied`.
fn with_preference_applied(mut response: Response<Bytes>) -> Response<Bytes> {
    response.headers_mut().insert("preference-applied", HeaderValue::from_static(RESPOND_ASYNC));
    response
}

/// Responds to a claim that is not executed by this request. `success` is the status code of a successful operation.
/// With `is_async`, an existing record is returned as 202 and the preference is confirmed. With `tokens`, a payment gets
/// its watch token.
pub(super) fn respond_to_claim(
    claimed: ClaimResult,
    order_id: &str,
    success: StatusCode,
    is_async: bool,
    tokens: Option<&TokenKey>,
) -> Result<Response<Bytes>, Problem> {
    let unprocessable =
        |code, detail: &str| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, code, Retryable::NewKey, detail);
    Err(match claimed {
        ClaimResult::Replay(answer) => return Ok(replayed(stored_response(answer, ""))),
        ClaimResult::AlreadyExists(record) => {
            let code =
                if is_async || record.state().status == Status::Unknown { StatusCode::ACCEPTED } else { success };
            let response = replayed(json_response(code, &record, tokens));
            return Ok(if is_async { with_preference_applied(response) } else { response });
        }
        ClaimResult::Accepted(record) => {
            return Ok(with_preference_applied(json_response(StatusCode::ACCEPTED, &record, tokens)));
        }
        ClaimResult::Queued(record) => {
            return Ok(with_preference_applied(replayed(json_response(StatusCode::ACCEPTED, &record, tokens))));
        }
        ClaimResult::InDoubt(error) => Problem::acceptance_unknown(&error),
        ClaimResult::QueueFull(QueueFull::Total) => Problem::queue_full(),
        ClaimResult::QueueFull(QueueFull::Share) => Problem::queue_share_full(),
        ClaimResult::Running => Problem::running(),
        ClaimResult::KeyReused => unprocessable(
            "idempotency_key_reused",
            "This `Idempotency-Key` was already used for a different request. Use a new key for a new request.",
        ),
        ClaimResult::OrderIdReused => {
            unprocessable("id_conflict", "This order_id or refund_id exists with different parameters. Use a new id.")
        }
        ClaimResult::NotFound => Problem::not_found("There is no such payment."),
        ClaimResult::Refused(payment) => invalid_state(&payment),
        ClaimResult::ExceedsBalance { left } => {
            let detail = format!(
                "The refund exceeds the refundable amount of {left} minor units. Reduce the amount and use a new key."
            );
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "refund_exceeds_balance", Retryable::NewKey, detail)
        }
        ClaimResult::Run(_) => {
            Problem::ledger(&LedgerError::Internal("internal error: an executable claim was not executed".to_owned()))
        }
    }
    .order(order_id))
}

/// Responds when the ledger rejected a claim. `recorded` is the existing record, if any, and whether its parameters
/// are the same. A record that may have been sent is returned.
pub(super) fn respond_ledger_failure(
    error: &LedgerError,
    recorded: Result<Option<(bool, Record)>, LedgerError>,
    order_id: &str,
    tokens: Option<&TokenKey>,
) -> Result<Response<Bytes>, Problem> {
    match recorded {
        Ok(Some((true, record))) if is_sent(&record) => {
            respond_to_claim(ClaimResult::AlreadyExists(record), order_id, StatusCode::CREATED, false, tokens)
        }
        Ok(None) => Err(Problem::ledger(error).order(order_id)),
        _ => Err(Problem::ledger_unknown(error).order(order_id)),
    }
}

pub(super) fn is_sent(record: &Record) -> bool {
    record.state().money_state != MoneyState::NotSent
}

/// Marks the status and money state of a record as unknown, because its outcome could not be recorded.
pub(super) fn with_unknown_outcome(mut record: Record) -> Record {
    let state = record.state_mut();
    (state.status, state.money_state) = (Status::Unknown, MoneyState::Unknown);
    record
}

/// Returns the problem for a task that panicked. The resolver determines the outcome of its claim.
pub(super) fn task_failed() -> Problem {
    let detail = "The gateway failed while processing this request. The outcome is being determined; query the status.";
    let problem = Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", Retryable::SameKey, detail);
    problem.money(MoneyState::Unknown)
}

pub(super) fn invalid_state(payment: &Payment) -> Problem {
    let status = payment.status.as_str();
    let detail = format!(
        "The payment is {status}, which does not allow this operation. Query its status before you decide what to do."
    );
    Problem::new(StatusCode::CONFLICT, "invalid_state", Retryable::NewKey, detail).money(payment.money_state)
}
