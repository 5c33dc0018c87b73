//! Publishes messages on one channel and assigns the broker's confirmations to them.
//!
//! The broker returns an unroutable message before it confirms it. The library hands a returned message to whichever
//! confirmation it processes next, and that may be another message's. One task therefore owns the channel and all open
//! confirmations, and decides only after it has seen every confirmation that was processed so far:
//! - A message whose confirmation carries a returned message is not delivered. Its own may have been returned as well.
//! - A message whose id another confirmation carried is not delivered.
//! - Any other confirmed message is delivered. The library hands out returned messages as long as it has some, so one
//!   that was returned for this message was handed out before.

use std::collections::HashSet;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionStatus, PublisherConfirm};
use tokio::sync::{mpsc, oneshot, watch};

use super::broker_error::broker_error;
use super::socket::Socket;
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
    let mut unconfirmed = Unconfirmed(Vec::new());
    loop {
        let has_room = unconfirmed.0.len() < MAX_UNCONFIRMED;
        tokio::select! {
            () = async { drop(closed.wait_for(|closed| *closed).await) } => break,
            message = submitted.recv(), if has_room => {
                let Some((message, reply)) = message else { break };
                match publish(channel, &message).await {
                    Ok(confirm) => unconfirmed.0.push(Pending { id: message.id, routing_key: message.routing_key, confirm, reply }),
                    Err(error) => {
                        drop(reply.send(Err(error)));
                        break;
                    }
                }
            }
            is_open = unconfirmed.settle(), if !unconfirmed.0.is_empty() => {
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

/// Published messages that the broker has not confirmed.
struct Unconfirmed(Vec<Pending>);

struct Pending {
    id: String,
    routing_key: String,
    confirm: PublisherConfirm,
    reply: Reply,
}

impl Unconfirmed {
    /// Waits for confirmations and replies to their messages. Returns whether the channel is still open.
    async fn settle(&mut self) -> bool {
        let settled = std::future::poll_fn(|context| self.poll_settled(context)).await;
        let returned: HashSet<String> = settled.iter().filter_map(|(_, result)| returned_id(result.as_ref())).collect();
        let mut is_open = true;
        for (Pending { id, routing_key, reply, .. }, result) in settled {
            is_open &= result.is_ok();
            drop(reply.send(verdict(&id, routing_key, &result, &returned)));
        }
        is_open
    }

    /// Removes every confirmed message. Polls again until no confirmation is left that was processed before one of these.
    fn poll_settled(&mut self, context: &mut Context<'_>) -> Poll<Vec<(Pending, lapin::Result<Confirmation>)>> {
        let mut settled = Vec::new();
        loop {
            let (before, mut position) = (settled.len(), 0);
            while let Some(pending) = self.0.get_mut(position) {
                match Pin::new(&mut pending.confirm).poll(context) {
                    Poll::Ready(result) => settled.push((self.0.swap_remove(position), result)),
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

/// Returns the id of the returned message that a confirmation carries.
fn returned_id(result: Result<&Confirmation, &lapin::Error>) -> Option<String> {
    let (Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned))) = result.ok()? else { return None };
    returned.properties.message_id().as_ref().map(ToString::to_string)
}

/// Decides whether a message is delivered. `returned` has the ids of all messages that were returned meanwhile.
fn verdict(
    id: &str,
    routing_key: String,
    result: &lapin::Result<Confirmation>,
    returned: &HashSet<String>,
) -> Result<(), DeliveryError> {
    match result {
        Err(error) => Err(broker_error(error)),
        Ok(_) if returned.contains(id) => Err(DeliveryError::Returned { routing_key }),
        Ok(Confirmation::Ack(None)) => Ok(()),
        Ok(Confirmation::Ack(Some(_))) => Err(DeliveryError::UnclearReturn),
        Ok(Confirmation::Nack(_) | Confirmation::NotRequested) => Err(DeliveryError::Nack),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(id: &str, result: lapin::Result<Confirmation>, returned: &[&str]) -> Result<(), DeliveryError> {
        verdict(id, "key".to_owned(), &result, &returned.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn only_a_confirmed_message_that_was_not_returned_is_delivered() {
        assert!(decided("evt_1", Ok(Confirmation::Ack(None)), &[]).is_ok());
        assert!(decided("evt_1", Ok(Confirmation::Ack(None)), &["evt_2"]).is_ok());
        let returned = decided("evt_1", Ok(Confirmation::Ack(None)), &["evt_2", "evt_1"]);
        assert!(matches!(returned, Err(DeliveryError::Returned { .. })), "another confirmation carried its return");
        assert!(matches!(decided("evt_1", Ok(Confirmation::Nack(None)), &[]), Err(DeliveryError::Nack)));
        assert!(matches!(decided("evt_1", Ok(Confirmation::NotRequested), &[]), Err(DeliveryError::Nack)));
        let lost = lapin::Error::from(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
        assert!(matches!(decided("evt_1", Err(lost), &[]), Err(DeliveryError::Broker(_))));
    }
}
