//! Name of a sink.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Name of a destination of events, unique within its merchant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SinkName(Cow<'static, str>);

impl SinkName {
    /// The merchant's webhook. No configured sink may have this name.
    pub const WEBHOOK: Self = Self(Cow::Borrowed("webhook"));

    /// Returns whether this is the merchant's webhook.
    pub fn is_webhook(&self) -> bool {
        *self == Self::WEBHOOK
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the text under which deliveries of a merchant to this sink are grouped: `shop` for its webhook, else
    /// `shop/orders-mq`. Neither name contains a slash.
    pub fn subscription(&self, merchant: &str) -> String {
        match self.is_webhook() {
            true => merchant.to_owned(),
            false => format!("{merchant}/{self}"),
        }
    }

    /// Returns the sink of a [`subscription`](Self::subscription).
    pub fn of_subscription(subscription: &str) -> Self {
        subscription.split_once('/').map_or(Self::WEBHOOK, |(_, sink)| Self::from(sink))
    }
}

impl Default for SinkName {
    fn default() -> Self {
        Self::WEBHOOK
    }
}

impl From<&str> for SinkName {
    fn from(name: &str) -> Self {
        match name {
            "webhook" => Self::WEBHOOK,
            _ => Self(Cow::Owned(name.to_owned())),
        }
    }
}

impl fmt::Display for SinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
