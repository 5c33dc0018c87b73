//! Rows of payments and refunds, how they are looked up, and the secondary indexes that follow them.

mod target;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tollgate_plugins::payment::Status;

pub(super) use self::target::Target;
use super::due_index::priority;
use super::error::{Corruption, LedgerError};
use super::ids::{Id, millis};
use super::names;
use super::record_key::{RecordKey, Version};
use super::records::{ElsewhereState, Inquiry, Payment, RecordId, Refund, SinkName};
use super::transaction::{Read, Space, Transaction};

/// Row of a payment. A row with unknown fields is rejected, because a sum that is not understood must not count as
/// zero.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PaymentRow {
    pub(super) payment: Payment,
    /// Claim that created the payment.
    pub(super) claim: Id,
    /// Latest claim to close the payment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) close: Option<Id>,
    /// Sum of its refunds that have not failed, in minor units. Makes the check of a refund independent of their
    /// number.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) refunding: u64,
    /// Newest refund, the head of a linked list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last_refund: Option<Id>,
    /// Undelivered events of the payment and its refunds: one queue for each sink that has some.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) queues: Vec<EventQueue>,
    /// Newest event ever published. Ids of later events are greater.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last_event: Option<Id>,
    /// Version at which a mismatch was last published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mismatch: Option<u64>,
    /// Abandoned attempts on channels that the payment was moved away from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) attempts: Vec<Id>,
    /// For an abandoned attempt: the payment it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) attempt_of: Option<Id>,
}

impl PaymentRow {
    pub(super) fn new(payment: Payment, claim: Id) -> Self {
        Self {
            payment,
            claim,
            close: None,
            refunding: 0,
            last_refund: None,
            queues: Vec::new(),
            last_event: None,
            mismatch: None,
            attempts: Vec::new(),
            attempt_of: None,
        }
    }
}

/// Undelivered events of one payment for one sink, a linked list.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventQueue {
    /// Sink that gets the events.
    #[serde(default, skip_serializing_if = "SinkName::is_webhook")]
    pub(super) sink: SinkName,
    /// Oldest event, the head of the list. Only the head is due.
    pub(super) first: Id,
    /// Newest event.
    pub(super) last: Id,
    /// Number of events.
    pub(super) waiting: u64,
    /// Due time of the oldest event, in milliseconds.
    pub(super) due: u64,
}

fn is_zero(sum: &u64) -> bool {
    *sum == 0
}

/// Row of a refund.
#[derive(Serialize, Deserialize)]
pub(super) struct RefundRow {
    pub(super) refund: Refund,
    /// Id of the payment.
    pub(super) payment: Id,
    /// Claim that created the refund.
    pub(super) claim: Id,
    /// Previous refund of the same payment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) previous: Option<Id>,
    /// True if the refund was released: nothing was sent, and the row stays only as a link to earlier refunds.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) released: bool,
    /// Version at which a mismatch was last published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mismatch: Option<u64>,
    /// Further state of a refund made elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) elsewhere: Option<ElsewhereState>,
}

/// Common interface of payment and refund rows.
pub(super) trait Row: Serialize + DeserializeOwned {
    /// Key space of the rows.
    const SPACE: Space;
    /// Tag that distinguishes payments from refunds in common indexes.
    const TAG: u8;
    /// Returns the status and the inquiry.
    fn status_and_inquiry(&self) -> (Status, Option<&Inquiry>);
    /// Returns whether the merchant sees the record. Only visible records count as unknown.
    fn is_merchant_visible(&self) -> bool;
    /// Returns the channel of the record.
    fn channel(&self) -> &str;
    /// Returns whether the payer's code was scanned, so that a till waits for the result.
    fn is_scanned(&self) -> bool;
    /// Returns the version for the change feed.
    fn version(&self) -> Version;
    /// Returns the key for the change feed.
    fn record_key(&self) -> RecordKey;
}

impl Row for PaymentRow {
    const SPACE: Space = Space::Payments;
    const TAG: u8 = 0;

    fn status_and_inquiry(&self) -> (Status, Option<&Inquiry>) {
        (self.payment.status, self.payment.inquiry.as_ref())
    }

    fn is_merchant_visible(&self) -> bool {
        self.attempt_of.is_none()
    }

    fn channel(&self) -> &str {
        &self.payment.channel
    }

    fn is_scanned(&self) -> bool {
        self.payment.method.is_scanned()
    }

    fn version(&self) -> Version {
        self.payment.version()
    }

    fn record_key(&self) -> RecordKey {
        RecordKey(names::entry_of_payment(&self.payment).0)
    }
}

impl Row for RefundRow {
    const SPACE: Space = Space::Refunds;
    const TAG: u8 = 1;

    fn status_and_inquiry(&self) -> (Status, Option<&Inquiry>) {
        (self.refund.status, self.refund.inquiry.as_ref())
    }

    fn is_merchant_visible(&self) -> bool {
        !self.refund.is_elsewhere()
    }

    fn channel(&self) -> &str {
        &self.refund.channel
    }

    fn is_scanned(&self) -> bool {
        false
    }

    fn version(&self) -> Version {
        self.refund.version()
    }

