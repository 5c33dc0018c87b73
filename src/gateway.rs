//! The request's way, top to bottom: who asks → what → once → channels → exchange → recorded → answered.

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
use tollgate_plugins::payment::{Operation, Outcome, Status};
use tollgate_plugins::settings::duration;

use crate::access::{Access, Counted, Denied, Head, Limits, Shares};
use crate::cache::flights::Flights;
use crate::cache::{Counters, Statuses};
use crate::clock::unix_now;
use crate::config::{Channel, Current, Merchant, Snapshot};
use crate::exchange::Exchanger;
use crate::ledger::{Answer, Claimed, Exchanged, Ledger, LedgerError, MoneyState, Payment, Record, Refund, Turn};
use crate::notify;
use crate::problem::{Code, Problem, Retryable};
use crate::view;

pub(crate) use double::settle as settle_double;
pub(crate) use later::make;
pub(crate) use query::{order, question};

/// Serves merchants' requests and providers' notifications. Everything that outlives a configuration is in here.
pub struct Gateway {
    /// The configuration in force.
    pub current: Current,
    /// What must not be forgotten.
    pub ledger: Ledger,
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
            Err(error) => Err(Error::NotSent(error.to_string())),
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

/// The channel that a response concerns, put into its extensions where it is known.
#[derive(Clone)]
struct OnChannel(String);

fn served(mut response: Response<Bytes>, served: Served) -> Response<Bytes> {
    response.extensions_mut().insert(served);
    response
}

/// A record as a merchant sees it.
fn body_of(record: &Record) -> String {
    let text = match record {
        Record::Payment(payment) => serde_json::to_string(&view::payment_view(payment)),
        Record::Refund(refund) => serde_json::to_string(&view::refund_view(refund)),
    };
    text.unwrap_or_default()
}

fn channel_of(record: &Record) -> &str {
    match record {
        Record::Payment(payment) => &payment.channel,
        Record::Refund(refund) => &refund.channel,
    }
}

fn json(status: StatusCode, record: &Record) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body_of(record)));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, json);
    response.extensions_mut().insert(OnChannel(channel_of(record).to_owned()));
    response
}

/// An answer as it is kept.
fn kept(answer: Answer, channel: &str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(answer.body));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Ok(value) = HeaderValue::from_str(&answer.content_type) {
        response.headers_mut().insert(http::header::CONTENT_TYPE, value);
    }
    if answer.status == StatusCode::PAYMENT_REQUIRED.as_u16() {
        response.extensions_mut().insert(Code("declined".into()));
    }
    response.extensions_mut().insert(OnChannel(channel.to_owned()));
    response
}

fn replayed(mut response: Response<Bytes>) -> Response<Bytes> {
    response.headers_mut().insert("idempotent-replayed", HeaderValue::from_static("true"));
    response
}

/// What is said to a claim that must not run here and now; `done` is the status of a success of this operation.
fn not_run(claimed: Claimed, order_id: &str, done: StatusCode) -> Result<Response<Bytes>, Problem> {
    let other = |code, detail: &str| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, code, Retryable::NewKey, detail);
    Err(match claimed {
        Claimed::Replay(answer) => return Ok(replayed(kept(answer, ""))),
        Claimed::Present(record) => {
            let (Record::Payment(Payment { status, .. }) | Record::Refund(Refund { status, .. })) = &record;
            let code = if *status == Status::Unknown { StatusCode::ACCEPTED } else { done };
            return Ok(replayed(json(code, &record)));
        }
        Claimed::Accepted(record) => return Ok(later::applied(json(StatusCode::ACCEPTED, &record))),
        Claimed::Waiting(record) => return Ok(later::applied(replayed(json(StatusCode::ACCEPTED, &record)))),
        Claimed::Full => Problem::queue_full(),
        Claimed::Running => Problem::running(),
        Claimed::OtherRequest => {
            other("key_reused", "This `Idempotency-Key` was used for another request. Use a new key for a new request.")
        }
        Claimed::OtherContent => other(
            "number_reused",
            "This number was used before with other content. Use a new number for another payment or refund.",
        ),
        Claimed::NotFound => Problem::not_found("There is no such payment."),
        Claimed::Refused(payment) => refused(&payment),
        Claimed::TooMuch { left } => {
            let detail = format!("The refund is more than what is left of the payment: {left} minor units.");
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "refund_too_much", Retryable::NewKey, detail)
        }
        Claimed::Run(_) => Problem::ledger(&LedgerError("a claim that may run came where none may".to_owned())),
    }
    .order(order_id))
}

/// What is said when the ledger cannot take a claim: what it knows of the same request (reading goes on), or that nothing
/// was sent. `known` tells whether its content is the same.
fn unclaimed(
    error: &LedgerError,
    known: Result<Option<(bool, Record)>, LedgerError>,
    order_id: &str,
) -> Result<Response<Bytes>, Problem> {
    match known {
        Ok(Some((true, record))) if is_sent(&record) => {
            not_run(Claimed::Present(record), order_id, StatusCode::CREATED)
        }
        Ok(None) => Err(Problem::ledger(error).order(order_id)),
        _ => Err(Problem::ledger_unknown(error).order(order_id)),
    }
}

fn is_sent(record: &Record) -> bool {
    let (Record::Payment(Payment { money_state, .. }) | Record::Refund(Refund { money_state, .. })) = record;
    *money_state != MoneyState::NotSent
}

/// A record of which nobody could write down what became of it.
fn unknown(mut record: Record) -> Record {
    let (Record::Payment(Payment { status, money_state, .. }) | Record::Refund(Refund { status, money_state, .. })) =
        &mut record;
    (*status, *money_state) = (Status::Unknown, MoneyState::Unknown);
    record
}

/// The task that served a request broke off; a claim that it held is settled by asking the provider.
fn broken_off() -> Problem {
    let detail = "The gateway failed while serving this. What became of it is being found out; ask for its status.";
    let problem = Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", Retryable::SameKey, detail);
    problem.money(MoneyState::Unknown)
}

fn refused(payment: &Payment) -> Problem {
    let status = payment.status.as_str();
    let detail = format!("The payment is {status}; this cannot be done to it. Ask for its status and decide anew.");
    Problem::new(StatusCode::CONFLICT, "wrong_state", Retryable::NewKey, detail).money(payment.money_state)
}

/// One segment of a path, percent-decoded; `None` when it is no UTF-8.
fn decoded(segment: &str) -> Option<String> {
    percent_encoding::percent_decode_str(segment).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}
