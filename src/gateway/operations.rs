//! Serves merchant requests and provider notifications.
//!
//! The request path that `lib.rs` draws is two functions. `Gateway::serve` has the part that all operations share:
//! snapshot → authenticate → rate limit, fair share, nonce → deadline → operation. Each operation has the rest; the
//! complete one is `create_payment`: parse → route → claim → filters → provider call
//! → settle → respond.

mod admission;
mod bills;
mod claim_key;
mod close;
mod create_payment;
mod duplicate_payment;
mod events;
mod execution;
mod job;
mod notifications;
mod query;
mod queued_message;
mod refund;
mod request_body;
mod respond_async;
mod responses;
mod timeline;
mod watch;
mod watch_token;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tollgate_config::Merchant;
use tollgate_ledger::Ledger;
use tollgate_plugins::filter::Clock;
use tollgate_plugins::settings::duration;

use crate::access::{Access, Denied, FairShare, Head, Limits, Signed};
use crate::cache::single_flight::SingleFlight;
use crate::cache::{Counters, Redis, StatusCache};
use crate::change_hub::ChangeHub;
use crate::clock::unix_now;
use crate::problem::{Problem, Retryable};
use crate::provider_client::ProviderClient;
use crate::snapshot::{Current, Snapshot};

pub(crate) use self::admission::Admission;
use self::admission::{Endpoint, TokenRequest, segments};
use self::execution::ExecutionContext;
use self::responses::{ResponseChannel, with_access_labels};
use self::watch_token::WatchTokens;
pub(crate) use create_payment::{identical_create, repeats_create};
pub(crate) use duplicate_payment::handle_duplicate;
pub(crate) use job::execute_job;
pub(crate) use query::{build_query, order};
pub(crate) use watch::{Framing, PaymentStream, ResponseStream, StateEvent};

/// Serves merchant requests and provider notifications. Owns all state that outlives one configuration.
pub struct Gateway {
    /// The configuration in force.
    pub current: Current,
    /// Durable claims, payments, refunds and events.
    pub ledger: Ledger,
    /// The Redis connection through which several gateways share nonces, if configured.
    pub redis: Option<Arc<Redis>>,
    /// Calls providers.
    pub provider_client: ProviderClient,
    access: Access,
    limits: Limits,
    fair_share: FairShare,
    /// Cached statuses as ready response bodies.
    pub statuses: Arc<StatusCache>,
    /// Single-flight status queries: at most one provider query per record at a time.
    queries: SingleFlight<query::QueryResult>,
    /// Wakes streams and long polls after changes of the ledger.
    pub change_hub: Arc<ChangeHub>,
    watch_tokens: WatchTokens,
    /// Provider queries in progress per merchant. A query continues after its caller has disconnected.
    query_shares: FairShare,
}

/// An HTTP request with its complete body.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// HTTP method.
    pub method: Method,
    /// HTTP version.
    pub version: Version,
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
            change_hub: Arc::default(),
            watch_tokens: WatchTokens::default(),
            queries: SingleFlight::default(),
            query_shares: FairShare::default(),
        }
    }

    /// Serves one request with one configuration generation, which is named in `x-tollgate-generation`. Errors become
    /// problem responses.
    pub async fn handle(self: &Arc<Self>, incoming: Incoming) -> Response<Bytes> {
        let snapshot = self.current.load_full();
        let generation = HeaderValue::from(snapshot.generation);
        let path = incoming.target.split('?').next().unwrap_or_default().to_owned();
        let mut response = match path.strip_prefix("/notify/") {
            Some(channel) => notifications::handle(self, &snapshot, channel, incoming).await,
            None if let Some(request) = TokenRequest::of(&incoming.method, &incoming.target) => {
                watch::watch_with_token(self, &incoming, &request).await
            }
            None => {
                let (request_id, mut labels) = (incoming.request_id.clone(), AccessLabels::default());
                let served = self.serve(snapshot, incoming, &path, &mut labels).await;
                let mut response = served.unwrap_or_else(|problem| problem.response(&request_id));
                labels.channel = response.extensions_mut().remove::<ResponseChannel>().map(|on| on.0);
                with_access_labels(response, labels)
            }
        };
        response.headers_mut().insert("x-tollgate-generation", generation);
        response
    }

    /// Serves a merchant request. `labels` are complete as far as the request came.
    async fn serve(
        self: &Arc<Self>,
        snapshot: Arc<Snapshot>,
        incoming: Incoming,
        path: &str,
        labels: &mut AccessLabels,
    ) -> Result<Response<Bytes>, Problem> {
        let arrived = Instant::now();

        // Authenticate.
        labels.operation = "denied";
        let signed = self.authenticate(&snapshot, &incoming)?;
        let merchant = Arc::clone(&signed.merchant);
        labels.merchant = Some(merchant.name.clone());

        // Rate limit, fair share. The permits last until the response.
        labels.operation = "limited";
        let _in_flight = self.limits.acquire(&merchant).map_err(over_limit)?;
        let share = self.fair_share.enter(&merchant.name, merchant_share(&snapshot));
        let _share = share.ok_or_else(too_many_concurrent_requests)?;
        // The nonce is recorded last, so that a request rejected by an earlier check may be sent again unchanged.
        let take_token = || self.limits.take_token(&merchant, self.provider_client.clock().now());
        if let Err(denied) = self.access.admit(&snapshot, &signed, unix_now(), take_token).await {
            labels.operation = if matches!(denied, Denied::OverRate(_)) { "limited" } else { "denied" };
            return Err(denial_problem(&denied, &incoming.request_id));
        }

        // Client deadline.
        labels.operation = "invalid_request";
        let deadline = arrived + client_timeout(&incoming.headers)?;

        // Operation. Paths and idempotency keys are canonical; the signature covers the path as received.
        labels.operation = "unknown";
        let request = RequestContext { snapshot, merchant, incoming, path: canonical(path), deadline };
        let segments = segments(&request.path)?;
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let endpoint = Endpoint::find(&request.incoming.method, &segments)?;
        labels.operation = endpoint.name();
        match endpoint {
            Endpoint::CreatePayment => create_payment::create_payment(self, &request).await,
            Endpoint::QueryPayment(order) => query::payment(self, &request, order).await,
            Endpoint::Timeline(order) => timeline::show(self, &request, order).await,
            Endpoint::Watch(order) => watch::watch(self, &request, order).await,
            Endpoint::ClosePayment(order) => close::close_payment(self, &request, order).await,
            Endpoint::CreateRefund(order) => refund::create_refund(self, &request, order).await,
            Endpoint::QueryRefund(order, refund) => query::refund(self, &request, order, refund).await,
            Endpoint::Bill(channel, date) => bills::bill(self, &request, channel, date).await,
            Endpoint::Events => events::list(self, &request).await,
            Endpoint::Redeliver(event) => events::redeliver(self, &request, event).await,
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
/// is not UTF-8 is returned unchanged and matches no route.
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
