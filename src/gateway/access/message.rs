//! Authenticates messages of a queue: a request as over HTTP, signed by a key of the source's own merchant for this source.
//!
//! The broker may deliver a message again with the same nonce, so nonces are not recorded. A message may also wait in its
//! queue for longer than the five minutes that HTTP allows. Three rules apply instead:
//! - A signature is at most five minutes old, as over HTTP. With a nonce `queue:SOURCE:` and a text of the producer, it may
//!   be as old as the source's `max_age`. Such a message is valid neither over HTTP nor in another source, because both
//!   schemes sign the nonce.
//! - `max_age` is an hour less than claims are kept at least. A message that is put into the queue again within that time
//!   finds its claim: it is a repetition. Later it is refused.
//! - The idempotency key is not signed, unless an RFC 9421 signature covers it. A copy with another key still changes
//!   nothing: the signed body or path names the order or the refund, of which the ledger makes one.

use std::sync::Arc;
use std::time::Duration;

use tollgate_config::Merchant;

use super::{Denied, Head, WINDOW, signed};
use crate::snapshot::Snapshot;

/// Start of a nonce that is valid for one source alone.
const QUEUE_NONCE: &str = "queue:";

/// Source that a message came from.
#[derive(Clone, Copy)]
pub(crate) struct MessageOrigin<'a> {
    /// The merchant that owns the source.
    pub(crate) merchant: &'a str,
    /// Name of the source.
    pub(crate) source: &'a str,
    /// Maximum age of a signature whose nonce is for this source alone.
    pub(crate) max_age: Duration,
}

/// Returns the merchant if its signature is valid for this source. `now` is in Unix seconds. Only the owner of a valid
/// signature learns more than that it was refused.
pub(crate) fn authenticate(
    snapshot: &Snapshot,
    origin: MessageOrigin<'_>,
    head: &Head<'_>,
    body: &[u8],
    now: u64,
) -> Result<Arc<Merchant>, Denied> {
    let (merchant, request) = signed(snapshot, head, body, |_| Ok(()))?;
    if merchant.name != origin.merchant {
        return Err(Denied::OtherMerchant);
    }
    let max_age = max_age(origin, &request.nonce).ok_or(Denied::OtherDestination)?;
    if request.created > now.saturating_add(WINDOW) {
        return Err(Denied::InFuture);
    }
    let is_over = request.created.saturating_add(max_age) < now;
    if is_over || request.expires.is_some_and(|end| end < now) {
        return Err(Denied::TooOld);
    }
    Ok(merchant)
}

/// Returns how old a signature with this nonce may be, in seconds. `None` if it is for another source.
fn max_age(origin: MessageOrigin<'_>, nonce: &str) -> Option<u64> {
    let max_age = origin.max_age.as_secs();
    let Some(rest) = nonce.strip_prefix(QUEUE_NONCE) else { return Some(max_age.min(WINDOW)) };
    let (source, own) = rest.split_once(':')?;
    (source == origin.source && !own.is_empty()).then_some(max_age)
}

/// Returns whether a signature with this nonce is for a queue. Over HTTP it is refused.
pub(super) fn is_for_a_queue(nonce: &str) -> bool {
    nonce.starts_with(QUEUE_NONCE)
}
