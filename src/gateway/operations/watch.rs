//! Watches a payment: server-sent events or a WebSocket. The request is answered like any other; the proxy then writes
//! the stream that the response carries. A stream holds none of the permits of requests.

mod stream;

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode, Version};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};
use tollgate_ledger::{Ledger, Payment, RecordId, RecordKey};

use self::stream::{MAX_DURATION, Scope};
pub(crate) use self::stream::{PaymentStream, StateEvent};
use super::admission::TokenRequest;
use super::request_body::is_identifier;
use super::responses::{ResponseChannel, with_access_labels};
use super::{AccessLabels, Gateway, Incoming, RequestContext};
use crate::change_hub::{ChangeHub, TooMany};
use crate::clock::unix_now;
use crate::problem::{Problem, Retryable};

/// Maximum number of streams of this gateway.
const MAX_STREAMS: usize = 10_000;
/// Maximum number of streams of one payment on this gateway.
const MAX_STREAMS_PER_PAYMENT: usize = 8;
/// Maximum wait of a new stream for its first read.
const READ_PERMIT_TIMEOUT: Duration = Duration::from_secs(5);
/// Suffix of the key in the WebSocket handshake (RFC 6455, section 1.3).
const WEBSOCKET_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Form in which a stream is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// Server-sent events.
    ServerSentEvents,
    /// WebSocket (RFC 6455).
    WebSocket,
}

impl Framing {
    /// Returns the metric label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::ServerSentEvents => "sse",
            Self::WebSocket => "websocket",
        }
    }
}

/// The stream of a response, in its extensions. `None` if there are too many; a WebSocket gets this answer only after
/// its handshake.
#[derive(Clone)]
pub(crate) struct ResponseStream {
    pub(crate) framing: Framing,
    stream: Arc<Mutex<Option<PaymentStream>>>,
}

impl ResponseStream {
    fn new(framing: Framing, stream: Option<PaymentStream>) -> Self {
        Self { framing, stream: Arc::new(Mutex::new(stream)) }
    }

    /// Takes the stream.
    pub(crate) fn take(&self) -> Option<PaymentStream> {
        self.stream.lock().take()
    }
}

/// `GET /v1/payments/{order_id}/events` with a signature.
pub(super) async fn watch(
    gateway: &Arc<Gateway>,
    request: &RequestContext,
    order_id: &str,
) -> Result<Response<Bytes>, Problem> {
    if !is_identifier(order_id) {
        return Err(missing().order(order_id));
    }
    let subject = RecordId { merchant: request.merchant.name.clone(), order_id: order_id.to_owned(), refund_id: None };
    let until = Instant::now() + MAX_DURATION;
    let started = start(gateway, &request.incoming, RecordKey::of(&subject), Scope::Payment, until).await;
    started.map(|(response, _)| response).map_err(|problem| problem.order(order_id))
}

/// `GET /v1/payments/{order_id}/events?watch=TOKEN`, without a signature. Pages of any origin may read the response.
pub(super) async fn watch_with_token(
    gateway: &Arc<Gateway>,
    incoming: &Incoming,
    request: &TokenRequest,
) -> Response<Bytes> {
    let mut labels = AccessLabels { operation: "denied", ..AccessLabels::default() };
    let response = check_and_start(gateway, incoming, request, &mut labels).await;
    let mut response = response.unwrap_or_else(|problem| problem.response(&incoming.request_id));
    response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    labels.channel = response.extensions_mut().remove::<ResponseChannel>().map(|on| on.0);
    with_access_labels(response, labels)
}

