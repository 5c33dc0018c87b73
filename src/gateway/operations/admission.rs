//! Admission: checks the head of a request before its body is read.

use http::{Method, StatusCode};

use super::{Gateway, Incoming, decoded};
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
    ClosePayment(&'a str),
    CreateRefund(&'a str),
    QueryRefund(&'a str, &'a str),
    Bill(&'a str, &'a str),
}

impl<'a> Endpoint<'a> {
    /// Returns the name for metrics and the access log.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::CreatePayment => "create_payment",
            Self::QueryPayment(_) => "query_payment",
            Self::Timeline(_) => "timeline",
            Self::ClosePayment(_) => "close_payment",
            Self::CreateRefund(_) => "create_refund",
            Self::QueryRefund(..) => "query_refund",
            Self::Bill(..) => "bill",
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
            ["v1", "payments", order, "close"] if is_post => Ok(Self::ClosePayment(order)),
            ["v1", "payments", order, "refunds"] if is_post => Ok(Self::CreateRefund(order)),
            ["v1", "payments", order, "refunds", refund] if is_get => Ok(Self::QueryRefund(order, refund)),
            ["v1", "channels", channel, "bills", date] if is_get => Ok(Self::Bill(channel, date)),
            ["v1", "channels", _, "bills", _]
            | ["v1", "payments"]
            | ["v1", "payments", _]
            | ["v1", "payments", _, "close" | "refunds" | "timeline"]
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
