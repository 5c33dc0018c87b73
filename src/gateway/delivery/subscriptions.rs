//! The sinks that get an event, by the configuration in force.

use std::collections::HashSet;

use parking_lot::Mutex;
use tollgate_ledger::{SinkName, Subscriptions};

use crate::snapshot::Current;

/// Subscriptions of the merchants in the snapshot in force. A merchant whose file is missing keeps its last ones, because
/// the file may be restored soon.
pub(crate) struct CurrentSubscriptions {
    current: Current,
    /// Merchants whose sinks are unknown, because this process never read their file.
    unknown: Mutex<HashSet<String>>,
}

impl CurrentSubscriptions {
    pub(crate) fn new(current: Current) -> Self {
        Self { current, unknown: Mutex::default() }
    }
}

impl Subscriptions for CurrentSubscriptions {
    fn sinks(&self, name: &str, event_type: &str) -> Vec<SinkName> {
        let snapshot = self.current.load();
        let present = snapshot.config.merchants.get(name);
        let Some(merchant) = present.or_else(|| snapshot.missing_merchants.get(name)) else {
            if self.unknown.lock().insert(name.to_owned()) {
                tracing::error!(
                    merchant = name,
                    "an event's merchant has no file, so it is queued for the webhook only; restore the file in merchants/, \
                     then redeliver the merchant's events of this time to its other sinks"
                );
            }
            return vec![SinkName::WEBHOOK];
        };
        let webhook = merchant.webhook.as_ref().map(|_| SinkName::WEBHOOK);
        let subscribed = merchant.sinks.iter().filter(|sink| sink.events.matches(event_type));
        webhook.into_iter().chain(subscribed.map(|sink| SinkName::from(sink.name.as_str()))).collect()
    }
}
