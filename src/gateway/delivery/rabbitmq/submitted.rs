//! Messages on their way to the task of a channel.

use bytes::Bytes;
use lapin::BasicProperties;
use tokio::sync::oneshot;

use crate::delivery::failure::DeliveryError;

/// One event as an AMQP message.
pub(super) struct Message {
    /// Id of the event.
    pub(super) id: String,
    pub(super) exchange: String,
    pub(super) routing_key: String,
    pub(super) properties: BasicProperties,
    pub(super) body: Bytes,
}

/// Sender of a message's result.
pub(super) type Reply = oneshot::Sender<Result<(), DeliveryError>>;

/// Message with the sender of its result.
pub(super) type Submitted = (Message, Reply);
