//! How a payment or refund stands. What was said a moment ago is said again; which orders do not exist is known without
//! looking; the ledger knows what is final; for the rest the provider is asked, one flight an order and not more often than a
//! cashier page needs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use tollgate_plugins::error::Error;
use tollgate_plugins::payment::{Operation, Order, Refund as RefundOperation};

use super::request_body::is_identifier;
use super::responses::{OnChannel, body_of, channel_of, is_sent};
use super::{Gateway, RequestContext, share_of_places, too_many_under_way};
use crate::cache::{CachedStatus, ClusterLookup, StatusCache, Token};
use crate::clock;
use crate::config::{Channel, Snapshot};
use crate::ledger::{Payment, Record, RecordId, RecordKey, Refund, TimelineEvent, Update, UpdateWithEvidence};
use crate::problem::{Problem, Retryable};
use crate::telemetry::METRICS;

/// What a question came to, and whether the cache had it; `None` where there is nothing.
pub(super) type Found = Result<Option<(Arc<CachedStatus>, &'static str)>, Problem>;

/// `GET /v1/payments/{order_id}`.
pub(super) async fn payment(
    gateway: &Arc<Gateway>,
    asked: &RequestContext,
    order_id: &str,
) -> Result<Response<Bytes>, Problem> {
    get_status(gateway, asked, order_id, None).await
}

/// `GET /v1/payments/{order_id}/refunds/{refund_id}`.
pub(super) async fn refund(
    gateway: &Arc<Gateway>,
    asked: &RequestContext,
    order_id: &str,
    refund_id: &str,
) -> Result<Response<Bytes>, Problem> {
    get_status(gateway, asked, order_id, Some(refund_id)).await
}

async fn get_status(
    gateway: &Arc<Gateway>,
    asked: &RequestContext,
    order_id: &str,
    refund_id: Option<&str>,
) -> Result<Response<Bytes>, Problem> {
    let missing = || Problem::not_found("There is no such payment or refund.").order(order_id);
    if !is_identifier(order_id) || !refund_id.is_none_or(is_identifier) {
        return Err(missing());
    }
    let subject = RecordId {
        merchant: asked.merchant.name.clone(),
        order_id: order_id.to_owned(),
        refund_id: refund_id.map(str::to_owned),
    };
    let name = RecordKey::of(&subject);
    let forced = asked.incoming.headers.get_all(http::header::CACHE_CONTROL).iter().any(|value| {
        value.to_str().is_ok_and(|text| text.to_ascii_lowercase().split(',').any(|word| word.trim() == "no-cache"))
    });
    let kept = if forced { None } else { gateway.statuses.find(name, Instant::now()) };
    if let Some(kept) = kept {
        return Ok(answer(&kept, "hit"));
    }
    let is_unknown = || gateway.statuses.orders.is_unknown(name);
    if is_unknown() && gateway.ledger.caught_up().await && is_unknown() {
        count("unknown");
        return Err(missing());
    }
    let flight = || {
        let (gateway, snapshot, subject) = (Arc::clone(gateway), Arc::clone(&asked.snapshot), subject.clone());
        // Held until the provider has answered: callers who give up early must not start ever more questions.
        let share = gateway.asking.enter(&subject.merchant, share_of_places(&snapshot));
        async move {
            let Some(_share) = share else { return Err(too_many_under_way()) };
            query_once(&gateway, &snapshot, &subject, forced).await
        }
    };
    loop {
        let Ok((found, is_own)) =
            tokio::time::timeout(asked.execution_context().remaining(), gateway.queries.join(name, flight)).await
        else {
            // The question goes on; this caller hears what was known before.
            let known = load(gateway, &subject).await?.ok_or_else(missing)?;
            return Ok(answer(&status(&known, false, true), "stale"));
        };
        let found = found.unwrap_or_else(|| Err(broken_off())).map_err(|problem| problem.order(order_id))?;
        let (status, result) = found.ok_or_else(missing)?;
        // Another's flight may have looked into the ledger only.
        if is_own || !forced || status.is_asked {
            let result = match (forced, is_own) {
                (true, _) => "bypass",
                (false, true) => result,
                (false, false) => "hit",
            };
            return Ok(answer(&status, result));
        }
    }
}

/// The one flight about a record at this time: in the whole cluster, where machines share a cache.
async fn query_once(gateway: &Arc<Gateway>, snapshot: &Arc<Snapshot>, subject: &RecordId, forced: bool) -> Found {
    let (statuses, name) = (&gateway.statuses, RecordKey::of(subject));
    let token = statuses.token(name, Instant::now());
    match statuses.elsewhere(name, forced).await {
        ClusterLookup::Hit(status, left) => {
            statuses.keep(name, token, Arc::clone(&status), left, Instant::now());
            Ok(Some((status, "hit")))
        }
        ClusterLookup::Unavailable => {
            Ok(read_through(gateway, snapshot, subject, forced).await?.map(|looked| looked.kept(statuses, name)))
        }
        ClusterLookup::Leader(flight) => {
            let looked = read_through(gateway, snapshot, subject, forced).await;
            let found = looked.as_ref().ok().and_then(Option::as_ref);
            let told = found.map(|looked| (looked.token, looked.status.as_ref(), looked.life));
            statuses.tell(name, flight, told).await;
            Ok(looked?.map(|looked| looked.kept(statuses, name)))
        }
    }
}

/// A record as this machine has read it.
struct FreshStatus {
    status: Arc<CachedStatus>,
    token: Token,
    life: Duration,
}

impl FreshStatus {
    fn kept(self, statuses: &StatusCache, name: RecordKey) -> (Arc<CachedStatus>, &'static str) {
        statuses.keep(name, self.token, Arc::clone(&self.status), self.life, Instant::now());
        (self.status, "miss")
    }
}

async fn read_through(
    gateway: &Arc<Gateway>,
    snapshot: &Arc<Snapshot>,
    subject: &RecordId,
    forced: bool,
) -> Result<Option<FreshStatus>, Problem> {
    let fresh = snapshot.process.fresh;
    let token = || gateway.statuses.token(RecordKey::of(subject), Instant::now());
    let before = token();
    let Some(known) = load(gateway, subject).await? else { return Ok(None) };
    // Nobody but the ledger knows of what was not sent.
    if !is_sent(&known) {
        return Ok(Some(FreshStatus { status: status(&known, true, false), token: before, life: fresh.pending }));
    }
    if !forced && is_final(&known) {
        return Ok(Some(FreshStatus { status: status(&known, false, false), token: before, life: fresh.settled }));
    }
    let is_stale = query_provider(gateway, snapshot, known).await.is_err();
    // What it said is written down by now, and somebody else may have written more.
    let token = token();
    let Some(known) = load(gateway, subject).await? else { return Ok(None) };
    let life = if is_final(&known) && !is_stale { fresh.settled } else { fresh.pending };
    Ok(Some(FreshStatus { status: status(&known, true, is_stale), token, life }))
}

fn answer(status: &CachedStatus, result: &str) -> Response<Bytes> {
    count(if status.is_stale { "stale" } else { result });
    let mut response = Response::new(status.body.clone());
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.extensions_mut().insert(OnChannel(status.channel.clone()));
    response
}

fn count(result: &str) {
    METRICS.status_cache_total.with_label_values(&[result]).inc();
}

/// A record as a ready answer. It says so where the provider could not be asked just now and this is the last known state.
fn status(record: &Record, is_asked: bool, is_stale: bool) -> Arc<CachedStatus> {
    let mut body = body_of(record);
    if is_stale && body.ends_with('}') {
        body.truncate(body.len() - 1);
        body.push_str(",\"stale\":true}");
    }
    Arc::new(CachedStatus {
        body: body.into(),
        channel: channel_of(record).to_owned(),
        age: record.version(),
        is_asked,
        is_stale,
    })
}

fn broken_off() -> Problem {
    let detail = "The gateway failed while it found out. Nothing was changed; ask again.";
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", Retryable::SameKey, detail)
}

async fn load(gateway: &Gateway, subject: &RecordId) -> Result<Option<Record>, Problem> {
    let RecordId { merchant, order_id, refund_id } = subject;
    let found = match refund_id {
        Some(refund_id) => {
            gateway.ledger.refund(merchant, order_id, refund_id).await.map(|found| found.map(Record::Refund))
        }
        None => gateway.ledger.payment(merchant, order_id).await.map(|found| found.map(Record::Payment)),
    };
    found.map_err(|error| Problem::ledger(&error))
}

/// Asks the provider and writes down what it says. Of "not known" nothing is concluded here: that is the resolver's.
async fn query_provider(gateway: &Arc<Gateway>, snapshot: &Arc<Snapshot>, record: Record) -> Result<(), Error> {
    let (subject, question) = build_query(gateway, snapshot, &record).await;
    let (channel, operation) = question?;
    let mut evidence = Vec::new();
    let limit = channel.upstream.timeouts().total;
    let answer = gateway.exchanger.ask(channel, &operation, limit, &mut evidence).await;
    let (ledger, now) = (&gateway.ledger, clock::now());
    let written = match &answer {
        Ok(outcome) => ledger
            .apply(&subject, UpdateWithEvidence { update: Update::Outcome(outcome.clone()), evidence }, now)
            .await
            .map(drop),
        Err(error) => match ledger.append_timeline(&subject, TimelineEvent::exchanges(evidence), now).await {
            Ok(()) if matches!(error, Error::Mismatch(_)) => ledger.mismatch(&subject, now).await,
            noted => noted,
        },
    };
    if let Err(error) = written {
        tracing::error!(%error, "the provider's word could not be recorded");
    }
    answer.map(drop)
}

/// Which channel is asked what to learn how a record stands.
pub(crate) async fn build_query<'a>(
    gateway: &Gateway,
    snapshot: &'a Snapshot,
    record: &Record,
) -> (RecordId, Result<(&'a Arc<Channel>, Operation), Error>) {
    match record {
        Record::Payment(payment) => {
            let subject =
                RecordId { merchant: payment.merchant.clone(), order_id: payment.order_id.clone(), refund_id: None };
            (subject, channel_for(snapshot, payment).map(|channel| (channel, Operation::Query(order(payment)))))
        }
        Record::Refund(refund) => {
            let (merchant, order_id) = (refund.merchant.clone(), refund.order_id.clone());
            let payment = gateway.ledger.payment(&merchant, &order_id).await;
            let missing = || Error::NotSent("the refund's payment is missing in the ledger".to_owned());
            let asked = payment.ok().flatten().ok_or_else(missing).and_then(|payment| {
                let channel = channel_for(snapshot, &payment)?;
                Ok((channel, Operation::QueryRefund(refund_operation(snapshot, &payment, refund))))
            });
            (RecordId { merchant, order_id, refund_id: Some(refund.refund_id.clone()) }, asked)
        }
    }
}

/// The channel on which a payment was made, if it still leads to the account that it was made with: another account
/// knows nothing of it, which must not be taken for an answer.
pub(super) fn channel_for<'a>(snapshot: &'a Snapshot, payment: &Payment) -> Result<&'a Arc<Channel>, Error> {
    let (name, account) = (&payment.channel, &payment.account);
    let channel = snapshot.channels.get(name);
    let channel = channel.ok_or_else(|| Error::NotSent(format!("the channel `{name}` is not configured any more")))?;
    if channel.account() == *account {
        return Ok(channel);
    }
    tracing::error!(channel = name, account, order_id = payment.order_id, "the channel leads to another account now");
    Err(Error::NotSent(format!(
        "the channel `{name}` leads to another account than `{account}`, with which the payment was made; give the new \
         account a channel of its own"
    )))
}

/// A payment as its provider knows it.
pub(crate) fn order(payment: &Payment) -> Order {
    Order {
        number: payment.provider_order_no.clone(),
        method: payment.method,
        amount: payment.amount,
        created_at: payment.sent_at.unwrap_or(payment.created_at),
        expires_at: payment.expires_at,
        provider_id: payment.provider_payment_id.clone(),
    }
}

/// A refund as its provider knows it.
pub(super) fn refund_operation(snapshot: &Snapshot, payment: &Payment, refund: &Refund) -> RefundOperation {
    RefundOperation {
        order: order(payment),
        number: refund.provider_refund_no.clone(),
        amount: refund.amount,
        created_at: refund.sent_at.unwrap_or(refund.created_at),
        reason: refund.reason.clone(),
        notify_url: format!("{}/notify/{}", snapshot.process.public_url, payment.channel),
    }
}

fn is_final(record: &Record) -> bool {
    match record {
        Record::Payment(payment) => payment.status.is_final(),
        Record::Refund(refund) => refund.status.is_final(),
    }
}
