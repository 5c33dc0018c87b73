//! What happened to a payment, with the evidence: written in the transaction of the change that it tells of, never altered.
//!
//! All of a payment's entries are one row, so that they are read as they were at one moment, and are few: the first and the
//! last are kept, what happens again and again is one entry that counts. A payment that is asked about for weeks has a
//! timeline of the same size as one that was asked about for an hour. Older ledgers have no such rows; an older version of
//! the program leaves them alone.

mod event;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tollgate_plugins::payment::Event as ProviderEvent;

pub use self::event::*;
use super::ids::Id;
use super::records::{LedgerError, Payment, Refund, Update};
use super::refunds;
use super::rows::{self, PaymentRow, TrackedRow};
use super::transaction::{Read, Space, Transaction};

/// So many entries from the beginning are kept, and as many from the end.
const KEPT: usize = 100;

/// Everything that is known to have happened to a payment and its refunds, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeline {
    /// What happened.
    pub entries: Vec<Entry>,
    /// How many are left out after the first hundred, because there were too many.
    #[serde(default)]
    pub left_out: u64,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When it was written down.
    pub at: Timestamp,
    /// The refund that it is about, when it is not the payment itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refund_id: Option<String>,
    /// What it was. Of what happened several times in a row: the last of them.
    #[serde(flatten)]
    pub what: TimelineEvent,
    /// When it happened last, if it happened several times in a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// How often in a row.
    #[serde(default = "once", skip_serializing_if = "is_once")]
    pub times: u32,
}

/// A payment with all that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PaymentHistory {
    /// The payment as it stands.
    pub payment: Payment,
    /// Its refunds as they stand.
    pub refunds: Vec<Refund>,
    /// What happened to them.
    pub timeline: Timeline,
}

/// News from a provider, with what was seen of it.
#[derive(Clone, Debug)]
pub struct UpdateWithEvidence {
    /// The news.
    pub update: Update,
    /// Each request that was made for it.
    pub evidence: Vec<ProviderCall>,
}

impl From<Update> for UpdateWithEvidence {
    fn from(update: Update) -> Self {
        Self { update, evidence: Vec::new() }
    }
}

/// A notification, with what was seen of it.
#[derive(Clone, Debug)]
pub struct Notification {
    /// What it says.
    pub event: ProviderEvent,
    /// Its bytes.
    pub seen: Option<BodyDigest>,
}

impl From<ProviderEvent> for Notification {
    fn from(event: ProviderEvent) -> Self {
        Self { event, seen: None }
    }
}

/// What happened first to a payment that is new.
pub(super) fn begin(
    tx: &mut Transaction<'_>,
    payment: Id,
    what: TimelineEvent,
    now: Timestamp,
) -> Result<(), LedgerError> {
    let mut timeline = Timeline::default();
    timeline.add(Entry { at: now, refund_id: None, what, until: None, times: 1 });
    tx.put_row(Space::Timeline, &payment.0, &timeline)
}

/// Adds what happened to a payment, or to one of its refunds.
pub(super) fn add(
    tx: &mut Transaction<'_>,
    payment: Id,
    refund_id: Option<&str>,
    what: TimelineEvent,
    now: Timestamp,
) -> Result<(), LedgerError> {
    let mut timeline = read(tx, payment)?;
    timeline.add(Entry { at: now, refund_id: refund_id.map(str::to_owned), what, until: None, times: 1 });
    tx.put_row(Space::Timeline, &payment.0, &timeline)
}

/// A payment's timeline; empty when it is older than timelines are.
pub(super) fn read(from: &impl Read, payment: Id) -> Result<Timeline, LedgerError> {
    Ok(from.row(Space::Timeline, &payment.0)?.unwrap_or_default())
}

/// As [`Ledger::lives`](super::Ledger::lives).
pub(super) fn find_histories(
    from: &impl Read,
    named: &str,
    merchants: &[String],
) -> Result<Vec<PaymentHistory>, LedgerError> {
    let of_merchants = merchants.iter().map(|merchant| rows::find_payment(from, merchant, named));
    let found = of_merchants.chain([rows::payment_by_number(from, named)]).filter_map(Result::transpose);
    let history = |tracked: TrackedRow<PaymentRow>| {
        let mut all = refunds::of(from, &tracked.row).collect::<Result<Vec<_>, LedgerError>>()?;
        all.retain(|refund| !refund.row.released);
        let refunds = all.into_iter().rev().map(|refund| refund.row.refund).collect();
        Ok::<_, LedgerError>(PaymentHistory {
            timeline: read(from, tracked.id)?,
            payment: tracked.row.payment,
            refunds,
        })
    };
    let mut histories = Vec::new();
    for tracked in found {
        let tracked = tracked?;
        let attempts = tracked.row.attempts.clone();
        histories.push(history(tracked)?);
        for attempt in attempts {
            histories.extend(TrackedRow::load(from, attempt)?.map(history).transpose()?);
        }
    }
    Ok(histories)
}

/// Forgets the timeline with its payment.
pub(super) fn remove(tx: &mut Transaction<'_>, payment: Id) {
    tx.remove(Space::Timeline, &payment.0);
}

impl Timeline {
    fn add(&mut self, mut entry: Entry) {
        entry.what.shorten();
        if let Some(last) = self.entries.last_mut()
            && last.refund_id == entry.refund_id
            && entry.what.repeats(&last.what)
        {
            (last.what, last.until) = (entry.what, Some(entry.at));
            last.times = last.times.saturating_add(1);
            return;
        }
        self.entries.push(entry);
        if self.entries.len() > 2 * KEPT {
            self.entries.remove(KEPT);
            self.left_out += 1;
        }
    }
}

fn once() -> u32 {
    1
}

fn is_once(times: &u32) -> bool {
    *times == 1
}
