//! The request's way, top to bottom: who asks → what → once → channels → exchange → recorded → answered.

mod answers;
mod bills;
mod close;
mod double;
mod form;
mod later;
mod pay;
mod query;
mod refund;
mod timeline;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use tollgate_plugins::error::Error;
use tollgate_plugins::filter::Clock;
use tollgate_plugins::payment::{Operation, Outcome};
use tollgate_plugins::settings::duration;

use crate::access::{Access, Counted, Denied, Head, Limits, Shares};
use crate::cache::flights::Flights;
use crate::cache::{Counters, Redis, Statuses};
use crate::clock::unix_now;
use crate::config::{Channel, Current, Merchant, Snapshot};
use crate::exchange::Exchanger;
use crate::ledger::{Exchanged, Ledger, Turn};
use crate::notify;
use crate::problem::{Problem, Retryable};

use self::answers::{OnChannel, served};
pub(crate) use double::settle as settle_double;
pub(crate) use later::make;
pub(crate) use query::{order, question};

/// Serves merchants' requests and providers' notifications. Everything that outlives a configuration is in here.
pub struct Gateway {
    /// The configuration in force.
    pub current: Current,
    /// What must not be forgotten.
    pub ledger: Ledger,
    /// Where several machines share nonces, if they do.
    pub(crate) redis: Option<Arc<Redis>>,
    /// Asks providers.
    pub exchanger: Exchanger,
    access: Access,
    limits: Limits,
    shares: Shares,
    /// How payments stand, as ready answers.
    pub(crate) statuses: Arc<Statuses>,
    /// Questions to providers, one at a time about an order.
    queries: Flights<query::Found>,
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

/// Who and what a response was for; carried with it for metrics and the access log.
#[derive(Clone, Debug, Default)]
pub struct Served {
    /// The merchant, when it is known.
    pub merchant: Option<String>,
    /// The channel, when one was concerned.
    pub channel: Option<String>,
    /// As in `create_payment`.
    pub operation: &'static str,
}

/// One merchant's request on its way: what every operation needs.
pub(crate) struct Asked {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) merchant: Arc<Merchant>,
    pub(crate) incoming: Incoming,
    pub(crate) path: String,
    /// How long the caller waits, from when.
    pub(crate) waits: (Duration, Instant),
}

/// Under what a claim is made: which configuration, for which request, and how long whoever asked waits.
pub(crate) struct Making {
    snapshot: Arc<Snapshot>,
    request_id: String,
    waits: (Duration, Instant),
}

impl Making {
    /// How long the caller still waits; at most what a channel allows.
    fn patience(&self) -> Duration {
        let (waits, since) = self.waits;
        waits.saturating_sub(since.elapsed())
    }
}

impl Gateway {
    /// Makes a gateway over a ledger and a configuration.
    pub fn new(current: Current, ledger: Ledger) -> Self {
        let redis = current.load().process.cache.redis();
        Self {
            current,
            ledger,
            redis: redis.clone(),
            exchanger: Exchanger::counting(Counters::new(redis.clone())),
            access: Access::new(redis.clone()),
            limits: Limits::default(),
            shares: Shares::default(),
            statuses: Arc::new(Statuses::new(redis, Instant::now())),
            queries: Flights::default(),
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
            return notify::receive(self, &snapshot, channel, incoming).await;
        }
        let (merchant, counted) = match self.who(&snapshot, &incoming).await {
            Ok(known) => known,
            Err(problem) => {
                return served(problem.response(&request_id), Served { operation: "denied", ..Served::default() });
            }
        };
        let _inside = match self.limits.enter(&merchant, counted, self.exchanger.clock().now()) {
            Ok(guard) => guard,
            Err(seconds) => {
                let detail = format!("You are over your limit. Send the same request again after {seconds} s.");
                let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", Retryable::SameKey, detail);
                let by = Served { merchant: Some(merchant.name.clone()), channel: None, operation: "limited" };
                return served(problem.retry_after(seconds).response(&request_id), by);
            }
        };
        // With several merchants, each leaves half of the places to the others.
        let most = if snapshot.merchants.len() > 1 { snapshot.process.in_flight / 2 } else { u32::MAX };
        let Some(_share) = self.shares.enter(&merchant.name, most) else {
            let detail =
                "You have too many requests under way. Send the same request again when some of them are answered.";
            let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", Retryable::SameKey, detail);
            let by = Served { merchant: Some(merchant.name.clone()), channel: None, operation: "limited" };
            return served(problem.retry_after(1).response(&request_id), by);
        };
        let name = merchant.name.clone();
        let waits = match waits(&incoming.headers) {
            Ok(waits) => (waits, arrived),
            Err(problem) => {
                let by = Served { merchant: Some(name), channel: None, operation: "malformed" };
                return served(problem.response(&request_id), by);
            }
        };
        let asked = Arc::new(Asked { snapshot, merchant, incoming, path, waits });
        let (operation, result) = self.operate(asked).await;
        let mut response = result.unwrap_or_else(|problem| problem.response(&request_id));
        let channel = response.extensions_mut().remove::<OnChannel>().map(|on| on.0);
        served(response, Served { merchant: Some(name), channel, operation })
    }

