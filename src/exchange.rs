//! One question to a provider: encode → sign → send → verify → decode. Nothing of an answer is used before it is verified.

mod bills;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tollgate_plugins::error::{Error, ProviderError};
use tollgate_plugins::filter::{Call, Clock, Exchange, FailureReason, Next};
use tollgate_plugins::payment::{Operation, Outcome};
use tollgate_plugins::provider::{BadSignature, Encoded, Signing, Source, Stamp, Verified};

use crate::cache::Counters;
use crate::clock::{self, Reading, SystemClock, stamp, unix_now};
use crate::config::Channel;
use crate::ledger::{BodyDigest, BytesSent, ProviderCall};
use crate::provider_keys::Keys;
use crate::telemetry::METRICS;
use crate::upstream::{Answer, SendError};

/// Asks providers, through each channel's filters.
#[derive(Clone, Default)]
pub struct ProviderClient {
    clock: SystemClock,
    keys: Arc<Keys>,
    counters: Counters,
}

impl ProviderClient {
    /// Counts calls there, with other machines.
    pub(crate) fn counting(counters: Counters) -> Self {
        Self { counters, ..Self::default() }
    }

    /// The keys that providers publish.
    pub fn keys(&self) -> &Arc<Keys> {
        &self.keys
    }

    /// The clock that filters and limits count on.
    pub fn clock(&self) -> &SystemClock {
        &self.clock
    }

    /// Asks the channel's provider, through the channel's filters, within `limit`. What was sent and what came back is
    /// added to `evidence`.
    pub async fn ask(
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
        let exchange = ChannelExchange { channel, keys: &self.keys, seen: Mutex::default() };
        let result = match self.verifiable(channel, operation, limit.min(total)).await {
            Ok(()) => Next::new(&channel.filters, &exchange).run(&call).await,
            Err(error) => Err(error),
        };
        let mut seen = exchange.seen.into_inner();
        if seen.is_empty() {
            // A filter held it back, or no key is there.
            let mut held = ProviderCall::begun(operation.kind(), &channel.name, clock::now());
            held.ended(&result);
            seen.push(held);
        }
        evidence.append(&mut seen);
        result
    }

    /// Refuses what could not be verified. It stands before the filters: no call is made, so they have nothing to count.
    async fn verifiable(&self, channel: &Arc<Channel>, operation: &Operation, limit: Duration) -> Result<(), Error> {
        let kind = operation.kind();
        let Err(cause) = self.keys.ensure(channel, limit).await else { return Ok(()) };
        let error = Error::Unverifiable { why: format!("{cause}: {}", cause.advice), word: cause.word.clone() };
        METRICS.provider_requests_total.with_label_values(&[channel.name.as_str(), kind.as_str(), error.code()]).inc();
        Err(error)
    }
}

struct ChannelExchange<'a> {
    channel: &'a Arc<Channel>,
    keys: &'a Arc<Keys>,
    /// Each time that it was run.
    seen: Mutex<Vec<ProviderCall>>,
}

#[async_trait]
impl Exchange for ChannelExchange<'_> {
    async fn run(&self, call: &Call<'_>) -> Result<Outcome, Error> {
        let started = call.clock.now();
        let mut seen = ProviderCall::begun(call.operation.kind(), call.channel, clock::now());
        let result = self.attempt(call, &mut seen).await;
        let took = call.clock.now().saturating_sub(started);
        if let Err(failure) = &result
            && let Some(symptom) = failure.symptom(&seen)
        {
            call.failure_reason.note(symptom);
        }
        let result = result.map_err(|failure| failure.error);
        seen.ended(&result);
        self.seen.lock().push(seen);
        let operation = call.operation.kind().as_str();
        let code = result.as_ref().map_or_else(|error| error.code(), |_| "ok");
        METRICS.provider_requests_total.with_label_values(&[call.channel, operation, code]).inc();
        METRICS
            .provider_request_duration_seconds
            .with_label_values(&[call.channel, operation])
            .observe(took.as_secs_f64());
        match &result {
            Err(error @ Error::Unauthorized(_)) => {
                let advice = "see `keys.sign`, the certificates and `account` of the channel, and this machine's clock; \
                              `tollgate check` holds the files against each other";
                tracing::error!(
                    channel = call.channel,
                    operation,
                    %error,
                    advice,
                    "the channel's keys or certificates are wrong"
                );
            }
            Err(Error::UnlistedRefusal(word)) => tell_unlisted(call.channel, operation, word),
            Err(error) => tracing::info!(channel = call.channel, operation, %error, "exchange"),
            Ok(_) => {}
        }
        result
    }
}

