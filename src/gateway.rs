//! Serves a request in this order: authenticate → parse → route → claim → provider call → record → respond.

mod admission;
mod bills;
mod claim_key;
mod close;
mod duplicate_payment;
mod job;
mod notifications;
mod pay;
mod query;
mod refund;
mod request_body;
mod respond_async;
mod responses;
mod timeline;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tollgate_plugins::error::Error;
use tollgate_plugins::filter::Clock;
use tollgate_plugins::payment::{Operation, Outcome};
use tollgate_plugins::settings::duration;

use crate::access::{Access, Denied, FairShare, Head, Limits, Signed};
use crate::cache::single_flight::SingleFlight;
use crate::cache::{Counters, Redis, StatusCache};
use crate::clock::unix_now;
use crate::config::Merchant;
use crate::ledger::{ExecutionId, Ledger, ProviderCall};
use crate::problem::{Problem, Retryable};
use crate::provider_client::ProviderClient;
use crate::snapshot::{Channel, Current, Snapshot};

pub(crate) use self::admission::Admission;
use self::admission::{Route, segments};
use self::responses::{ResponseChannel, with_access_labels};
pub(crate) use duplicate_payment::handle_duplicate;
pub(crate) use job::execute_job;
pub(crate) use pay::{identical_create, repeats_create};
pub(crate) use query::{build_query, order};

/// Serves merchant requests and provider notifications. Owns all state that outlives one configuration.
pub struct Gateway {
    /// The configuration in force.
    pub current: Current,
    /// Durable claims, payments, refunds and events.
    pub ledger: Ledger,
    /// The Redis connection through which several gateways share nonces, if configured.
    pub(crate) redis: Option<Arc<Redis>>,
    /// Calls providers.
    pub provider_client: ProviderClient,
    access: Access,
    limits: Limits,
    fair_share: FairShare,
    /// Cached statuses as ready response bodies.
    pub(crate) statuses: Arc<StatusCache>,
    /// Single-flight status queries: at most one provider query per record at a time.
    queries: SingleFlight<query::QueryResult>,
    /// Provider queries in progress per merchant. A query continues after its caller has disconnected.
    query_shares: FairShare,
}

/// An HTTP request with its complete body.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// HTTP method.
    pub method: Method,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// From `Host` or `:authority`.
    pub authority: String,
    /// Path and query as received.
    pub target: String,
    /// Request headers.
    pub headers: HeaderMap,
    /// Request body.
    pub body: Bytes,
    /// The caller's `x-request-id`, or a generated one.
    pub request_id: String,
}

impl Incoming {
    /// Returns the parts of the head that a signature can cover.
    fn head(&self) -> Head<'_> {
        Head {
            method: self.method.as_str(),
            scheme: self.scheme,
            authority: &self.authority,
            path_and_query: &self.target,
            headers: &self.headers,
        }
    }
}

/// Merchant, channel and operation of a response, for metrics and the access log.
#[derive(Clone, Debug, Default)]
pub struct AccessLabels {
    /// The merchant, once authenticated.
    pub merchant: Option<String>,
    /// The channel, if the request concerns one.
    pub channel: Option<String>,
    /// Name of the operation, such as `create_payment`.
    pub operation: &'static str,
}

/// An authenticated merchant request.
pub(crate) struct RequestContext {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) merchant: Arc<Merchant>,
    pub(crate) incoming: Incoming,
    pub(crate) path: String,
    /// Time at which the caller stops waiting for the response.
    pub(crate) deadline: Instant,
}

/// The inputs of an execution, synchronous or queued: configuration, request id and deadline.
pub(crate) struct ExecutionContext {
    snapshot: Arc<Snapshot>,
    request_id: String,
    deadline: Instant,
}

impl ExecutionContext {
    /// Returns the time left until the deadline. A channel's own timeout may be shorter.
    fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

impl Gateway {
    /// Creates a gateway. Without Redis, nonces are written to the directory `nonces` for the next process.
    pub fn new(current: Current, ledger: Ledger, nonces: &Path) -> Self {
        let redis = Redis::from_config(&current.load().process.cache);
        Self {
            current,
            ledger,
            redis: redis.clone(),
            provider_client: ProviderClient::with_counters(Counters::new(redis.clone())),
            access: Access::kept_in(redis.clone(), nonces),
            limits: Limits::default(),
            fair_share: FairShare::default(),
            statuses: Arc::new(StatusCache::new(redis, Instant::now())),
            queries: SingleFlight::default(),
            query_shares: FairShare::default(),
        }
    }

