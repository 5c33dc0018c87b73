//! Interface of all kinds of sinks.

use async_trait::async_trait;
use ipnet::IpNet;
use tollgate_ledger::Delivery;

use super::failure::DeliveryError;

/// Destination of a merchant's events.
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
    /// The event, and how often it was tried.
    pub(super) delivery: &'a Delivery,
    /// Private networks that the destination may be in.
    pub(super) allowed: &'a [IpNet],
    /// Name of the gateway or cluster, for the origin of a CloudEvent.
    pub(super) cluster: &'a str,
}
