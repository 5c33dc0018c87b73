//! Calls a provider: encode → sign → send → verify → decode. A response is never used before it is verified.

mod bills;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tollgate_ledger::{BodyDigest, BytesSent, ProviderCall};
use tollgate_plugins::error::{Error, ProviderError};
use tollgate_plugins::filter::{Call, Clock, Exchange, FailureReason, Next};
use tollgate_plugins::payment::{Operation, Outcome};
use tollgate_plugins::provider::{BadSignature, Encoded, Signing, Source, Stamp, Verified};

use crate::cache::Counters;
use crate::clock::{self, Reading, SystemClock, stamp, unix_now};
use crate::provider_keys::Keys;
use crate::snapshot::Channel;
use crate::telemetry::METRICS;
use crate::upstream::{Answer, SendError};

/// Client of all providers. Each call passes the channel's filters.
#[derive(Clone, Default)]
pub struct ProviderClient {
    clock: SystemClock,
    keys: Arc<Keys>,
    counters: Counters,
}

impl ProviderClient {
    /// Creates a client whose call counters are shared with other gateways.
    pub(crate) fn with_counters(counters: Counters) -> Self {
        Self { counters, ..Self::default() }
    }

    /// Returns the public keys that providers publish.
    pub fn keys(&self) -> &Arc<Keys> {
        &self.keys
    }

    /// Returns the clock of filters and limits.
    pub fn clock(&self) -> &SystemClock {
        &self.clock
    }

    /// Calls the channel's provider through the channel's filters, within `limit`. Appends each call to `evidence`.
    pub async fn call(
        &self,
        channel: &Arc<Channel>,
        operation: &Operation,
        limit: Duration,
        evidence: &mut Vec<ProviderCall>,
    ) -> Result<Outcome, Error> {
        let total = channel.upstream.timeouts().total;
        let (deadline, deadline_is_callers) = (self.clock.now() + limit.min(total), limit < total);
        let (counter, failure_reason) = (&self.counters, &FailureReason::default());
        let call = Call {
            channel: &channel.name,
            operation,
            clock: &self.clock,
            counter,
            deadline,
            deadline_is_callers,
            failure_reason,
        };
        let exchange = ChannelExchange { channel, keys: &self.keys, records: Mutex::default() };
        let result = match self.verifiable(channel, operation, limit.min(total)).await {
            Ok(()) => Next::new(&channel.filters, &exchange).run(&call).await,
            Err(error) => Err(error),
        };
        let mut records = exchange.records.into_inner();
        if records.is_empty() {
            // A filter rejected the call, or the verification key is missing.
            let mut rejected = ProviderCall::begun(operation.kind(), &channel.name, clock::now());
            rejected.ended(&result);
            records.push(rejected);
        }
        evidence.append(&mut records);
        result
    }

    /// Rejects a call whose response could not be verified. This precedes the filters, which count only real calls.
    async fn verifiable(&self, channel: &Arc<Channel>, operation: &Operation, limit: Duration) -> Result<(), Error> {
        let kind = operation.kind();
        let Err(cause) = self.keys.ensure(channel, limit).await else { return Ok(()) };
        let error = Error::Unverifiable {
            why: format!("{cause}: {}", cause.advice),
            provider_error: cause.provider_error.clone(),
        };
        METRICS.provider_requests_total.with_label_values(&[channel.name.as_str(), kind.as_str(), error.code()]).inc();
        Err(error)
    }
}

struct ChannelExchange<'a> {
    channel: &'a Arc<Channel>,
    keys: &'a Arc<Keys>,
    /// One record per attempt.
    records: Mutex<Vec<ProviderCall>>,
}

#[async_trait]
impl Exchange for ChannelExchange<'_> {
    async fn run(&self, call: &Call<'_>) -> Result<Outcome, Error> {
        let started = call.clock.now();
        let mut record = ProviderCall::begun(call.operation.kind(), call.channel, clock::now());
        let result = self.attempt(call, &mut record).await;
        let elapsed = call.clock.now().saturating_sub(started);
        if let Err(failure) = &result
            && let Some(reason) = failure.reason(&record)
        {
            call.failure_reason.note(reason);
        }
        let result = result.map_err(|failure| failure.error);
        record.ended(&result);
        self.records.lock().push(record);
        let operation = call.operation.kind().as_str();
        let code = result.as_ref().map_or_else(|error| error.code(), |_| "ok");
        METRICS.provider_requests_total.with_label_values(&[call.channel, operation, code]).inc();
        METRICS
            .provider_request_duration_seconds
            .with_label_values(&[call.channel, operation])
            .observe(elapsed.as_secs_f64());
        match &result {
            Err(error @ Error::Unauthorized(_)) => {
                let advice = "check `keys.sign`, the certificates and `account` of the channel, and this machine's clock; \
                              `tollgate check` compares the files";
                tracing::error!(
                    channel = call.channel,
                    operation,
                    %error,
                    advice,
                    "the provider rejected the request's signature: the channel's keys or certificates are wrong"
                );
            }
            Err(error @ Error::Mismatch(_)) => tracing::error!(
                channel = call.channel,
                operation,
                %error,
                "the provider's response names another amount or account; it is not applied; compare the order with the provider's console"
            ),
            Err(Error::UnlistedRefusal(word)) => report_unlisted(call.channel, operation, word),
            Err(error) => tracing::info!(channel = call.channel, operation, %error, "the provider call failed"),
            Ok(_) => {}
        }
        result
    }
}

