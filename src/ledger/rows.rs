//! How payments and refunds lie on disk, how they are found, and how the list of searches follows them.

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tollgate_plugins::payment::{Money, Status, provider_number};

use super::abandoned_attempts;
use super::change_feed::{RecordKey, Version};
use super::ids::{Id, index, millis};
use super::inquiries::priority;
use super::records::{Inquiry, LedgerError, Payment, Record, RecordId, Refund};
use super::timeline::{self, TimelineEvent};
use super::transaction::{Read, Space, Transaction};

/// A payment with what belongs to it. A row with a field of another version is refused: a sum that is not understood must not
/// count as zero.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PaymentRow {
    pub(super) payment: Payment,
    /// The claim that made it.
    pub(super) claim: Id,
    /// The claim that closes it, or last tried to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) close: Option<Id>,
    /// Sum of its refunds that have not failed, so that a refund costs the same however many there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) refunding: u64,
    /// Its newest refund, which leads to the one before it, and so on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last_refund: Option<Id>,
    /// Oldest event that the merchant does not have yet, its refunds' too. It leads to the next one, and so on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) first_event: Option<Id>,
    /// Number of events that the merchant does not have yet.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) waiting_events: u64,
    /// When the first of them is due, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) due: Option<u64>,
    /// The last event that was ever in the queue: the next one's id is greater.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last_event: Option<Id>,
    /// The version at which a mismatch was told last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mismatch: Option<u64>,
    /// What may be left of it on channels that it went away from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) attempts: Vec<Id>,
    /// The payment of which this is such a rest.
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
            first_event: None,
            waiting_events: 0,
            due: None,
            last_event: None,
            mismatch: None,
            attempts: Vec::new(),
            attempt_of: None,
        }
    }
}

fn is_zero(sum: &u64) -> bool {
    *sum == 0
}

/// A refund with what belongs to it.
#[derive(Serialize, Deserialize)]
pub(super) struct RefundRow {
    pub(super) refund: Refund,
    /// The payment's id.
    pub(super) payment: Id,
    /// The claim that made it.
    pub(super) claim: Id,
    /// The refund of the same payment before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) previous: Option<Id>,
    /// Whether it was released: nothing was sent, and the row stays only because a later refund leads over it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) released: bool,
    /// The version at which a mismatch was told last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mismatch: Option<u64>,
}

/// What payments and refunds have in common as rows.
pub(super) trait Row: Serialize + DeserializeOwned {
    /// Where they lie.
    const SPACE: Space;
    /// What tells them apart in lists of both.
    const TAG: u8;
    /// What it has come to and how the search stands.
    fn standing(&self) -> (Status, Option<&Inquiry>);
    /// Whether the merchant knows it, so that it counts where it is unknown.
    fn is_merchant_visible(&self) -> bool;
    /// Returns the channel whose provider knows it.
    fn channel(&self) -> &str;
    /// Whether a till waits for it: the payer's code was scanned.
    fn is_scanned(&self) -> bool;
    /// How far it has come.
    fn age(&self) -> Version;
    /// As those call it who hear of changes.
    fn name(&self) -> RecordKey;
}

impl Row for PaymentRow {
    const SPACE: Space = Space::Payments;
    const TAG: u8 = 0;

    fn standing(&self) -> (Status, Option<&Inquiry>) {
        (self.payment.status, self.payment.search.as_ref())
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

    fn age(&self) -> Version {
        self.payment.age()
    }

    fn name(&self) -> RecordKey {
        RecordKey(entry_of_payment(&self.payment).0)
    }
}

impl Row for RefundRow {
    const SPACE: Space = Space::Refunds;
    const TAG: u8 = 1;

    fn standing(&self) -> (Status, Option<&Inquiry>) {
        (self.refund.status, self.refund.search.as_ref())
    }

    fn is_merchant_visible(&self) -> bool {
        true
    }

    fn channel(&self) -> &str {
        &self.refund.channel
    }

