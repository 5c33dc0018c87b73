//! The HTTP side of the gateway: reads requests, answers them inside Pingora's `request_filter`, and writes
//! responses. Only there can a response be verified and recorded before its first byte is sent.
//!
//! ```text
//! head ─▶ admission by the head alone (route, channel, timestamp)            400 401 404 405 417
//!      ─▶ body: limits for size, time, rate and total memory                 408 413 503
//!      ─▶ permit ─▶ gateway ─▶ response known: permit released               503
//!      ─▶ write the response; abort if the caller does not read it
//! ```

mod body;
mod permits;
mod stream;
mod waiting;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, Version};
use pingora::http::ResponseHeader;
use pingora::proxy::{ProxyHttp, Session};
use pingora::upstreams::peer::HttpPeer;
use rand::RngExt;

pub use self::permits::InFlight;
pub(crate) use self::permits::InFlightGuard;
use self::permits::{AdmissionLimits, Buffered, Stage};
use self::waiting::Waiting;
use crate::listener::{self, Reason};
use crate::operations::{AccessLabels, Admission, Gateway, Incoming, ResponseStream};
use crate::problem::{Code, Problem, Retryable};
use crate::telemetry::{LABELS, METRICS};

/// Maximum size of a notification in bytes. Every provider's notifications have a few KiB.
const MAX_NOTIFICATION: usize = 64 << 10;
/// Bytes of a response that the caller must read within the write timeout.
const WRITE_CHUNK: usize = 64 << 10;

/// The gateway as a Pingora proxy.
pub struct HttpProxy {
    gateway: Arc<Gateway>,
    in_flight: InFlight,
    permits: AdmissionLimits,
    responses: Arc<Waiting>,
    scheme: &'static str,
    body_limit: usize,
}

/// A completely received request.
struct ReceivedRequest {
    incoming: Incoming,
    admission: Admission,
    _buffered: Buffered,
}

