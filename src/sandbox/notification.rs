//! Types of notifications, shared by the provider protocols that compose them and by the delivery.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use serde::Deserialize;

use super::state::Id;
use super::tamper::Tamper;

/// Subject of a notification.
#[derive(Clone, Debug)]
pub(super) enum Subject {
    Payment(Id),
    Refund(Id),
}

/// Options of a notification, set by the control API.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct SendOptions {
    /// Number of concurrent copies.
    pub(super) times: u32,
    /// Delay before the first attempt, in milliseconds.
    pub(super) delay_ms: u64,
    /// Scripted defect. A defective notification is sent once and not repeated.
    pub(super) tamper: Option<Tamper>,
    /// Signing key of WeChat Pay; default: the public key's, if the account has one.
    pub(super) key: Option<Key>,
    /// True if the text is encoded and signed in GBK. Only Alipay supports GBK.
    pub(super) gbk: bool,
}

impl Default for SendOptions {
    fn default() -> Self {
        Self { times: 1, delay_ms: 0, tamper: None, key: None, gbk: false }
    }
}

/// Signing keys of WeChat Pay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Key {
    PublicKey,
    Certificate,
}

/// A notification composed by the provider's protocol.
pub(super) struct ComposedNotification {
    /// Notification id, the same for each attempt.
    pub(super) id: String,
    /// Event type that the control API shows.
    pub(super) event_type: &'static str,
    pub(super) url: String,
    pub(super) body: Arc<dyn NotificationBody>,
}

/// Protocol of a notification: signature, acknowledgement and schedule.
pub(super) trait NotificationBody: Send + Sync {
    /// Returns headers and body, signed with the current time. `None` if signing fails.
    fn sign_now(&self) -> Option<(HeaderMap, Bytes)>;
    /// Returns whether this response acknowledges the notification.
    fn is_acknowledged(&self, status: u16, body: &[u8]) -> bool;
    /// The provider's waits before each repetition.
    fn schedule(&self) -> &'static [Duration];
}
