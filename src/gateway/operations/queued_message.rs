//! Serves requests that come as messages of a merchant's queue, like `Prefer: respond-async` over HTTP: authenticate → limits →
//! operation → parse → route → claim and enqueue. The result is an event.
//!
//! Only the way in differs from `Gateway::serve`: the signature has other rules ([`access::message`]), and writes alone are
//! accepted. The operations are the same functions.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, Uri};
use tollgate_plugins::filter::Clock as _;

use super::admission::{Endpoint, segments};
use super::responses::RESPOND_ASYNC;
use super::{AccessLabels, Gateway, Incoming, MAX_CLIENT_TIMEOUT, RequestContext, canonical, over_limit};
use super::{close, create_payment, merchant_share, refund, too_many_concurrent_requests};
use crate::access::Denied;
use crate::access::message::{self, MessageOrigin};
use crate::clock::unix_now;
use crate::problem::{Problem, Retryable};
use crate::snapshot::Snapshot;

impl Gateway {
    /// Accepts one message. A response means that the request is durable or was executed before; the message is then done. A
    /// problem that may be retried with the same key is temporary. `labels` are complete as far as the request came.
    pub(crate) async fn accept_message(
        self: &Arc<Self>,
        origin: MessageOrigin<'_>,
        mut incoming: Incoming,
        labels: &mut AccessLabels,
    ) -> Result<Response<Bytes>, Problem> {
        let snapshot = self.current.load_full();
        check_size(&snapshot, &incoming.body)?;

        // Authenticate. `@target-uri` is that of the same request over HTTP.
        labels.operation = "denied";
        (incoming.scheme, incoming.authority) = base(&snapshot.process.public_url);
        let merchant = message::authenticate(&snapshot, origin, &incoming.head(), &incoming.body, unix_now())
            .map_err(|denied| denial_problem(&denied, origin, &incoming.request_id))?;
        labels.merchant = Some(merchant.name.clone());

        // Rate limit, fair share. The permits last until the response.
        labels.operation = "limited";
        let _in_flight = self.limits.acquire(&merchant).map_err(over_limit)?;
        let share = self.fair_share.enter(&merchant.name, merchant_share(&snapshot));
        let _share = share.ok_or_else(too_many_concurrent_requests)?;
        let take_token = || self.limits.take_token(&merchant, self.provider_client.clock().now());
        self.access.admit_message(&merchant, take_token).await.map_err(over_limit)?;

        // Operation.
        labels.operation = "unknown";
        incoming.headers.append("prefer", HeaderValue::from_static(RESPOND_ASYNC));
        let path = canonical(incoming.target.split('?').next().unwrap_or_default());
        let deadline = Instant::now() + MAX_CLIENT_TIMEOUT;
        let request = RequestContext { snapshot, merchant, incoming, path, deadline };
        let segments = segments(&request.path)?;
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let endpoint = Endpoint::find(&request.incoming.method, &segments)?;
        labels.operation = endpoint.name();
        match endpoint {
            Endpoint::CreatePayment => create_payment::create_payment(self, &request).await,
            Endpoint::ClosePayment(order) => close::close_payment(self, &request, order).await,
            Endpoint::CreateRefund(order) => refund::create_refund(self, &request, order).await,
            _ => Err(not_for_a_queue(&request.incoming.method)),
        }
    }
}

/// Returns scheme and authority of the requests that `public_url` receives.
fn base(public_url: &str) -> (&'static str, String) {
    let uri: Uri = public_url.parse().unwrap_or_default();
    let scheme = if uri.scheme_str() == Some("https") { "https" } else { "http" };
    (scheme, uri.authority().map(ToString::to_string).unwrap_or_default())
}

fn check_size(snapshot: &Snapshot, body: &Bytes) -> Result<(), Problem> {
    let limit = snapshot.process.body_limit;
    if body.len() as u64 <= limit {
        return Ok(());
    }
    let detail = format!("The message has {} bytes; at most {limit} are allowed.", body.len());
    Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", Retryable::NewKey, detail))
}

/// Converts a denial. The reason is in the log; the problem has it only if the merchant's own signature is valid.
fn denial_problem(denied: &Denied, origin: MessageOrigin<'_>, request_id: &str) -> Problem {
    let MessageOrigin { merchant, source, max_age } = origin;
    tracing::info!(merchant, source, reason = ?denied, request_id, "message refused: not authenticated");
    let detail = match denied {
        Denied::OtherDestination => {
            format!("The nonce is for another queue. It must begin with `queue:{source}:`. Sign the message again.")
        }
        Denied::TooOld => format!(
            "The signature has expired, or is older than {} s; older than 300 s is allowed only with a nonce that begins with `queue:{source}:`. Query the payment, and sign the request again if it is still wanted.",
            max_age.as_secs()
        ),
        Denied::InFuture => "The signature is from the future. Synchronize the clock and sign it again.".to_owned(),
        _ => "The message is not signed, or its key or signature was rejected. Sign it with a key of this merchant."
            .to_owned(),
    };
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", Retryable::No, detail)
}

fn not_for_a_queue(method: &Method) -> Problem {
    let detail = format!(
        "A queue accepts POST of payments, of their close and of their refunds. Send this {method} request over HTTP."
    );
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", Retryable::NewKey, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scheme_and_authority_are_those_of_the_public_url() {
        assert_eq!(base("https://pay.example.com"), ("https", "pay.example.com".to_owned()));
        assert_eq!(base("http://127.0.0.1:8080/base"), ("http", "127.0.0.1:8080".to_owned()));
        assert_eq!(base(""), ("http", String::new()));
    }
}
