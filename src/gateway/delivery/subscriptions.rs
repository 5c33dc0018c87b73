//! The sinks that get an event, by the configuration in force.

use tollgate_ledger::{SinkName, Subscriptions};

use crate::snapshot::Current;

/// Subscriptions of the merchants in the snapshot in force.
pub(crate) struct CurrentSubscriptions(pub(crate) Current);

impl Subscriptions for CurrentSubscriptions {
    fn sinks(&self, merchant: &str, event_type: &str) -> Vec<SinkName> {
        let snapshot = self.0.load();
        // A missing merchant file may be restored soon.
        let Some(merchant) = snapshot.config.merchants.get(merchant) else { return vec![SinkName::WEBHOOK] };
        let webhook = merchant.webhook.as_ref().map(|_| SinkName::WEBHOOK);
        let subscribed = merchant.sinks.iter().filter(|sink| sink.events.matches(event_type));
        webhook.into_iter().chain(subscribed.map(|sink| SinkName::from(sink.name.as_str()))).collect()
    }
}