    /// Serves one request with one configuration generation, which is named in `x-tollgate-generation`. Errors become
    /// problem responses.
    pub async fn handle(self: &Arc<Self>, incoming: Incoming) -> Response<Bytes> {
        let snapshot = self.current.load_full();
        let generation = HeaderValue::from(snapshot.generation);
        let mut response = self.serve(snapshot, incoming).await;
        response.headers_mut().insert("x-tollgate-generation", generation);
        response
    }

    async fn serve(self: &Arc<Self>, snapshot: Arc<Snapshot>, incoming: Incoming) -> Response<Bytes> {
        let arrived = Instant::now();
        let request_id = incoming.request_id.clone();
        let path = incoming.target.split('?').next().unwrap_or_default().to_owned();
        if let Some(channel) = path.strip_prefix("/notify/") {
            return notifications::handle(self, &snapshot, channel, incoming).await;
        }
        // Routing and idempotency keys use the canonical path. The signature covers the path as received.
        let path = canonical(&path);
        let signed = match self.authenticate(&snapshot, &incoming) {
            Ok(signed) => signed,
            Err(problem) => {
                return with_access_labels(
                    problem.response(&request_id),
                    AccessLabels { operation: "denied", ..AccessLabels::default() },
                );
            }
        };
        let merchant = Arc::clone(&signed.merchant);
        let refused = |operation, problem: Problem| {
            let by = AccessLabels { merchant: Some(merchant.name.clone()), channel: None, operation };
            with_access_labels(problem.response(&request_id), by)
        };
        let _in_flight = match self.limits.acquire(&merchant) {
            Ok(guard) => guard,
            Err(seconds) => return refused("limited", over_limit(seconds)),
        };
        let Some(_share) = self.fair_share.enter(&merchant.name, merchant_share(&snapshot)) else {
            return refused("limited", too_many_concurrent_requests());
        };
        // The nonce is recorded last, so that a request rejected by an earlier check may be sent again unchanged.
        let take_token = || self.limits.take_token(&merchant, self.provider_client.clock().now());
        if let Err(denied) = self.access.admit(&snapshot, &signed, unix_now(), take_token).await {
            let operation = if matches!(denied, Denied::OverRate(_)) { "limited" } else { "denied" };
            return refused(operation, denial_problem(&denied, &request_id));
        }
        let deadline = match client_timeout(&incoming.headers) {
            Ok(timeout) => arrived + timeout,
            Err(problem) => return refused("invalid_request", problem),
        };
        let name = merchant.name.clone();
        let request = Arc::new(RequestContext { snapshot, merchant, incoming, path, deadline });
        let (operation, result) = self.dispatch(request).await;
        let mut response = result.unwrap_or_else(|problem| problem.response(&request_id));
        let channel = response.extensions_mut().remove::<ResponseChannel>().map(|on| on.0);
        with_access_labels(response, AccessLabels { merchant: Some(name), channel, operation })
    }

    /// Sends the operation if this process may still send for this execution. Another gateway may have taken the
    /// claim over.
    async fn execute(
        &self,
        execution: ExecutionId,
        channel: &Arc<Channel>,
        operation: &Operation,
        limit: Duration,
        evidence: &mut Vec<ProviderCall>,
    ) -> Result<Outcome, Error> {
        match self.ledger.may_send(execution) {
            Ok(()) => self.provider_client.call(channel, operation, limit, evidence).await,
            Err(error) => Err(Error::NotSent(error.to_string())),
        }
    }

    /// Runs the operation that method and path select.
    async fn dispatch(
        self: &Arc<Self>,
        request: Arc<RequestContext>,
    ) -> (&'static str, Result<Response<Bytes>, Problem>) {
        let segments = match segments(&request.path) {
            Ok(segments) => segments,
            Err(problem) => return ("unknown", Err(problem)),
        };
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        match Route::find(&request.incoming.method, &segments) {
            Err(problem) => ("unknown", Err(problem)),
            Ok(Route::CreatePayment) => ("create_payment", pay::create(self, &request).await),
            Ok(Route::QueryPayment(order)) => ("query_payment", query::payment(self, &request, order).await),
            Ok(Route::Timeline(order)) => ("timeline", timeline::show(self, &request, order).await),
            Ok(Route::ClosePayment(order)) => ("close_payment", close::close(self, &request, order).await),
            Ok(Route::CreateRefund(order)) => ("create_refund", refund::create(self, &request, order).await),
            Ok(Route::QueryRefund(order, refund)) => {
                ("query_refund", query::refund(self, &request, order, refund).await)
            }
            Ok(Route::Bill(channel, date)) => ("bill", bills::bill(self, &request, channel, date).await),
        }
    }

