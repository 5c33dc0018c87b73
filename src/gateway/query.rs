//! How a payment or refund stands. The ledger knows what is final; for the rest the provider is asked, one flight an order
//! and not more often than a cashier page needs.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use moka::future::Cache;
use tollgate_plugins::error::Error;
use tollgate_plugins::payment::{Operation, Order, Refund as RefundOperation};

use super::form::is_identifier;
use super::{Asked, Gateway, is_sent, json};
use crate::clock;
use crate::config::{Channel, Snapshot};
use crate::ledger::{Heard, News, Payment, Record, Refund, Subject, What};
use crate::problem::Problem;
use crate::telemetry::METRICS;

/// How long the provider's word on a pending payment is good for.
const PENDING_FRESH: Duration = Duration::from_secs(2);
/// How many orders' flights are remembered at once; the oldest are forgotten first, which costs one query.
const REMEMBERED: u64 = 100_000;

/// Which orders were asked about a moment ago, and whether the provider answered.
pub(super) struct Queries(Cache<Subject, bool>);

impl Default for Queries {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(REMEMBERED).time_to_live(PENDING_FRESH).build())
    }
}

/// `GET /v1/payments/{order_id}`.
pub(super) async fn payment(gateway: &Arc<Gateway>, asked: &Asked, order_id: &str) -> Result<Response<Bytes>, Problem> {
    look_up(gateway, asked, order_id, None).await
}

/// `GET /v1/payments/{order_id}/refunds/{refund_id}`.
pub(super) async fn refund(
    gateway: &Arc<Gateway>,
    asked: &Asked,
    order_id: &str,
    refund_id: &str,
) -> Result<Response<Bytes>, Problem> {
    look_up(gateway, asked, order_id, Some(refund_id)).await
}

async fn look_up(
    gateway: &Arc<Gateway>,
    asked: &Asked,
    order_id: &str,
    refund_id: Option<&str>,
) -> Result<Response<Bytes>, Problem> {
    let missing = || Problem::not_found("There is no such payment or refund.").order(order_id);
    if !is_identifier(order_id) || !refund_id.is_none_or(is_identifier) {
        return Err(missing());
    }
    let subject = Subject {
        merchant: asked.merchant.name.clone(),
        order_id: order_id.to_owned(),
        refund_id: refund_id.map(str::to_owned),
    };
    let known = find(gateway, &subject).await?.ok_or_else(missing)?;
    let forced = asked.incoming.headers.get_all(http::header::CACHE_CONTROL).iter().any(|value| {
        value.to_str().is_ok_and(|text| text.to_ascii_lowercase().split(',').any(|word| word.trim() == "no-cache"))
    });
    // Nobody but the ledger knows of what was not sent.
    if !is_sent(&known) || (!forced && is_final(&known)) {
        METRICS.status_cache_total.with_label_values(&["hit"]).inc();
        return Ok(json(StatusCode::OK, &known));
    }
    if forced {
        gateway.queries.0.invalidate(&subject).await;
    }
    let entry = gateway
        .queries
        .0
        .entry(subject.clone())
        .or_insert_with(async { ask(gateway, &asked.snapshot, known).await.is_ok() })
        .await;
    METRICS.status_cache_total.with_label_values(&[if entry.is_fresh() { "miss" } else { "hit" }]).inc();
    let mut response = json(StatusCode::OK, &find(gateway, &subject).await?.ok_or_else(missing)?);
    if !entry.into_value() {
        mark_stale(&mut response);
    }
    Ok(response)
}

async fn find(gateway: &Gateway, subject: &Subject) -> Result<Option<Record>, Problem> {
    let Subject { merchant, order_id, refund_id } = subject;
    let found = match refund_id {
        Some(refund_id) => {
            gateway.ledger.refund(merchant, order_id, refund_id).await.map(|found| found.map(Record::Refund))
        }
        None => gateway.ledger.payment(merchant, order_id).await.map(|found| found.map(Record::Payment)),
    };
    found.map_err(|error| Problem::ledger(&error))
}

/// Asks the provider and writes down what it says. Of "not known" nothing is concluded here: that is the resolver's.
async fn ask(gateway: &Arc<Gateway>, snapshot: &Arc<Snapshot>, record: Record) -> Result<(), Error> {
    let (subject, question) = question(gateway, snapshot, &record).await;
    let (channel, operation) = question?;
    let mut evidence = Vec::new();
    let limit = channel.upstream.timeouts().total;
    let answer = gateway.exchanger.ask(channel, &operation, limit, &mut evidence).await;
    let (ledger, now) = (&gateway.ledger, clock::now());
    let written = match &answer {
        Ok(outcome) => {
            ledger.apply(&subject, Heard { news: News::Outcome(outcome.clone()), evidence }, now).await.map(drop)
        }
        Err(error) => match ledger.note(&subject, What::exchanges(evidence), now).await {
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
pub(crate) async fn question<'a>(
    gateway: &Gateway,
    snapshot: &'a Snapshot,
    record: &Record,
) -> (Subject, Result<(&'a Arc<Channel>, Operation), Error>) {
    match record {
        Record::Payment(payment) => {
            let subject =
                Subject { merchant: payment.merchant.clone(), order_id: payment.order_id.clone(), refund_id: None };
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
            (Subject { merchant, order_id, refund_id: Some(refund.refund_id.clone()) }, asked)
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
        number: payment.number.clone(),
        method: payment.method,
        amount: payment.amount,
        created_at: payment.created_at,
        expires_at: payment.expires_at,
        provider_id: payment.provider_payment_id.clone(),
    }
}

/// A refund as its provider knows it.
pub(super) fn refund_operation(snapshot: &Snapshot, payment: &Payment, refund: &Refund) -> RefundOperation {
    RefundOperation {
        order: order(payment),
        number: refund.number.clone(),
        amount: refund.amount,
        created_at: refund.created_at,
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

/// Says that the provider could not be asked just now and this is the last known state.
fn mark_stale(response: &mut Response<Bytes>) {
    if let Ok(serde_json::Value::Object(mut body)) = serde_json::from_slice(response.body()) {
        body.insert("stale".to_owned(), true.into());
        *response.body_mut() = serde_json::Value::Object(body).to_string().into();
    }
}
