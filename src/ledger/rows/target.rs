//! A loaded payment or refund.

use jiff::Timestamp;
use tollgate_plugins::payment::{Money, Status};

use super::{PaymentRow, RefundRow, Row, TrackedRow, find_payment, find_refund, payment_subject, refund_subject};
use crate::error::LedgerError;
use crate::ids::Id;
use crate::records::{Inquiry, Record, RecordId};
use crate::timeline::{self, TimelineEvent};
use crate::transaction::{Read, Transaction};

/// A loaded payment or refund.
pub(crate) enum Target {
    Payment(TrackedRow<PaymentRow>),
    Refund(TrackedRow<RefundRow>),
}

impl Target {
    pub(crate) fn find(from: &impl Read, subject: &RecordId) -> Result<Option<Self>, LedgerError> {
        let RecordId { merchant, order_id, refund_id } = subject;
        Ok(match refund_id {
            Some(refund_id) => find_refund(from, merchant, order_id, refund_id)?.map(Self::Refund),
            None => find_payment(from, merchant, order_id)?.map(Self::Payment),
        })
    }

    /// Loads the record that a key of the inquiry index names.
    pub(crate) fn listed(from: &impl Read, key: &[u8]) -> Result<Option<Self>, LedgerError> {
        let Some((tag, id)) = key.get(8..).and_then(<[u8]>::split_first) else { return Ok(None) };
        let id = Id::from_bytes(id)?;
        Ok(match *tag {
            RefundRow::TAG => TrackedRow::load(from, id)?.map(Self::Refund),
            _ => TrackedRow::load(from, id)?.map(Self::Payment),
        })
    }

    pub(crate) fn record(&self) -> Record {
        match self {
            Self::Payment(tracked) => Record::Payment(tracked.row.payment.clone()),
            Self::Refund(tracked) => Record::Refund(tracked.row.refund.clone()),
        }
    }

    pub(crate) fn subject(&self) -> RecordId {
        match self {
            Self::Payment(tracked) => payment_subject(&tracked.row.payment),
            Self::Refund(tracked) => refund_subject(&tracked.row.refund),
        }
    }

    pub(crate) fn channel(&self) -> &str {
        match self {
            Self::Payment(tracked) => &tracked.row.payment.channel,
            Self::Refund(tracked) => &tracked.row.refund.channel,
        }
    }

    pub(crate) fn amount(&self) -> Money {
        match self {
            Self::Payment(tracked) => tracked.row.payment.amount,
            Self::Refund(tracked) => tracked.row.refund.amount,
        }
    }

    pub(crate) fn status(&self) -> Status {
        match self {
            Self::Payment(tracked) => tracked.row.payment.status,
            Self::Refund(tracked) => tracked.row.refund.status,
        }
    }

    pub(crate) fn inquiry(&mut self) -> &mut Option<Inquiry> {
        match self {
            Self::Payment(tracked) => &mut tracked.row.payment.inquiry,
            Self::Refund(tracked) => &mut tracked.row.refund.inquiry,
        }
    }

    /// Appends an event to the timeline of the record's payment.
    pub(crate) fn add(&self, tx: &mut Transaction<'_>, what: TimelineEvent, now: Timestamp) -> Result<(), LedgerError> {
        match self {
            Self::Payment(tracked) => timeline::add(tx, tracked.id, None, what, now),
            Self::Refund(tracked) => {
                timeline::add(tx, tracked.row.payment, Some(&tracked.row.refund.refund_id), what, now)
            }
        }
    }

    pub(crate) fn save(&mut self, tx: &mut Transaction<'_>) -> Result<(), LedgerError> {
        match self {
            Self::Payment(tracked) => tracked.save(tx),
            Self::Refund(tracked) => tracked.save(tx),
        }
    }
}