impl ChannelExchange<'_> {
    async fn attempt(&self, call: &Call<'_>, record: &mut ProviderCall) -> Result<Outcome, Failure> {
        let stamp = stamp();
        let request = match self.prepare(call.operation, &stamp).await? {
            Encoded::Answer(outcome) => return Ok(outcome),
            Encoded::Send(request) => request,
        };
        let remaining = call.deadline.saturating_sub(call.clock.now());
        if remaining.is_zero() {
            let error = Error::NotSent("the request's deadline has passed".to_owned());
            return Err(Failure { error, is_timeout: true });
        }
        let sent = call.clock.now();
        record.sent_at = clock::now();
        let answer = self.channel.upstream.send(&request, remaining).await;
        let elapsed = call.clock.now().saturating_sub(sent);
        record.took_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let answer = answer.map_err(|error| {
            if matches!(error, SendError::MaybeSent(_)) {
                record.written = BytesSent::Maybe;
            }
            Failure { is_timeout: error.lost().is_timeout, error: send_error(error) }
        })?;
        record.written = BytesSent::Yes;
        record.http_status = Some(answer.status.as_u16());
        let bytes = record.answer.insert(BodyDigest::of(&answer.body));
        Ok(self.read(call.operation, answer, &stamp, &mut bytes.key_id).await?)
    }

    /// Encodes and signs. A slow key signs on a blocking thread, so that other requests are not delayed.
    async fn prepare(&self, operation: &Operation, stamp: &Stamp) -> Result<Encoded, Error> {
        if !self.channel.signer.is_slow() {
            return prepared(self.channel, operation, stamp);
        }
        let (channel, operation, stamp) = (Arc::clone(self.channel), operation.clone(), stamp.clone());
        tokio::task::spawn_blocking(move || prepared(&channel, &operation, &stamp))
            .await
            .unwrap_or_else(|_| Err(Error::NotSent("signing failed".to_owned())))
    }

    async fn read(
        &self,
        operation: &Operation,
        answer: Answer,
        stamp: &Stamp,
        key_id: &mut Option<String>,
    ) -> Result<Outcome, Error> {
        let provider = &self.channel.provider;
        match verified(self.channel, self.keys, &answer).await {
            Ok(reply) => {
                *key_id = Some(reply.key_id().to_owned());
                let stamp = decoded_at(operation, stamp, clock::reading());
                let outcome = provider.decode(operation, answer.status, reply, signing(self.channel, &stamp))?;
                match outcome.amount.filter(|amount| !operation.may_have(*amount)) {
                    Some(amount) => Err(Error::Mismatch(format!("it names {amount}, not {}", operation.amount()))),
                    None => Ok(outcome),
                }
            }
            // Providers leave some refusals unsigned. The host's TLS identity is their only proof. The provider
            // plug-in decides what may be concluded; an unsigned refusal never proves that an operation was executed.
            Err(BadSignature::Missing) => Err(provider.decode_unsigned_error(operation, answer.status, &answer.body)),
            Err(bad) => match provider.decode_unsigned_error(operation, answer.status, &answer.body) {
                // To an unknown merchant a provider may respond with any of its keys. With a shared key, a bad
                // signature means that our key is wrong. An attacker who can forge this refusal could also omit the
                // signature.
                error @ Error::Unauthorized(_) => Err(error),
                _ if bad == BadSignature::Probe => Err(Error::Probe),
                _ => Err(Error::unclear(format!("the answer ({}) failed verification: {bad}", answer.status.as_u16()))),
            },
        }
    }
}

/// Counts a refusal with an unlisted code. Each code is logged once per channel.
fn report_unlisted(channel: &str, operation: &str, word: &ProviderError) {
    let (code, is_new) = METRICS.few.label("code", channel, &word.code);
    METRICS.unlisted_refusals_total.with_label_values(&[channel, &code]).inc();
    if is_new {
        tracing::warn!(
            channel,
            operation,
            code = word.code,
            message = word.message,
            "the provider refused with an unlisted code, so the outcome is unknown and is queried; report the code so that it can \
             be added to the table"
        );
    }
}

