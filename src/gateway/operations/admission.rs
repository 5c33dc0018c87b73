//! Admission: checks the head of a request before its body is read.

use http::{Method, StatusCode};

use super::{Gateway, Incoming, canonical, decoded};
use crate::access;
use crate::clock::unix_now;
use crate::problem::{Problem, Retryable};
use crate::snapshot::Snapshot;

/// A request whose body may be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// A notification for a configured channel.
    Notification,
    /// A request with a signature header and a recent time. Key id and signature are checked with the body.
    Request,
}

/// An operation of the merchant API with its path parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint<'a> {
    CreatePayment,
    QueryPayment(&'a str),
    Timeline(&'a str),
    Watch(&'a str),
    ClosePayment(&'a str),
    CreateRefund(&'a str),
    QueryRefund(&'a str, &'a str),
    Bill(&'a str, &'a str),
    Events,
    Redeliver(&'a str),
}

impl<'a> Endpoint<'a> {
    /// Returns the name for metrics and the access log.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::CreatePayment => "create_payment",
            Self::QueryPayment(_) => "query_payment",
            Self::Timeline(_) => "timeline",
            Self::Watch(_) => "watch",
            Self::ClosePayment(_) => "close_payment",
            Self::CreateRefund(_) => "create_refund",
            Self::QueryRefund(..) => "query_refund",
            Self::Bill(..) => "bill",
            Self::Events => "events",
            Self::Redeliver(_) => "redeliver",
        }
    }

    /// Returns the operation that method and path select.
    pub(super) fn find(method: &Method, segments: &[&'a str]) -> Result<Self, Problem> {
        let is_get = method == Method::GET;
        let is_post = method == Method::POST;
        match *segments {
            ["v1", "payments"] if is_post => Ok(Self::CreatePayment),
            ["v1", "payments", order] if is_get => Ok(Self::QueryPayment(order)),
            ["v1", "payments", order, "timeline"] if is_get => Ok(Self::Timeline(order)),
            ["v1", "payments", order, "events"] if is_get => Ok(Self::Watch(order)),
            ["v1", "payments", order, "close"] if is_post => Ok(Self::ClosePayment(order)),
            ["v1", "payments", order, "refunds"] if is_post => Ok(Self::CreateRefund(order)),
            ["v1", "payments", order, "refunds", refund] if is_get => Ok(Self::QueryRefund(order, refund)),
            ["v1", "channels", channel, "bills", date] if is_get => Ok(Self::Bill(channel, date)),
            ["v1", "events"] if is_get => Ok(Self::Events),
            ["v1", "events", event, "redeliver"] if is_post => Ok(Self::Redeliver(event)),
            ["v1", "channels", _, "bills", _]
            | ["v1", "payments"]
            | ["v1", "payments", _]
            | ["v1", "payments", _, "close" | "events" | "refunds" | "timeline"]
            | ["v1", "events"]
            | ["v1", "events", _, "redeliver"]
            | ["v1", "payments", _, "refunds", _] => Err(wrong_method()),
            _ => Err(Problem::not_found("There is no such path. See the README for the available paths.")),
        }
    }
}

/// Returns the decoded path segments for [`Endpoint::find`].
pub(super) fn segments(path: &str) -> Result<Vec<String>, Problem> {
    let segments: Option<Vec<String>> = path.split('/').skip(1).map(decoded).collect();
    segments.ok_or_else(|| Problem::malformed("The path is not valid percent-encoded UTF-8."))
}

/// A request that carries a token instead of a signature.
pub(super) struct TokenRequest {
    pub(super) order_id: String,
    pub(super) token: String,
}

impl TokenRequest {
    /// Returns the order and the token of `GET /v1/payments/{order_id}/events?watch=TOKEN`.
    pub(super) fn of(method: &Method, target: &str) -> Option<Self> {
        let (path, query) = target.split_once('?')?;
        let (_, token) = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "watch")?;
        let segments = segments(&canonical(path)).ok()?;
        let [version, payments, order_id, events] = <[String; 4]>::try_from(segments).ok()?;
        let is_watch = method == Method::GET && version == "v1" && payments == "payments" && events == "events";
        is_watch.then(|| Self { order_id, token: token.into_owned() })
    }
}

impl Gateway {
    /// Decides from the head whether the body is read. A rejection names the operation for the metrics. Without a
    /// body, the complete signature check precedes the route check. The result never depends on the key id.
    pub(crate) fn admit(
        &self,
        snapshot: &Snapshot,
        incoming: &Incoming,
        has_body: bool,
    ) -> Result<Admission, (Problem, &'static str)> {
        let path = incoming.target.split('?').next().unwrap_or_default();
        if let Some(channel) = path.strip_prefix("/notify/") {
            let admission_of_channel = if snapshot.channels.contains_key(channel) {
                if incoming.method == Method::POST { Ok(Admission::Notification) } else { Err(wrong_method()) }
            } else {
                Err(Problem::not_found("There is no such channel."))
            };
            return admission_of_channel.map_err(|problem| (problem, "notification"));
        }
        // Checked with the body, which is empty. A token is only valid for this path.
        if TokenRequest::of(&incoming.method, &incoming.target).is_some() {
            return Ok(Admission::Request);
        }
        if let Err(denied) = access::plausible(&incoming.head(), unix_now()) {
            tracing::info!(reason = ?denied, request_id = incoming.request_id, "request rejected: not authenticated");
            return Err((Problem::unauthorized(), "denied"));
        }
        if !has_body {
            return Ok(Admission::Request);
        }
        let segments = segments(path).map_err(|problem| (problem, "unknown"))?;
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        Endpoint::find(&incoming.method, &segments).map(|_| Admission::Request).map_err(|problem| (problem, "unknown"))
    }
}

fn wrong_method() -> Problem {
    let detail = "This path does not support this method.";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", Retryable::NewKey, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_request_is_recognized_by_method_path_and_query() {
        let of = |method: Method, target: &str| {
            TokenRequest::of(&method, target).map(|TokenRequest { order_id, token }| (order_id, token))
        };
        let found = Some(("o-1".to_owned(), "a-b".to_owned()));
        assert_eq!(of(Method::GET, "/v1/payments/o-1/events?watch=a-b"), found);
        assert_eq!(of(Method::GET, "/v1/payments/o%2D1/events?x=1&watch=a-b"), found);
        for (method, target) in [
            (Method::POST, "/v1/payments/o-1/events?watch=a"),
            (Method::GET, "/v1/payments/o-1/events"),
            (Method::GET, "/v1/payments/o-1/events?watched=a"),
            (Method::GET, "/v1/payments/o-1?watch=a"),
            (Method::GET, "/v1/payments/o-1/close?watch=a"),
            (Method::GET, "/v1/payments/o-1/events/x?watch=a"),
            (Method::GET, "/v1/payments/%ff/events?watch=a"),
        ] {
            assert_eq!(of(method, target), None, "{target}");
        }
    }
}