    fn is_scanned(&self) -> bool {
        false
    }

    fn age(&self) -> Version {
        self.refund.age()
    }

    fn name(&self) -> RecordKey {
        RecordKey(entry_of_refund(&self.refund).0)
    }
}

/// A row in hand; remembers how it is listed, so that saving it can correct the lists.
pub(super) struct TrackedRow<R> {
    pub(super) id: Id,
    pub(super) row: R,
    listed: IndexKeys,
    /// As it is known outside.
    known: Option<Version>,
}

impl<R: Row> TrackedRow<R> {
    pub(super) fn new(id: Id, row: R) -> Self {
        Self { id, row, listed: IndexKeys::default(), known: None }
    }

    pub(super) fn load(from: &impl Read, id: Id) -> Result<Option<Self>, LedgerError> {
        let row = from.row::<R>(R::SPACE, &id.0)?;
        Ok(row.map(|row| Self { id, listed: IndexKeys::of(&row, id), known: Some(row.age()), row }))
    }

    /// As [`TrackedRow::load`] where the row must be there.
    pub(super) fn must(from: &impl Read, id: Id) -> Result<Self, LedgerError> {
        Self::load(from, id)?.ok_or_else(|| LedgerError(format!("a row in {} is missing", R::SPACE.name())))
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
        let age = self.row.age();
        if self.known.replace(age) != Some(age) && self.row.is_merchant_visible() {
            tx.became(self.row.name(), age);
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
        if new.search.is_some() && (old.search.is_none() || new.search < old.search) {
            tx.wake();
        }
        for (space, old, new, value) in [
            (Space::Inquiries, old.search, &new.search, new.priority.as_slice()),
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

/// A row's keys in the lists of searches and of what is unknown.
#[derive(Default)]
struct IndexKeys {
    search: Option<Vec<u8>>,
    unknown: Option<Vec<u8>>,
    /// Value in the list of searches, made by [`priority`].
    priority: Vec<u8>,
}

impl IndexKeys {
    fn of<R: Row>(row: &R, id: Id) -> Self {
        let key = |time: Timestamp| [&millis(time).to_be_bytes()[..], &[R::TAG], &id.0].concat();
        let (status, search) = row.standing();
        let is_open = search.is_some_and(|search| status == Status::Pending && !search.closing && !row.is_scanned());
        Self {
            priority: priority(!is_open, row.channel()),
            search: search.map(|search| key(search.due)),
            unknown: search
                .filter(|_| status == Status::Unknown && row.is_merchant_visible())
                .map(|search| key(search.since)),
        }
    }
}

/// A payment or a refund in hand.
#[expect(clippy::large_enum_variant, reason = "one at a time, in hand: a box would only be in the way")]
pub(super) enum Target {
    Payment(TrackedRow<PaymentRow>),
    Refund(TrackedRow<RefundRow>),
}

impl Target {
    pub(super) fn find(from: &impl Read, subject: &RecordId) -> Result<Option<Self>, LedgerError> {
        let RecordId { merchant, order_id, refund_id } = subject;
        Ok(match refund_id {
            Some(refund_id) => find_refund(from, merchant, order_id, refund_id)?.map(Self::Refund),
            None => find_payment(from, merchant, order_id)?.map(Self::Payment),
        })
    }

    /// What the list of searches names.
    pub(super) fn listed(from: &impl Read, key: &[u8]) -> Result<Option<Self>, LedgerError> {
        let Some((tag, id)) = key.get(8..).and_then(<[u8]>::split_first) else { return Ok(None) };
        let id = Id::from_bytes(id)?;
        Ok(match *tag {
            RefundRow::TAG => TrackedRow::load(from, id)?.map(Self::Refund),
            _ => TrackedRow::load(from, id)?.map(Self::Payment),
        })
    }

    pub(super) fn record(&self) -> Record {
        match self {
            Self::Payment(tracked) => Record::Payment(tracked.row.payment.clone()),
            Self::Refund(tracked) => Record::Refund(tracked.row.refund.clone()),
        }
    }

    pub(super) fn subject(&self) -> RecordId {
        match self {
            Self::Payment(tracked) => payment_subject(&tracked.row.payment),
            Self::Refund(tracked) => refund_subject(&tracked.row.refund),
        }
    }

    pub(super) fn channel(&self) -> &str {
        match self {
            Self::Payment(tracked) => &tracked.row.payment.channel,
            Self::Refund(tracked) => &tracked.row.refund.channel,
        }
    }

    pub(super) fn amount(&self) -> Money {
        match self {
            Self::Payment(tracked) => tracked.row.payment.amount,
            Self::Refund(tracked) => tracked.row.refund.amount,
        }
    }

    pub(super) fn status(&self) -> Status {
        match self {
            Self::Payment(tracked) => tracked.row.payment.status,
            Self::Refund(tracked) => tracked.row.refund.status,
        }
    }

    pub(super) fn search(&mut self) -> &mut Option<Inquiry> {
        match self {
            Self::Payment(tracked) => &mut tracked.row.payment.search,
            Self::Refund(tracked) => &mut tracked.row.refund.search,
        }
    }

    /// Adds what happened to it to its payment's timeline.
    pub(super) fn add(&self, tx: &mut Transaction<'_>, what: TimelineEvent, now: Timestamp) -> Result<(), LedgerError> {
        match self {
            Self::Payment(tracked) => timeline::add(tx, tracked.id, None, what, now),
            Self::Refund(tracked) => {
                timeline::add(tx, tracked.row.payment, Some(&tracked.row.refund.refund_id), what, now)
            }
        }
    }

    pub(super) fn save(&mut self, tx: &mut Transaction<'_>) -> Result<(), LedgerError> {
        match self {
            Self::Payment(tracked) => tracked.save(tx),
            Self::Refund(tracked) => tracked.save(tx),
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
    TrackedRow::find(from, order_entry(merchant, order_id))
}

pub(super) fn find_refund(
    from: &impl Read,
    merchant: &str,
    order_id: &str,
    refund_id: &str,
) -> Result<Option<TrackedRow<RefundRow>>, LedgerError> {
    TrackedRow::find(from, refund_entry(merchant, order_id, refund_id))
}

pub(super) fn payment_by_number(from: &impl Read, number: &str) -> Result<Option<TrackedRow<PaymentRow>>, LedgerError> {
    TrackedRow::find(from, payment_number(number))
}

pub(super) fn refund_by_number(from: &impl Read, number: &str) -> Result<Option<TrackedRow<RefundRow>>, LedgerError> {
    TrackedRow::find(from, refund_number(number))
}

/// The index entry that leads to an order's payment, or to what is left of it on a channel (`ORDER/CHANNEL`). One is enough,
/// because the provider's number follows from the order.
pub(super) fn order_entry(merchant: &str, order_id: &str) -> Id {
    match order_id.split_once('/') {
        Some((order_id, channel)) => abandoned_attempts::entry(channel, &provider_number(&[merchant, order_id])),
        None => payment_number(&provider_number(&[merchant, order_id])),
    }
}

/// The index entry that leads to a refund.
pub(super) fn refund_entry(merchant: &str, order_id: &str, refund_id: &str) -> Id {
    refund_number(&provider_number(&[merchant, order_id, refund_id]))
}

/// As [`order_entry`], with less work.
pub(super) fn entry_of_payment(payment: &Payment) -> Id {
    match payment.is_attempt() {
        true => abandoned_attempts::entry(&payment.channel, &payment.provider_order_no),
        false => payment_number(&payment.provider_order_no),
    }
}

/// As [`refund_entry`], with less work.
pub(super) fn entry_of_refund(refund: &Refund) -> Id {
    refund_number(&refund.provider_refund_no)
}

fn payment_number(number: &str) -> Id {
    index("number", &[number])
}

fn refund_number(number: &str) -> Id {
    index("refund number", &[number])
}
