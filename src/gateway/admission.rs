//! Admission: what the head of a request alone says, before its body is read.

use http::{Method, StatusCode};

use super::{Gateway, Incoming, decoded};
use crate::access;
use crate::clock::unix_now;
use crate::config::Snapshot;
use crate::problem::{Problem, Retryable};

/// A request whose body may be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// From a provider, for a channel that exists.
    Notification,
    /// Signature header with a fresh time. Key id and signature are checked with the body.
    Request,
}

/// An operation of the gateway's own interface, with the parts of its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route<'a> {
    CreatePayment,
    QueryPayment(&'a str),
    Timeline(&'a str),
    ClosePayment(&'a str),
    CreateRefund(&'a str),
    QueryRefund(&'a str, &'a str),
    Bill(&'a str, &'a str),
}

impl<'a> Route<'a> {
    /// Finds the operation that method and path name.
    pub(super) fn find(method: &Method, segments: &[&'a str]) -> Result<Self, Problem> {
        let get = method == Method::GET;
        let post = method == Method::POST;
        match *segments {
            ["v1", "payments"] if post => Ok(Self::CreatePayment),
            ["v1", "payments", order] if get => Ok(Self::QueryPayment(order)),
            ["v1", "payments", order, "timeline"] if get => Ok(Self::Timeline(order)),
            ["v1", "payments", order, "close"] if post => Ok(Self::ClosePayment(order)),
            ["v1", "payments", order, "refunds"] if post => Ok(Self::CreateRefund(order)),
            ["v1", "payments", order, "refunds", refund] if get => Ok(Self::QueryRefund(order, refund)),
            ["v1", "channels", channel, "bills", date] if get => Ok(Self::Bill(channel, date)),
            ["v1", "channels", _, "bills", _]
            | ["v1", "payments"]
            | ["v1", "payments", _]
            | ["v1", "payments", _, "close" | "refunds" | "timeline"]
            | ["v1", "payments", _, "refunds", _] => Err(wrong_method()),
            _ => Err(Problem::not_found("There is nothing at this path; see the README for those that exist.")),
        }
    }
}

/// The decoded segments of a path, as [`Route::find`] takes them.
pub(super) fn segments(path: &str) -> Result<Vec<String>, Problem> {
    let segments: Option<Vec<String>> = path.split('/').skip(1).map(decoded).collect();
    segments.ok_or_else(|| Problem::malformed("The path is not valid percent-encoded UTF-8."))
}

impl Gateway {
    /// Decides by the head of a request whether its body is read; a refusal comes with the operation that metrics name. Without
    /// a body, the complete check of the signature comes before that of the route. Nothing here depends on the key id.
    pub(crate) fn admit(
        &self,
        snapshot: &Snapshot,
        incoming: &Incoming,
        has_body: bool,
    ) -> Result<Admission, (Problem, &'static str)> {
        let path = incoming.target.split('?').next().unwrap_or_default();
        if let Some(channel) = path.strip_prefix("/notify/") {
            let known = if snapshot.channels.contains_key(channel) {
                if incoming.method == Method::POST { Ok(Admission::Notification) } else { Err(wrong_method()) }
            } else {
                Err(Problem::not_found("There is no such channel."))
            };
            return known.map_err(|problem| (problem, "notification"));
        }
        if let Err(denied) = access::plausible(&incoming.head(), unix_now()) {
            tracing::info!(reason = ?denied, request_id = incoming.request_id, "request denied");
            return Err((Problem::unauthorized(), "denied"));
        }
        if !has_body {
            return Ok(Admission::Request);
        }
        let segments = segments(path).map_err(|problem| (problem, "unknown"))?;
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        Route::find(&incoming.method, &segments).map(|_| Admission::Request).map_err(|problem| (problem, "unknown"))
    }
}

fn wrong_method() -> Problem {
    let detail = "This path exists, but not for this method.";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", Retryable::NewKey, detail)
}
