//! Consumes one source: connects, starts the processing of messages, and connects again.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tollgate_config::SourceConfig;

use super::link::Link;
use super::message::Message;
use super::schedule::Schedule;
use crate::clock;
use crate::delivery::failure::DeliveryError;
use crate::delivery::rabbitmq::broker_error;
use crate::operations::Gateway;
use crate::proxy::InFlight;
use crate::telemetry::{LABELS, METRICS};

/// First and last pause after a lost connection or a failed attempt; doubles in between.
const RECONNECT_PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Interval at which the connection, and the ledger's ability to record claims, are checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Consumer of one source of a merchant.
pub(super) struct Consumer {
    pub(super) gateway: Arc<Gateway>,
    pub(super) in_flight: InFlight,
    /// Slots that all sources share.
    pub(super) slots: Arc<Semaphore>,
    pub(super) merchant: String,
    pub(super) config: Arc<SourceConfig>,
}

/// Reason why a session ended.
enum End {
    /// The source is removed or changed, or the process stops.
    Stopped,
    /// The ledger or the clock does not work at present, so no claim could be recorded.
    Unable,
    /// The connection failed, before or after the consumption began.
    Lost { error: DeliveryError, was_open: bool },
}

impl Consumer {
    pub(super) fn new(
        gateway: Arc<Gateway>,
        in_flight: InFlight,
        slots: Arc<Semaphore>,
        merchant: String,
        config: Arc<SourceConfig>,
    ) -> Self {
        Self { gateway, in_flight, slots, merchant, config }
    }

    /// Consumes until stopped. Messages in progress are finished; the broker gets back all others.
    pub(super) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let (first_pause, last_pause) = RECONNECT_PAUSES;
        let mut pause = first_pause;
        loop {
            let wait = match self.session(&stop).await {
                End::Stopped => break,
                End::Unable => CHECK_INTERVAL,
                End::Lost { error, was_open } => {
                    if was_open {
                        pause = first_pause;
                    }
                    tracing::warn!(
                        merchant = self.merchant,
                        source = self.config.name,
                        "no messages are consumed: {error}; the next attempt is in {} s",
                        pause.as_secs()
                    );
                    let wait = pause;
                    pause = (pause * 2).min(last_pause);
                    wait
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stop.cancelled() => break,
            }
        }
        self.set_connected(false);
    }

    /// Connects and consumes until something ends it.
    async fn session(self: &Arc<Self>, stop: &CancellationToken) -> End {
        if !self.is_able() {
            return if stop.is_cancelled() { End::Stopped } else { End::Unable };
        }
        let process = Arc::clone(&self.gateway.current.load().process);
        let connecting = async {
            let link = Link::open(&self.config, &process.webhook_allow).await?;
            let messages = link.consume(&self.config.queue).await?;
            Ok((Arc::new(link), messages))
        };
        let connected = tokio::select! {
            connected = connecting => connected,
            () = stop.cancelled() => return End::Stopped,
        };
        let (link, mut messages) = match connected {
            Ok(connected) => connected,
            Err(error) => return End::Lost { error, was_open: false },
        };
        self.set_connected(true);
        tracing::info!(merchant = self.merchant, source = self.config.name, "messages are consumed");
        let (mut schedule, release) = (Schedule::new(), CancellationToken::new());
        let mut check = tokio::time::interval(CHECK_INTERVAL);
        let lost = |error| End::Lost { error, was_open: true };
        let end = loop {
            schedule.start(|message| Arc::clone(self).process(Arc::clone(&link), message, release.clone()));
            tokio::select! {
                () = stop.cancelled() => break End::Stopped,
                message = messages.next() => match message {
                    Some(Ok(delivery)) => {
                        let message = Message::read(delivery);
                        schedule.push(message.order(), message);
                    }
                    Some(Err(error)) => break lost(broker_error(&error)),
                    None => break lost(DeliveryError::Cancelled),
                },
                has_ended = schedule.ended() => if !has_ended {
                    break lost(DeliveryError::Panicked);
                },
                _ = check.tick() => {
                    if !self.is_able() {
                        break End::Unable;
                    }
                    if !link.is_usable(&self.gateway.current.load().process.webhook_allow) {
                        break lost(DeliveryError::Closed);
                    }
                }
            }
        };
        self.set_connected(false);
        if matches!(end, End::Unable) {
            tracing::warn!(
                merchant = self.merchant,
                source = self.config.name,
                "no messages are consumed until the ledger and the clock work; unacknowledged ones are back in the queue"
            );
        }
        // Held messages are given back at once; a request in progress ends and is acknowledged.
        release.cancel();
        link.cancel().await;
        schedule.finish().await;
        link.close().await;
        end
    }

    /// Returns whether a claim could be recorded now.
    fn is_able(&self) -> bool {
        self.gateway.ledger.may_work() && clock::is_trusted()
    }

    fn set_connected(&self, is_connected: bool) {
        let (source, _) = METRICS.few.label("source", "", &self.config.name);
        let labels = [LABELS.merchant(&self.merchant), &source];
        METRICS.source_connected.with_label_values(&labels).set(i64::from(is_connected));
    }
}
