//! One question to a provider: encode → sign → send → verify → decode. Nothing of an answer is used before it is verified.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tollgate_plugins::error::Error;
use tollgate_plugins::filter::{Call, Clock, Exchange, Next};
use tollgate_plugins::payment::{Operation, Outcome};
use tollgate_plugins::provider::{BadSignature, Encoded, Signing, Source, Stamp};

use crate::clock::{SystemClock, stamp, unix_now};
use crate::config::Channel;
use crate::keys::Keys;
use crate::telemetry::METRICS;
use crate::upstream::{Answer, SendError};

/// Asks providers, through each channel's filters.
#[derive(Clone, Default)]
pub struct Exchanger {
    clock: SystemClock,
    keys: Arc<Keys>,
}

impl Exchanger {
    /// The keys that providers publish.
    pub fn keys(&self) -> &Arc<Keys> {
        &self.keys
    }

    /// The clock that filters and limits count on.
    pub fn clock(&self) -> &SystemClock {
        &self.clock
    }

    /// Asks the channel's provider, through the channel's filters, within `limit`.
    pub async fn ask(&self, channel: &Arc<Channel>, operation: &Operation, limit: Duration) -> Result<Outcome, Error> {
        let deadline = self.clock.now() + limit.min(channel.upstream.timeouts().total);
        let call = Call { channel: &channel.name, operation, clock: &self.clock, deadline };
        let exchange = ChannelExchange { channel, keys: &self.keys };
        Next::new(&channel.filters, &exchange).run(&call).await
    }
}

struct ChannelExchange<'a> {
    channel: &'a Arc<Channel>,
    keys: &'a Keys,
}

#[async_trait]
impl Exchange for ChannelExchange<'_> {
    async fn run(&self, call: &Call<'_>) -> Result<Outcome, Error> {
        let started = call.clock.now();
        let result = self.once(call).await;
        let operation = call.operation.kind().as_str();
        let code = result.as_ref().map_or_else(|error| error.code(), |_| "ok");
        METRICS.exchanges_total.with_label_values(&[call.channel, operation, code]).inc();
        let seconds = call.clock.now().saturating_sub(started).as_secs_f64();
        METRICS.exchange_duration_seconds.with_label_values(&[call.channel, operation]).observe(seconds);
        if let Err(error) = &result {
            tracing::info!(channel = call.channel, operation, %error, "exchange");
        }
        result
    }
}

impl ChannelExchange<'_> {
    async fn once(&self, call: &Call<'_>) -> Result<Outcome, Error> {
        let stamp = stamp();
        let request = match self.prepare(call.operation, &stamp).await? {
            Encoded::Answer(outcome) => return Ok(outcome),
            Encoded::Send(request) => request,
        };
        let left = call.deadline.saturating_sub(call.clock.now());
        if left.is_zero() {
            return Err(Error::NotSent("the time for this request is over".to_owned()));
        }
        let answer = self.channel.upstream.send(&request, left).await.map_err(|error| match error {
            SendError::NotSent(why) => Error::NotSent(why),
            SendError::MaybeSent(why) => Error::unclear(why),
        })?;
        self.read(call.operation, answer, &stamp).await
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

    async fn read(&self, operation: &Operation, answer: Answer, stamp: &Stamp) -> Result<Outcome, Error> {
        let provider = &self.channel.provider;
        let verify = || {
            let (body, keys) = (answer.body.clone(), self.channel.keys.load());
            provider.verify(Source::Answer, &answer.headers, body, &keys, unix_now())
        };
        let mut checked = verify();
        if matches!(checked, Err(BadSignature::UnknownKey(_))) && self.keys.refresh(self.channel).await {
            checked = verify();
        }
        match checked {
            Ok(reply) => provider.decode(operation, answer.status, reply, signing(self.channel, stamp)),
            // Providers do not sign all their refusals; the TLS identity of the host stands behind this one. The dialect says
            // what may be concluded from it: never that something was done.
            Err(BadSignature::Missing) => Err(provider.refusal(operation, answer.status, &answer.body)),
            Err(bad) => Err(Error::unclear(format!("the answer ({}) is not believed: {bad}", answer.status.as_u16()))),
        }
    }
}

fn prepared(channel: &Channel, operation: &Operation, stamp: &Stamp) -> Result<Encoded, Error> {
    let with = signing(channel, stamp);
    let mut encoded = channel.provider.encode(operation, with)?;
    if let Encoded::Send(request) = &mut encoded {
        channel.provider.sign(request, with)?;
    }
    Ok(encoded)
}

fn signing<'a>(channel: &'a Channel, stamp: &'a Stamp) -> Signing<'a> {
    Signing { signer: channel.signer.as_ref(), keys: &channel.configured_keys, stamp }
}
