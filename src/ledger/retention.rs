//! Retention rules: what may be purged, and when. Unknown records, records with an inquiry and undelivered events are
//! never purged.
//!
//! A row that a repeated request within its retention needs is retained, too. A payment is therefore purged after its
//! claims, together with all rows that lead to it. Its order id can then be used again.

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

/// Retention periods of finished rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionPolicy {
    /// Idempotency keys with their responses, from their first use.
    pub claims: Duration,
    /// Payments with their refunds, timelines and numbers, from their last change. Notifications, from their receipt.
    pub payments: Duration,
    /// Delivered events, from their creation.
    pub events: Duration,
}

impl RetentionPolicy {
    /// Minimum retention of idempotency keys, as promised to merchants.
    pub const CLAIMS_AT_LEAST: Duration = Duration::from_hours(24);
}

impl Default for RetentionPolicy {
    fn default() -> Self {
        let days = |days: u64| Duration::from_hours(24 * days);
        // Providers accept refunds for a year.
        Self { claims: Self::CLAIMS_AT_LEAST, payments: days(400), events: days(30) }
    }
}

/// Kind of purge candidates, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Further keys of claims that had already ended.
    LateKeys,
    /// Claims with their first keys.
    Claims,
    /// Payments with all rows that belong to them.
    Payments,
    /// Events.
    Events,
    /// Keys of notifications.
    Notifications,
}

impl Kind {
    /// All kinds in the order of purging: keys before their claims, claims before their payments.
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

    /// Returns the prefix of the keys before their milliseconds.
    pub(super) fn prefix(self) -> &'static [u8] {
        match self {
            Self::LateKeys => &[0],
            Self::Notifications => &[1],
            Self::Claims | Self::Payments | Self::Events => &[],
        }
    }

    /// Returns the key before which candidates may have expired.
    pub(super) fn until(self, keep: &RetentionPolicy, now: Timestamp) -> Vec<u8> {
        let tracked = u64::try_from(self.tracked(keep).as_millis()).unwrap_or(u64::MAX);
        let young = millis(now).checked_sub(tracked).map_or(0, |old| old.saturating_add(1));
        [self.prefix(), &young.to_be_bytes()].concat()
    }

    /// Returns the key behind the last one of this kind.
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

/// Rows that are purged together.
pub(super) struct Expired {
    /// Names to lock while the rows are purged.
    pub(super) names: Vec<Id>,
    /// Keys of the rows.
    pub(super) rows: Vec<(Space, Vec<u8>)>,
}

/// Returns what is purged with a key; `None` if the key is retained.
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

/// Adds a key without a time of its own to the expiry index.
pub(super) fn age(tx: &mut Transaction<'_>, kind: Kind, name: Id, now: Timestamp) {
    let key = [kind.prefix(), &millis(now).to_be_bytes(), &name.0].concat();
    tx.put(Space::Expiry, &key, []);
}

/// Returns whether the result of a record may still be needed.
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

/// Returns the id in a key of [`Space::Expiry`].
fn aged(key: &[u8]) -> Result<Id, LedgerError> {
    Id::from_bytes(key.get(9..).unwrap_or_default())
}

fn both(key: &[u8], space: Space, name: Id) -> Vec<(Space, Vec<u8>)> {
    vec![(Space::Expiry, key.to_vec()), (space, name.0.to_vec())]
}
