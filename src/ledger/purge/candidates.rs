//! Rows that are purged together with a key.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::error::LedgerError;
use crate::ids::Id;
use crate::retention::{Expired, Kind, RetentionPolicy, is_open};
use crate::rows::{PaymentRow, RefundRow, TrackedRow};
use crate::transaction::{Read, Space};
use crate::{claims, names, outbox, refunds};

/// Returns what is purged with a key; `None` if the key is retained.
pub(crate) fn expired(
    from: &impl Read,
    kind: Kind,
    key: &[u8],
    keep: &RetentionPolicy,
    now: Timestamp,
) -> Result<Option<Expired>, LedgerError> {
    let is_over = |since| is_over(since, kind.period(keep), now);
    match kind {
        Kind::LateKeys => {
            let name = aged(key)?;
            let stays = claims::is_key_open(from, name)?;
            Ok((!stays).then(|| Expired { names: vec![name], rows: both(key, Space::Keys, name) }))
        }
        Kind::Claims => claims::expired(from, Id::from_bytes(key)?, is_over),
        Kind::Payments => payment(from, Id::from_bytes(key)?, is_over),
        Kind::Events => outbox::expired(from, Id::from_bytes(key)?, is_over),
        Kind::Notifications => {
            let name = aged(key)?;
            Ok(Some(Expired { names: vec![name], rows: both(key, Space::Notifications, name) }))
        }
    }
}

fn payment(from: &impl Read, id: Id, is_over: impl Fn(Timestamp) -> bool) -> Result<Option<Expired>, LedgerError> {
    let Some(TrackedRow { row, .. }) = TrackedRow::<PaymentRow>::load(from, id)? else { return Ok(None) };
    let payment = &row.payment;
    if !row.queues.is_empty() || is_open(payment.status, payment.inquiry.as_ref()) || !is_over(payment.updated_at) {
        return Ok(None);
    }
    let mut claims = vec![row.claim];
    claims.extend(row.close);
    let mut keys = vec![(Space::Payments, id), (Space::Timeline, id), (Space::Index, names::entry_of_payment(payment))];
    for tracked in refunds::of(from, &row) {
        let TrackedRow { id, row: RefundRow { refund, claim, .. }, .. } = tracked?;
        if is_open(refund.status, refund.inquiry.as_ref()) || !is_over(refund.updated_at) {
            return Ok(None);
        }
        claims.push(claim);
        keys.extend([(Space::Refunds, id), (Space::Index, names::entry_of_refund(&refund))]);
    }
    for claim in claims {
        if from.bytes(Space::Claims, &claim.0)?.is_some() {
            return Ok(None);
        }
    }
    let rows = keys.into_iter().map(|(space, id)| (space, id.0.to_vec())).collect();
    Ok(Some(Expired { names: vec![names::order_lock(&payment.merchant, &payment.order_id)], rows }))
}

fn is_over(since: Timestamp, period: Duration, now: Timestamp) -> bool {
    SignedDuration::try_from(period).is_ok_and(|period| now.duration_since(since) >= period)
}

/// Returns the id in a key of [`Space::Expiry`].
fn aged(key: &[u8]) -> Result<Id, LedgerError> {
    Id::from_bytes(key.get(9..).unwrap_or_default())
}

fn both(key: &[u8], space: Space, name: Id) -> Vec<(Space, Vec<u8>)> {
    vec![(Space::Expiry, key.to_vec()), (space, name.0.to_vec())]
}