    fn authenticate(&self, snapshot: &Snapshot, incoming: &Incoming) -> Result<Signed, Problem> {
        let signed = self.access.authenticate(snapshot, &incoming.head(), &incoming.body, unix_now());
        signed.map_err(|denied| denial_problem(&denied, &incoming.request_id))
    }
}

/// Converts a denial into the caller's problem. The reason for a 401 appears in the log only.
fn denial_problem(denied: &Denied, request_id: &str) -> Problem {
    match denied {
        Denied::OverRate(seconds) => return over_limit(*seconds),
        // The nonce store logs this itself.
        Denied::NoRoom => return Problem::no_room_for_nonces(),
        Denied::NoCache(error) => {
            tracing::error!(%error, request_id, "requests are rejected: nonces cannot be checked in the cache");
            return Problem::no_cache();
        }
        Denied::MaybeSeen => {
            tracing::info!(
                request_id,
                "request rejected: its nonce may have been used before this process started or before the clock was set back"
            );
            return Problem::signed_too_early();
        }
        _ => {}
    }
    tracing::info!(reason = ?denied, request_id, "request rejected: not authenticated");
    Problem::unauthorized()
}

/// Returns the maximum of concurrent requests per merchant: half of all, if there are several merchants.
fn merchant_share(snapshot: &Snapshot) -> u32 {
    if snapshot.config.merchants.len() > 1 { snapshot.process.in_flight / 2 } else { u32::MAX }
}

fn too_many_concurrent_requests() -> Problem {
    let detail =
        "You have too many concurrent requests. Send the same request again when some of them have been answered.";
    let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", Retryable::SameKey, detail);
    problem.retry_after(1)
}

fn over_limit(seconds: u64) -> Problem {
    let detail = format!("You have exceeded your rate limit. Send the same request again after {seconds} s.");
    Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", Retryable::SameKey, detail).retry_after(seconds)
}

impl RequestContext {
    fn execution_context(&self) -> ExecutionContext {
        let request_id = self.incoming.request_id.clone();
        ExecutionContext { snapshot: Arc::clone(&self.snapshot), request_id, deadline: self.deadline }
    }
}

/// Upper bound of `x-tollgate-timeout`, above every channel's own timeout.
const MAX_CLIENT_TIMEOUT: Duration = Duration::from_secs(60);

/// Returns the value of `x-tollgate-timeout`, such as `1.5s`.
fn client_timeout(headers: &HeaderMap) -> Result<Duration, Problem> {
    let Some(value) = headers.get("x-tollgate-timeout") else { return Ok(MAX_CLIENT_TIMEOUT) };
    let wanted = value.to_str().ok().and_then(duration).filter(|wanted| !wanted.is_zero());
    let detail = "`x-tollgate-timeout` must be a duration with a unit, such as 1.5s or 800ms.";
    wanted.map(|wanted| wanted.min(MAX_CLIENT_TIMEOUT)).ok_or_else(|| Problem::malformed(detail))
}

/// Returns the canonical path for routing and idempotency keys: `/v1/%70ayments` becomes `/v1/payments`. A path that
/// is not
/// UTF-8 is returned unchanged and matches no route.
fn canonical(path: &str) -> String {
    const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    let segments: Option<Vec<String>> = path.split('/').map(decoded).collect();
    let encoded = |segment: &String| utf8_percent_encode(segment, ESCAPED).to_string();
    segments.map_or_else(|| path.to_owned(), |segments| segments.iter().map(encoded).collect::<Vec<_>>().join("/"))
}

/// Percent-decodes a path segment; `None` if the result is not UTF-8.
fn decoded(segment: &str) -> Option<String> {
    percent_encoding::percent_decode_str(segment).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equivalent_percent_encodings_have_one_canonical_path() {
        for (written, meant) in [
            ("/v1/payments", "/v1/payments"),
            ("/v1/%70ayments", "/v1/payments"),
            ("/%76%31/payments", "/v1/payments"),
            ("/v1/payments/a:1/close", "/v1/payments/a%3A1/close"),
            ("/v1/payments/a%3a1/close", "/v1/payments/a%3A1/close"),
            ("/v1/payments/a%2Fb", "/v1/payments/a%2Fb"),
            ("/v1/payments/a%2fb", "/v1/payments/a%2Fb"),
            ("/v1//payments", "/v1//payments"),
            ("/v1/payments/", "/v1/payments/"),
            ("/v1/payments;x", "/v1/payments%3Bx"),
            ("/V1/Payments", "/V1/Payments"),
            ("/v1/./payments", "/v1/./payments"),
            ("/v1/%2e/payments", "/v1/./payments"),
            ("/v1/%ff", "/v1/%ff"),
        ] {
            assert_eq!(canonical(written), meant, "{written}");
            assert_eq!(canonical(&canonical(written)), meant, "{written}");
        }
    }
}
