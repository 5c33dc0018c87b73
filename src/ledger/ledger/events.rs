//! Events as their merchant reads and requests them, and what a payer's page may see of a payment.

use jiff::Timestamp;

use super::Ledger;
use crate::environment::Measurement;
use crate::error::LedgerError;
use crate::event_reads::EventCursor;
use crate::ids::Id;
use crate::lock_scope::LockScope;
use crate::record_key::{MerchantKey, RecordKey};
use crate::records::{EventPage, Payment, Redelivered};
use crate::rows::{PaymentRow, TrackedRow};
use crate::transaction::Durability::Durable;
use crate::transaction::{Read, Transaction};
use crate::{outbox, shared_secret};

impl Ledger {
    /// Returns at most `limit` events of a merchant that follow the cursor. An event that becomes visible later never
    /// precedes one that was returned. Everything returned is durable.
    pub async fn events(
        &self,
        merchant: &str,
        after: Option<EventCursor>,
        limit: usize,
    ) -> Result<EventPage, LedgerError> {
        self.engine.environment().metrics.record(Measurement::Read);
        self.engine.events(MerchantKey::of(merchant), after.map(|EventCursor(id)| id), limit).await
    }

    /// Makes an event of a merchant due again, at once. An event that is still queued is delivered in its order, and
    /// its payment's queue is tried at once. A repeated idempotency key changes nothing.
    pub async fn redeliver(
        &self,
        merchant: &str,
        event_id: &str,
        idempotency_key: &str,
        now: Timestamp,
    ) -> Result<Redelivered, LedgerError> {
        let scope = LockScope::Event(event_id.to_owned());
        let (merchant, event_id, key) = (merchant.to_owned(), event_id.to_owned(), idempotency_key.to_owned());
        let work = move |tx: &mut Transaction<'_>| outbox::redeliver(tx, &merchant, &event_id, &key, now);
        self.engine.write(Durable, scope, work).await
    }

    /// Returns the payment with this key. The key must be that of a payment.
    pub async fn payment_by_key(&self, key: RecordKey) -> Result<Option<Payment>, LedgerError> {
        self.engine.environment().metrics.record(Measurement::Read);
        let read = move |from: &dyn Read| TrackedRow::<PaymentRow>::find(&from, Id(key.0));
        Ok(self.engine.read(read).await?.map(|tracked| tracked.row.payment))
    }

    /// Returns the random secret that all gateways of this ledger share. The first call creates it.
    pub async fn shared_secret(&self) -> Result<[u8; 32], LedgerError> {
        shared_secret::find_or_create(&self.engine).await
    }

    /// Returns the shared secret if it was created.
    pub async fn find_shared_secret(&self) -> Result<Option<[u8; 32]>, LedgerError> {
        shared_secret::find(&self.engine).await
    }
}
