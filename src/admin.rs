//! For operators and machines that watch: metrics, alive, ready.

mod breakers;
mod browsers;
mod client;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use http::header::{ACCEPT, AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use jiff::Timestamp;
use pingora::apps::{HttpPersistentSettings, HttpServerApp, ReusedHttpStream};
use pingora::http::RequestHeader;
use pingora::protocols::http::ServerSession;
use pingora::server::ShutdownWatch;
use serde_json::json;
use tollgate_plugins::filter::Clock;

use self::browsers::{Shown, refusal};
pub(crate) use self::client::ask;
use crate::clock;
use crate::config::diagnostics::Diagnostic;
use crate::config::generations::StoredGeneration;
use crate::config::reload::{ReloadHandle, Report};
use crate::explain;
use crate::gateway::Gateway;
use crate::listener;
use crate::probe::Probes;
use crate::server::{SignalReadiness, Workers};
use crate::telemetry::{METRICS, filter_metrics};

/// Seconds for which an idle connection stays open.
const KEEPALIVE: u64 = 60;

/// The admin listener.
pub struct Admin {
    /// Whose state is told.
    pub gateway: Arc<Gateway>,
    /// True once the process was told to leave.
    pub draining: Arc<AtomicBool>,
    /// Which signals would still end the process at once.
    pub(crate) deaf: Arc<SignalReadiness>,
    /// Reloads on demand.
    pub reload: ReloadHandle,
    /// Whether channels' hosts can be reached.
    pub probes: Arc<Probes>,
    /// Whether everything that is to run does.
    pub(crate) workers: Workers,
}

#[async_trait]
impl HttpServerApp for Admin {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        match session.read_request().await {
            Ok(true) => {}
            Ok(false) => return None,
            // As the public port does; the stream makes a problem of it.
            Err(_) => {
                session.set_keepalive(None);
                drop(session.respond_error(StatusCode::BAD_REQUEST.as_u16()).await);
                session.shutdown().await;
                return None;
            }
        }
        session.set_keepalive(Some(KEEPALIVE).filter(|_| !*shutdown.borrow()));
        let (parts, body) = self.response(&mut session).await.into_parts();
        session.write_response_header(Box::new(parts.into())).await.ok()?;
        if !body.is_empty() {
            session.write_response_body(body.into(), true).await.ok()?;
        }
        let settings = HttpPersistentSettings::for_session(&session);
        let stream = session.finish().await.ok()??;
        Some(ReusedHttpStream::from_reusable_stream(stream, settings))
    }
}

impl Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        if let Some(request) = listener::begin(session) {
            request.begin_work();
        }
        let header = session.req_header();
        if let Some(refused) = self.refused(header) {
            return refused;
        }
        match header.method {
            Method::HEAD => headers_only(self.answer(&Method::GET, header).await),
            ref method => self.answer(method, header).await,
        }
    }
}

impl Admin {
    /// Refuses whoever may not use this port. `/healthz` and `/readyz` say nothing and are open; `/metrics` is not, because it
    /// names merchants and tells what they take in: without a token it is scraped by an address, `localhost` or a name in
    /// `admin.hosts`.
    fn refused(&self, header: &RequestHeader) -> Option<Response<Vec<u8>>> {
        if ["/healthz", "/readyz"].contains(&header.uri.path()) {
            return None;
        }
        let process = Arc::clone(&self.gateway.current.load().process);
        let authorization = header.headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
        let shown = match &process.admin_token {
            Some(token) if !token.is_shown(authorization) => return Some(unauthorized()),
            Some(_) => Shown::Token,
            None if process.admin_tls.as_ref().is_some_and(|tls| tls.client_ca.is_some()) => Shown::Certificate,
            None => Shown::Nothing,
        };
        let authority = header.uri.authority().map(http::uri::Authority::as_str);
        let why = refusal(&header.method, &header.headers, authority, &process.admin_hosts, shown)?;
        Some(text(StatusCode::FORBIDDEN, PLAIN, format!("{why}\n")))
    }

