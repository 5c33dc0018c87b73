//! Authenticates messages of a queue: a request as over HTTP, signed by a key of the source's own merchant for this source.
//!
//! A message may wait in its queue for longer than the five minutes that HTTP allows, and the broker may deliver it again with
//! the same nonce. Instead of the window and the record of nonces, three rules apply:
//! - The nonce is `queue:SOURCE:` and a text of the producer. It is part of the signature of both schemes. So a message
//!   is valid neither over HTTP nor in another source, and a request that was sent over HTTP is not valid in a queue.
//! - The signature is at most `max_age` old, which is an hour less than claims are kept at least. A message that is put
//!   into the queue again within that time finds its claim: it is a repetition. Later it is refused.
//! - The idempotency key is not signed, unless an RFC 9421 signature covers it. A copy with another key still changes
//!   nothing: the signed body or path names the order or the refund, of which the ledger makes one.

use std::sync::Arc;
use std::time::Duration;

use tollgate_config::Merchant;

use super::{Denied, Head, WINDOW, signed};
use crate::snapshot::Snapshot;

/// Start of the nonce of every message.
const QUEUE_NONCE: &str = "queue:";

/// Source that a message came from.
#[derive(Clone, Copy)]
pub(crate) struct MessageOrigin<'a> {
    /// The merchant that owns the source.
    pub(crate) merchant: &'a str,
    /// Name of the source.
    pub(crate) source: &'a str,
    /// Maximum age of a signature.
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
    let for_queue = request.nonce.strip_prefix(QUEUE_NONCE).and_then(|rest| rest.split_once(':'));
    if for_queue.is_none_or(|(source, own)| source != origin.source || own.is_empty()) {
        return Err(Denied::OtherDestination);
    }
    if request.created > now.saturating_add(WINDOW) {
        return Err(Denied::InFuture);
    }
    let is_over = request.created.saturating_add(origin.max_age.as_secs()) < now;
    if is_over || request.expires.is_some_and(|end| end < now) {
        return Err(Denied::TooOld);
    }
    Ok(merchant)
}

/// Returns whether a signature with this nonce is for a queue. Over HTTP it is refused.
pub(super) fn is_for_a_queue(nonce: &str) -> bool {
    nonce.starts_with(QUEUE_NONCE)
}
