//! Table of each key space, and the space's number there.

use crate::transaction::Space;

/// Returns the number of a space in the tables.
pub(super) fn number(space: Space) -> i16 {
    space as i16
}

/// Number of the undelivered events, one for each sink, which are only counted.
pub(super) const QUEUED: i16 = 100;

/// Number of the ledger's own rows: its name and the migrations that filled it.
pub(super) const METADATA: i16 = 101;

/// Returns whether rows of a space are due rows, which are in a table of their own.
pub(super) fn is_due(space: Space) -> bool {
    matches!(space, Space::Running | Space::Outbox | Space::Inquiries | Space::Unknown | Space::Jobs)
}

/// Returns whether a space is the events of merchants, which have a table of their own.
pub(super) fn is_merchant_events(space: Space) -> bool {
    space == Space::MerchantEvents
}

/// Returns whether rows of a space are written once and never changed. A second row under the same key then fails, as
/// the last defence behind the locks.
pub(super) fn is_unique(space: Space) -> bool {
    matches!(space, Space::Index | Space::Keys)
}
