//! Reads the status of a payment or refund. Sources in this order: the status cache; the existence filter, for
//! unknown ids; the ledger, for final records; the provider. Concurrent queries for one record share one provider
//! query.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use tollgate_ledger::{Payment, Record, RecordId, RecordKey, Refund, TimelineEvent, Update, UpdateWithEvidence};
use tollgate_plugins::error::Error;
use tollgate_plugins::payment::{Operation, Order, Refund as RefundOperation};

use super::request_body::is_identifier;
use super::responses::{ResponseChannel, body_of, channel_of, is_sent};
use super::{Gateway, RequestContext, merchant_share, too_many_concurrent_requests};
use crate::cache::{CachedStatus, ClusterLookup, StatusCache, Token};
use crate::clock;
use crate::problem::{Problem, Retryable};
use crate::snapshot::{Channel, Snapshot};
use crate::telemetry::METRICS;

/// Result of a query: the status and whether it was a cache hit or miss; `None` if the record does not exist.
pub(super) type QueryResult = Result<Option<(Arc<CachedStatus>, &'static str)>, Problem>;

/// `GET /v1/payments/{order_id}`.
pub(super) async fn payment(
    gateway: &Arc<Gateway>,
    request: &RequestContext,
    order_id: &str,
) -> Result<Response<Bytes>, Problem> {
    get_status(gateway, request, order_id, None).await
}

/// `GET /v1/payments/{order_id}/refunds/{refund_id}`.
pub(super) async fn refund(
    gateway: &Arc<Gateway>,
    request: &RequestContext,
    order_id: &str,
    refund_id: &str,
) -> Result<Response<Bytes>, Problem> {
    get_status(gateway, request, order_id, Some(refund_id)).await
}

async fn get_status(
    gateway: &Arc<Gateway>,
    request: &RequestContext,
    order_id: &str,
    refund_id: Option<&str>,
) -> Result<Response<Bytes>, Problem> {
    let missing = || Problem::not_found("There is no such payment or refund.").order(order_id);
    if !is_identifier(order_id) || !refund_id.is_none_or(is_identifier) {
        return Err(missing());
    }
    let subject = RecordId {
        merchant: request.merchant.name.clone(),
        order_id: order_id.to_owned(),
        refund_id: refund_id.map(str::to_owned),
    };
    let record_key = RecordKey::of(&subject);
    let forced = request.incoming.headers.get_all(http::header::CACHE_CONTROL).iter().any(|value| {
        value.to_str().is_ok_and(|text| text.to_ascii_lowercase().split(',').any(|word| word.trim() == "no-cache"))
    });
    let cached = if forced { None } else { gateway.statuses.find(record_key, Instant::now()) };
    if let Some(cached) = cached {
        return Ok(answer(&cached, "hit"));
    }
    let is_unknown = || gateway.statuses.existence.is_unknown(record_key);
    if is_unknown() && gateway.ledger.caught_up().await && is_unknown() {
        count("unknown");
        return Err(missing());
    }
    let start_query = || {
        let (gateway, snapshot, subject) = (Arc::clone(gateway), Arc::clone(&request.snapshot), subject.clone());
        // The permit lasts until the provider answers, so that callers who give up early cannot start unlimited
        // queries.
        let share = gateway.query_shares.enter(&subject.merchant, merchant_share(&snapshot));
        async move {
            let Some(_share) = share else { return Err(too_many_concurrent_requests()) };
            query_once(&gateway, &snapshot, &subject, forced).await
        }
    };
    loop {
        let Ok((found, is_own)) = tokio::time::timeout(
            request.execution_context().remaining(),
            gateway.queries.join(record_key, start_query),
        )
        .await
        else {
            // The query continues. This caller gets the last recorded status.
            let record = load(gateway, &subject).await?.ok_or_else(missing)?;
            return Ok(answer(&status(&record, false, true), "stale"));
        };
        let found = found.unwrap_or_else(|| Err(query_failed())).map_err(|problem| problem.order(order_id))?;
        let (status, result) = found.ok_or_else(missing)?;
        // A query that another caller started may have read the ledger only; a forced one must have reached the
        // provider.
        if is_own || !forced || status.is_from_provider {
            let result = match (forced, is_own) {
                (true, _) => "bypass",
                (false, true) => result,
                (false, false) => "hit",
            };
            return Ok(answer(&status, result));
        }
    }
}

/// Runs the only query for this record at this time, across all gateways that share a cache.
async fn query_once(gateway: &Arc<Gateway>, snapshot: &Arc<Snapshot>, subject: &RecordId, forced: bool) -> QueryResult {
    let (statuses, record_key) = (&gateway.statuses, RecordKey::of(subject));
    let version_token = statuses.token(record_key, Instant::now());
    match statuses.find_in_cluster(record_key, forced).await {
        ClusterLookup::Hit(status, left) => {
            statuses.insert(record_key, version_token, Arc::clone(&status), left, Instant::now());
            Ok(Some((status, "hit")))
        }
        ClusterLookup::Unavailable => {
            Ok(read_through(gateway, snapshot, subject, forced).await?.map(|fresh| fresh.store(statuses, record_key)))
        }
        ClusterLookup::Leader(lease) => {
            let fresh = read_through(gateway, snapshot, subject, forced).await;
            let found = fresh.as_ref().ok().and_then(Option::as_ref);
            let entry = found.map(|fresh| (fresh.version_token, fresh.status.as_ref(), fresh.life));
            statuses.insert_in_cluster(record_key, lease, entry).await;
            Ok(fresh?.map(|fresh| fresh.store(statuses, record_key)))
        }
    }
}

/// A status read by this gateway, with its time to live.
struct FreshStatus {
    status: Arc<CachedStatus>,
    version_token: Token,
    life: Duration,
}

impl FreshStatus {
    fn store(self, statuses: &StatusCache, record_key: RecordKey) -> (Arc<CachedStatus>, &'static str) {
        statuses.insert(record_key, self.version_token, Arc::clone(&self.status), self.life, Instant::now());
        (self.status, "miss")
    }
}

async fn read_through(
    gateway: &Arc<Gateway>,
    snapshot: &Arc<Snapshot>,
    subject: &RecordId,
    forced: bool,
) -> Result<Option<FreshStatus>, Problem> {
    let ttls = snapshot.process.fresh;
    let token = || gateway.statuses.token(RecordKey::of(subject), Instant::now());
    let before = token();
    let Some(record) = load(gateway, subject).await? else { return Ok(None) };
    // The provider does not know a record that was never sent.
    if !is_sent(&record) {
        return Ok(Some(FreshStatus {
            status: status(&record, true, false),
            version_token: before,
            life: ttls.pending,
        }));
    }
    if !forced && is_final(&record) {
        return Ok(Some(FreshStatus {
            status: status(&record, false, false),
            version_token: before,
            life: ttls.settled,
        }));
    }
    let is_stale = query_provider(gateway, snapshot, record).await.is_err();
    // The provider's answer is recorded now, and other writers may have added to it.
    let version_token = token();
    let Some(record) = load(gateway, subject).await? else { return Ok(None) };
    let life = if is_final(&record) && !is_stale { ttls.settled } else { ttls.pending };
    Ok(Some(FreshStatus { status: status(&record, true, is_stale), version_token, life }))
}

fn answer(status: &CachedStatus, result: &str) -> Response<Bytes> {
    count(if status.is_stale { "stale" } else { result });
    let mut response = Response::new(status.body.clone());
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.extensions_mut().insert(ResponseChannel(status.channel.clone()));
    response
}

fn count(result: &str) {
    METRICS.status_cache_total.with_label_values(&[result]).inc();
}

/// Builds the cached body of a record. With `is_stale`, the body says so: the provider could not be queried.
fn status(record: &Record, is_from_provider: bool, is_stale: bool) -> Arc<CachedStatus> {
    let mut body = body_of(record);
    if is_stale && body.ends_with('}') {
        body.truncate(body.len() - 1);
        body.push_str(",\"stale\":true}");
    }
    Arc::new(CachedStatus {
        body: body.into(),
        channel: channel_of(record).to_owned(),
        age: record.version(),
        is_from_provider,
        is_stale,
    })
}

fn query_failed() -> Problem {
    let detail = "The gateway failed while querying the status. Nothing was changed. Repeat the query.";
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

/// Queries the provider and records the answer. A not-found answer changes nothing here; only the resolver may
/// conclude from it.
async fn query_provider(gateway: &Arc<Gateway>, snapshot: &Arc<Snapshot>, record: Record) -> Result<(), Error> {
    let (subject, query) = build_query(gateway, snapshot, &record).await;
    let (channel, operation) = query?;
    let mut evidence = Vec::new();
    let limit = channel.upstream.timeouts().total;
    let answer = gateway.provider_client.call(channel, &operation, limit, &mut evidence).await;
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
        tracing::error!(%error, "the provider's answer could not be recorded; the next query asks the provider again");
    }
    answer.map(drop)
}

/// Returns the channel and operation that query the status of a record.
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
            let query = payment.ok().flatten().ok_or_else(missing).and_then(|payment| {
                let channel = channel_for(snapshot, &payment)?;
                Ok((channel, Operation::QueryRefund(refund_operation(snapshot, &payment, refund))))
            });
            (RecordId { merchant, order_id, refund_id: Some(refund.refund_id.clone()) }, query)
        }
    }
}

