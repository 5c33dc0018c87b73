//! The request's way, top to bottom: who asks → what → once → channels → exchange → recorded → answered.

mod admission;
mod bills;
mod close;
mod duplicate_payment;
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
use crate::config::{Channel, Current, Merchant, Snapshot};
use crate::exchange::ProviderClient;
use crate::ledger::{ExecutionId, Ledger, ProviderCall};
use crate::notifications;
use crate::problem::{Problem, Retryable};

pub(crate) use self::admission::Admission;
use self::admission::{Route, segments};
use self::responses::{OnChannel, served};
pub(crate) use duplicate_payment::handle_duplicate as settle_double;
pub(crate) use pay::{identical_create, repeats_create};
pub(crate) use query::{build_query, order};
pub(crate) use respond_async::execute_job;

/// Serves merchants' requests and providers' notifications. Everything that outlives a configuration is in here.
pub struct Gateway {
    /// The configuration in force.
    pub current: Current,
    /// What must not be forgotten.
    pub ledger: Ledger,
    /// Where several machines share nonces, if they do.
    pub(crate) redis: Option<Arc<Redis>>,
    /// Asks providers.
    pub exchanger: ProviderClient,
    access: Access,
    limits: Limits,
    shares: FairShare,
    /// How payments stand, as ready answers.
    pub(crate) statuses: Arc<StatusCache>,
    /// Questions to providers, one at a time about an order.
    queries: SingleFlight<query::Found>,
    /// How many questions of each merchant are under way. They go on when their callers are gone.
    asking: FairShare,
}

/// A request with its whole body, as it came in.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// As in `POST`.
    pub method: Method,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// From `Host` or `:authority`.
    pub authority: String,
    /// Path and query, raw.
    pub target: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// The caller's `x-request-id`, or a new one.
    pub request_id: String,
}

impl Incoming {
    /// Returns what a signature is checked against, besides the body.
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

/// Who and what a response was for; carried with it for metrics and the access log.
#[derive(Clone, Debug, Default)]
pub struct AccessLabels {
    /// The merchant, when it is known.
    pub merchant: Option<String>,
    /// The channel, when one was concerned.
    pub channel: Option<String>,
    /// As in `create_payment`.
    pub operation: &'static str,
}

/// One merchant's request on its way: what every operation needs.
pub(crate) struct RequestContext {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) merchant: Arc<Merchant>,
    pub(crate) incoming: Incoming,
    pub(crate) path: String,
    /// How long the caller waits, from when.
    pub(crate) waits: (Duration, Instant),
}

/// Under what a claim is made: which configuration, for which request, and how long whoever asked waits.
pub(crate) struct ExecutionContext {
    snapshot: Arc<Snapshot>,
    request_id: String,
    waits: (Duration, Instant),
}

impl ExecutionContext {
    /// How long the caller still waits; at most what a channel allows.
    fn remaining(&self) -> Duration {
        let (waits, since) = self.waits;
        waits.saturating_sub(since.elapsed())
    }
}

impl Gateway {
    /// Makes a gateway over a ledger and a configuration. Nonces that are remembered in memory are kept for the next process
    /// in the directory `nonces`.
    pub fn new(current: Current, ledger: Ledger, nonces: &Path) -> Self {
        let redis = current.load().process.cache.redis();
        Self {
            current,
            ledger,
            redis: redis.clone(),
            exchanger: ProviderClient::counting(Counters::new(redis.clone())),
            access: Access::kept_in(redis.clone(), nonces),
            limits: Limits::default(),
            shares: FairShare::default(),
            statuses: Arc::new(StatusCache::new(redis, Instant::now())),
            queries: SingleFlight::default(),
            asking: FairShare::default(),
        }
    }

