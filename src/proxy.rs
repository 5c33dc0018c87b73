//! Pingora at the door: HTTP in, HTTP out. A unified request is answered inside `request_filter`, because only there can
//! an answer be verified and recorded before its first byte leaves.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::{Response, StatusCode};
use pingora::http::ResponseHeader;
use pingora::proxy::{ProxyHttp, Session};
use pingora::upstreams::peer::HttpPeer;
use rand::Rng;

use crate::gateway::{Gateway, Incoming, Served};
use crate::problem::{Code, Problem, Retryable};
use crate::telemetry::{LABELS, METRICS};

/// How long a caller may take to send its body.
const BODY_TIME: Duration = Duration::from_secs(30);

/// The door.
pub struct Door {
    gateway: Arc<Gateway>,
    in_flight: InFlight,
    places: Places,
    scheme: &'static str,
    body_limit: usize,
}

/// Counts requests that are being served, so that the process can leave when there are none.
#[derive(Clone, Default)]
pub struct InFlight(Arc<AtomicUsize>);

impl InFlight {
    /// How many there are now.
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }

    /// Counts one more until what is given is dropped.
    pub(crate) fn enter(&self) -> Inside {
        self.0.fetch_add(1, Ordering::AcqRel);
        METRICS.requests_in_flight.inc();
        Inside(Arc::clone(&self.0))
    }
}

/// How many are served now, of each kind.
#[derive(Default)]
struct Places {
    requests: Arc<AtomicUsize>,
    notifications: Arc<AtomicUsize>,
}

/// One of them; given back when dropped.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A request that is being served, or what is done for one that was answered already.
pub(crate) struct Inside(Arc<AtomicUsize>);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
        METRICS.requests_in_flight.dec();
    }
}

impl Door {
    /// `scheme` is what callers see: `https` when the listener speaks TLS.
    pub fn new(gateway: Arc<Gateway>, in_flight: InFlight, scheme: &'static str, body_limit: u64) -> Self {
        let places = Places::default();
        Self { gateway, in_flight, places, scheme, body_limit: usize::try_from(body_limit).unwrap_or(usize::MAX) }
    }

    /// A place for a request, taken before its body is read; who finds none is turned away at once. Providers have places of
    /// their own: no flood of merchants may keep a notification out.
    fn place(&self, session: &mut Session) -> Result<Place, Problem> {
        let most = self.gateway.current.load().process.in_flight as usize;
        let header = session.req_header();
        let (kind, taken, most) = match header.uri.path().starts_with("/notify/") {
            true => ("notification", &self.places.notifications, most / 4),
            false => ("request", &self.places.requests, most),
        };
        let place = Place(Arc::clone(taken));
        if taken.fetch_add(1, Ordering::AcqRel) < most {
            return Ok(place);
        }
        METRICS.requests_shed_total.with_label_values(&[kind]).inc();
        // A body that is not read would be taken for the next request.
        let length = header.headers.get(http::header::CONTENT_LENGTH);
        if length.is_some_and(|length| length != "0") || header.headers.contains_key(http::header::TRANSFER_ENCODING) {
            session.downstream_session.set_keepalive(None);
        }
        let detail = "Nothing was done, because the gateway serves as many requests as it can. Send the same request again after 1 s.";
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", Retryable::SameKey, detail);
        Err(problem.retry_after(1))
    }

    /// Reads head and body, both bounded.
    async fn read(&self, session: &mut Session, request_id: String) -> Result<Incoming, Problem> {
        let header = session.req_header();
        let target = header.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
        let authority = header
            .headers
            .get(http::header::HOST)
            .and_then(|value| value.to_str().ok())
            .or_else(|| header.uri.authority().map(http::uri::Authority::as_str))
            .unwrap_or_default()
            .to_owned();
        let (method, headers) = (header.method.clone(), header.headers.clone());
        let too_large = || {
            let detail = format!("The body is larger than {} bytes; send a smaller one.", self.body_limit);
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", Retryable::NewKey, detail)
        };
        let announced =
            headers.get(http::header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|length| length > self.body_limit as u64) {
            return Err(too_large());
        }
        if headers.get(http::header::EXPECT).is_some()
            && session.downstream_session.write_continue_response().await.is_err()
        {
            return Err(Problem::malformed("The connection broke."));
        }
        let read_all = async {
            let mut body = BytesMut::new();
            loop {
                match session.downstream_session.read_request_body().await {
                    Ok(Some(part)) if body.len() + part.len() > self.body_limit => return Err(too_large()),
                    Ok(Some(part)) => body.extend_from_slice(&part),
                    Ok(None) => return Ok(body.freeze()),
                    Err(_) => return Err(Problem::malformed("The body ended before it was complete.")),
                }
            }
        };
        let body = tokio::time::timeout(BODY_TIME, read_all).await.unwrap_or_else(|_| {
            let detail = "The body did not come in time. Send the same request again.";
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "too_slow", Retryable::SameKey, detail))
        })?;
        Ok(Incoming { method, scheme: self.scheme, authority, target, headers, body, request_id })
    }
}

