//! `GET /v1/channels/{channel}/bills/{date}?type=…`: the provider's statement file for a day, as the provider wrote it.
//!
//! The file is sent only after it was verified as a whole, because sent bytes cannot be recalled. The ledger is not
//! involved.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use jiff::civil::Date;
use sha2::{Digest, Sha256};
use tollgate_plugins::error::Error;
use tollgate_plugins::provider::bill::{BillFile, BillRequest, TRADE};

use super::responses::ResponseChannel;
use super::{Gateway, RequestContext};
use crate::problem::{Problem, Retryable};

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");
/// Header that names the verification of the file: `signature`, `hash`, or `host` if the provider signs nothing about it.
const PROOF: HeaderName = HeaderName::from_static("x-tollgate-bill-proof");

/// Returns the bill of a channel. A bill covers every merchant's payments on the channel, so the merchant's file must
/// list the channel in `bills`. For other channels the answer does not reveal whether they exist.
pub(super) async fn bill(
    gateway: &Gateway,
    request: &RequestContext,
    channel: &str,
    date: &str,
) -> Result<Response<Bytes>, Problem> {
    if !request.merchant.bills.iter().any(|name| name == channel) {
        let detail = "You may not read this channel's bills. Ask the operator to list the channel in `bills` of your merchant file.";
        return Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", Retryable::No, detail));
    }
    let missing = || Problem::not_found("There is no such channel.");
    let channel = request.snapshot.channels.get(channel).ok_or_else(missing)?;
    let kinds = channel.provider.bills().map(|bills| bills.kinds()).unwrap_or_default();
    let kind = kind(request.incoming.target.split_once('?').map(|(_, query)| query), kinds)?;
    let wanted = BillRequest { day: day(date)?, kind };
    let file = gateway.provider_client.bill(channel, wanted).await.map_err(problem)?;
    let mut response = Response::new(file.content.clone());
    describe(response.headers_mut(), &file, &format!("{}-{date}-{kind}", channel.name));
    response.extensions_mut().insert(ResponseChannel(channel.name.clone()));
    Ok(response)
}

/// Parses a date such as `2026-11-22`; other notations are rejected.
fn day(text: &str) -> Result<Date, Problem> {
    let day = text.parse::<Date>().ok().filter(|day| day.to_string() == text);
    day.ok_or_else(|| Problem::malformed("The date must be written like 2026-11-22. It is a day in Beijing time."))
}

fn kind(query: Option<&str>, kinds: &'static [&'static str]) -> Result<&'static str, Problem> {
    let wanted = match query.unwrap_or_default() {
        "" => TRADE.to_owned(),
        query => {
            let mut pairs = form_urlencoded::parse(query.as_bytes());
            match (pairs.next(), pairs.next()) {
                (Some((name, value)), None) if name == "type" => value.into_owned(),
                _ => String::new(),
            }
        }
    };
    kinds.iter().find(|kind| **kind == wanted).copied().ok_or_else(|| match kinds {
        [] => Problem::malformed("This channel's provider has no bills."),
        kinds => Problem::malformed(format!(
            "The query must be empty or `type=` and one of {}, which this channel's provider has.",
            kinds.join(", ")
        )),
    })
}

fn describe(headers: &mut HeaderMap, file: &BillFile, name: &str) {
    let digest = format!("sha-256=:{}:", BASE64_STANDARD.encode(Sha256::digest(&file.content)));
    let disposition = format!("attachment; filename=\"{name}.{}\"", file.form.extension());
    for (name, value) in [(CONTENT_DIGEST, digest), (CONTENT_DISPOSITION, disposition)] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(file.form.content_type()));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(PROOF, HeaderValue::from_static(file.proof.as_str()));
}