    /// Serves one request with one generation of the configuration, and says which. Never fails: a problem is an answer
    /// too.
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
        // From here on the path as it is meant; the signature is over the path as it was sent.
        let path = canonical(&path);
        let signed = match self.authenticate(&snapshot, &incoming) {
            Ok(signed) => signed,
            Err(problem) => {
                return served(
                    problem.response(&request_id),
                    AccessLabels { operation: "denied", ..AccessLabels::default() },
                );
            }
        };
        let merchant = Arc::clone(&signed.merchant);
        let refused = |operation, problem: Problem| {
            let by = AccessLabels { merchant: Some(merchant.name.clone()), channel: None, operation };
            served(problem.response(&request_id), by)
        };
        let _inside = match self.limits.place(&merchant) {
            Ok(guard) => guard,
            Err(seconds) => return refused("limited", over_limit(seconds)),
        };
        let Some(_share) = self.shares.enter(&merchant.name, share_of_places(&snapshot)) else {
            return refused("limited", too_many_under_way());
        };
        // Last: whoever is turned away before may send the same bytes again.
        let take = || self.limits.token(&merchant, self.exchanger.clock().now());
        if let Err(denied) = self.access.admit(&snapshot, &signed, unix_now(), take).await {
            let operation = if matches!(denied, Denied::OverRate(_)) { "limited" } else { "denied" };
            return refused(operation, told(&denied, &request_id));
        }
        let waits = match client_timeout(&incoming.headers) {
            Ok(waits) => (waits, arrived),
            Err(problem) => return refused("invalid_request", problem),
        };
        let name = merchant.name.clone();
        let asked = Arc::new(RequestContext { snapshot, merchant, incoming, path, waits });
        let (operation, result) = self.dispatch(asked).await;
        let mut response = result.unwrap_or_else(|problem| problem.response(&request_id));
        let channel = response.extensions_mut().remove::<OnChannel>().map(|on| on.0);
        served(response, AccessLabels { merchant: Some(name), channel, operation })
    }

    /// Sends what was claimed, if the claim is this process's still: another may be finding out already what became of it.
    async fn execute(
        &self,
        turn: ExecutionId,
        channel: &Arc<Channel>,
        what: &Operation,
        limit: Duration,
        evidence: &mut Vec<ProviderCall>,
    ) -> Result<Outcome, Error> {
        match self.ledger.may_send(turn) {
            Ok(()) => self.exchanger.ask(channel, what, limit, evidence).await,
            Err(error) => Err(Error::NotSent(error.0)),
        }
    }

    /// Finds the operation that method and path name, and runs it.
    async fn dispatch(
        self: &Arc<Self>,
        asked: Arc<RequestContext>,
    ) -> (&'static str, Result<Response<Bytes>, Problem>) {
        let segments = match segments(&asked.path) {
            Ok(segments) => segments,
            Err(problem) => return ("unknown", Err(problem)),
        };
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        match Route::find(&asked.incoming.method, &segments) {
            Err(problem) => ("unknown", Err(problem)),
            Ok(Route::CreatePayment) => ("create_payment", pay::create(self, &asked).await),
            Ok(Route::QueryPayment(order)) => ("query_payment", query::payment(self, &asked, order).await),
            Ok(Route::Timeline(order)) => ("timeline", timeline::show(self, &asked, order).await),
            Ok(Route::ClosePayment(order)) => ("close_payment", close::close(self, &asked, order).await),
            Ok(Route::CreateRefund(order)) => ("create_refund", refund::create(self, &asked, order).await),
            Ok(Route::QueryRefund(order, refund)) => ("query_refund", query::refund(self, &asked, order, refund).await),
            Ok(Route::Bill(channel, date)) => ("bill", bills::bill(self, &asked, channel, date).await),
        }
    }

    fn authenticate(&self, snapshot: &Snapshot, incoming: &Incoming) -> Result<Signed, Problem> {
        let signed = self.access.authenticate(snapshot, &incoming.head(), &incoming.body, unix_now());
        signed.map_err(|denied| told(&denied, &incoming.request_id))
    }
}

/// What a caller is told who is not let in. The reason of a 401 is for the log.
fn told(denied: &Denied, request_id: &str) -> Problem {
    match denied {
        Denied::OverRate(seconds) => return over_limit(*seconds),
        // Each was logged once where it was found.
        Denied::NoRoom => return Problem::no_room_for_nonces(),
        Denied::NoCache(error) => {
            tracing::error!(%error, request_id, "nobody can be let in");
            return Problem::no_cache();
        }
        Denied::MaybeSeen => {
            tracing::info!(
                request_id,
                "request refused: its nonce may have been seen before the start, or before the clock was set back"
            );
            return Problem::signed_too_early();
        }
        _ => {}
    }
    tracing::info!(reason = ?denied, request_id, "request denied");
    Problem::unauthorized()
}

/// With several merchants, each leaves half of the places to the others.
fn share_of_places(snapshot: &Snapshot) -> u32 {
    if snapshot.merchants.len() > 1 { snapshot.process.in_flight / 2 } else { u32::MAX }
}

fn too_many_under_way() -> Problem {
    let detail = "You have too many requests under way. Send the same request again when some of them are answered.";
    let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", Retryable::SameKey, detail);
    problem.retry_after(1)
}

fn over_limit(seconds: u64) -> Problem {
    let detail = format!("You are over your limit. Send the same request again after {seconds} s.");
    Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", Retryable::SameKey, detail).retry_after(seconds)
}

impl RequestContext {
    fn execution_context(&self) -> ExecutionContext {
        let request_id = self.incoming.request_id.clone();
        ExecutionContext { snapshot: Arc::clone(&self.snapshot), request_id, waits: self.waits }
    }
}

/// More than any channel allows.
const MAX_CLIENT_TIMEOUT: Duration = Duration::from_secs(60);

/// The caller's own limit, `x-tollgate-timeout: 1.5s`.
fn client_timeout(headers: &HeaderMap) -> Result<Duration, Problem> {
    let Some(value) = headers.get("x-tollgate-timeout") else { return Ok(MAX_CLIENT_TIMEOUT) };
    let wanted = value.to_str().ok().and_then(duration).filter(|wanted| !wanted.is_zero());
    let detail = "`x-tollgate-timeout` must be a time with its unit, as in 1.5s or 800ms.";
    wanted.map(|wanted| wanted.min(MAX_CLIENT_TIMEOUT)).ok_or_else(|| Problem::malformed(detail))
}

/// A path in the one form in which the routing and the idempotency keys see it: `/v1/%70ayments` is `/v1/payments`. What is no
/// UTF-8 stays as it is, and leads nowhere.
fn canonical(path: &str) -> String {
    const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    let segments: Option<Vec<String>> = path.split('/').map(decoded).collect();
    let encoded = |segment: &String| utf8_percent_encode(segment, ESCAPED).to_string();
    segments.map_or_else(|| path.to_owned(), |segments| segments.iter().map(encoded).collect::<Vec<_>>().join("/"))
}

/// One segment of a path, percent-decoded; `None` when it is no UTF-8.
fn decoded(segment: &str) -> Option<String> {
    percent_encoding::percent_decode_str(segment).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_a_path_is_one_path() {
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
