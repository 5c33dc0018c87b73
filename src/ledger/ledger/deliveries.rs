//! Events for merchants, as the delivery worker sees them.

use jiff::Timestamp;

use super::Ledger;
use crate::error::LedgerError;
use crate::lock_scope::LockScope;
use crate::outbox::{self, Attempted};
use crate::records::Delivery;
use crate::transaction::Durability::Durable;
use crate::transaction::Transaction;

impl Ledger {
    /// Returns due deliveries, the longest due first. Each [subscription](crate::SinkName::subscription) gets at most as many
    /// as `free` returns for it, and none whose event id is `under_way` for it. Of each payment and sink only the
    /// oldest event is returned, so that events of one payment reach each sink in order. A delivery returned to one
    /// process is not returned to another for a while. Everything returned is durable.
    pub async fn due_deliveries(
        &self,
        now: Timestamp,
        limit: usize,
        free: impl Fn(&str) -> usize,
        under_way: impl Fn(&str, &str) -> bool,
    ) -> Vec<Delivery> {
        self.engine.due_deliveries(now, limit, free, under_way).await
    }

    /// Removes a delivered event from the queue of its sink. The next event of the same payment becomes due there. A
    /// redelivery that was requested after this delivery was read stays due.
    pub async fn delivered(&self, delivery: &Delivery, now: Timestamp) -> Result<(), LedgerError> {
        self.delivery_ended(delivery, None, now).await
    }

    /// Removes an event whose delivery to its sink is abandoned. The next event of the same payment becomes due there.
    pub async fn dropped(&self, delivery: &Delivery, why: &str, now: Timestamp) -> Result<(), LedgerError> {
        self.delivery_ended(delivery, Some(why.to_owned()), now).await
    }

    async fn delivery_ended(
        &self,
        delivery: &Delivery,
        dropped: Option<String>,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let attempted = Attempted::of(delivery);
        let scope = LockScope::Event(attempted.event_id.clone());
        let work = move |tx: &mut Transaction<'_>| outbox::complete(tx, &attempted, dropped.clone(), now);
        self.engine.write(Durable, scope, work).await
    }

    /// Postpones an event that could not be delivered to its sink until `due`.
    pub async fn postpone(&self, delivery: &Delivery, due: Timestamp, tries: u32) -> Result<(), LedgerError> {
        let attempted = Attempted::of(delivery);
        let scope = LockScope::Event(attempted.event_id.clone());
        let work = move |tx: &mut Transaction<'_>| outbox::postpone(tx, &attempted, due, tries);
        self.engine.write(Durable, scope, work).await
    }
}
