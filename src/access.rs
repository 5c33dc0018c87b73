//! Who is asking: a signature by one of a merchant's keys, made within five minutes, never seen before.
//!
//! Two schemes say the same thing: RFC 9421 HTTP message signatures, and a plain one that any language does in five lines.
//! Whoever is refused is told nothing but that; the reason is for the log.

mod fair_share;
pub(crate) mod hmac_headers;
mod limits;
mod rfc9421;

use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::hmac;
use http::HeaderMap;

pub use self::fair_share::{FairShare, FairSharePermit};
pub use self::limits::Limits;
use crate::cache::{CacheError, Capacity, Nonce, Nonces, NotAdmitted, RateCheck, Redis};
use crate::clock::unix_now;
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
    /// The nonce may have been used before this process started, or before the clock was set back.
    MaybeSeen,
    /// There is no room to remember the nonce.
    NoRoom,
    /// The merchant is over its rate; seconds until the same request may come again.
    OverRate(u64),
    /// Whether the nonce was used before cannot be found out now.
    NoCache(CacheError),
}

/// What a scheme has found in a request: everything that is left to check in one way for both.
struct SignedRequest {
    key_id: String,
    created: u64,
    expires: Option<u64>,
    nonce: String,
    message: Vec<u8>,
    signature: Vec<u8>,
}

/// A request with a right signature whose nonce is not remembered yet.
pub struct Signed {
    /// Who signed it.
    pub merchant: Arc<Merchant>,
    key_id: String,
    nonce: String,
    created: u64,
}

/// Checks requests and remembers nonces.
pub struct Access {
    nonces: Nonces,
}

impl Access {
    /// Remembers nonces in Redis, or in this machine's memory until the process ends.
    pub fn new(redis: Option<Arc<Redis>>) -> Self {
        Self { nonces: Nonces::new(redis, None, 0, WINDOW) }
    }

    /// The same; what is remembered in memory is written down in this directory for the next process.
    pub fn kept_in(redis: Option<Arc<Redis>>, directory: &Path) -> Self {
        Self { nonces: Nonces::new(redis, Some(directory), unix_now(), WINDOW) }
    }

    /// Finds the merchant who signed this request; `now` is unix seconds. Nothing is remembered or counted yet.
    pub fn authenticate(&self, snapshot: &Snapshot, head: &Head<'_>, body: &[u8], now: u64) -> Result<Signed, Denied> {
        let (merchant, claim) = signed(snapshot, head, body, now)?;
        let signed = Signed { merchant, key_id: claim.key_id, nonce: claim.nonce, created: claim.created };
        // A repetition uses up nothing of its merchant's.
        if self.nonces.is_seen(signed.nonce()) { Err(Denied::NonceSeen) } else { Ok(signed) }
    }

    /// Lets a request in once: remembers its nonce, unless its merchant is over its rate. `take` takes a token of the rate
    /// where it is not counted for several machines together. `now` is unix seconds.
    pub async fn admit(
        &self,
        snapshot: &Snapshot,
        signed: &Signed,
        now: u64,
        take: impl FnOnce() -> Result<(), u64>,
    ) -> Result<(), Denied> {
        let rate = signed.merchant.limit.and_then(|allowance| allowance.rate());
        let toll = rate.map(|rate| RateCheck { merchant: &signed.merchant.name, rate });
        let capacity = Capacity { total: snapshot.process.nonces, is_shared: snapshot.merchants.len() > 1 };
        let admitted = self.nonces.admit(signed.nonce(), capacity, (now, WINDOW), toll, take).await;
        admitted.map_err(|not| match not {
            NotAdmitted::Seen => Denied::NonceSeen,
            NotAdmitted::OverRate(seconds) => Denied::OverRate(seconds),
            NotAdmitted::Forgotten => Denied::MaybeSeen,
            NotAdmitted::Full => Denied::NoRoom,
            NotAdmitted::NoCache(error) => Denied::NoCache(error),
        })
    }
}

impl Signed {
    fn nonce(&self) -> Nonce<'_> {
        let (merchant, key_id, nonce) = (&self.merchant.name, &self.key_id, &self.nonce);
        Nonce { merchant, key_id, nonce, end: self.created.saturating_add(WINDOW) }
    }
}

/// What the head alone says of a signature.
struct Announced {
    key_id: String,
    created: u64,
    expires: Option<u64>,
}

/// Checks what the head alone says: a signature, made within the window. The body need not be read for what fails here.
/// Whether the key id is known makes no difference, so that key ids cannot be found out. `now` is unix seconds.
pub(crate) fn plausible(head: &Head<'_>, now: u64) -> Result<(), Denied> {
    let is_now = |announced: &Announced| in_window(announced.created, announced.expires, now);
    match scheme(head)? {
        Scheme::MessageSignature => rfc9421::plausible(head, is_now),
        Scheme::Plain => is_now(&hmac_headers::announced(head)?),
    }
}

enum Scheme {
    MessageSignature,
    Plain,
}

fn scheme(head: &Head<'_>) -> Result<Scheme, Denied> {
    if head.headers.contains_key("signature-input") {
        Ok(Scheme::MessageSignature)
    } else if head.headers.contains_key("x-tollgate-signature") {
        Ok(Scheme::Plain)
    } else {
        Err(Denied::Unsigned)
    }
}

fn in_window(created: u64, expires: Option<u64>, now: u64) -> Result<(), Denied> {
    match created.abs_diff(now) > WINDOW || expires.is_some_and(|end| end < now) {
        true => Err(Denied::OutsideWindow),
        false => Ok(()),
    }
}

/// Everything but the nonce.
fn signed(
    snapshot: &Snapshot,
    head: &Head<'_>,
    body: &[u8],
    now: u64,
) -> Result<(Arc<Merchant>, SignedRequest), Denied> {
    let claim = match scheme(head)? {
        Scheme::MessageSignature => rfc9421::read(head, body, |key_id| snapshot.merchant_keys.contains_key(key_id))?,
        Scheme::Plain => hmac_headers::read(head, body)?,
    };
    let known = snapshot.merchant_keys.get(&claim.key_id);
    // An unknown key costs the same time as a wrong signature, so that key ids cannot be found out.
    let secret = known.map_or(b"no such key".as_slice(), |(_, secret)| secret.expose());
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let right = hmac::verify(&key, &claim.message, &claim.signature).is_ok();
    in_window(claim.created, claim.expires, now)?;
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
