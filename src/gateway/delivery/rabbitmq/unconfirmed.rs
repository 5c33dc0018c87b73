//! Published messages that the broker has not confirmed.

use std::pin::Pin;
use std::task::{Context, Poll};

use lapin::message::BasicReturnMessage;
use lapin::{Confirmation, PublisherConfirm};

use super::broker_error::channel_error;
use super::submitted::{Message, Reply};
use super::verdicts::{Confirmed, Verdict, Verdicts};
use crate::delivery::failure::DeliveryError;

/// Published messages that the broker has not confirmed, and the decisions about those that it has.
pub(super) struct Unconfirmed {
    /// Message whose bytes are being written. A broker that reads nothing may delay it for long.
    publishing: Option<Publishing>,
    pending: Vec<Pending>,
    verdicts: Verdicts<Confirmable>,
}

/// Writes a message.
pub(super) type PublishFuture = Pin<Box<dyn Future<Output = lapin::Result<PublisherConfirm>> + Send>>;

struct Publishing {
    future: PublishFuture,
    id: String,
    message: Confirmable,
}

struct Pending {
    id: String,
    confirm: PublisherConfirm,
    message: Confirmable,
}

/// Recipient of the result of a message.
struct Confirmable {
    routing_key: String,
    reply: Reply,
}

/// Messages whose results are known.
struct Settled {
    confirmed: Vec<(String, Confirmable, Confirmed)>,
    failed: Vec<(Confirmable, DeliveryError)>,
}

impl Confirmable {
    fn report(self, verdict: Verdict) {
        let result = match verdict {
            Verdict::Delivered => Ok(()),
            Verdict::Returned => Err(DeliveryError::Returned { routing_key: self.routing_key }),
            Verdict::Nack => Err(DeliveryError::Nack),
        };
        // The caller may have stopped waiting.
        drop(self.reply.send(result));
    }
}

impl Unconfirmed {
    pub(super) fn new() -> Self {
        Self { publishing: None, pending: Vec::new(), verdicts: Verdicts::new() }
    }

    /// Number of messages that are written and not confirmed.
    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    /// Returns whether there is no message.
    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.publishing.is_none()
    }

    /// Returns whether a message is being written. Another one may not be published until that ends.
    pub(super) fn is_publishing(&self) -> bool {
        self.publishing.is_some()
    }

    /// Adds a message that `future` writes. [`settle`](Self::settle) drives it.
    pub(super) fn add(&mut self, message: &Message, future: PublishFuture, reply: Reply) {
        let (id, routing_key) = (message.id.clone(), message.routing_key.clone());
        self.publishing = Some(Publishing { future, id, message: Confirmable { routing_key, reply } });
    }

    /// Waits until a message is written, or until messages are confirmed, and replies to the latter. Returns whether the
    /// channel is still open.
    pub(super) async fn settle(&mut self) -> bool {
        let Settled { confirmed, failed } = std::future::poll_fn(|context| self.poll_settled(context)).await;
        let is_open = failed.is_empty();
        for (message, error) in failed {
            drop(message.reply.send(Err(error)));
        }
        let is_all = self.is_empty() && is_open;
        for (message, verdict) in self.verdicts.decide(confirmed, is_all) {
            message.report(verdict);
        }
        is_open
    }

    /// Removes every confirmed message. Polls again until no confirmation is left that was processed before one of these.
    fn poll_settled(&mut self, context: &mut Context<'_>) -> Poll<Settled> {
        let mut settled = Settled { confirmed: Vec::new(), failed: Vec::new() };
        let mut is_changed = false;
        loop {
            // Before the confirmations: the message's own one, which exists only from now on, may be the earliest.
            let is_written = self.poll_publishing(context, &mut settled);
            let mut position = 0;
            let before = settled.len();
            while let Some(pending) = self.pending.get_mut(position) {
                match Pin::new(&mut pending.confirm).poll(context) {
                    Poll::Ready(result) => settled.add(self.pending.swap_remove(position), result),
                    Poll::Pending => position += 1,
                }
            }
            if !is_written && settled.len() == before {
                return if is_changed { Poll::Ready(settled) } else { Poll::Pending };
            }
            is_changed = true;
        }
    }

    /// Returns whether the message that was being written is written now, or has failed.
    fn poll_publishing(&mut self, context: &mut Context<'_>, settled: &mut Settled) -> bool {
        let Some(publishing) = &mut self.publishing else { return false };
        let Poll::Ready(result) = publishing.future.as_mut().poll(context) else { return false };
        if let Some(Publishing { id, message, .. }) = self.publishing.take() {
            match result {
                Ok(confirm) => self.pending.push(Pending { id, confirm, message }),
                Err(error) => settled.failed.push((message, channel_error(&error))),
            }
        }
        true
    }
}

impl Settled {
    fn len(&self) -> usize {
        self.confirmed.len() + self.failed.len()
    }

    fn add(&mut self, Pending { id, message, .. }: Pending, result: lapin::Result<Confirmation>) {
        match result {
            Ok(confirmation) => self.confirmed.push((id, message, confirmed(confirmation))),
            Err(error) => self.failed.push((message, channel_error(&error))),
        }
    }
}

fn confirmed(confirmation: Confirmation) -> Confirmed {
    let is_ack = confirmation.is_ack();
    let returned = confirmation.take_message();
    // Tollgate publishes no message without an id. The empty id still shows that the queue was not empty.
    let id = |message: BasicReturnMessage| message.properties.message_id().as_ref().map(ToString::to_string);
    Confirmed { is_ack, carried: returned.map(|message| id(message).unwrap_or_default()) }
}