/// The problem of a rejected request, and the operation label for metrics.
type Rejection = (Problem, &'static str);

impl HttpProxy {
    /// Creates a proxy. `scheme` is `https` if the listener uses TLS; `body_limit` is in bytes.
    pub fn new(gateway: Arc<Gateway>, in_flight: InFlight, scheme: &'static str, body_limit: u64) -> Self {
        let body_limit = usize::try_from(body_limit).unwrap_or(usize::MAX);
        Self { gateway, in_flight, permits: AdmissionLimits::default(), responses: Arc::default(), scheme, body_limit }
    }

    /// Serves a request; `None` if the connection was closed before processing began.
    async fn answer(
        &self,
        session: &mut Session,
        request: &listener::Request,
        context: &mut Context,
    ) -> Option<Response<Bytes>> {
        let request_id = context.request_id.as_str();
        let reject = |(problem, operation): Rejection| {
            let mut response = problem.response(request_id);
            response.extensions_mut().insert(AccessLabels { operation, ..AccessLabels::default() });
            Some(response)
        };
        let received = match self.receive(session, request_id).await {
            Ok(received) => received,
            Err(rejection) => return reject(rejection),
        };
        let in_flight = self.gateway.current.load().process.in_flight;
        let permit = match self.permits.take(received.admission, in_flight) {
            Ok(permit) => permit,
            Err(problem) => return reject((problem, "")),
        };
        if !request.begin_work() {
            return None;
        }
        context.in_flight.advance(Stage::Work);
        let response = self.gateway.handle(received.incoming).await;
        drop(permit);
        Some(response)
    }

    /// Checks the head and reads the body.
    async fn receive(&self, session: &mut Session, request_id: &str) -> Result<ReceivedRequest, Rejection> {
        let unlabelled = |problem: Problem| (problem, "");
        let header = session.req_header();
        let expects_continue =
            check_head(header.version, &header.headers).map_err(|problem| (problem, "invalid_request"))?;
        let mut incoming = self.incoming(session, request_id);
        let snapshot = self.gateway.current.load_full();
        let (limits, in_flight) = (snapshot.process.limits, snapshot.process.in_flight);
        let is_empty = session.downstream_session.is_body_empty();
        let admission = self.gateway.admit(&snapshot, &incoming, !is_empty)?;
        drop(snapshot);
        let max_bytes = match admission {
            Admission::Notification => self.body_limit.min(MAX_NOTIFICATION),
            Admission::Request => self.body_limit,
        };
        body::check_length(&incoming.headers, max_bytes).map_err(unlabelled)?;
        self.permits.check(admission, in_flight).map_err(unlabelled)?;
        let mut buffered = self.permits.buffer(admission, limits.max_buffered_bytes);
        if !is_empty {
            let waiter = self.permits.wait_for_body(admission, in_flight);
            if expects_continue {
                send_continue(session).await.map_err(unlabelled)?;
            }
            let limiter = (waiter, &mut buffered);
            incoming.body =
                body::read(&mut session.downstream_session, &limits, max_bytes, limiter).await.map_err(unlabelled)?;
        }
        Ok(ReceivedRequest { incoming, admission, _buffered: buffered })
    }

    /// Converts the head into the gateway's request.
    fn incoming(&self, session: &Session, request_id: &str) -> Incoming {
        let header = session.req_header();
        let host = header.headers.get(http::header::HOST).and_then(|value| value.to_str().ok());
        let authority = host.or_else(|| header.uri.authority().map(http::uri::Authority::as_str));
        Incoming {
            method: header.method.clone(),
            version: header.version,
            scheme: self.scheme,
            authority: authority.unwrap_or_default().to_owned(),
            target: header.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned(),
            headers: header.headers.clone(),
            body: Bytes::new(),
            request_id: request_id.to_owned(),
        }
    }
}

/// Checks the head as RFC 9110 and 9112 require. Returns true if the caller expects `100 Continue`.
fn check_head(version: Version, headers: &HeaderMap) -> Result<bool, Problem> {
    if version == Version::HTTP_11 && !headers.contains_key(http::header::HOST) {
        return Err(Problem::malformed("An HTTP/1.1 request needs a `Host` header."));
    }
    // HTTP/1.0 has no expectations.
    if version < Version::HTTP_11 {
        return Ok(false);
    }
    let mut expectations = headers.get_all(http::header::EXPECT).iter();
    match (expectations.next(), expectations.next()) {
        (None, _) => Ok(false),
        (Some(expectation), None) if expectation.as_bytes().eq_ignore_ascii_case(b"100-continue") => Ok(true),
        _ => {
            let detail = "The `Expect` header may only be `100-continue`.";
            Err(Problem::new(StatusCode::EXPECTATION_FAILED, "expectation_failed", Retryable::NewKey, detail))
        }
    }
}

/// Sends `100 Continue`. By default Pingora would treat this as an early response and close the connection.
async fn send_continue(session: &mut Session) -> Result<(), Problem> {
    let session = &mut session.downstream_session;
    session.set_close_on_response_before_downstream_finish(false);
    let written = session.write_continue_response().await;
    session.set_close_on_response_before_downstream_finish(true);
    written.map_err(|_| Problem::malformed("The connection was closed."))
}

#[async_trait]
impl ProxyHttp for HttpProxy {
    type CTX = Context;

    fn new_ctx(&self) -> Self::CTX {
        Context {
            started: Instant::now(),
            in_flight: self.in_flight.arrive(),
            request_id: String::new(),
            summary: None,
        }
    }

    async fn request_filter(&self, session: &mut Session, context: &mut Self::CTX) -> pingora::Result<bool> {
        // A connection that is being closed gets no response, so the request must not be processed.
        let Some(request) = listener::begin(&mut session.downstream_session) else { return Ok(true) };
        context.request_id = request_id(session);
        let Some(mut response) = self.answer(session, &request, context).await else { return Ok(true) };
        context.in_flight.advance(Stage::Response);
        let summary = ResponseSummary::of(&response);
        let is_authenticated = summary.labels.merchant.is_some();
        context.summary = Some(summary);
        let stream = response.extensions_mut().remove::<ResponseStream>();
        let written = if let Some(stream) = stream {
            // A stream may last for minutes, so it does not keep its connection from being evicted.
            request.connection().trust();
            request.end_work();
            stream::write(session, response, &stream, &context.request_id).await
        } else if is_authenticated {
            request.connection().trust();
            write(session, response, &context.request_id).await
        } else {
            // The response to an unauthenticated caller must not keep a connection from being evicted, nor use memory
            // for long.
            request.end_work();
            let max_waiting = self.gateway.current.load().process.in_flight as usize;
            let waiter = self.responses.enter(max_waiting);
            tokio::select! {
                biased;
                written = write(session, response, &context.request_id) => written,
                () = waiter.given_up() => pingora::Error::e_explain(pingora::ErrorType::WriteTimedout, "too many responses wait for their callers"),
            }
        };
        match written {
            Ok(()) => request.connection().answered(),
            Err(error) => {
                tracing::debug!(%error, request_id = context.request_id, "the caller did not read the response");
                abort_response(session, &request, &error);
            }
        }
        Ok(true)
    }

    async fn upstream_peer(&self, _: &mut Session, _: &mut Self::CTX) -> pingora::Result<Box<HttpPeer>> {
        pingora::Error::e_explain(pingora::ErrorType::InternalError, "every request is answered in request_filter")
    }

    async fn logging(&self, session: &mut Session, _: Option<&pingora::Error>, context: &mut Self::CTX) {
        let status = session.response_written().map_or(0, |header| header.status.as_u16());
        let seconds = context.started.elapsed().as_secs_f64();
        let ResponseSummary { labels, code } = context.summary.take().unwrap_or_default();
        let merchant = labels.merchant.as_deref().unwrap_or_default();
        let channel = labels.channel.as_deref().unwrap_or_default();
        let status_text = status.to_string();
        let code = code.as_deref().unwrap_or(&status_text);
        let metric_labels = [LABELS.merchant(merchant), LABELS.channel(channel), labels.operation];
        METRICS.requests_total.with_label_values(&[metric_labels[0], metric_labels[1], metric_labels[2], code]).inc();
        METRICS.request_duration_seconds.with_label_values(&metric_labels).observe(seconds);
        tracing::info!(
            target: "access",
            request_id = context.request_id,
            method = session.req_header().method.as_str(),
            path = session.req_header().uri.path(),
            status,
            code,
            merchant,
            channel,
            operation = labels.operation,
            milliseconds = seconds * 1000.0,
        );
    }
}

/// State of one request across Pingora's phases.
pub struct Context {
    started: Instant,
    in_flight: InFlightGuard,
    request_id: String,
    summary: Option<ResponseSummary>,
}

#[derive(Default)]
struct ResponseSummary {
    labels: AccessLabels,
    code: Option<Cow<'static, str>>,
}

impl ResponseSummary {
    fn of(response: &Response<Bytes>) -> Self {
        Self {
            labels: response.extensions().get::<AccessLabels>().cloned().unwrap_or_default(),
            code: response.extensions().get::<Code>().map(|code| code.0.clone()),
        }
    }
}

fn request_id(session: &Session) -> String {
    let requested_id = session.req_header().headers.get("x-request-id").and_then(|value| value.to_str().ok());
    valid_request_id(requested_id)
}

/// Returns the caller's `x-request-id` if it is valid, else a new one.
pub(crate) fn valid_request_id(requested_id: Option<&str>) -> String {
    match requested_id {
        Some(id) if (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic()) => id.to_owned(),
        _ => format!("req_{:032x}", rand::rng().random::<u128>()),
    }
}

/// Aborts a response that the caller does not read. An HTTP/2 connection stays open for its other streams, because
/// the caller may have cancelled this stream only.
fn abort_response(session: &mut Session, request: &listener::Request, error: &pingora::Error) {
    let session = &mut session.downstream_session;
    session.set_keepalive(None);
    session.shutdown_with_reason(h2::Reason::CANCEL);
    request.end_work();
    if !session.is_http2() {
        request.connection().close(Reason::Write);
    } else if *error.etype() == pingora::ErrorType::WriteTimedout {
        request.connection().close_stuck();
    }
}

/// Converts the head of a response.
fn head(parts: &http::response::Parts, request_id: &str) -> pingora::Result<ResponseHeader> {
    let mut header = ResponseHeader::build(parts.status, Some(parts.headers.len() + 3))?;
    for (name, value) in &parts.headers {
        header.append_header(name.clone(), value.clone())?;
    }
    header.insert_header("x-request-id", request_id)?;
    Ok(header)
}

async fn write(session: &mut Session, response: Response<Bytes>, request_id: &str) -> pingora::Result<()> {
    let (parts, mut body) = response.into_parts();
    let mut header = head(&parts, request_id)?;
    if parts.status != StatusCode::NO_CONTENT {
        header.insert_header(http::header::CONTENT_LENGTH, body.len().to_string())?;
    }
    // Closing a connection with unread bytes may destroy the response. So may ending an HTTP/2 stream before its
    // caller does.
    let is_unread = !session.downstream_session.is_body_done();
    let stays_open = is_unread && session.is_http2();
    session.write_response_header(Box::new(header), body.is_empty() && !stays_open).await?;
    while !body.is_empty() {
        let part = body.split_to(body.len().min(WRITE_CHUNK));
        session.write_response_body(Some(part), body.is_empty() && !stays_open).await?;
    }
    if is_unread {
        body::discard(&mut session.downstream_session).await;
    }
    if stays_open {
        session.write_response_body(None, true).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::{EXPECT, HOST};

    use super::*;

    #[test]
    fn head_without_host_or_with_unknown_expectation_is_rejected() {
        let head = |expect: &'static str, has_host: bool| {
            let mut headers = HeaderMap::new();
            if has_host {
                headers.insert(HOST, HeaderValue::from_static("a"));
            }
            if !expect.is_empty() {
                headers.insert(EXPECT, HeaderValue::from_static(expect));
            }
            headers
        };
        let code =
            |version, headers: &HeaderMap| check_head(version, headers).map_err(|problem| problem.code().to_owned());
        let reject = |code: &str| Err(code.to_owned());
        for (version, headers, expected) in [
            (Version::HTTP_11, head("", true), Ok(false)),
            (Version::HTTP_11, head("", false), reject("invalid_request")),
            (Version::HTTP_2, head("", false), Ok(false)),
            (Version::HTTP_10, head("", false), Ok(false)),
            (Version::HTTP_11, head("100-Continue", true), Ok(true)),
            (Version::HTTP_11, head("nonsense", true), reject("expectation_failed")),
            (Version::HTTP_11, head("100-continue, 100-continue", true), reject("expectation_failed")),
            (Version::HTTP_10, head("nonsense", false), Ok(false)),
        ] {
            assert_eq!(code(version, &headers), expected, "{version:?} {headers:?}");
        }
    }
}
