//! What a caller is told when there is no result: RFC 9457, with what it should do next.

use std::borrow::Cow;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde::Serialize;
use tollgate_plugins::error::{Error, ProviderError};

use crate::ledger::{Answer, LedgerError, MoneyState};

/// The content type of every problem.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// Whether and how a caller may try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Retryable {
    /// The same request will fail again.
    No,
    /// The same request, with the same `Idempotency-Key`.
    SameKey,
    /// A changed request, with a new `Idempotency-Key`.
    NewKey,
}

/// One problem.
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
    /// A problem before anything was sent; `detail` says what to do.
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

    /// 400: the request's form is wrong.
    pub fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", Retryable::NewKey, detail)
    }

    /// 401: nothing else is said.
    pub fn unauthorized() -> Self {
        let detail = "The request is not signed, or its signature, time or nonce is not accepted. Sign it anew with a current clock.";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", Retryable::No, detail)
    }

    /// 503: whether the request is a repetition of somebody else's cannot be found out.
    pub fn no_cache() -> Self {
        let detail = "Nothing was sent, because the gateway cannot reach the cache that tells new requests from repeated ones. Sign the same request anew and send it again later.";
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self { retry_after: Some(1), ..Self::new(status, "cache_unavailable", Retryable::SameKey, detail) }
    }

    /// 503: the nonce may have been seen by the process before this one. A request that is signed now is accepted.
    pub fn signed_too_early() -> Self {
        let detail = "Nothing was sent, because the request was signed before the gateway could tell new requests from repeated ones. Sign the same request anew and send it again.";
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self { retry_after: Some(1), ..Self::new(status, "cache_unavailable", Retryable::SameKey, detail) }
    }

    /// 503: no more nonces can be remembered, so that a repetition would not be noticed.
    pub fn no_room_for_nonces() -> Self {
        let detail = "Nothing was sent, because so many requests were signed in the last minutes that the gateway can remember no more of them. Send the same request again later.";
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self { retry_after: Some(30), ..Self::new(status, "overloaded", Retryable::SameKey, detail) }
    }

    /// 404.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", Retryable::No, detail)
    }

    /// 409 while the same thing is being done.
    pub fn running() -> Self {
        let detail = "A request with this key or for this order is being served right now. Send the same request again in a moment.";
        Self {
            retry_after: Some(1),
            money_state: MoneyState::Unknown,
            ..Self::new(StatusCode::CONFLICT, "request_in_progress", Retryable::SameKey, detail)
        }
    }

    /// 503: so much waits already that nothing more is accepted to be made later.
    pub fn queue_full() -> Self {
        let detail = "Nothing was accepted or sent, because the queue is full. Send the same request again with the same key later, or without `prefer: respond-async`.";
        Self {
            retry_after: Some(5),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "queue_full", Retryable::SameKey, detail)
        }
    }

    /// 503: so many of this merchant's requests are in the queue that the rest of it is for the others.
    pub fn queue_share_full() -> Self {
        let detail = "Nothing was accepted or sent, because half of the queue is taken by your requests and the rest is for other merchants. Send the same request again with the same key when some of yours are done, or without `prefer: respond-async`.";
        Self {
            retry_after: Some(5),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "queue_full", Retryable::SameKey, detail)
        }
    }

    /// 503: the ledger cannot promise to remember, so nothing is sent.
    pub fn ledger(error: &LedgerError) -> Self {
        tracing::error!(%error, "the ledger refused");
        let detail =
            "Nothing was sent, because the gateway cannot write to its ledger. Send the same request again later.";
        Self {
            retry_after: Some(5),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "ledger_unavailable", Retryable::SameKey, detail)
        }
    }

    /// 503: the ledger cannot be asked what it remembers. Something may have been sent before.
    pub fn ledger_unknown(error: &LedgerError) -> Self {
        let detail = "The gateway cannot use its ledger, so nothing was sent now; what became of an earlier request is not known. Ask for the status later.";
        Self { detail: detail.to_owned(), ..Self::ledger(error).money(MoneyState::Unknown) }
    }

    /// 503: the ledger did not say whether it accepted a job. If it did, the job is executed.
    pub fn acceptance_unknown(error: &LedgerError) -> Self {
        let detail = "The ledger did not answer in time, so the gateway cannot tell whether it accepted this request. Send the same request again, or ask for the status later.";
        Self { detail: detail.to_owned(), ..Self::ledger(error).money(MoneyState::Unknown) }
    }

    /// 402: the provider refused to close it, which says nothing about the money.
    pub fn close_refused(word: ProviderError, money_state: MoneyState) -> Self {
        let detail = "The provider refused to close the payment. See `provider` for its own words, and ask for the payment's status.";
        let problem = Self::new(StatusCode::PAYMENT_REQUIRED, "declined", Retryable::NewKey, detail);
        problem.money(money_state).provider(word)
    }

    /// From an exchange that ended without an outcome.
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
            Error::Unverifiable { why, word } => {
                let detail = format!(
                    "Nothing was sent, because the gateway has no key to verify the provider's answer with. The gateway's operators \
                     must see to it ({why}). Send the same request again with the same key later."
                );
                let problem = Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "channel_credentials_rejected",
                    Retryable::SameKey,
                    detail,
                );
                Self { provider: word.clone(), ..problem }.retry_after(5)
            }
            Error::ProviderBusy(word) => {
                let detail = "The provider did nothing: it is busy, or money is missing on its side (see `provider`). Send the same request again with the same key.";
                let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, "provider_busy", Retryable::SameKey, detail);
                Self { retry_after: Some(2), money_state: MoneyState::NotMoved, ..problem }.provider(word.clone())
            }
            // Not the merchant's fault: he may send the same again.
            Error::Unauthorized(word) => {
                let detail = "The provider does not accept the signature of the gateway's channel, and did nothing. The gateway's operators must see to its keys; send the same request again with the same key later.";
                let problem = Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "channel_credentials_rejected",
                    Retryable::SameKey,
                    detail,
                );
                problem.provider(word.clone()).retry_after(5)
            }
            Error::Declined(word) | Error::Conflict(word) | Error::NotFound(word) => Self::declined(word.clone()),
            Error::Unclear { .. } | Error::UnlistedRefusal(_) | Error::Probe => {
                let word = error.word();
                let detail = "The provider's answer cannot be used. Ask for the payment's status.";
                let problem =
                    Self::new(StatusCode::BAD_GATEWAY, "provider_response_invalid", Retryable::SameKey, detail);
                Self { provider: word.cloned(), money_state: MoneyState::Unknown, ..problem }
            }
            Error::Mismatch(_) => {
                let detail = "The provider's answer is about another amount or account and was not accepted. People have been alerted; ask for the payment's status.";
                Self {
                    money_state: MoneyState::Unknown,
                    ..Self::new(StatusCode::BAD_GATEWAY, "mismatch", Retryable::No, detail)
                }
            }
        }
    }

    /// 402: the provider refused and no money moved.
    pub fn declined(word: ProviderError) -> Self {
        let detail = "The provider refused, and no money moved. See `provider` for its own words; change the request and use a new key.";
        let problem = Self::new(StatusCode::PAYMENT_REQUIRED, "declined", Retryable::NewKey, detail);
        Self { money_state: MoneyState::NotMoved, ..problem }.provider(word)
    }

    /// Names the order.
    pub fn order(self, order_id: impl Into<String>) -> Self {
        Self { order_id: Some(order_id.into()), ..self }
    }

    /// Says what is known of the money.
    pub fn money(self, money_state: MoneyState) -> Self {
        Self { money_state, ..self }
    }

    /// Passes the provider's words on.
    pub fn provider(self, word: ProviderError) -> Self {
        Self { provider: Some(word), ..self }
    }

    /// Says after how many seconds it is worth another try.
    pub fn retry_after(self, seconds: u64) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }

    /// Its short name.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// As an answer that the ledger can keep.
    pub fn answer(&self, request_id: &str) -> Answer {
        Answer { status: self.status.as_u16(), content_type: PROBLEM_JSON.to_owned(), body: self.body(request_id) }
    }

    /// As an HTTP response.
    pub fn response(&self, request_id: &str) -> Response<Bytes> {
        let mut response = Response::new(Bytes::from(self.body(request_id)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(PROBLEM_JSON));
        if let Some(seconds) = self.retry_after {
            headers.insert(http::header::RETRY_AFTER, seconds.into());
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

/// The problem's short name, carried with the response for metrics and the access log.
#[derive(Clone, Debug)]
pub struct Code(pub Cow<'static, str>);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn provider_error_maps_to_status_code_retryable_and_money_state() {
        let word = ProviderError { code: "PARAM_ERROR".into(), message: "参数错误".into() };
        let unverifiable = |word| Error::Unverifiable { why: "x".into(), word };
        let table = [
            (Error::Unsupported("x".into()), 400, "unsupported_by_provider", "new_key", "not_sent"),
            (Error::NotSent("x".into()), 503, "provider_unreachable", "same_key", "not_sent"),
            (Error::Rejected { why: "x".into(), retry_after: 7 }, 503, "channel_unavailable", "same_key", "not_sent"),
            (unverifiable(Some(word.clone())), 503, "channel_credentials_rejected", "same_key", "not_sent"),
            (unverifiable(None), 503, "channel_credentials_rejected", "same_key", "not_sent"),
            (Error::ProviderBusy(word.clone()), 503, "provider_busy", "same_key", "not_moved"),
            (Error::Unauthorized(word.clone()), 503, "channel_credentials_rejected", "same_key", "not_sent"),
            (Error::Declined(word.clone()), 402, "declined", "new_key", "not_moved"),
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
        let body = Problem::declined(word).response("r").into_body();
        assert!(std::str::from_utf8(&body).unwrap().contains("参数错误"), "messages pass through unharmed");
    }
}
