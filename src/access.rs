//! Who is asking: a signature by one of a merchant's keys, made within five minutes, never seen before.
//!
//! Two schemes say the same thing: RFC 9421 HTTP message signatures, and a plain one that any language does in five lines.
//! Whoever is refused is told nothing but that; the reason is for the log.

mod limits;
pub(crate) mod plain;
mod rfc9421;
mod shares;

use std::sync::Arc;

use aws_lc_rs::hmac;
use http::HeaderMap;

pub use self::limits::Limits;
pub use self::shares::{Share, Shares};
use crate::cache::{Admitted, CacheError, Nonces, Redis, Toll};
use crate::config::{Merchant, Snapshot};

/// How far a caller's clock may be off, in seconds, either way.
pub const WINDOW: u64 = 300;

/// The head of a request, as received.
pub struct Head<'a> {
    /// As in `POST`.
    pub method: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// From `Host` or `:authority`.
    pub authority: &'a str,
    /// Path and query, raw.
    pub path_and_query: &'a str,
    /// The headers.
    pub headers: &'a HeaderMap,
}

/// Why a request is refused. For the log only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// There is no signature.
    Unsigned,
    /// The signature's own parts are missing or malformed.
    Malformed(&'static str),
    /// No merchant has this key.
    UnknownKey,
    /// Made more than five minutes ago, or in the future.
    OutsideWindow,
    /// The body is not the one that was signed.
    WrongDigest,
    /// The signature is not over this request.
    WrongSignature,
    /// The nonce was used before.
    NonceSeen,
    /// Whether the nonce was used before cannot be found out now.
    NoCache(CacheError),
}

/// What a scheme has found in a request: everything that is left to check in one way for both.
struct Claim {
    key_id: String,
    created: u64,
    expires: Option<u64>,
    nonce: String,
    message: Vec<u8>,
    signature: Vec<u8>,
}

/// What a merchant's rate says, when it is counted for several machines together: go on, or come again after so many seconds.
pub type Counted = Option<Result<(), u64>>;

/// Checks requests and remembers nonces.
pub struct Access {
    nonces: Nonces,
}

impl Access {
    /// Remembers nonces there, or in this machine's memory.
    pub fn new(redis: Option<Arc<Redis>>) -> Self {
        Self { nonces: Nonces::new(redis) }
    }

    /// Finds the merchant who signed this request, and what its rate says if that is counted for several machines together;
    /// `now` is unix seconds.
    pub async fn check(
        &self,
        snapshot: &Snapshot,
        head: &Head<'_>,
        body: &[u8],
        now: u64,
    ) -> Result<(Arc<Merchant>, Counted), Denied> {
        let (merchant, claim) = signed(snapshot, head, body, now)?;
        let rate = merchant.limit.and_then(|allowance| allowance.rate());
        let toll = rate.map(|rate| Toll { merchant: &merchant.name, rate });
        // Last, so that only valid signatures are remembered.
        let end = claim.created.max(now) + 2 * WINDOW;
        let admitted = self.nonces.admit((&merchant.name, &claim.key_id, &claim.nonce), (end, now), toll).await;
        // Behind it, because that is where a loss is noticed.
        if let Some(error) = self.nonces.forgotten(claim.created) {
            return Err(Denied::NoCache(error));
        }
        match admitted.map_err(Denied::NoCache)? {
            Admitted { first_time: true, counted } => Ok((merchant, counted)),
            Admitted { first_time: false, .. } => Err(Denied::NonceSeen),
        }
    }
}

/// Everything but the nonce.
fn signed(snapshot: &Snapshot, head: &Head<'_>, body: &[u8], now: u64) -> Result<(Arc<Merchant>, Claim), Denied> {
    let claim = if head.headers.contains_key("signature-input") {
        rfc9421::read(head, body, |key_id| snapshot.merchant_keys.contains_key(key_id))?
    } else if head.headers.contains_key("x-tollgate-signature") {
        plain::read(head, body)?
    } else {
        return Err(Denied::Unsigned);
    };
    if claim.created.abs_diff(now) > WINDOW || claim.expires.is_some_and(|end| end < now) {
        return Err(Denied::OutsideWindow);
    }
    let known = snapshot.merchant_keys.get(&claim.key_id);
    // An unknown key costs the same time as a wrong signature, so that key ids cannot be found out.
    let secret = known.map_or(b"no such key".as_slice(), |(_, secret)| secret.expose());
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let right = hmac::verify(&key, &claim.message, &claim.signature).is_ok();
    let (merchant, _) = known.ok_or(Denied::UnknownKey)?;
    if !right {
        return Err(Denied::WrongSignature);
    }
    Ok((Arc::clone(merchant), claim))
}

fn is_nonce(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests;
