//! Publishes messages on one channel. One task owns the channel and all open confirmations, so that it sees each confirmation
//! that was processed before another; [`Verdicts`](super::verdicts::Verdicts) relies on that.

use std::sync::Arc;

use lapin::options::BasicPublishOptions;
use lapin::{Channel, ChannelStatus};
use tokio::sync::{mpsc, oneshot, watch};

use super::IDLE_TIMEOUT;
use super::connection::{CLOSE_TIMEOUT, REPLY_SUCCESS, SharedConnection, WeakConnection};
use super::submitted::{Message, Submitted};
use super::unconfirmed::{PublishFuture, Unconfirmed};
use crate::delivery::failure::DeliveryError;

/// Maximum number of unconfirmed messages.
const MAX_UNCONFIRMED: usize = 256;

/// Handle of the task that owns a channel. The channel is closed when the last handle is dropped, or after a time without
/// messages.
#[derive(Clone)]
pub(super) struct Publisher {
    messages: mpsc::Sender<Submitted>,
    status: ChannelStatus,
    /// The task keeps the connection open.
    connection: WeakConnection,
    closed: Arc<watch::Sender<bool>>,
}

impl Publisher {
    /// Starts the task of a channel in confirm mode.
    pub(super) fn start(connection: SharedConnection, channel: Channel) -> Self {
        let (messages, submitted) = mpsc::channel(1);
        let (closed, is_closed) = watch::channel(false);
        let (status, closed) = (channel.status().clone(), Arc::new(closed));
        let publisher = Self { messages, status, connection: connection.downgrade(), closed };
        let task = async move {
            run(|message| write(&channel, message), || connection.is_blocked(), submitted, is_closed).await;
            // In order, so that the broker sees no lost connection if this is the last channel.
            drop(tokio::time::timeout(CLOSE_TIMEOUT, channel.close(REPLY_SUCCESS, "".into())).await);
            drop((channel, connection));
        };
        tokio::spawn(task);
        publisher
    }

    /// Publishes a message and waits until the broker has routed and confirmed it.
    pub(super) async fn publish(&self, message: Message) -> Result<(), DeliveryError> {
        let (reply, result) = oneshot::channel();
        let not_sent = |_| DeliveryError::NotConnected("the connection to the broker was closed".to_owned());
        self.messages.send((message, reply)).await.map_err(not_sent)?;
        result.await.unwrap_or(Err(DeliveryError::Unconfirmed))
    }

    /// Returns whether the channel is usable.
    pub(super) fn is_open(&self) -> bool {
        let is_running = !self.messages.is_closed() && !*self.closed.borrow();
        self.status.connected() && self.connection().is_some() && is_running
    }

    /// Closes the channel. Every unconfirmed message fails.
    pub(super) fn close(&self) {
        self.closed.send_replace(true);
    }

    /// Returns whether the broker has asked for a pause (`connection.blocked`).
    pub(super) fn is_blocked(&self) -> bool {
        self.connection().is_some_and(|connection| connection.is_blocked())
    }

    /// Returns the connection of the channel while it is open.
    pub(super) fn connection(&self) -> Option<SharedConnection> {
        self.connection.upgrade()
    }
}

/// Returns the future that writes a message.
fn write(channel: &Channel, message: &Message) -> PublishFuture {
    let Message { exchange, routing_key, properties, body, .. } = message;
    let (exchange, routing_key) = (exchange.as_str().into(), routing_key.as_str().into());
    let (channel, properties, body) = (channel.clone(), properties.clone(), body.clone());
    let options = BasicPublishOptions { mandatory: true, immediate: false };
    Box::pin(async move { channel.basic_publish(exchange, routing_key, options, &body, properties).await })
}

/// Publishes messages until the channel fails, is closed, is idle for too long, or has no handle any more.
async fn run(
    write: impl Fn(&Message) -> PublishFuture,
    is_blocked: impl Fn() -> bool,
    mut submitted: mpsc::Receiver<Submitted>,
    mut closed: watch::Receiver<bool>,
) {
    let mut unconfirmed = Unconfirmed::new();
    let mut is_ending = false;
    while !(is_ending && unconfirmed.is_empty()) {
        let takes_messages = !is_ending && !unconfirmed.is_publishing() && unconfirmed.len() < MAX_UNCONFIRMED;
        let is_idle = !is_ending && unconfirmed.is_empty();
        tokio::select! {
            () = async { drop(closed.wait_for(|closed| *closed).await) } => break,
            message = submitted.recv(), if takes_messages => match message {
                Some((message, reply)) => unconfirmed.add(&message, write(&message), reply),
                None => is_ending = true,
            },
            is_open = unconfirmed.settle(), if !unconfirmed.is_empty() => {
                if !is_open {
                    break;
                }
            }
            () = tokio::time::sleep(IDLE_TIMEOUT), if is_idle => {
                // A message that was submitted just now is still published. A blocked broker would not see the close.
                if !is_blocked() {
                    submitted.close();
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bytes::Bytes;
    use lapin::BasicProperties;
    use tokio::task::JoinHandle;

    use super::*;

    struct Running {
        messages: mpsc::Sender<Submitted>,
        closed: watch::Sender<bool>,
        task: JoinHandle<()>,
    }

    /// Starts a channel whose broker reads nothing.
    fn hanging(is_blocked: bool) -> Running {
        let (messages, submitted) = mpsc::channel(1);
        let (closed, is_closed) = watch::channel(false);
        let write = |_: &Message| -> PublishFuture { Box::pin(std::future::pending()) };
        let task = tokio::spawn(run(write, move || is_blocked, submitted, is_closed));
        Running { messages, closed, task }
    }

    async fn submit(running: &Running) -> oneshot::Receiver<Result<(), DeliveryError>> {
        let (reply, result) = oneshot::channel();
        let (exchange, routing_key) = (String::new(), String::new());
        let properties = BasicProperties::default();
        let message = Message { id: "evt_1".to_owned(), exchange, routing_key, properties, body: Bytes::new() };
        running.messages.send((message, reply)).await.unwrap();
        result
    }

    #[tokio::test]
    async fn message_that_cannot_be_written_delays_neither_close_nor_drop() {
        let running = hanging(false);
        let result = submit(&running).await;
        while running.messages.capacity() == 0 {
            tokio::task::yield_now().await;
        }
        running.closed.send_replace(true);
        running.task.await.unwrap();
        assert!(result.await.is_err(), "its sender may try again");
        let Running { messages, closed, task } = hanging(false);
        let result = submit(&Running { messages, closed, task: tokio::spawn(async {}) }).await;
        task.await.unwrap();
        assert!(result.await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn idle_channel_is_closed_unless_the_broker_has_blocked_it() {
        let running = hanging(false);
        tokio::time::sleep(IDLE_TIMEOUT * 2).await;
        assert!(running.messages.is_closed());
        running.task.await.unwrap();
        let blocked = hanging(true);
        tokio::time::sleep(IDLE_TIMEOUT * 2).await;
        assert!(!blocked.messages.is_closed());
        let busy = hanging(false);
        let _result = submit(&busy).await;
        tokio::time::sleep(IDLE_TIMEOUT * 2).await;
        assert!(!busy.messages.is_closed());
    }
}
