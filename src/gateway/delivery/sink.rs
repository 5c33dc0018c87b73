//! Interface of all kinds of sinks.

use async_trait::async_trait;
use ipnet::IpNet;

use super::failure::DeliveryError;
use super::message::OutgoingEvent;

/// Destination of events.
#[async_trait]
pub(super) trait Sink: Send + Sync {
    /// Makes one attempt. Success means that the destination has the event durably.
    async fn send(&self, attempt: &Attempt<'_>) -> Result<(), DeliveryError>;

    /// Returns whether the destination has asked for a pause. Its events then wait without an attempt.
    fn is_paused(&self) -> bool;

    /// Connects, if the destination keeps a connection, so that a fault is logged before an event meets it.
    async fn connect(&self, allowed: &[IpNet]) -> Result<(), DeliveryError>;
}

/// One attempt to deliver an event.
pub(super) struct Attempt<'a> {
    pub(super) event: &'a OutgoingEvent,
    /// Number of failed attempts before.
    pub(super) tries: u32,
    /// Private networks that the destination may be in.
    pub(super) allowed: &'a [IpNet],
}
