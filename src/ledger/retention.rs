//! Retention rules: what may be purged, and when. Unknown records, records with an inquiry and undelivered events are
//! never purged.
//!
//! A row that a repeated request within its retention needs is retained, too. A payment is therefore purged after its
//! claims, together with all rows that lead to it. Its order id can then be used again.

use std::time::Duration;

use jiff::Timestamp;
use tollgate_plugins::payment::Status;

use super::ids::{Id, millis};
use super::records::Inquiry;
use super::transaction::{Space, Transaction};

/// Key of the ledger's own clock in [`Space::Expiry`], beside the expiry index.
pub(super) const KNOWN_TIME_KEY: &[u8] = &[2];

/// Key of the ledger's shared secret in [`Space::Expiry`], beside its clock.
pub(super) const SECRET_KEY: &[u8] = &[3];

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
        let period = u64::try_from(self.period(keep).as_millis()).unwrap_or(u64::MAX);
        let young = millis(now).checked_sub(period).map_or(0, |old| old.saturating_add(1));
        [self.prefix(), &young.to_be_bytes()].concat()
    }

    /// Returns the key behind the last one of this kind.
    pub(super) fn end(self) -> Vec<u8> {
        [self.prefix(), &[0xff; 9]].concat()
    }

    pub(super) fn period(self, keep: &RetentionPolicy) -> Duration {
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

/// Adds a key without a time of its own to the expiry index.
pub(super) fn index_for_expiry(tx: &mut Transaction<'_>, kind: Kind, name: Id, now: Timestamp) {
    let key = [kind.prefix(), &millis(now).to_be_bytes(), &name.0].concat();
    tx.put(Space::Expiry, &key, []);
}

/// Returns whether the result of a record may still be needed.
pub(super) fn is_open(status: Status, inquiry: Option<&Inquiry>) -> bool {
    status == Status::Unknown || inquiry.is_some()
}