/// Converts the error. A bill moves no money, so most errors may be retried.
fn problem(error: Error) -> Problem {
    let with_code = |status, code, detail: &str| Problem::new(status, code, Retryable::SameKey, detail);
    match error {
        Error::NotFound(provider_error) => {
            let detail = "The provider has no bill for this day. Bills appear on the following morning; a day without payments has none.";
            with_code(StatusCode::NOT_FOUND, "bill_not_found", detail).provider(provider_error)
        }
        Error::ProviderBusy(provider_error) => {
            let detail = "The provider is still preparing the bill, or is busy. Repeat the request in a few minutes.";
            with_code(StatusCode::SERVICE_UNAVAILABLE, "provider_busy", detail)
                .provider(provider_error)
                .retry_after(300)
        }
        Error::Declined(provider_error) | Error::Conflict(provider_error) => {
            let detail = "The provider declined this bill. See `provider` for the reason. Most providers keep bills for three months only.";
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "declined", Retryable::No, detail).provider(provider_error)
        }
        error @ (Error::Unclear { .. } | Error::UnlistedRefusal(_) | Error::Probe) => {
            let provider_error = error.provider_error().cloned();
            let detail =
                "The provider's answer cannot be used. Repeat the request later; the gateway's log names the reason.";
            let problem = with_code(StatusCode::BAD_GATEWAY, "provider_response_invalid", detail);
            provider_error.into_iter().fold(problem, Problem::provider)
        }
        Error::Mismatch(_) => {
            let detail = "The downloaded file does not match the provider's hash or account and is not delivered. Repeat the request; if this persists, inform the operator.";
            with_code(StatusCode::BAD_GATEWAY, "mismatch", detail)
        }
        error @ (Error::Unsupported(_)
        | Error::NotSent(_)
        | Error::Rejected { .. }
        | Error::Unverifiable { .. }
        | Error::Unauthorized(_)) => Problem::from_exchange(&error),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tollgate_plugins::error::ProviderError;

    use super::*;

    #[test]
    fn date_in_another_notation_is_rejected() {
        assert_eq!(day("2026-11-22").unwrap(), jiff::civil::date(2026, 11, 22));
        for wrong in ["", "20261122", "2026-11-31", "2026-11", "2026-11-22T00:00:00", "+002026-11-22", "2026-1-2"] {
            assert!(day(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn bill_type_must_be_one_of_the_providers_types() {
        const KINDS: &[&str] = &[TRADE, "funds"];
        for (query, expected) in [(None, TRADE), (Some(""), TRADE), (Some("type=funds"), "funds")] {
            assert_eq!(kind(query, KINDS).unwrap(), expected);
        }
        for wrong in ["type=", "type=Trade", "kind=trade", "type=trade&type=funds", "trade", "type=%ff"] {
            assert!(kind(Some(wrong), KINDS).is_err(), "{wrong}");
        }
        assert!(kind(None, &[]).is_err());
    }

    #[test]
    fn each_error_has_its_status_code_and_retry_advice() {
        let provider_error =
            ProviderError { code: "NO_STATEMENT_EXIST".into(), message: "账单文件不存在".into() };
        for (error, status, code, retryable) in [
            (Error::NotFound(provider_error.clone()), 404, "bill_not_found", "same_key"),
            (Error::ProviderBusy(provider_error.clone()), 503, "provider_busy", "same_key"),
            (Error::Declined(provider_error.clone()), 422, "declined", "no"),
            (Error::unclear("x"), 502, "provider_response_invalid", "same_key"),
            (Error::Mismatch("x".into()), 502, "mismatch", "same_key"),
            (Error::Unauthorized(provider_error.clone()), 503, "channel_credentials_rejected", "same_key"),
            (Error::NotSent("x".into()), 503, "provider_unreachable", "same_key"),
            (Error::Rejected { why: "x".into(), retry_after: 5 }, 503, "channel_unavailable", "same_key"),
        ] {
            let response = problem(error).response("r");
            let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
            assert_eq!(
                (response.status().as_u16(), &body["code"], &body["retryable"]),
                (status, &code.into(), &retryable.into())
            );
        }
    }
}
