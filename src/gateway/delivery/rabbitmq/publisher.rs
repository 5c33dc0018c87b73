//! Publishes messages on one channel. One task owns the channel and all open confirmations, so that it sees each confirmation
//! that was processed before another; [`Verdicts`] relies on that.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use lapin::message::BasicReturnMessage;
use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionStatus, PublisherConfirm};
use tokio::sync::{mpsc, oneshot, watch};

use super::verdicts::{Confirmed, Verdict, Verdicts};
use crate::amqp::{Socket, broker_error};
use crate::delivery::failure::DeliveryError;

/// Time limit for closing a connection in order.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Reply code of a close without an error.
const REPLY_SUCCESS: u16 = 200;
/// Maximum number of unconfirmed messages.
const MAX_UNCONFIRMED: usize = 256;

/// One event as an AMQP message.
pub(super) struct Message {
    /// Id of the event.
    pub(super) id: String,
    pub(super) exchange: String,
    pub(super) routing_key: String,
    pub(super) properties: BasicProperties,
    pub(super) body: Bytes,
}

/// Handle of the task that owns a connection. The connection is closed when the last handle is dropped.
#[derive(Clone)]
pub(super) struct Publisher {
    messages: mpsc::Sender<Submitted>,
    status: ConnectionStatus,
    closed: Arc<watch::Sender<bool>>,
    peer: IpAddr,
}

type Reply = oneshot::Sender<Result<(), DeliveryError>>;
type Submitted = (Message, Reply);

impl Publisher {
    /// Starts the task of a connection with a channel in confirm mode.
    pub(super) fn start(connection: Connection, channel: Channel, socket: Socket, peer: IpAddr) -> Self {
        let (messages, submitted) = mpsc::channel(1);
        let (closed, is_closed) = watch::channel(false);
        let status = connection.status().clone();
        tokio::spawn(async move {
            run(&channel, submitted, is_closed).await;
            // In order, if the broker answers soon. The socket is shut down in any case.
            let closing = connection.close(REPLY_SUCCESS, "".into());
            drop(tokio::time::timeout(CLOSE_TIMEOUT, closing).await);
            drop((channel, connection, socket));
        });
        Self { messages, status, closed: Arc::new(closed), peer }
    }

    /// Publishes a message and waits until the broker has routed and confirmed it.
    pub(super) async fn publish(&self, message: Message) -> Result<(), DeliveryError> {
        let (reply, result) = oneshot::channel();
        self.messages.send((message, reply)).await.map_err(|_| DeliveryError::Unconfirmed)?;
        result.await.unwrap_or(Err(DeliveryError::Unconfirmed))
    }

    /// Returns whether the connection is usable.
    pub(super) fn is_open(&self) -> bool {
        self.status.connected() && !self.messages.is_closed() && !*self.closed.borrow()
    }

    /// Returns whether the broker has asked for a pause (`connection.blocked`).
    pub(super) fn is_blocked(&self) -> bool {
        self.status.blocked()
    }

    /// Closes the connection. Every unconfirmed message fails.
    pub(super) fn close(&self) {
        self.closed.send_replace(true);
    }

    /// Returns the broker's address.
    pub(super) fn peer(&self) -> IpAddr {
        self.peer
    }
}

/// Publishes messages until the connection fails, is closed, or has no handle any more.
async fn run(channel: &Channel, mut submitted: mpsc::Receiver<Submitted>, mut closed: watch::Receiver<bool>) {
    let mut unconfirmed = Unconfirmed { pending: Vec::new(), verdicts: Verdicts::new() };
    loop {
        let has_room = unconfirmed.pending.len() < MAX_UNCONFIRMED;
        tokio::select! {
            () = async { drop(closed.wait_for(|closed| *closed).await) } => break,
            message = submitted.recv(), if has_room => {
                let Some((message, reply)) = message else { break };
                match publish(channel, &message).await {
                    Ok(confirm) => {
                        let (id, routing_key) = (message.id, message.routing_key);
                        unconfirmed.pending.push(Pending { id, confirm, message: Confirmable { routing_key, reply } });
                    }
                    Err(error) => {
                        drop(reply.send(Err(error)));
                        break;
                    }
                }
            }
            is_open = unconfirmed.settle(), if !unconfirmed.pending.is_empty() => {
                if !is_open {
                    break;
                }
            }
        }
    }
}

async fn publish(channel: &Channel, message: &Message) -> Result<PublisherConfirm, DeliveryError> {
    let options = BasicPublishOptions { mandatory: true, immediate: false };
    let (exchange, routing_key) = (message.exchange.as_str().into(), message.routing_key.as_str().into());
    let published =
        channel.basic_publish(exchange, routing_key, options, &message.body, message.properties.clone()).await;
    published.map_err(|error| broker_error(&error))
}

/// Published messages that the broker has not confirmed, and the decisions about those that it has.
struct Unconfirmed {
    pending: Vec<Pending>,
    verdicts: Verdicts<Confirmable>,
}

struct Pending {
    id: String,
    confirm: PublisherConfirm,
    message: Confirmable,
}

/// What is needed to report the result of a message.
struct Confirmable {
    routing_key: String,
    reply: Reply,
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
    /// Waits for confirmations and replies to their messages. Returns whether the channel is still open.
    async fn settle(&mut self) -> bool {
        let settled = std::future::poll_fn(|context| self.poll_settled(context)).await;
        let (mut batch, mut is_open) = (Vec::new(), true);
        for (Pending { id, message, .. }, result) in settled {
            match result {
                Ok(confirmation) => batch.push((id, message, confirmed(confirmation))),
                Err(error) => {
                    is_open = false;
                    drop(message.reply.send(Err(broker_error(&error))));
                }
            }
        }
        for (message, verdict) in self.verdicts.decide(batch, self.pending.is_empty() && is_open) {
            message.report(verdict);
        }
        is_open
    }

    /// Removes every confirmed message. Polls again until no confirmation is left that was processed before one of these.
    fn poll_settled(&mut self, context: &mut Context<'_>) -> Poll<Vec<(Pending, lapin::Result<Confirmation>)>> {
        let mut settled = Vec::new();
        loop {
            let (before, mut position) = (settled.len(), 0);
            while let Some(pending) = self.pending.get_mut(position) {
                match Pin::new(&mut pending.confirm).poll(context) {
                    Poll::Ready(result) => settled.push((self.pending.swap_remove(position), result)),
                    Poll::Pending => position += 1,
                }
            }
            match settled.len() {
                0 => return Poll::Pending,
                count if count == before => return Poll::Ready(settled),
                _ => {}
            }
        }
    }
}

fn confirmed(confirmation: Confirmation) -> Confirmed {
    let is_ack = confirmation.is_ack();
    let returned = confirmation.take_message();
    // A returned message without an id is none of ours. Its empty id still says that the queue was not empty.
    let id = |message: BasicReturnMessage| message.properties.message_id().as_ref().map(ToString::to_string);
    Confirmed { is_ack, carried: returned.map(|message| id(message).unwrap_or_default()) }
}
