//! Events for merchants, as the delivery worker sees them.

use jiff::Timestamp;

use super::Ledger;
use crate::error::LedgerError;
use crate::lock_scope::LockScope;
use crate::outbox;
use crate::records::{Delivery, SinkName};
use crate::transaction::Durability::Durable;
use crate::transaction::Transaction;

impl Ledger {
    /// Returns due deliveries, the longest due first. Each [subscription](SinkName::subscription) gets at most as many
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

    /// Removes a delivered event from the queue of a sink. The next event of the same payment becomes due there.
    pub async fn delivered(&self, event_id: &str, sink: &SinkName, now: Timestamp) -> Result<(), LedgerError> {
        self.delivery_ended(event_id, sink, None, now).await
    }

    /// Removes an event whose delivery to a sink is abandoned. The next event of the same payment becomes due there.
    pub async fn dropped(&self, event_id: &str, sink: &SinkName, why: &str, now: Timestamp) -> Result<(), LedgerError> {
        self.delivery_ended(event_id, sink, Some(why.to_owned()), now).await
    }

    async fn delivery_ended(
        &self,
        event_id: &str,
        sink: &SinkName,
        dropped: Option<String>,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let scope = LockScope::Event(event_id.to_owned());
        let (event_id, sink) = (event_id.to_owned(), sink.clone());
        let work = move |tx: &mut Transaction<'_>| outbox::complete(tx, &event_id, &sink, dropped.clone(), now);
        self.engine.write(Durable, scope, work).await
    }

    /// Postpones an event that could not be delivered to a sink until `due`.
    pub async fn postpone(
        &self,
        event_id: &str,
        sink: &SinkName,
        due: Timestamp,
        tries: u32,
    ) -> Result<(), LedgerError> {
        let scope = LockScope::Event(event_id.to_owned());
        let (event_id, sink) = (event_id.to_owned(), sink.clone());
        let work = move |tx: &mut Transaction<'_>| outbox::postpone(tx, &event_id, &sink, due, tries);
        self.engine.write(Durable, scope, work).await
    }
}