async fn check_and_start(
    gateway: &Arc<Gateway>,
    incoming: &Incoming,
    TokenRequest { order_id, token }: &TokenRequest,
    labels: &mut AccessLabels,
) -> Result<Response<Bytes>, Problem> {
    let now = unix_now();
    let key = gateway.watch_tokens.existing_key(&gateway.ledger).await?;
    let Some(grant) = key.and_then(|key| key.check(token, order_id, now)) else {
        tracing::info!(request_id = incoming.request_id, "request rejected: its watch token is invalid or has ended");
        let detail =
            "The watch token is invalid or has ended. Take the `watch` of the response that created this payment.";
        return Err(Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", Retryable::No, detail));
    };
    labels.operation = "watch";
    let rest = Duration::from_secs(grant.ends_at.saturating_sub(now)).min(MAX_DURATION);
    let started = start(gateway, incoming, grant.payment, Scope::Status, Instant::now() + rest).await;
    let (response, payment) = started.map_err(|problem| problem.order(order_id.as_str()))?;
    labels.merchant = Some(payment.merchant);
    Ok(response)
}

/// Starts the stream of a payment. Subscribes first, so that no change after the read is missed.
async fn start(
    gateway: &Arc<Gateway>,
    incoming: &Incoming,
    key: RecordKey,
    scope: Scope,
    ends_at: Instant,
) -> Result<(Response<Bytes>, Payment), Problem> {
    let handshake = websocket_handshake(incoming)?;
    let hub = &gateway.change_hub;
    let subscribed = hub.payments.subscribe(key, MAX_STREAMS_PER_PAYMENT, MAX_STREAMS);
    let payment = read(hub, &gateway.ledger, key).await?;
    let version = last_event_id(&incoming.headers);
    let stream = subscribed.map(|subscription| PaymentStream {
        ledger: gateway.ledger.clone(),
        hub: Arc::clone(hub),
        key,
        subscription,
        scope,
        version,
        read_at: Instant::now(),
        is_over: false,
        ends_at,
    });
    let mut response = match (handshake, stream) {
        (None, Err(limit)) => return Err(too_many(limit)),
        // This status keeps an `EventSource` from reconnecting.
        (None, Ok(_)) if payment.status.is_final() && version == Some(payment.version) => {
            let mut response = Response::new(Bytes::new());
            *response.status_mut() = StatusCode::NO_CONTENT;
            response
        }
        (None, Ok(stream)) => server_sent_events(incoming.version, stream),
        (Some(accept), stream) => switching_protocols(accept, stream.ok()),
    };
    response.extensions_mut().insert(ResponseChannel(payment.channel.clone()));
    Ok((response, payment))
}

/// Reads the payment of a new stream. Connects share the limit of reads with the streams, because one reader may connect
/// any number of times.
async fn read(hub: &ChangeHub, ledger: &Ledger, key: RecordKey) -> Result<Payment, Problem> {
    let permit = timeout(READ_PERMIT_TIMEOUT, hub.reads.acquire()).await;
    let _permit = permit.map_err(|_| {
        let detail = "The gateway reads too many payments now. Connect again later, or query the payment.";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", Retryable::SameKey, detail).retry_after(5)
    })?;
    let found = ledger.payment_by_key(key).await.map_err(|error| Problem::ledger(&error))?;
    found.ok_or_else(missing)
}

fn server_sent_events(version: Version, stream: PaymentStream) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    if version == Version::HTTP_11 {
        headers.insert(http::header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    response.extensions_mut().insert(ResponseStream::new(Framing::ServerSentEvents, Some(stream)));
    response
}

fn switching_protocols(accept: HeaderValue, stream: Option<PaymentStream>) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    response.extensions_mut().insert(ResponseStream::new(Framing::WebSocket, stream));
    response
}

/// Checks the opening handshake of a WebSocket (RFC 6455, section 4.2.1). Returns the value of
/// `Sec-WebSocket-Accept`; `None` if the request asks for no upgrade.
fn websocket_handshake(incoming: &Incoming) -> Result<Option<HeaderValue>, Problem> {
    let Incoming { headers, version, .. } = incoming;
    if !has_word(headers, UPGRADE, "websocket") {
        return Ok(None);
    }
    if *version != Version::HTTP_11 || headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|it| it != "13") {
        let detail = "A WebSocket needs HTTP/1.1 and `Sec-WebSocket-Version: 13`. Connect with HTTP/1.1, or read server-sent events.";
        return Err(Problem::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", Retryable::NewKey, detail));
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|_| has_word(headers, CONNECTION, "upgrade"));
    let is_nonce = |key: &&HeaderValue| BASE64_STANDARD.decode(key).is_ok_and(|nonce| nonce.len() == 16);
    let Some(key) = key.filter(is_nonce) else {
        let detail =
            "The WebSocket handshake needs `Connection: Upgrade` and a `Sec-WebSocket-Key` of 16 bytes in Base64.";
        return Err(Problem::malformed(detail));
    };
    let accept = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key.as_bytes(), WEBSOCKET_GUID.as_bytes()].concat());
    Ok(HeaderValue::from_str(&BASE64_STANDARD.encode(accept)).ok())
}

