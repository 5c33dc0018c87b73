//! Problem responses (RFC 9457) that tell the caller whether money may have moved and whether to retry.

use std::borrow::Cow;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde::Serialize;
use tollgate_ledger::{Answer, LedgerError, MoneyState};
use tollgate_plugins::error::{Error, ProviderError};

/// Content type of every problem.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// Permission to retry, for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Retryable {
    /// Do not retry: the same request fails again.
    No,
    /// Retry the same request with the same `Idempotency-Key`.
    SameKey,
    /// Change the request and use a new `Idempotency-Key`.
    NewKey,
}

/// A problem response.
#[derive(Clone, Debug)]
pub struct Problem {
    status: StatusCode,
    code: Cow<'static, str>,
    detail: String,
    retryable: Retryable,
    money_state: MoneyState,
    order_id: Option<String>,
    provider: Option<ProviderError>,
    retry_after: Option<u64>,
}

impl Problem {
    /// Creates a problem for a request of which nothing was sent. `detail` tells the caller what to do.
    pub fn new(
        status: StatusCode,
        code: impl Into<Cow<'static, str>>,
        retryable: Retryable,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            status,
            code: code.into(),
            detail: detail.into(),
            retryable,
            money_state: MoneyState::NotSent,
            order_id: None,
            provider: None,
            retry_after: None,
        }
    }

    /// 400: the request is malformed.
    pub fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", Retryable::NewKey, detail)
    }

    /// 401: the response does not reveal the reason.
    pub fn unauthorized() -> Self {
        let detail = "The request is not signed, or its key, signature, timestamp or nonce was rejected. Sign it again with a synchronized clock and a new nonce.";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", Retryable::No, detail)
    }

    /// 503: the nonce cannot be checked, so a replayed request could not be detected.
    pub fn no_cache() -> Self {
        let detail = "Nothing was sent, because the gateway cannot reach the cache that detects replayed requests. Sign the same request again and send it later.";
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self { retry_after: Some(1), ..Self::new(status, "cache_unavailable", Retryable::SameKey, detail) }
    }

    /// 503: the nonce may have been used before this process started. A request that is signed now is accepted.
    pub fn signed_too_early() -> Self {
        let detail = "Nothing was sent, because the request was signed before the gateway could detect replayed requests. Sign the same request again and send it.";
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self { retry_after: Some(1), ..Self::new(status, "cache_unavailable", Retryable::SameKey, detail) }
    }

    /// 503: the nonce store is full, so a replayed request could not be detected.
    pub fn no_room_for_nonces() -> Self {
        let detail = "Nothing was sent, because the gateway's store of recent nonces is full. Send the same request again later.";
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self { retry_after: Some(30), ..Self::new(status, "overloaded", Retryable::SameKey, detail) }
    }

    /// 404: the resource does not exist.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", Retryable::No, detail)
    }

    /// 409: a request with this key or for this order is in progress.
    pub fn running() -> Self {
        let detail =
            "A request with this key or for this order is in progress. Send the same request again in a moment.";
        Self {
            retry_after: Some(1),
            money_state: MoneyState::Unknown,
            ..Self::new(StatusCode::CONFLICT, "request_in_progress", Retryable::SameKey, detail)
        }
    }

    /// 503: the job queue is full.
    pub fn queue_full() -> Self {
        let detail = "Nothing was accepted or sent, because the queue is full. Send the same request with the same key later, or without `prefer: respond-async`.";
        Self {
            retry_after: Some(5),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "queue_full", Retryable::SameKey, detail)
        }
    }

    /// 503: this merchant's share of the job queue is full.
    pub fn queue_share_full() -> Self {
        let detail = "Nothing was accepted or sent, because your requests use your half of the queue; the rest is reserved for other merchants. Send the same request with the same key when some of your jobs are finished, or without `prefer: respond-async`.";
        Self {
            retry_after: Some(5),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "queue_full", Retryable::SameKey, detail)
        }
    }

    /// 503: the ledger cannot store the claim durably, so nothing is sent.
    pub fn ledger(error: &LedgerError) -> Self {
        tracing::error!(%error, "the ledger failed; the request was rejected");
        let detail =
            "Nothing was sent, because the gateway cannot write to its ledger. Send the same request again later.";
        Self {
            retry_after: Some(5),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "ledger_unavailable", Retryable::SameKey, detail)
        }
    }

    /// 503: the ledger cannot be read. An earlier request may have been sent.
    pub fn ledger_unknown(error: &LedgerError) -> Self {
        let detail = "The gateway cannot use its ledger, so this request was not sent. The outcome of an earlier request is unknown. Query the status later.";
        Self { detail: detail.to_owned(), ..Self::ledger(error).money(MoneyState::Unknown) }
    }

    /// 503: the ledger did not confirm whether it accepted a job. An accepted job is executed.
    pub fn acceptance_unknown(error: &LedgerError) -> Self {
        let detail = "The ledger did not answer in time, so it is unknown whether this request was accepted. Send the same request with the same key again, or query the status later.";
        Self { detail: detail.to_owned(), ..Self::ledger(error).money(MoneyState::Unknown) }
    }

    /// 402: the provider declined to close the payment. This says nothing about the money.
    pub fn close_refused(provider_error: ProviderError, money_state: MoneyState) -> Self {
        let detail = "The provider declined to close the payment. See `provider` for the reason, and query the payment's status.";
        let problem = Self::new(StatusCode::PAYMENT_REQUIRED, "declined", Retryable::NewKey, detail);
        problem.money(money_state).provider(provider_error)
    }

    /// Converts the error of a provider call.
    pub fn from_exchange(error: &Error) -> Self {
        match error {
            Error::Unsupported(detail) => {
                Self::new(StatusCode::BAD_REQUEST, "unsupported_by_provider", Retryable::NewKey, detail.clone())
            }
            Error::NotSent(why) => {
                let detail = format!("Nothing was sent ({why}). Send the same request again with the same key.");
                Self {
                    retry_after: Some(1),
                    ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "provider_unreachable", Retryable::SameKey, detail)
                }
            }
            Error::Rejected { why, retry_after } => {
                let detail = format!(
                    "Nothing was sent: {why}. Send the same request again with the same key after {retry_after} s."
                );
                let problem =
                    Self::new(StatusCode::SERVICE_UNAVAILABLE, "channel_unavailable", Retryable::SameKey, detail);
                Self { retry_after: Some(*retry_after), ..problem }
            }
            Error::Unverifiable { why, provider_error } => {
                let detail = format!(
                    "Nothing was sent, because the gateway has no key to verify the provider's response. The gateway's operators must fix \
                     this ({why}). Send the same request with the same key later."
                );
                let problem = Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "channel_credentials_rejected",
                    Retryable::SameKey,
                    detail,
                );
                Self { provider: provider_error.clone(), ..problem }.retry_after(5)
            }
            Error::ProviderBusy(provider_error) => {
                let detail = "The provider did nothing: it is busy, or the account there has insufficient funds (see `provider`). Send the same request again with the same key.";
                let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, "provider_busy", Retryable::SameKey, detail);
                Self { retry_after: Some(2), money_state: MoneyState::NotMoved, ..problem }
                    .provider(provider_error.clone())
            }
            // Not the merchant's fault, so the same request may be retried.
            Error::Unauthorized(provider_error) => {
                let detail = "The provider rejected the signature of the gateway's channel and did nothing. The gateway's operators must fix the channel's keys. Send the same request with the same key later.";
                let problem = Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "channel_credentials_rejected",
                    Retryable::SameKey,
                    detail,
                );
                problem.provider(provider_error.clone()).retry_after(5)
            }
            Error::Declined(provider_error) | Error::Conflict(provider_error) | Error::NotFound(provider_error) => {
                Self::declined(provider_error.clone())
            }
            Error::Unclear { .. } | Error::UnlistedRefusal(_) | Error::Probe => {
                let provider_error = error.provider_error();
                let detail =
                    "The provider's response is invalid, so the outcome is unknown. Query the payment's status.";
                let problem =
                    Self::new(StatusCode::BAD_GATEWAY, "provider_response_invalid", Retryable::SameKey, detail);
                Self { provider: provider_error.cloned(), money_state: MoneyState::Unknown, ..problem }
            }
            Error::Mismatch(_) => {
                let detail = "The provider's response names another amount or account and was rejected. The gateway's operators have been alerted. Query the payment's status.";
                Self {
                    money_state: MoneyState::Unknown,
                    ..Self::new(StatusCode::BAD_GATEWAY, "mismatch", Retryable::No, detail)
                }
            }
        }
    }

    /// 402: the provider declined and no money moved.
    pub fn declined(provider_error: ProviderError) -> Self {
        let detail = "The provider declined, and no money moved. See `provider` for the reason. Change the request and use a new key.";
        let problem = Self::new(StatusCode::PAYMENT_REQUIRED, "declined", Retryable::NewKey, detail);
        Self { money_state: MoneyState::NotMoved, ..problem }.provider(provider_error)
    }

    /// Returns the text for the caller.
    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    /// Sets the order id.
    pub fn order(self, order_id: impl Into<String>) -> Self {
        Self { order_id: Some(order_id.into()), ..self }
    }

    /// Sets what is known about the money.
    pub fn money(self, money_state: MoneyState) -> Self {
        Self { money_state, ..self }
    }

    /// Adds the provider's own code and message.
    pub fn provider(self, provider_error: ProviderError) -> Self {
        Self { provider: Some(provider_error), ..self }
    }

    /// Sets `Retry-After`, in seconds.
    pub fn retry_after(self, seconds: u64) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }

    /// Returns the HTTP status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Returns whether the caller may retry.
    pub fn retryable(&self) -> Retryable {
        self.retryable
    }

    /// Returns the seconds after which a retry is worthwhile, if they are known.
    pub fn retry_after_seconds(&self) -> Option<u64> {
        self.retry_after
    }

    /// Returns the error code.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// Converts the problem into an answer that the ledger can store.
    pub fn answer(&self, request_id: &str) -> Answer {
        Answer { status: self.status.as_u16(), content_type: PROBLEM_JSON.to_owned(), body: self.body(request_id) }
    }

    /// Converts the problem into an HTTP response.
    pub fn response(&self, request_id: &str) -> Response<Bytes> {
        let mut response = Response::new(Bytes::from(self.body(request_id)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(PROBLEM_JSON));
        if let Some(seconds) = self.retry_after {
            headers.insert(http::header::RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UPGRADE_REQUIRED {
            headers.insert(http::header::UPGRADE, http::HeaderValue::from_static("websocket"));
            headers.insert(http::header::SEC_WEBSOCKET_VERSION, http::HeaderValue::from_static("13"));
        }
        response.extensions_mut().insert(Code(self.code.clone()));
        response
    }

    fn body(&self, request_id: &str) -> String {
        #[derive(Serialize)]
        struct Body<'a> {
            r#type: String,
            title: &'a str,
            status: u16,
            detail: &'a str,
            code: &'a str,
            retryable: Retryable,
            money_state: MoneyState,
            #[serde(skip_serializing_if = "Option::is_none")]
            order_id: Option<&'a str>,
            request_id: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            provider: Option<&'a ProviderError>,
        }
        let body = Body {
            r#type: format!("urn:tollgate:problem:{}", self.code),
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            code: &self.code,
            retryable: self.retryable,
            money_state: self.money_state,
            order_id: self.order_id.as_deref(),
            request_id,
            provider: self.provider.as_ref(),
        };
        serde_json::to_string(&body).unwrap_or_default()
    }
}

/// The error code, in the response's extensions for metrics and the access log.
#[derive(Clone, Debug)]
pub struct Code(pub Cow<'static, str>);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn each_provider_error_has_its_status_code_retry_advice_and_money_state() {
        let provider_error = ProviderError { code: "PARAM_ERROR".into(), message: "参数错误".into() };
        let table = [
            (Error::Unsupported("x".into()), 400, "unsupported_by_provider", "new_key", "not_sent"),
            (Error::NotSent("x".into()), 503, "provider_unreachable", "same_key", "not_sent"),
            (Error::Rejected { why: "x".into(), retry_after: 7 }, 503, "channel_unavailable", "same_key", "not_sent"),
            (
                Error::Unverifiable { why: "x".into(), provider_error: Some(provider_error.clone()) },
                503,
                "channel_credentials_rejected",
                "same_key",
                "not_sent",
            ),
            (
                Error::Unverifiable { why: "x".into(), provider_error: None },
                503,
                "channel_credentials_rejected",
                "same_key",
                "not_sent",
            ),
            (Error::ProviderBusy(provider_error.clone()), 503, "provider_busy", "same_key", "not_moved"),
            (Error::Unauthorized(provider_error.clone()), 503, "channel_credentials_rejected", "same_key", "not_sent"),
            (Error::Declined(provider_error.clone()), 402, "declined", "new_key", "not_moved"),
            (Error::unclear("x"), 502, "provider_response_invalid", "same_key", "unknown"),
            (Error::Mismatch("x".into()), 502, "mismatch", "no", "unknown"),
        ];
        for (error, status, code, retryable, money) in table {
            let response = Problem::from_exchange(&error).order("o-1").response("r-1");
            let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
            assert_eq!(response.status().as_u16(), status, "{error}");
            assert_eq!(body["code"], code, "{error}");
            assert_eq!(body["retryable"], retryable, "{error}");
            assert_eq!(body["money_state"], money, "{error}");
            assert_eq!((&body["order_id"], &body["request_id"]), (&"o-1".into(), &"r-1".into()));
        }
        let body = Problem::declined(provider_error).response("r").into_body();
        assert!(std::str::from_utf8(&body).unwrap().contains("参数错误"), "messages pass through unharmed");
    }
}