#[async_trait]
impl ProxyHttp for Door {
    type CTX = Context;

    fn new_ctx(&self) -> Self::CTX {
        Context {
            started: Instant::now(),
            _inside: self.in_flight.enter(),
            place: None,
            request_id: String::new(),
            answered: None,
        }
    }

    async fn request_filter(&self, session: &mut Session, context: &mut Self::CTX) -> pingora::Result<bool> {
        context.request_id = request_id(session);
        let place = match self.place(session) {
            Ok(place) => place,
            Err(problem) => {
                let response = problem.response(&context.request_id);
                context.answered = Some(Answered::of(&response));
                return write(session, response, &context.request_id).await.map(|()| true);
            }
        };
        context.place = Some(place);
        let response = match self.read(session, context.request_id.clone()).await {
            Ok(incoming) => self.gateway.handle(incoming).await,
            Err(problem) => {
                // What is left of the body is not read, so the connection cannot carry another request.
                session.downstream_session.set_keepalive(None);
                problem.response(&context.request_id)
            }
        };
        context.answered = Some(Answered::of(&response));
        write(session, response, &context.request_id).await?;
        Ok(true)
    }

    async fn upstream_peer(&self, _: &mut Session, _: &mut Self::CTX) -> pingora::Result<Box<HttpPeer>> {
        pingora::Error::e_explain(pingora::ErrorType::InternalError, "every request is answered in request_filter")
    }

    async fn logging(&self, session: &mut Session, _: Option<&pingora::Error>, context: &mut Self::CTX) {
        let status = session.response_written().map_or(0, |header| header.status.as_u16());
        let seconds = context.started.elapsed().as_secs_f64();
        let Answered { served, code } = context.answered.take().unwrap_or_default();
        let merchant = served.merchant.as_deref().unwrap_or_default();
        let channel = served.channel.as_deref().unwrap_or_default();
        let status_text = status.to_string();
        let code = code.as_deref().unwrap_or(&status_text);
        let labels = [LABELS.merchant(merchant), LABELS.channel(channel), served.operation];
        METRICS.requests_total.with_label_values(&[labels[0], labels[1], labels[2], code]).inc();
        METRICS.request_duration_seconds.with_label_values(&labels).observe(seconds);
        tracing::info!(
            target: "access",
            request_id = context.request_id,
            method = session.req_header().method.as_str(),
            path = session.req_header().uri.path(),
            status,
            code,
            merchant,
            channel,
            operation = served.operation,
            milliseconds = seconds * 1000.0,
        );
    }
}

/// What one request carries through Pingora's phases.
pub struct Context {
    started: Instant,
    _inside: Inside,
    place: Option<Place>,
    request_id: String,
    answered: Option<Answered>,
}

#[derive(Default)]
struct Answered {
    served: Served,
    code: Option<Cow<'static, str>>,
}

impl Answered {
    fn of(response: &Response<Bytes>) -> Self {
        Self {
            served: response.extensions().get::<Served>().cloned().unwrap_or_default(),
            code: response.extensions().get::<Code>().map(|code| code.0.clone()),
        }
    }
}

/// The caller's own id when it has a decent form, else a new one.
fn request_id(session: &Session) -> String {
    let given = session.req_header().headers.get("x-request-id").and_then(|value| value.to_str().ok());
    match given {
        Some(id) if (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic()) => id.to_owned(),
        _ => format!("req_{:032x}", rand::rng().random::<u128>()),
    }
}

async fn write(session: &mut Session, response: Response<Bytes>, request_id: &str) -> pingora::Result<()> {
    let (parts, body) = response.into_parts();
    let mut header = ResponseHeader::build(parts.status, Some(parts.headers.len() + 3))?;
    for (name, value) in &parts.headers {
        header.append_header(name.clone(), value.clone())?;
    }
    header.insert_header("x-request-id", request_id)?;
    if parts.status != StatusCode::NO_CONTENT {
        header.insert_header(http::header::CONTENT_LENGTH, body.len().to_string())?;
    }
    let empty = body.is_empty();
    session.write_response_header(Box::new(header), empty).await?;
    if !empty {
        session.write_response_body(Some(body), true).await?;
    }
    Ok(())
}
