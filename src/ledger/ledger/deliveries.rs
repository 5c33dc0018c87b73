//! Events for merchants, as the delivery worker sees them.

use jiff::Timestamp;

use super::Ledger;
use crate::error::LedgerError;
use crate::lock_scope::LockScope;
use crate::outbox;
use crate::records::Delivery;
use crate::transaction::Durability::Durable;

impl Ledger {
    /// Returns due deliveries, the longest due first. Each merchant gets at most as many as `free` returns for it,
    /// and none whose event id is `under_way`. Only the oldest event of each payment is returned, so that events of
    /// one payment are delivered in order. An event returned to one process is not returned to another for a while.
    /// Everything returned is durable.
    pub async fn due_deliveries(
        &self,
        now: Timestamp,
        limit: usize,
        free: impl Fn(&str) -> usize,
        under_way: impl Fn(&str, &str) -> bool,
    ) -> Vec<Delivery> {
        self.engine.due_deliveries(now, limit, free, under_way).await
    }

    /// Removes a delivered event from its queue. The next event of the same payment becomes due.
    pub async fn delivered(&self, event_id: &str, now: Timestamp) -> Result<(), LedgerError> {
        self.delivery_ended(event_id, None, now).await
    }

    /// Removes an event whose delivery is abandoned. The next event of the same payment becomes due.
    pub async fn dropped(&self, event_id: &str, why: &str, now: Timestamp) -> Result<(), LedgerError> {
        self.delivery_ended(event_id, Some(why.to_owned()), now).await
    }

    async fn delivery_ended(&self, event_id: &str, dropped: Option<String>, now: Timestamp) -> Result<(), LedgerError> {
        let (scope, event_id) = (LockScope::Event(event_id.to_owned()), event_id.to_owned());
        self.engine.write(Durable, scope, move |tx| outbox::complete(tx, &event_id, dropped.clone(), now)).await
    }

    /// Postpones an event that could not be delivered to `due`.
    pub async fn postpone(&self, event_id: &str, due: Timestamp, tries: u32) -> Result<(), LedgerError> {
        let (scope, event_id) = (LockScope::Event(event_id.to_owned()), event_id.to_owned());
        self.engine.write(Durable, scope, move |tx| outbox::postpone(tx, &event_id, due, tries)).await
    }
}