    /// Sends what was claimed, if the claim is this process's still: another may be finding out already what became of it.
    async fn execute(
        &self,
        turn: Turn,
        channel: &Arc<Channel>,
        what: &Operation,
        limit: Duration,
        evidence: &mut Vec<Exchanged>,
    ) -> Result<Outcome, Error> {
        match self.ledger.may_send(turn) {
            Ok(()) => self.exchanger.ask(channel, what, limit, evidence).await,
            Err(error) => Err(Error::NotSent(error.0)),
        }
    }

    /// Finds the operation that method and path name, and runs it.
    async fn operate(self: &Arc<Self>, asked: Arc<Asked>) -> (&'static str, Result<Response<Bytes>, Problem>) {
        let segments: Vec<Option<String>> = asked.path.split('/').skip(1).map(decoded).collect();
        let Some(segments) = segments.iter().map(Option::as_deref).collect::<Option<Vec<&str>>>() else {
            return ("unknown", Err(Problem::malformed("The path is not valid percent-encoded UTF-8.")));
        };
        let get = asked.incoming.method == Method::GET;
        let post = asked.incoming.method == Method::POST;
        match segments.as_slice() {
            ["v1", "payments"] if post => ("create_payment", pay::create(self, &asked).await),
            ["v1", "payments", order] if get => ("query_payment", query::payment(self, &asked, order).await),
            ["v1", "payments", order, "timeline"] if get => ("timeline", timeline::show(self, &asked, order).await),
            ["v1", "payments", order, "close"] if post => ("close_payment", close::close(self, &asked, order).await),
            ["v1", "payments", order, "refunds"] if post => {
                ("create_refund", refund::create(self, &asked, order).await)
            }
            ["v1", "payments", order, "refunds", refund] if get => {
                ("query_refund", query::refund(self, &asked, order, refund).await)
            }
            ["v1", "channels", channel, "bills", date] if get => {
                ("bill", bills::bill(self, &asked, channel, date).await)
            }
            ["v1", "channels", _, "bills", _]
            | ["v1", "payments"]
            | ["v1", "payments", _]
            | ["v1", "payments", _, "close" | "refunds" | "timeline"]
            | ["v1", "payments", _, "refunds", _] => {
                let detail = "This path exists, but not for this method.";
                let status = StatusCode::METHOD_NOT_ALLOWED;
                ("unknown", Err(Problem::new(status, "method_not_allowed", Retryable::NewKey, detail)))
            }
            _ => (
                "unknown",
                Err(Problem::not_found("There is nothing at this path; see the README for those that exist.")),
            ),
        }
    }

    async fn who(&self, snapshot: &Snapshot, incoming: &Incoming) -> Result<(Arc<Merchant>, Counted), Problem> {
        let head = Head {
            method: incoming.method.as_str(),
            scheme: incoming.scheme,
            authority: &incoming.authority,
            path_and_query: &incoming.target,
            headers: &incoming.headers,
        };
        let checked = self.access.check(snapshot, &head, &incoming.body, unix_now()).await;
        checked.map_err(|denied| {
            let request_id = &incoming.request_id;
            if let Denied::NoCache(error) = denied {
                tracing::error!(%error, request_id, "nobody can be let in");
                return Problem::no_cache();
            }
            tracing::info!(reason = ?denied, request_id, "request denied");
            Problem::unauthorized()
        })
    }
}

impl Asked {
    fn making(&self) -> Making {
        let request_id = self.incoming.request_id.clone();
        Making { snapshot: Arc::clone(&self.snapshot), request_id, waits: self.waits }
    }
}

/// More than any channel allows.
const LONGEST: Duration = Duration::from_secs(60);

/// The caller's own limit, `x-tollgate-timeout: 1.5s`.
fn waits(headers: &HeaderMap) -> Result<Duration, Problem> {
    let Some(value) = headers.get("x-tollgate-timeout") else { return Ok(LONGEST) };
    let wanted = value.to_str().ok().and_then(duration).filter(|wanted| !wanted.is_zero());
    let detail = "`x-tollgate-timeout` must be a time with its unit, as in 1.5s or 800ms.";
    wanted.map(|wanted| wanted.min(LONGEST)).ok_or_else(|| Problem::malformed(detail))
}

/// One segment of a path, percent-decoded; `None` when it is no UTF-8.
fn decoded(segment: &str) -> Option<String> {
    percent_encoding::percent_decode_str(segment).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}
