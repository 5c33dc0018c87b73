//! What may be forgotten, and when. What is unknown, searched for or undelivered never is.
//!
//! One law above the times: nothing goes that a repeated request within its promise would need. So a payment goes after its
//! claims, and with it all that leads to it; from then on its order id is as good as new.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tollgate_plugins::payment::Status;

use super::ids::{Id, millis};
use super::lock_scope;
use super::records::{Inquiry, LedgerError};
use super::refunds;
use super::rows::{self, PaymentRow, RefundRow, TrackedRow};
use super::transaction::{Read, Space, Transaction};
use super::{claims, outbox};

/// How long the ledger keeps what has come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionPolicy {
    /// Idempotency keys with their answers, from their first use.
    pub claims: Duration,
    /// Payments with their refunds, timelines and numbers, from their last change; notifications, from when they came.
    pub payments: Duration,
    /// Events that were delivered, from when they happened.
    pub events: Duration,
}

impl RetentionPolicy {
    /// What merchants are promised about idempotency keys.
    pub const CLAIMS_AT_LEAST: Duration = Duration::from_hours(24);
}

impl Default for RetentionPolicy {
    fn default() -> Self {
        let days = |days: u64| Duration::from_hours(24 * days);
        // Providers take refunds for a year.
        Self { claims: Self::CLAIMS_AT_LEAST, payments: days(400), events: days(30) }
    }
}

/// What grows old in one list, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Further keys of claims that had ended already.
    LateKeys,
    /// Claims with the keys that they began with.
    Claims,
    /// Payments with all that is theirs.
    Payments,
    /// Events.
    Events,
    /// What notifications said.
    Notifications,
}

impl Kind {
    /// In the order in which they go: keys before their claims, claims before their payments.
    pub(super) const ALL: [Self; 5] = [Self::LateKeys, Self::Claims, Self::Payments, Self::Events, Self::Notifications];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::LateKeys => "keys",
            Self::Claims => "claims",
            Self::Payments => "payments",
            Self::Events => "events",
            Self::Notifications => "notifications",
        }
    }

    pub(super) fn space(self) -> Space {
        match self {
            Self::LateKeys | Self::Notifications => Space::Expiry,
            Self::Claims => Space::Claims,
            Self::Payments => Space::Payments,
            Self::Events => Space::Events,
        }
    }

    /// What its keys begin with, before their milliseconds.
    pub(super) fn prefix(self) -> &'static [u8] {
        match self {
            Self::LateKeys => &[0],
            Self::Notifications => &[1],
            Self::Claims | Self::Payments | Self::Events => &[],
        }
    }

    /// Before this key lies what may be old enough.
    pub(super) fn until(self, keep: &RetentionPolicy, now: Timestamp) -> Vec<u8> {
        let tracked = u64::try_from(self.tracked(keep).as_millis()).unwrap_or(u64::MAX);
        let young = millis(now).checked_sub(tracked).map_or(0, |old| old.saturating_add(1));
        [self.prefix(), &young.to_be_bytes()].concat()
    }

    /// Behind the last of its keys.
    pub(super) fn end(self) -> Vec<u8> {
        [self.prefix(), &[0xff; 9]].concat()
    }

    fn tracked(self, keep: &RetentionPolicy) -> Duration {
        match self {
            Self::LateKeys | Self::Claims => keep.claims,
            Self::Payments | Self::Notifications => keep.payments,
            Self::Events => keep.events,
        }
    }
}

/// One thing that has been kept for long enough.
pub(super) struct Expired {
    /// What nobody else may be at work on while it goes.
    pub(super) names: Vec<Id>,
    /// All that goes with it.
    pub(super) rows: Vec<(Space, Vec<u8>)>,
}

/// What goes with a key of a list; `None` while it must stay.
pub(super) fn expired(
    from: &impl Read,
    kind: Kind,
    key: &[u8],
    keep: &RetentionPolicy,
    now: Timestamp,
) -> Result<Option<Expired>, LedgerError> {
    let is_over = |since| is_over(since, kind.tracked(keep), now);
    match kind {
        Kind::LateKeys => {
            let name = aged(key)?;
            let stays = claims::is_key_open(from, name)?;
            Ok((!stays).then(|| Expired { names: vec![name], rows: both(key, Space::Keys, name) }))
        }
        Kind::Claims => claims::old(from, Id::from_bytes(key)?, is_over),
        Kind::Payments => payment(from, Id::from_bytes(key)?, is_over),
        Kind::Events => outbox::old(from, Id::from_bytes(key)?, is_over),
        Kind::Notifications => {
            let name = aged(key)?;
            Ok(Some(Expired { names: vec![name], rows: both(key, Space::Notifications, name) }))
        }
    }
}

/// Puts what has no time in its own key on the list of what grows old.
pub(super) fn age(tx: &mut Transaction<'_>, kind: Kind, name: Id, now: Timestamp) {
    let key = [kind.prefix(), &millis(now).to_be_bytes(), &name.0].concat();
    tx.put(Space::Expiry, &key, []);
}

/// Whether somebody may still want to know how it ends.
pub(super) fn is_open(status: Status, search: Option<&Inquiry>) -> bool {
    status == Status::Unknown || search.is_some()
}

fn payment(from: &impl Read, id: Id, is_over: impl Fn(Timestamp) -> bool) -> Result<Option<Expired>, LedgerError> {
    let Some(TrackedRow { row, .. }) = TrackedRow::<PaymentRow>::load(from, id)? else { return Ok(None) };
    let payment = &row.payment;
    if row.first_event.is_some() || is_open(payment.status, payment.search.as_ref()) || !is_over(payment.updated_at) {
        return Ok(None);
    }
    let mut claims = vec![row.claim];
    claims.extend(row.close);
    let mut gone = vec![(Space::Payments, id), (Space::Timeline, id), (Space::Index, rows::entry_of_payment(payment))];
    for tracked in refunds::of(from, &row) {
        let TrackedRow { id, row: RefundRow { refund, claim, .. }, .. } = tracked?;
        if is_open(refund.status, refund.search.as_ref()) || !is_over(refund.updated_at) {
            return Ok(None);
        }
        claims.push(claim);
        gone.extend([(Space::Refunds, id), (Space::Index, rows::entry_of_refund(&refund))]);
    }
    for claim in claims {
        if from.bytes(Space::Claims, &claim.0)?.is_some() {
            return Ok(None);
        }
    }
    let rows = gone.into_iter().map(|(space, id)| (space, id.0.to_vec())).collect();
    Ok(Some(Expired { names: vec![lock_scope::name(&payment.merchant, &payment.order_id)], rows }))
}

fn is_over(since: Timestamp, tracked: Duration, now: Timestamp) -> bool {
    SignedDuration::try_from(tracked).is_ok_and(|tracked| now.duration_since(since) >= tracked)
}

/// What a key of [`Space::Expiry`] names.
fn aged(key: &[u8]) -> Result<Id, LedgerError> {
    Id::from_bytes(key.get(9..).unwrap_or_default())
}

fn both(key: &[u8], space: Space, name: Id) -> Vec<(Space, Vec<u8>)> {
    vec![(Space::Expiry, key.to_vec()), (space, name.0.to_vec())]
}
