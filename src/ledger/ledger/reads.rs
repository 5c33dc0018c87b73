//! Reads, and the change feed that keeps caches of them current.

use std::sync::Arc;

use super::Ledger;
use crate::change_feed::ChangeListener;
use crate::environment::Measurement;
use crate::error::LedgerError;
use crate::histories::{self, PaymentHistory};
use crate::record_key::RecordKey;
use crate::records::{Payment, Refund};
use crate::rows;
use crate::timeline::{self, Timeline};
use crate::transaction::Read;

impl Ledger {
    /// Returns a payment with its timeline.
    pub async fn timeline(&self, merchant: &str, order_id: &str) -> Result<Option<(Payment, Timeline)>, LedgerError> {
        let (merchant, order_id) = (merchant.to_owned(), order_id.to_owned());
        let read = move |from: &dyn Read| {
            let Some(tracked) = rows::find_payment(&from, &merchant, &order_id)? else { return Ok(None) };
            Ok(Some((tracked.row.payment, timeline::read(&from, tracked.id)?)))
        };
        self.engine.read(read).await
    }

    /// Returns the payments that an operator may mean: for each merchant the payment with this order id, and the
    /// payment that has this number at its provider.
    pub async fn find_histories(
        &self,
        named: &str,
        merchants: Vec<String>,
    ) -> Result<Vec<PaymentHistory>, LedgerError> {
        let named = named.to_owned();
        self.engine.read(move |from| histories::find_histories(&from, &named, &merchants)).await
    }

    /// Returns a payment.
    pub async fn payment(&self, merchant: &str, order_id: &str) -> Result<Option<Payment>, LedgerError> {
        self.engine.environment().metrics.record(Measurement::Read);
        let (merchant, order_id) = (merchant.to_owned(), order_id.to_owned());
        let read = move |from: &dyn Read| rows::find_payment(&from, &merchant, &order_id);
        Ok(self.engine.read(read).await?.map(|tracked| tracked.row.payment))
    }

    /// Returns a refund.
    pub async fn refund(&self, merchant: &str, order_id: &str, refund_id: &str) -> Result<Option<Refund>, LedgerError> {
        self.engine.environment().metrics.record(Measurement::Read);
        let (merchant, order_id, refund_id) = (merchant.to_owned(), order_id.to_owned(), refund_id.to_owned());
        let read = move |from: &dyn Read| rows::find_refund(&from, &merchant, &order_id, &refund_id);
        Ok(self.engine.read(read).await?.map(|tracked| tracked.row.refund))
    }

    /// Registers the listener for all changes, including those made by other machines that share the ledger. Only the
    /// first listener is registered.
    pub fn listen(&self, listener: Arc<dyn ChangeListener>) -> Result<(), LedgerError> {
        self.engine.listen(listener)
    }

    /// Returns whether the listener has received every change that was acknowledged as durable before this call.
    /// Reads no record.
    pub async fn caught_up(&self) -> bool {
        self.engine.caught_up().await
    }

    /// Returns the id that identifies a ledger shared by several machines.
    pub async fn cluster_id(&self) -> Result<Option<String>, LedgerError> {
        self.engine.cluster_id().await
    }

    /// Waits until every change that the listener received before this call is either readable or rolled back.
    pub async fn quiesce(&self) -> Result<(), LedgerError> {
        self.engine.quiesce().await
    }

    /// Returns the first record keys after `after`, in order. Includes everything that [`Changes::inserted`](crate::Changes::inserted) reports.
    pub async fn names(&self, after: Option<RecordKey>, limit: usize) -> Result<Vec<RecordKey>, LedgerError> {
        self.engine.names(after, limit).await
    }
}