impl ChannelExchange<'_> {
    async fn attempt(&self, call: &Call<'_>, seen: &mut ProviderCall) -> Result<Outcome, Failure> {
        let stamp = stamp();
        let request = match self.prepare(call.operation, &stamp).await? {
            Encoded::Answer(outcome) => return Ok(outcome),
            Encoded::Send(request) => request,
        };
        let left = call.deadline.saturating_sub(call.clock.now());
        if left.is_zero() {
            let error = Error::NotSent("the time for this request is over".to_owned());
            return Err(Failure { error, is_timeout: true });
        }
        let sent = call.clock.now();
        seen.sent_at = clock::now();
        let answer = self.channel.upstream.send(&request, left).await;
        let took = call.clock.now().saturating_sub(sent);
        seen.took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let answer = answer.map_err(|error| {
            if matches!(error, SendError::MaybeSent(_)) {
                seen.written = BytesSent::Maybe;
            }
            Failure { is_timeout: error.lost().is_timeout, error: unanswered(error) }
        })?;
        seen.written = BytesSent::Yes;
        seen.http_status = Some(answer.status.as_u16());
        let bytes = seen.answer.insert(BodyDigest::of(&answer.body));
        Ok(self.read(call.operation, answer, &stamp, &mut bytes.key_id).await?)
    }

    /// Encodes and signs on this thread, or beside it when the key is so long that other requests would feel it.
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
                match outcome.amount.filter(|amount| *amount != operation.amount()) {
                    Some(amount) => Err(Error::Mismatch(format!("it names {amount}, not {}", operation.amount()))),
                    None => Ok(outcome),
                }
            }
            // Providers do not sign all their refusals; the TLS identity of the host stands behind this one. The dialect says
            // what may be concluded from it: never that something was done.
            Err(BadSignature::Missing) => Err(provider.decode_unsigned_error(operation, answer.status, &answer.body)),
            Err(bad) => match provider.decode_unsigned_error(operation, answer.status, &answer.body) {
                // Whom it does not know the provider may answer with any of its keys, and where both sides have one key, ours
                // is the wrong one. Who could forge this word could as well leave the signature out.
                error @ Error::Unauthorized(_) => Err(error),
                _ if bad == BadSignature::Probe => Err(Error::Probe),
                _ => Err(Error::unclear(format!("the answer ({}) is not believed: {bad}", answer.status.as_u16()))),
            },
        }
    }
}

/// Counts a refusal whose code is in no table, and logs each code of a channel once.
fn tell_unlisted(channel: &str, operation: &str, word: &ProviderError) {
    let (code, is_new) = METRICS.few.label("code", channel, &word.code);
    METRICS.unlisted_refusals_total.with_label_values(&[channel, &code]).inc();
    if is_new {
        tracing::warn!(
            channel,
            operation,
            code = word.code,
            message = word.message,
            "the provider refused with a code that is in no table: what became of it is asked about; report the code so that \
             it gets its meaning"
        );
    }
}

/// Checks an answer's signature; one by an unknown key is worth one look at the keys that the provider publishes.
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

/// Returns the time by which an answer is judged. Of a payment's status it is the time that has come for certain: a clock that
/// jumped must not end an order whose payer can still pay.
fn decoded_at(operation: &Operation, stamp: &Stamp, time: Reading) -> Stamp {
    let Operation::Query(order) = operation else { return stamp.clone() };
    let certain = order.created_at.saturating_add(time.certain_age(order.created_at));
    let certain = certain.ok().and_then(|time| u64::try_from(time.as_second()).ok());
    Stamp { unix_time: certain.map_or(stamp.unix_time, |certain| certain.min(stamp.unix_time)), ..stamp.clone() }
}

/// An exchange without an outcome.
struct Failure {
    error: Error,
    /// Whether a time limit ended it.
    is_timeout: bool,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, is_timeout: false }
    }
}

impl Failure {
    /// What a breaker tells of it: what the provider answered, or what came instead.
    fn symptom(&self, seen: &ProviderCall) -> Option<Cow<'static, str>> {
        match &self.error {
            _ if self.is_timeout => Some("timeout".into()),
            Error::NotSent(_) => Some("no connection".into()),
            Error::Mismatch(_) => Some("mismatch".into()),
            Error::Unclear { word, .. } => {
                let status = seen.http_status.filter(|status| !(200..300).contains(status));
                let believed = seen.answer.as_ref().is_some_and(|answer| answer.key_id.is_some());
                Some(match (status, word) {
                    (Some(status), Some(word)) => format!("HTTP {status} {}", word.code).into(),
                    (Some(status), None) => format!("HTTP {status}").into(),
                    (None, Some(word)) => word.code.clone().into(),
                    (None, None) if seen.http_status.is_none() => "cut".into(),
                    (None, None) if believed => "odd answer".into(),
                    (None, None) => "bad signature".into(),
                })
            }
            _ => None,
        }
    }
}

fn unanswered(error: SendError) -> Error {
    match error {
        SendError::NotSent(lost) => Error::NotSent(lost.why),
        SendError::MaybeSent(lost) => Error::unclear(lost.why),
    }
}

fn signing<'a>(channel: &'a Channel, stamp: &'a Stamp) -> Signing<'a> {
    Signing { signer: channel.signer.as_ref(), keys: &channel.configured_keys, stamp }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use jiff::{SignedDuration, Timestamp};

    use super::*;
    use crate::gateway::order;
    use crate::ledger::{Payment, a_payment};

    #[test]
    fn status_answer_is_judged_by_the_time_that_has_come_for_certain() {
        let at = |seconds: i64| Timestamp::from_second(1_750_000_000 + seconds).unwrap();
        let order = order(&Payment { created_at: at(0), ..a_payment("o") });
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
