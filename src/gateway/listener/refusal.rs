//! Responses to input that is not a request: a head that is malformed, too large or too slow.

use http::StatusCode;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use rand::RngExt;

use crate::problem::{Problem, Retryable};
use crate::telemetry::{LABELS, METRICS};

/// Builds a complete HTTP/1 response, and logs and counts it.
pub(super) fn problem_response(status: StatusCode) -> Vec<u8> {
    let (code, detail) = match status {
        StatusCode::REQUEST_TIMEOUT => {
            ("request_timeout", "The head of the request did not arrive completely in time.")
        }
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => ("payload_too_large", "The head of the request is too large."),
        StatusCode::METHOD_NOT_ALLOWED => ("method_not_allowed", "This method is not supported here."),
        _ => ("invalid_request", "This is not a valid HTTP request (RFC 9112)."),
    };
    let request_id = format!("req_{:032x}", rand::rng().random::<u128>());
    let response = Problem::new(status, code, Retryable::NewKey, detail).response(&request_id);
    METRICS.requests_total.with_label_values(&[LABELS.merchant(""), LABELS.channel(""), "invalid_request", code]).inc();
    tracing::info!(target: "access", request_id, status = status.as_u16(), code, operation = "invalid_request");
    let date = DateTimePrinter::new().timestamp_to_rfc9110_string(&Timestamp::now()).unwrap_or_default();
    let head = format!(
        "HTTP/1.1 {} {}\r\ncontent-type: {}\r\ncontent-length: {}\r\ndate: {date}\r\nx-request-id: {request_id}\r\nconnection: close\r\n\r\n",
        status.as_u16(),
        status.canonical_reason().unwrap_or("Error"),
        crate::problem::PROBLEM_JSON,
        response.body().len(),
    );
    [head.as_bytes(), response.body()].concat()
}
