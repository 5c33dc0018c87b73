//! The admin interface for operators and monitoring: metrics, health, reload, breakers, explanations.

mod breakers;
mod browsers;
mod sinks;

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
use tollgate_config::Diagnostic;
use tollgate_gateway::clock;
use tollgate_gateway::listener;
use tollgate_gateway::operations::Gateway;
use tollgate_gateway::probe::Probes;
use tollgate_gateway::reload::generations::StoredGeneration;
use tollgate_gateway::reload::{ReloadHandle, Report};
use tollgate_gateway::telemetry::{METRICS, filter_metrics};
use tollgate_gateway::workers::Workers;
use tollgate_ledger::{LedgerError, SinkName};
use tollgate_plugins::filter::Clock;

use self::browsers::{CallerProof, rejection};
use crate::explain;
use crate::server::signals::SignalReadiness;

/// Seconds after which an idle connection is closed.
const KEEPALIVE_SECONDS: u64 = 60;

/// The admin listener's application.
pub(crate) struct Admin {
    /// The gateway to report on.
    pub gateway: Arc<Gateway>,
    /// True after the process was asked to stop.
    pub draining: Arc<AtomicBool>,
    /// Signal handlers that are not installed yet.
    pub(crate) signals: Arc<SignalReadiness>,
    /// Handle for reloading the configuration.
    pub reload: ReloadHandle,
    /// Reachability of the channels' hosts.
    pub probes: Arc<Probes>,
    /// Liveness of the workers.
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
            // Like the public port; the listener's stream converts the error into a problem.
            Err(_) => {
                session.set_keepalive(None);
                drop(session.respond_error(StatusCode::BAD_REQUEST.as_u16()).await);
                session.shutdown().await;
                return None;
            }
        }
        session.set_keepalive(Some(KEEPALIVE_SECONDS).filter(|_| !*shutdown.borrow()));
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
        if let Some(rejection) = self.reject(header) {
            return rejection;
        }
        match header.method {
            Method::HEAD => headers_only(self.answer(&Method::GET, header).await),
            ref method => self.answer(method, header).await,
        }
    }
}

impl Admin {
    /// Rejects unauthorized requests. `/healthz` and `/readyz` reveal nothing and are open. `/metrics` names
    /// merchants and their turnover, so without a token it must be requested by an address, by `localhost` or by a
    /// name in `admin.hosts`.
    fn reject(&self, header: &RequestHeader) -> Option<Response<Vec<u8>>> {
        if ["/healthz", "/readyz"].contains(&header.uri.path()) {
            return None;
        }
        let process = Arc::clone(&self.gateway.current.load().process);
        let authorization = header.headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
        let proof = match &process.admin_token {
            Some(token) if !token.is_shown(authorization) => return Some(unauthorized()),
            Some(_) => CallerProof::Token,
            None if process.admin_tls.as_ref().is_some_and(|tls| tls.client_ca.is_some()) => CallerProof::Certificate,
            None => CallerProof::Nothing,
        };
        let authority = header.uri.authority().map(http::uri::Authority::as_str);
        let reason = rejection(&header.method, &header.headers, authority, &process.admin_hosts, proof)?;
        Some(text_response(StatusCode::FORBIDDEN, PLAIN_TEXT, format!("{reason}\n")))
    }