    async fn answer(&self, method: &Method, header: &RequestHeader) -> Response<Vec<u8>> {
        let as_json = wants_json(&header.headers);
        match (method, header.uri.path()) {
            (&Method::GET, "/metrics") => {
                self.collect().await;
                text(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", METRICS.render())
            }
            (&Method::GET, "/healthz") => text(StatusCode::OK, "text/plain", "alive\n".to_owned()),
            (&Method::GET, "/readyz") => match self.not_ready() {
                None => text(StatusCode::OK, "text/plain", format!("ready\n{}", listener::strain().unwrap_or_default())),
                Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, "text/plain", format!("not ready: {why}\n")),
            },
            (&Method::POST, "/reload") => reported(self.reload.reload().await, as_json),
            (&Method::GET, "/generations") => {
                let (kept, running) = self.reload.generations().await;
                listed(&kept, running, as_json)
            }
            (&Method::POST, "/rollback") => match number(header.uri.query()) {
                Ok(number) => reported(self.reload.roll_back(number).await, as_json),
                Err(message) => text(StatusCode::BAD_REQUEST, PLAIN, message),
            },
            (&Method::GET, "/breakers") => text(StatusCode::OK, PLAIN, breakers::listed(&self.gateway)),
            (&Method::GET, "/probes") => text(StatusCode::OK, PLAIN, self.probes.listed(&self.gateway.current.load())),
            (&Method::POST, "/breakers") => match breakers::force(&self.gateway, header.uri.query()) {
                Ok(said) => text(StatusCode::OK, PLAIN, said),
                Err(said) => text(StatusCode::BAD_REQUEST, PLAIN, said),
            },
            (&Method::GET, path) if path.starts_with("/explain/") => {
                let Some(question) = explain::Question::read(path, header.uri.query()) else {
                    return text(StatusCode::BAD_REQUEST, PLAIN, "write /explain/ORDER?merchant=NAME\n".to_owned());
                };
                match explain::answer(&self.gateway.ledger, &self.gateway.current.load(), &question).await {
                    Ok(found) => text(StatusCode::OK, "application/json", found),
                    Err(error) => text(StatusCode::SERVICE_UNAVAILABLE, PLAIN, format!("{error}\n")),
                }
            }
            _ => text(
                StatusCode::NOT_FOUND,
                "text/plain",
                "try GET /metrics /healthz /readyz /generations /breakers /probes /explain/ORDER or POST /reload /rollback /breakers\n"
                    .to_owned(),
            ),
        }
    }

    /// Returns the first reason why this process should get no new requests; each part is asked for its own.
    fn not_ready(&self) -> Option<String> {
        if self.draining.load(Ordering::Acquire) {
            return Some("the process is leaving".to_owned());
        }
        if self.deaf.to_any() {
            return Some("the process is starting".to_owned());
        }
        if let Some(why) = self.gateway.ledger.not_ready() {
            return Some(why);
        }
        if !self.gateway.ledger.is_healthy() {
            return Some(
                "the ledger is not writable; see the log (disk full: free space; fsync failed: replace the disk and restart)"
                    .to_owned(),
            );
        }
        let redis = self.gateway.redis.as_ref().and_then(|redis| redis.not_ready());
        redis.or_else(clock::refusal).or_else(|| self.workers.not_working())
    }

    /// Brings the gauges up to date that nobody sets as things happen.
    async fn collect(&self) {
        if let Ok(waiting) = self.gateway.ledger.waiting().await {
            METRICS.delivery_queue_depth.set(i64::try_from(waiting.deliveries).unwrap_or(i64::MAX));
            METRICS.unknown_payments.set(i64::try_from(waiting.unknown).unwrap_or(i64::MAX));
            METRICS.unknown_oldest_seconds.set(seconds_since(waiting.oldest_unknown));
            METRICS.queue_depth.set(i64::try_from(waiting.jobs).unwrap_or(i64::MAX));
            METRICS.queue_oldest_seconds.set(seconds_since(waiting.oldest_job));
        }
        self.gateway.statuses.orders.show();
        METRICS.status_cache_shared.set(i64::from(self.gateway.statuses.is_sharing()));
        METRICS.stores.ledger_lease.set(i64::from(self.gateway.ledger.not_ready().is_none()));
        METRICS.ledger_accepts_writes.set(i64::from(self.gateway.ledger.check_disk_space().is_ok()));
        METRICS.clock_offset_seconds.set(clock::offset_seconds());
        self.probes.tell(&self.gateway.current.load());
        self.gateway.exchanger.keys().show(&self.gateway.current.load());
        let now = self.gateway.exchanger.clock().now();
        for channel in self.gateway.current.load().channels.values() {
            filter_metrics::tell(channel, now);
        }
    }
}

