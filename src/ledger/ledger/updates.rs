//! Updates from providers: answers to queries, notifications, and the inquiries that ask for them.

use jiff::Timestamp;

use super::Ledger;
use crate::error::LedgerError;
use crate::lock_scope::LockScope;
use crate::records::{Inquiry, Record, RecordId, Recorded};
use crate::timeline::{Notification, TimelineEvent, UpdateWithEvidence};
use crate::transaction::Durability::{Applied, Durable};
use crate::{apply, inquiries, notifications};

impl Ledger {
    /// Applies the provider's answer to a query. `None` if there is no such payment or refund.
    pub async fn apply(
        &self,
        subject: &RecordId,
        update: impl Into<UpdateWithEvidence>,
        now: Timestamp,
    ) -> Result<Option<Record>, LedgerError> {
        let (scope, subject, update) = (LockScope::subject(subject), subject.clone(), update.into());
        self.engine.write(Durable, scope, move |tx| apply::apply(tx, &subject, update.clone(), now)).await
    }

    /// Records a notification: removes duplicates, applies the update and publishes its event, in one transaction.
    pub async fn record(
        &self,
        channel: &str,
        notification: impl Into<Notification>,
        now: Timestamp,
    ) -> Result<Recorded, LedgerError> {
        let (channel, notification) = (channel.to_owned(), notification.into());
        let scope = LockScope::Number(notification.event.order_number.clone());
        self.engine.write(Durable, scope, move |tx| notifications::record(tx, &channel, &notification, now)).await
    }

    /// Appends events to the timeline that changed no record. Returns before the sync: a power cut may lose them.
    pub async fn append_timeline(
        &self,
        subject: &RecordId,
        notes: Vec<TimelineEvent>,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let (scope, subject) = (LockScope::subject(subject), subject.clone());
        self.engine.write(Applied, scope, move |tx| apply::append_timeline(tx, &subject, notes.clone(), now)).await
    }

    /// Marks an unknown record for manual review and publishes its unknown status once more. Returns whether the mark
    /// is new.
    pub async fn escalate(&self, subject: &RecordId, why: &str, now: Timestamp) -> Result<bool, LedgerError> {
        let (scope, subject, why) = (LockScope::subject(subject), subject.clone(), why.to_owned());
        self.engine.write(Durable, scope, move |tx| apply::escalate(tx, &subject, why.clone(), now)).await
    }

    /// Publishes that the provider names another amount or account, once per version of the record.
    pub async fn mismatch(&self, subject: &RecordId, now: Timestamp) -> Result<(), LedgerError> {
        let (scope, subject) = (LockScope::subject(subject), subject.clone());
        self.engine.write(Durable, scope, move |tx| apply::mismatch(tx, &subject, now)).await
    }

    /// Returns payments and refunds whose provider must be queried now, except those of `busy` channels. Unknown
    /// records and records that a caller waits for come before pending ones; within each group the longest due comes
    /// first. A record returned to one process is not returned to another for a while.
    pub async fn due_inquiries(&self, now: Timestamp, limit: usize, busy: &[String]) -> Vec<Record> {
        self.engine.due_inquiries(now, limit, busy).await
    }

    /// Replaces the inquiry that was loaded, or ends it with `None`. The record's version stays. What was scheduled
    /// meanwhile stays due. Returns false and changes nothing if the inquiry has ended or the record has succeeded.
    pub async fn save_inquiry(
        &self,
        subject: &RecordId,
        loaded: &Inquiry,
        next: Option<Inquiry>,
    ) -> Result<bool, LedgerError> {
        let (scope, subject, loaded) = (LockScope::subject(subject), subject.clone(), loaded.clone());
        self.engine.write(Durable, scope, move |tx| inquiries::save_inquiry(tx, &subject, &loaded, next.clone())).await
    }
}