/// Returns the payment's channel if it still uses the account of the payment. Another account's not-found answer
/// would be meaningless.
pub(super) fn channel_for<'a>(snapshot: &'a Snapshot, payment: &Payment) -> Result<&'a Arc<Channel>, Error> {
    let (name, account) = (&payment.channel, &payment.account);
    let channel = snapshot.channels.get(name);
    let channel = channel.ok_or_else(|| Error::NotSent(format!("the channel `{name}` is no longer configured")))?;
    if channel.account() == *account {
        return Ok(channel);
    }
    tracing::error!(
        channel = name,
        account,
        order_id = payment.order_id,
        "the channel now uses another account than the payment; configure the new account as a separate channel"
    );
    Err(Error::NotSent(format!(
        "the channel `{name}` uses another account than `{account}`, with which the payment was made; configure the new \
         account as a separate channel"
    )))
}

/// Returns the payment in the form that provider operations use.
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

/// Returns the refund in the form that provider operations use.
pub(super) fn refund_operation(snapshot: &Snapshot, payment: &Payment, refund: &Refund) -> RefundOperation {
    RefundOperation {
        order: order(payment),
        number: refund.provider_refund_no.clone(),
        // The amount of a refund made elsewhere is known to the provider only.
        amount: if refund.is_elsewhere() { payment.amount } else { refund.amount },
        made_elsewhere: refund.is_elsewhere(),
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