/// None when there is none.
fn seconds_since(since: Option<Timestamp>) -> f64 {
    let age = since.and_then(|since| Duration::try_from(clock::now().duration_since(since)).ok());
    age.unwrap_or_default().as_secs_f64()
}

const JSON: &str = "application/json";
const PLAIN: &str = "text/plain; charset=utf-8";

/// The same without its body, but with its length.
fn headers_only(mut response: Response<Vec<u8>>) -> Response<Vec<u8>> {
    response.body_mut().clear();
    response
}

fn unauthorized() -> Response<Vec<u8>> {
    let said = "send the token that `[admin]` of tollgate.toml names, as `authorization: Bearer TOKEN`\n".to_owned();
    let mut response = text(StatusCode::UNAUTHORIZED, PLAIN, said);
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

fn wants_json(headers: &HeaderMap) -> bool {
    headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).is_some_and(|accept| accept.contains(JSON))
}

/// Each generation that is kept, with what its reload did.
fn listed(generations: &[(StoredGeneration, Option<Report>)], running: u64, as_json: bool) -> Response<Vec<u8>> {
    if as_json {
        let one = |(kept, report): &(StoredGeneration, Option<Report>)| json!({"generation": kept.number, "hash": kept.hash, "in_force": kept.number == running, "report": report});
        let all: Vec<_> = generations.iter().map(one).collect();
        return text(StatusCode::OK, JSON, json!(all).to_string());
    }
    let lines = |(kept, report): &(StoredGeneration, Option<Report>)| {
        let mark = if kept.number == running { "  in force" } else { "" };
        let details = report.iter().flat_map(|report| report.lines().into_iter().skip(1));
        let details: String = details.map(|line| format!("          {}\n", line.trim_start())).collect();
        format!("{:>8}  {}{mark}\n{details}", kept.number, kept.hash)
    };
    text(StatusCode::OK, PLAIN, generations.iter().map(lines).collect())
}

fn reported(result: Result<Report, Vec<Diagnostic>>, as_json: bool) -> Response<Vec<u8>> {
    match result {
        Ok(report) if as_json => text(StatusCode::OK, JSON, json!(report).to_string()),
        Ok(report) => text(StatusCode::OK, PLAIN, report.lines().join("\n") + "\n"),
        Err(mistakes) if as_json => {
            let one = |mistake: &Diagnostic| {
                let Diagnostic { file, line, column, message, suggestion } = mistake;
                json!({"file": file, "line": line, "column": column, "message": message, "suggestion": suggestion})
            };
            let all: Vec<_> = mistakes.iter().map(one).collect();
            text(StatusCode::UNPROCESSABLE_ENTITY, JSON, json!({"mistakes": all}).to_string())
        }
        Err(mistakes) => {
            let lines: String = mistakes.iter().map(|mistake| format!("{mistake}\n")).collect();
            text(StatusCode::UNPROCESSABLE_ENTITY, PLAIN, lines)
        }
    }
}

/// The generation that `?to=…` names.
fn number(query: Option<&str>) -> Result<Option<u64>, String> {
    let Some(query) = query else { return Ok(None) };
    let number = query.strip_prefix("to=").and_then(|number| number.parse().ok());
    number.map(Some).ok_or_else(|| "write ?to=NUMBER, or leave it out for the generation before\n".to_owned())
}

fn text(status: StatusCode, content_type: &'static str, body: String) -> Response<Vec<u8>> {
    let mut response = Response::new(body.into_bytes());
    *response.status_mut() = status;
    let length = response.body().len();
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response.headers_mut().insert(http::header::CONTENT_LENGTH, length.into());
    response
}
