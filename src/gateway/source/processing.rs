//! Processes one message until it is acknowledged, dead-lettered or given back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use lapin::options::{BasicAckOptions, BasicNackOptions};
use tokio_util::sync::CancellationToken;

use super::consumer::Consumer;
use super::dead_letters::Refused;
use super::link::Link;
use super::message::Message;
use crate::access::message::MessageOrigin;
use crate::operations::AccessLabels;
use crate::problem::{Problem, Retryable};
use crate::telemetry::{LABELS, METRICS};

/// First and last pause before a message is tried again; doubles in between. A longer `retry_after` of the problem counts
/// up to the last pause.
const RETRY_PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// A message that is tried again.
struct Deferred {
    /// Problem of this try; `None` if the message could not be dead-lettered.
    problem: Option<Problem>,
}

impl Consumer {
    /// Tries a message until it is done. Returns without an acknowledgement when `release` is cancelled between two tries.
    pub(super) async fn process(self: Arc<Self>, link: Arc<Link>, message: Message, release: CancellationToken) {
        let (mut pause, last_pause) = RETRY_PAUSES;
        let mut held = None;
        loop {
            let slot = tokio::select! {
                slot = self.slots.acquire() => slot,
                () = release.cancelled() => return,
            };
            // A process that stops waits for the try, not for the pause.
            let working = self.in_flight.enter();
            let tried = self.try_once(&link, &message, held.as_ref()).await;
            drop((working, slot));
            let Err(Deferred { problem }) = tried else { return };
            self.count("deferred");
            let retry_after = problem.as_ref().and_then(Problem::retry_after_seconds).map(Duration::from_secs);
            held = problem.or(held);
            tokio::select! {
                () = tokio::time::sleep(retry_after.unwrap_or(pause).max(pause).min(last_pause)) => {}
                () = release.cancelled() => return,
            }
            pause = (pause * 2).min(last_pause);
        }
    }

    /// Makes one try. `held` is the problem of an earlier one.
    async fn try_once(&self, link: &Link, message: &Message, held: Option<&Problem>) -> Result<(), Deferred> {
        let (started, mut labels) = (Instant::now(), AccessLabels::default());
        let origin =
            MessageOrigin { merchant: &self.merchant, source: &self.config.name, max_age: self.config.max_age };
        let accepted = match &message.request {
            Ok(incoming) => self.gateway.accept_message(origin, incoming.clone(), &mut labels).await,
            Err(problem) => Err(problem.clone()),
        };
        match accepted {
            Ok(response) => {
                let is_repeated = response.headers().contains_key("idempotent-replayed");
                self.log_access(message, &labels, response.status(), None, started);
                self.count(if is_repeated { "repeated" } else { "accepted" });
                // A lost acknowledgement makes a redelivery, which is a repetition.
                if let Err(error) = message.acker.ack(BasicAckOptions::default()).await {
                    tracing::debug!(%error, request_id = message.request_id, "an acknowledgement was lost");
                }
                Ok(())
            }
            Err(problem) if problem.retryable() == Retryable::SameKey => {
                tracing::info!(
                    merchant = self.merchant,
                    source = self.config.name,
                    request_id = message.request_id,
                    operation = labels.operation,
                    code = problem.code(),
                    "message not accepted at present; it is held and tried again"
                );
                Err(Deferred { problem: Some(problem) })
            }
            Err(problem) => {
                self.log_access(message, &labels, problem.status(), Some(problem.code()), started);
                // A message that became too old while it was held is refused for the reason why it was held.
                let is_too_old = problem.status() == StatusCode::UNAUTHORIZED;
                self.refuse(link, message, held.filter(|_| is_too_old).unwrap_or(&problem)).await
            }
        }
    }

    /// Dead-letters a message with its reason.
    async fn refuse(&self, link: &Link, message: &Message, problem: &Problem) -> Result<(), Deferred> {
        let (merchant, source, request_id) = (&self.merchant, &self.config.name, &message.request_id);
        let (code, detail) = (problem.code(), problem.detail());
        let Some(dead_letters) = &link.dead_letters else {
            tracing::warn!(
                merchant,
                source,
                request_id,
                code,
                detail,
                "message refused: the dead-letter policy of the queue decides about it, and without one the broker drops it; set `dead_letter` of the source to keep it with this reason"
            );
            self.count("refused");
            // If the connection is lost, the message is delivered and refused again.
            drop(message.acker.nack(BasicNackOptions { multiple: false, requeue: false }).await);
            return Ok(());
        };
        let refused = Refused {
            routing_key: &message.routing_key,
            properties: &message.properties,
            body: &message.body,
            source,
            request_id,
            problem,
        };
        let process = Arc::clone(&self.gateway.current.load().process);
        if let Err(error) = dead_letters.publish(&refused, &process.webhook_allow).await {
            tracing::error!(
                merchant,
                source,
                request_id,
                code,
                "a refused message cannot be dead-lettered and is held: {error}; check the exchange `dead_letter` and its bindings"
            );
            return Err(Deferred { problem: None });
        }
        tracing::warn!(merchant, source, request_id, code, detail, "message refused and dead-lettered");
        self.count("refused");
        // If the acknowledgement is lost, the message is delivered and dead-lettered once more.
        drop(message.acker.ack(BasicAckOptions::default()).await);
        Ok(())
    }

    fn count(&self, result: &str) {
        let (source, _) = METRICS.few.label("source", "", &self.config.name);
        let labels = [LABELS.merchant(&self.merchant), &source, result];
        METRICS.source_messages_total.with_label_values(&labels).inc();
    }

    /// Writes the access log's line of a decided message.
    fn log_access(
        &self,
        message: &Message,
        labels: &AccessLabels,
        status: StatusCode,
        code: Option<&str>,
        started: Instant,
    ) {
        let incoming = message.request.as_ref().ok();
        let status = status.as_u16();
        tracing::info!(
            target: "access",
            request_id = message.request_id,
            method = incoming.map_or("", |incoming| incoming.method.as_str()),
            path = incoming.map_or("", |incoming| incoming.target.split('?').next().unwrap_or_default()),
            status,
            code = code.unwrap_or(&status.to_string()),
            merchant = self.merchant,
            operation = labels.operation,
            source = self.config.name,
            is_redelivered = message.is_redelivered,
            milliseconds = started.elapsed().as_secs_f64() * 1000.0,
        );
    }
}
