//! `GET /v1/channels/{channel}/bills/{date}?type=…`: the provider's statement file for a day, as the provider wrote it.
//!
//! It is held until it was checked as a whole, because what was sent on cannot be taken back. The ledger has no part in it.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use jiff::civil::Date;
use sha2::{Digest, Sha256};
use tollgate_plugins::error::Error;
use tollgate_plugins::provider::bill::{BillFile, BillRequest, TRADE};

use super::responses::OnChannel;
use super::{Gateway, RequestContext, decoded};
use crate::problem::{Problem, Retryable};

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");
/// Why the file is believed: `signature`, `hash`, or `host` when the provider signs nothing about it.
const PROOF: HeaderName = HeaderName::from_static("x-tollgate-bill-proof");

/// Has the bill of a channel that the merchant may read. A bill is about every merchant's payments on its channel, so the
/// merchant's file must name it; of the channels that it does not name, not even their existence is told.
pub(super) async fn bill(
    gateway: &Gateway,
    asked: &RequestContext,
    channel: &str,
    date: &str,
) -> Result<Response<Bytes>, Problem> {
    if !asked.merchant.bills.iter().any(|name| name == channel) {
        let detail = "You may not read this channel's bills: the operator names it in `bills` of your merchant file.";
        return Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", Retryable::No, detail));
    }
    let missing = || Problem::not_found("There is no such channel.");
    let channel = asked.snapshot.channels.get(channel).ok_or_else(missing)?;
    let kinds = channel.provider.bills().map(|bills| bills.kinds()).unwrap_or_default();
    let kind = kind(asked.incoming.target.split_once('?').map(|(_, query)| query), kinds)?;
    let wanted = BillRequest { day: day(date)?, kind };
    let file = gateway.exchanger.bill(channel, wanted).await.map_err(problem)?;
    let mut response = Response::new(file.content.clone());
    describe(response.headers_mut(), &file, &format!("{}-{date}-{kind}", channel.name));
    response.extensions_mut().insert(OnChannel(channel.name.clone()));
    Ok(response)
}

/// `2026-11-22`, and none of the other ways to write a day.
fn day(text: &str) -> Result<Date, Problem> {
    let day = text.parse::<Date>().ok().filter(|day| day.to_string() == text);
    day.ok_or_else(|| Problem::malformed("The day must be written as in 2026-11-22; it is a day in Beijing."))
}

fn kind(query: Option<&str>, kinds: &'static [&'static str]) -> Result<&'static str, Problem> {
    let wanted = match query.unwrap_or_default() {
        "" => TRADE.to_owned(),
        query => query.strip_prefix("type=").and_then(decoded).unwrap_or_default(),
    };
    kinds.iter().find(|kind| **kind == wanted).copied().ok_or_else(|| match kinds {
        [] => Problem::malformed("This channel's provider hands out no bills."),
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

/// No bill moves money, so each of these may be asked again.
fn problem(error: Error) -> Problem {
    let say = |status, code, detail: &str| Problem::new(status, code, Retryable::SameKey, detail);
    match error {
        Error::NotFound(word) => {
            let detail = "The provider has no bill for this day: it makes one the morning after, and none where nothing happened.";
            say(StatusCode::NOT_FOUND, "bill_not_found", detail).provider(word)
        }
        Error::ProviderBusy(word) => {
            let detail = "The provider is still making the bill, or is busy. Ask again in some minutes.";
            say(StatusCode::SERVICE_UNAVAILABLE, "provider_busy", detail).provider(word).retry_after(300)
        }
        Error::Declined(word) | Error::Conflict(word) => {
            let detail = "The provider refuses this bill. See `provider` for its own words; most keep bills for three months only.";
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "declined", Retryable::No, detail).provider(word)
        }
        error @ (Error::Unclear { .. } | Error::UnlistedRefusal(_) | Error::Probe) => {
            let word = error.word().cloned();
            let detail = "The provider's answer cannot be used. Ask again in a moment; the gateway's log tells why.";
            let problem = say(StatusCode::BAD_GATEWAY, "provider_response_invalid", detail);
            word.into_iter().fold(problem, Problem::provider)
        }
        Error::Mismatch(_) => {
            let detail = "What came is not the bill that the provider vouches for, and is not passed on. Ask again; if it stays so, tell the operator.";
            say(StatusCode::BAD_GATEWAY, "mismatch", detail)
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
    fn a_day_is_written_in_one_way() {
        assert_eq!(day("2026-11-22").unwrap(), jiff::civil::date(2026, 11, 22));
        for wrong in ["", "20261122", "2026-11-31", "2026-11", "2026-11-22T00:00:00", "+002026-11-22", "2026-1-2"] {
            assert!(day(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_kind_is_one_of_the_providers() {
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
    fn each_end_tells_what_to_do() {
        let word = ProviderError { code: "NO_STATEMENT_EXIST".into(), message: "账单文件不存在".into() };
        for (error, status, code, retryable) in [
            (Error::NotFound(word.clone()), 404, "bill_not_found", "same_key"),
            (Error::ProviderBusy(word.clone()), 503, "provider_busy", "same_key"),
            (Error::Declined(word.clone()), 422, "declined", "no"),
            (Error::unclear("x"), 502, "provider_response_invalid", "same_key"),
            (Error::Mismatch("x".into()), 502, "mismatch", "same_key"),
            (Error::Unauthorized(word.clone()), 503, "channel_credentials_rejected", "same_key"),
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