    fn record_key(&self) -> RecordKey {
        RecordKey(names::entry_of_refund(&self.refund).0)
    }
}

/// Loaded row with its index keys, so that saving it can update the indexes.
pub(super) struct TrackedRow<R> {
    pub(super) id: Id,
    pub(super) row: R,
    listed: IndexKeys,
    /// Version known to the listeners of the change feed.
    known: Option<Version>,
}

impl<R: Row> TrackedRow<R> {
    pub(super) fn new(id: Id, row: R) -> Self {
        Self { id, row, listed: IndexKeys::default(), known: None }
    }

    pub(super) fn load(from: &impl Read, id: Id) -> Result<Option<Self>, LedgerError> {
        let row = from.row::<R>(R::SPACE, &id.0)?;
        Ok(row.map(|row| Self { id, listed: IndexKeys::of(&row, id), known: Some(row.version()), row }))
    }

    /// Loads a row that must exist.
    pub(super) fn must(from: &impl Read, id: Id) -> Result<Self, LedgerError> {
        Self::load(from, id)?.ok_or_else(|| Corruption::MissingRow(R::SPACE.name()).into())
    }

    pub(super) fn find(from: &impl Read, index: Id) -> Result<Option<Self>, LedgerError> {
        match from.bytes(Space::Index, &index.0)? {
            Some(id) => Self::must(from, Id::from_bytes(&id)?).map(Some),
            None => Ok(None),
        }
    }

    pub(super) fn save(&mut self, tx: &mut Transaction<'_>) -> Result<(), LedgerError> {
        tx.put_row(R::SPACE, &self.id.0, &self.row)?;
        self.list(tx, IndexKeys::of(&self.row, self.id));
        let version = self.row.version();
        if self.known.replace(version) != Some(version) && self.row.is_merchant_visible() {
            tx.became(self.row.record_key(), version);
        }
        Ok(())
    }

    pub(super) fn remove(mut self, tx: &mut Transaction<'_>) {
        tx.remove(R::SPACE, &self.id.0);
        self.list(tx, IndexKeys::default());
    }

    fn list(&mut self, tx: &mut Transaction<'_>, new: IndexKeys) {
        let old = std::mem::replace(&mut self.listed, new);
        let new = &self.listed;
        if new.inquiry.is_some() && (old.inquiry.is_none() || new.inquiry < old.inquiry) {
            tx.wake();
        }
        for (space, old, new, value) in [
            (Space::Inquiries, old.inquiry, &new.inquiry, new.priority.as_slice()),
            (Space::Unknown, old.unknown, &new.unknown, &[]),
        ] {
            if let Some(old) = old.filter(|old| new.as_ref() != Some(old)) {
                tx.remove(space, &old);
            }
            if let Some(new) = new {
                tx.put(space, new, value);
            }
        }
    }
}

/// Secondary-index keys of a row: its inquiry and its unknown status.
#[derive(Default)]
struct IndexKeys {
    inquiry: Option<Vec<u8>>,
    unknown: Option<Vec<u8>>,
    /// Value in the inquiry index, from [`priority`].
    priority: Vec<u8>,
}

impl IndexKeys {
    fn of<R: Row>(row: &R, id: Id) -> Self {
        let key = |time: Timestamp| [&millis(time).to_be_bytes()[..], &[R::TAG], &id.0].concat();
        let (status, inquiry) = row.status_and_inquiry();
        let is_open = inquiry.is_some_and(|inquiry| status == Status::Pending && !inquiry.closing && !row.is_scanned());
        Self {
            priority: priority(!is_open, row.channel()),
            inquiry: inquiry.map(|inquiry| key(inquiry.due)),
            unknown: inquiry
                .filter(|_| status == Status::Unknown && row.is_merchant_visible())
                .map(|inquiry| key(inquiry.since)),
        }
    }
}

pub(super) fn payment_subject(payment: &Payment) -> RecordId {
    RecordId { merchant: payment.merchant.clone(), order_id: payment.order_id.clone(), refund_id: None }
}

pub(super) fn refund_subject(refund: &Refund) -> RecordId {
    let refund_id = Some(refund.refund_id.clone());
    RecordId { merchant: refund.merchant.clone(), order_id: refund.order_id.clone(), refund_id }
}

pub(super) fn find_payment(
    from: &impl Read,
    merchant: &str,
    order_id: &str,
) -> Result<Option<TrackedRow<PaymentRow>>, LedgerError> {
    TrackedRow::find(from, names::order_entry(merchant, order_id))
}

pub(super) fn find_refund(
    from: &impl Read,
    merchant: &str,
    order_id: &str,
    refund_id: &str,
) -> Result<Option<TrackedRow<RefundRow>>, LedgerError> {
    TrackedRow::find(from, names::refund_entry(merchant, order_id, refund_id))
}

pub(super) fn payment_by_number(from: &impl Read, number: &str) -> Result<Option<TrackedRow<PaymentRow>>, LedgerError> {
    TrackedRow::find(from, names::payment_number(number))
}

pub(super) fn refund_by_number(from: &impl Read, number: &str) -> Result<Option<TrackedRow<RefundRow>>, LedgerError> {
    TrackedRow::find(from, names::refund_number(number))
}