    async fn answer(&self, method: &Method, header: &RequestHeader) -> Response<Vec<u8>> {
        let as_json = wants_json(&header.headers);
        match (method, header.uri.path()) {
            (&Method::GET, "/metrics") => {
                self.collect().await;
                text_response(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", METRICS.render())
            }
            (&Method::GET, "/healthz") => text_response(StatusCode::OK, "text/plain", "alive\n".to_owned()),
            (&Method::GET, "/readyz") => match self.not_ready() {
                None => text_response(StatusCode::OK, "text/plain", format!("ready\n{}", listener::saturation().unwrap_or_default())),
                Some(reason) => text_response(StatusCode::SERVICE_UNAVAILABLE, "text/plain", format!("not ready: {reason}\n")),
            },
            (&Method::POST, "/reload") => reload_response(self.reload.reload().await, as_json),
            (&Method::GET, "/generations") => {
                let (stored, running) = self.reload.generations().await;
                generations_response(&stored, running, as_json)
            }
            (&Method::POST, "/rollback") => match generation_number(header.uri.query()) {
                Ok(generation_number) => reload_response(self.reload.roll_back(generation_number).await, as_json),
                Err(message) => text_response(StatusCode::BAD_REQUEST, PLAIN_TEXT, message),
            },
            (&Method::GET, "/breakers") => text_response(StatusCode::OK, PLAIN_TEXT, breakers::listed(&self.gateway)),
            (&Method::GET, "/probes") => text_response(StatusCode::OK, PLAIN_TEXT, self.probes.list(&self.gateway.current.load())),
            (&Method::POST, "/breakers") => match breakers::force(&self.gateway, header.uri.query()) {
                Ok(message) => text_response(StatusCode::OK, PLAIN_TEXT, message),
                Err(message) => text_response(StatusCode::BAD_REQUEST, PLAIN_TEXT, message),
            },
            (&Method::POST, path) if path.starts_with("/merchants/") => match sinks::retry(&self.gateway, path).await {
                Ok(message) => text_response(StatusCode::OK, PLAIN_TEXT, message),
                Err((status, message)) => text_response(status, PLAIN_TEXT, message),
            },
            (&Method::GET, path) if path.starts_with("/explain/") => {
                let Some(question) = explain::Question::read(path, header.uri.query()) else {
                    return text_response(StatusCode::BAD_REQUEST, PLAIN_TEXT, "invalid query; use /explain/ORDER?merchant=NAME\n".to_owned());
                };
                match explain::answer(&self.gateway.ledger, &self.gateway.current.load(), &question).await {
                    Ok(explanation) => text_response(StatusCode::OK, "application/json", explanation),
                    Err(error) => text_response(StatusCode::SERVICE_UNAVAILABLE, PLAIN_TEXT, format!("{error}\n")),
                }
            }
            _ => text_response(
                StatusCode::NOT_FOUND,
                "text/plain",
                "no such path; try GET /metrics /healthz /readyz /generations /breakers /probes /explain/ORDER or POST /reload /rollback /breakers /merchants/MERCHANT/sinks/SINK/retry\n"
                    .to_owned(),
            ),
        }
    }

    /// Returns the first reason why this process should not get new requests.
    fn not_ready(&self) -> Option<String> {
        if self.draining.load(Ordering::Acquire) {
            return Some("the process is shutting down".to_owned());
        }
        if self.signals.is_starting() {
            return Some("the process is starting".to_owned());
        }
        if let Some(error) = self.gateway.ledger.not_ready() {
            return Some(error.to_string());
        }
        let redis = self.gateway.redis.as_ref().and_then(|redis| redis.not_ready());
        redis.or_else(clock::refusal).or_else(|| self.workers.stalled())
    }

    /// Updates the gauges that are computed on demand.
    async fn collect(&self) {
        if let Ok(waiting) = self.gateway.ledger.waiting().await {
            let snapshot = self.gateway.current.load();
            let sinks = snapshot.config.merchants.values().flat_map(|merchant| &merchant.sinks);
            let age = |sink: &SinkName| seconds_since(waiting.oldest_by_sink.get(sink).copied());
            let by_sink = waiting.deliveries_by_sink.iter().map(|(sink, count)| (sink.clone(), (*count, age(sink))));
            METRICS.set_delivery_backlog(&by_sink.collect(), sinks.map(|sink| sink.name.as_str()));
            METRICS.unknown_payments.set(i64::try_from(waiting.unknown).unwrap_or(i64::MAX));
            METRICS.unknown_oldest_seconds.set(seconds_since(waiting.oldest_unknown));
            METRICS.queue_depth.set(i64::try_from(waiting.jobs).unwrap_or(i64::MAX));
            METRICS.queue_oldest_seconds.set(seconds_since(waiting.oldest_job));
        }
        self.gateway.statuses.update_metrics();
        let lost = self.gateway.ledger.not_ready();
        let is_held = !matches!(lost, Some(LedgerError::Unreachable { .. } | LedgerError::LeaseLost(_)));
        METRICS.stores.ledger_lease.set(i64::from(is_held));
        METRICS.ledger_accepts_writes.set(i64::from(self.gateway.ledger.check_disk_space().is_ok()));
        METRICS.export_disk_space(&self.gateway.current.load().process);
        METRICS.clock_offset_seconds.set(clock::offset_seconds());
        self.probes.update_metrics(&self.gateway.current.load());
        self.gateway.provider_client.keys().show(&self.gateway.current.load());
        let now = self.gateway.provider_client.clock().now();
        for channel in self.gateway.current.load().channels.values() {
            filter_metrics::export(&channel.name, &channel.filters, now);
        }
    }
}

/// Returns the seconds since `since`; 0 if there is no start time.
fn seconds_since(since: Option<Timestamp>) -> f64 {
    let age = since.and_then(|since| Duration::try_from(clock::now().duration_since(since)).ok());
    age.unwrap_or_default().as_secs_f64()
}

const JSON: &str = "application/json";
const PLAIN_TEXT: &str = "text/plain; charset=utf-8";

/// Removes the body but keeps its length header, for HEAD.
fn headers_only(mut response: Response<Vec<u8>>) -> Response<Vec<u8>> {
    response.body_mut().clear();
    response
}

fn unauthorized() -> Response<Vec<u8>> {
    let message =
        "send the token configured in `[admin]` of tollgate.toml, as `authorization: Bearer TOKEN`\n".to_owned();
    let mut response = text_response(StatusCode::UNAUTHORIZED, PLAIN_TEXT, message);
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

fn wants_json(headers: &HeaderMap) -> bool {
    headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).is_some_and(|accept| accept.contains(JSON))
}

/// Lists the stored generations with the reports of their reloads.
fn generations_response(
    generations: &[(StoredGeneration, Option<Report>)],
    running: u64,
    as_json: bool,
) -> Response<Vec<u8>> {
    if as_json {
        let to_json = |(stored, report): &(StoredGeneration, Option<Report>)| json!({"generation": stored.number, "hash": stored.hash, "in_force": stored.number == running, "report": report});
        let all: Vec<_> = generations.iter().map(to_json).collect();
        return text_response(StatusCode::OK, JSON, json!(all).to_string());
    }
    let lines = |(stored, report): &(StoredGeneration, Option<Report>)| {
        let mark = if stored.number == running { "  in force" } else { "" };
        let details = report.iter().flat_map(|report| report.lines().into_iter().skip(1));
        let details: String = details.map(|line| format!("          {}\n", line.trim_start())).collect();
        format!("{:>8}  {}{mark}\n{details}", stored.number, stored.hash)
    };
    text_response(StatusCode::OK, PLAIN_TEXT, generations.iter().map(lines).collect())
}

fn reload_response(result: Result<Report, Vec<Diagnostic>>, as_json: bool) -> Response<Vec<u8>> {
    match result {
        Ok(report) if as_json => text_response(StatusCode::OK, JSON, json!(report).to_string()),
        Ok(report) => text_response(StatusCode::OK, PLAIN_TEXT, report.lines().join("\n") + "\n"),
        Err(diagnostics) if as_json => {
            let to_json = |diagnostic: &Diagnostic| {
                let Diagnostic { file, line, column, message, suggestion } = diagnostic;
                json!({"file": file, "line": line, "column": column, "message": message, "suggestion": suggestion})
            };
            let all: Vec<_> = diagnostics.iter().map(to_json).collect();
            text_response(StatusCode::UNPROCESSABLE_ENTITY, JSON, json!({"mistakes": all}).to_string())
        }
        Err(diagnostics) => {
            let lines: String = diagnostics.iter().map(|diagnostic| format!("{diagnostic}\n")).collect();
            text_response(StatusCode::UNPROCESSABLE_ENTITY, PLAIN_TEXT, lines)
        }
    }
}

/// Parses the generation number from `?to=…`.
fn generation_number(query: Option<&str>) -> Result<Option<u64>, String> {
    let Some(query) = query else { return Ok(None) };
    let generation_number = query.strip_prefix("to=").and_then(|generation_number| generation_number.parse().ok());
    generation_number
        .map(Some)
        .ok_or_else(|| "invalid query; use ?to=NUMBER, or omit it for the previous generation\n".to_owned())
}

fn text_response(status: StatusCode, content_type: &'static str, body: String) -> Response<Vec<u8>> {
    let mut response = Response::new(body.into_bytes());
    *response.status_mut() = status;
    let length = response.body().len();
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response.headers_mut().insert(http::header::CONTENT_LENGTH, length.into());
    response
}