/// Returns whether a header's comma-separated list contains a word.
fn has_word(headers: &HeaderMap, name: HeaderName, word: &str) -> bool {
    let values = headers.get_all(name);
    values
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(word)))
}

/// Returns the version that the caller has; `None` if it names none.
fn last_event_id(headers: &HeaderMap) -> Option<u64> {
    headers.get("last-event-id")?.to_str().ok()?.trim().parse().ok()
}

fn missing() -> Problem {
    Problem::not_found("There is no such payment.")
}

fn too_many(limit: TooMany) -> Problem {
    match limit {
        TooMany::OfTopic => {
            let detail = "Too many streams watch this payment. Close one of them, or connect again later.";
            Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", Retryable::SameKey, detail)
        }
        TooMany::InTotal => {
            let detail = "The gateway is at its limit of open streams. Connect again later, or query the payment.";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", Retryable::SameKey, detail)
        }
    }
    .retry_after(5)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::Method;

    use super::*;

    fn upgrade(version: Version, headers: &[(&'static str, &'static str)]) -> Incoming {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        Incoming {
            method: Method::GET,
            version,
            scheme: "http",
            authority: String::new(),
            target: "/v1/payments/o/events".to_owned(),
            headers: map,
            body: Bytes::new(),
            request_id: String::new(),
        }
    }

    /// The key and its answer are the example of RFC 6455, section 1.3.
    #[test]
    fn websocket_handshake_is_checked_as_rfc_6455_requires() {
        const KEY: (&str, &str) = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        const VERSION: (&str, &str) = ("sec-websocket-version", "13");
        const UPGRADE: (&str, &str) = ("upgrade", "WebSocket");
        const CONNECTION: (&str, &str) = ("connection", "keep-alive, Upgrade");
        let result = |version, headers: &[(&'static str, &'static str)]| {
            let accept = websocket_handshake(&upgrade(version, headers));
            accept.map(|accept| accept.map(|it| it.to_str().unwrap().to_owned())).map_err(|it| it.code().to_owned())
        };
        let http11 = Version::HTTP_11;
        let whole = [UPGRADE, CONNECTION, KEY, VERSION];
        assert_eq!(result(http11, &whole), Ok(Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".to_owned())));
        assert_eq!(result(http11, &[]), Ok(None));
        assert_eq!(result(http11, &[("upgrade", "h2c"), CONNECTION]), Ok(None));
        for (version, headers, code) in [
            (Version::HTTP_10, &whole[..], "upgrade_required"),
            (Version::HTTP_2, &whole[..], "upgrade_required"),
            (http11, &[UPGRADE, CONNECTION, KEY][..], "upgrade_required"),
            (http11, &[UPGRADE, CONNECTION, KEY, ("sec-websocket-version", "8")][..], "upgrade_required"),
            (http11, &[UPGRADE, KEY, VERSION][..], "invalid_request"),
            (http11, &[UPGRADE, CONNECTION, VERSION][..], "invalid_request"),
            (http11, &[UPGRADE, CONNECTION, ("sec-websocket-key", "AAAA"), VERSION][..], "invalid_request"),
        ] {
            assert_eq!(result(version, headers), Err(code.to_owned()), "{version:?} {headers:?}");
        }
    }

    #[tokio::test]
    async fn new_stream_waits_for_a_permit_to_read_and_is_refused_without_one() {
        let (directory, hub) = (tempfile::tempdir().unwrap(), ChangeHub::default());
        let ledger = Ledger::open(directory.path()).unwrap();
        let key = RecordKey([1; 16]);
        let code = async || read(&hub, &ledger, key).await.unwrap_err().code().to_owned();
        assert_eq!(code().await, "not_found");
        let reads = u32::try_from(hub.reads.available_permits()).unwrap();
        let all = hub.reads.acquire_many(reads).await.unwrap();
        tokio::time::pause();
        assert_eq!(code().await, "overloaded");
        tokio::time::resume();
        drop(all);
        assert_eq!(code().await, "not_found");
    }
}