/// Verifies a response. An unknown key id triggers one refresh of the provider's published keys.
async fn verified(channel: &Arc<Channel>, keys: &Arc<Keys>, answer: &Answer) -> Result<Verified, BadSignature> {
    let verify = || {
        let (body, keys) = (answer.body.clone(), channel.keys.load());
        channel.provider.verify(Source::Answer, &answer.headers, body, &keys, unix_now())
    };
    let mut checked = verify();
    if let Err(BadSignature::UnknownKey(id)) = &checked
        && keys.refresh(channel, id).await
    {
        checked = verify();
    }
    checked
}

fn prepared(channel: &Channel, operation: &Operation, stamp: &Stamp) -> Result<Encoded, Error> {
    let with = signing(channel, stamp);
    let mut encoded = channel.provider.encode(operation, with)?;
    if let Encoded::Send(request) = &mut encoded {
        channel.provider.sign(request, with)?;
    }
    Ok(encoded)
}

/// Returns the time at which a response is evaluated. For a status query it is the certain time, so that a clock step
/// cannot expire an order that the payer can still pay.
fn decoded_at(operation: &Operation, stamp: &Stamp, time: Reading) -> Stamp {
    let Operation::Query(order) = operation else { return stamp.clone() };
    let certain = order.created_at.saturating_add(time.certain_age(order.created_at));
    let certain = certain.ok().and_then(|time| u64::try_from(time.as_second()).ok());
    Stamp { unix_time: certain.map_or(stamp.unix_time, |certain| certain.min(stamp.unix_time)), ..stamp.clone() }
}

/// A failed attempt.
struct Failure {
    error: Error,
    /// True if a time limit ended the attempt.
    is_timeout: bool,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, is_timeout: false }
    }
}

impl Failure {
    /// Returns the failure label for the breaker: the provider's code, or the kind of transport failure.
    fn reason(&self, record: &ProviderCall) -> Option<Cow<'static, str>> {
        match &self.error {
            _ if self.is_timeout => Some("timeout".into()),
            Error::NotSent(_) => Some("no connection".into()),
            Error::Mismatch(_) => Some("mismatch".into()),
            Error::Unclear { provider_error, .. } => {
                let status = record.http_status.filter(|status| !(200..300).contains(status));
                let is_verified = record.answer.as_ref().is_some_and(|answer| answer.key_id.is_some());
                Some(match (status, provider_error) {
                    (Some(status), Some(word)) => format!("HTTP {status} {}", word.code).into(),
                    (Some(status), None) => format!("HTTP {status}").into(),
                    (None, Some(word)) => word.code.clone().into(),
                    (None, None) if record.http_status.is_none() => "cut".into(),
                    (None, None) if is_verified => "odd answer".into(),
                    (None, None) => "bad signature".into(),
                })
            }
            _ => None,
        }
    }
}

fn send_error(error: SendError) -> Error {
    match error {
        SendError::NotSent(failure) => Error::NotSent(failure.why),
        SendError::MaybeSent(failure) => Error::unclear(failure.why),
    }
}

fn signing<'a>(channel: &'a Channel, stamp: &'a Stamp) -> Signing<'a> {
    Signing { signer: channel.signer.as_ref(), keys: &channel.configured_keys, stamp }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use jiff::{SignedDuration, Timestamp};
    use tollgate_plugins::payment::{Currency, Method, Money, Order};

    use super::*;

    #[test]
    fn status_response_is_evaluated_at_certain_time() {
        let at = |seconds: i64| Timestamp::from_second(1_750_000_000 + seconds).unwrap();
        let order = Order {
            number: "o".to_owned(),
            method: Method::all().next().unwrap(),
            amount: Money { value: 1, currency: Currency::CNY },
            created_at: at(0),
            expires_at: None,
            provider_id: None,
        };
        let judged = |operation: &Operation, now, steady_for| {
            let stamp = Stamp { unix_time: at(now).as_second().unsigned_abs(), nonce: String::new() };
            let time = Reading { now: at(now), steady_for: SignedDuration::from_secs(steady_for) };
            decoded_at(operation, &stamp, time).unix_time - at(0).as_second().unsigned_abs()
        };
        let query = Operation::Query(order.clone());
        assert_eq!(judged(&query, 3600, 7200), 3600, "the clock has run for long enough");
        assert_eq!(judged(&query, 3600, 20), 20, "the clock jumped, or the process has just started");
        assert_eq!(judged(&Operation::Close(order), 3600, 20), 3600);
    }
}
