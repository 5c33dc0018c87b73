//! Authenticates merchants: a valid signature by one of a merchant's keys, made within five minutes, with a new
//! nonce.
//!
//! Two schemes are supported: RFC 9421 HTTP message signatures, and a simple HMAC scheme in `x-tollgate-*` headers. A
//! rejected caller gets no reason; the log does.

mod fair_share;
pub(crate) mod hmac_headers;
mod limits;
pub(crate) mod message;
mod rfc9421;

use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::hmac;
use http::HeaderMap;
use tollgate_config::Merchant;

pub use self::fair_share::{FairShare, FairSharePermit};
pub use self::limits::Limits;
use crate::cache::{CacheError, Capacity, Nonce, Nonces, NotAdmitted, RateCheck, Redis};
use crate::clock::unix_now;
use crate::snapshot::Snapshot;

/// Maximum difference between the signature's time and the gateway's clock, in seconds, in both directions.
pub const WINDOW: u64 = 300;

/// Head of a request as received.
pub struct Head<'a> {
    /// HTTP method.
    pub method: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// From `Host` or `:authority`.
    pub authority: &'a str,
    /// Path and query as received.
    pub path_and_query: &'a str,
    /// Request headers.
    pub headers: &'a HeaderMap,
}

/// Reason for a rejection. It appears in the log only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The request has no signature.
    Unsigned,
    /// A part of the signature is missing or malformed.
    Malformed(&'static str),
    /// No merchant has this key.
    UnknownKey,
    /// The signature is older than five minutes, or in the future.
    OutsideWindow,
    /// The body differs from its signed digest.
    WrongDigest,
    /// The signature does not match the request.
    WrongSignature,
    /// Another merchant signed the message of a source.
    OtherMerchant,
    /// The nonce says that the signature is for HTTP and not for this source, or the other way round.
    OtherDestination,
    /// The message's signature is older than the source allows.
    TooOld,
    /// The message's signature is from the future.
    InFuture,
    /// The nonce was used before.
    NonceSeen,
    /// The nonce may have been used before this process started, or before the clock was set back.
    MaybeSeen,
    /// The nonce store is full.
    NoRoom,
    /// The merchant exceeds its rate; seconds until a retry.
    OverRate(u64),
    /// The cache that detects repeated nonces is unavailable.
    NoCache(CacheError),
}

/// A parsed signature: the inputs of the checks that both schemes share.
struct SignedRequest {
    key_id: String,
    created: u64,
    expires: Option<u64>,
    nonce: String,
    message: Vec<u8>,
    signature: Vec<u8>,
}

/// A request with a valid signature whose nonce is not recorded yet.
pub struct Signed {
    /// The merchant whose key signed the request.
    pub merchant: Arc<Merchant>,
    key_id: String,
    nonce: String,
    created: u64,
}

/// Checks signatures and records nonces.
pub struct Access {
    nonces: Nonces,
}

impl Access {
    /// Creates an instance that records nonces in Redis, or without Redis in memory until the process ends.
    pub fn new(redis: Option<Arc<Redis>>) -> Self {
        Self { nonces: Nonces::new(redis, None, 0, WINDOW) }
    }

    /// Like [`new`](Self::new). Without Redis, nonces are also written to `directory` for the next process.
    pub fn kept_in(redis: Option<Arc<Redis>>, directory: &Path) -> Self {
        Self { nonces: Nonces::new(redis, Some(directory), unix_now(), WINDOW) }
    }

    /// Returns the merchant who signed this request. `now` is in Unix seconds. Nothing is recorded or counted yet.
    pub fn authenticate(&self, snapshot: &Snapshot, head: &Head<'_>, body: &[u8], now: u64) -> Result<Signed, Denied> {
        let (merchant, request) =
            signed(snapshot, head, body, |request| in_window(request.created, request.expires, now))?;
        if message::is_for_a_queue(&request.nonce) {
            return Err(Denied::OtherDestination);
        }
        let signed = Signed { merchant, key_id: request.key_id, nonce: request.nonce, created: request.created };
        // A repeated nonce is rejected here, so that it uses none of the merchant's rate.
        if self.nonces.is_seen(signed.nonce()) { Err(Denied::NonceSeen) } else { Ok(signed) }
    }

    /// Records the nonce, unless it is known or the merchant exceeds its rate. `take_token` takes a token of the rate
    /// if the rate is counted on this machine. `now` is in Unix seconds.
    pub async fn admit(
        &self,
        snapshot: &Snapshot,
        signed: &Signed,
        now: u64,
        take_token: impl FnOnce() -> Result<(), u64>,
    ) -> Result<(), Denied> {
        let rate_check = rate_check(&signed.merchant);
        let capacity = Capacity { total: snapshot.process.nonces, is_shared: snapshot.config.merchants.len() > 1 };
        let admitted = self.nonces.admit(signed.nonce(), capacity, (now, WINDOW), rate_check, take_token).await;
        admitted.map_err(|denial| match denial {
            NotAdmitted::Seen => Denied::NonceSeen,
            NotAdmitted::OverRate(seconds) => Denied::OverRate(seconds),
            NotAdmitted::Forgotten => Denied::MaybeSeen,
            NotAdmitted::Full => Denied::NoRoom,
            NotAdmitted::NoCache(error) => Denied::NoCache(error),
        })
    }
}

impl Access {
    /// Takes a token of the merchant's rate for a message of a source, whose nonce is not recorded. The error is the seconds
    /// until a retry. `take_token` is as in [`admit`](Self::admit).
    pub(crate) async fn admit_message(
        &self,
        merchant: &Merchant,
        take_token: impl FnOnce() -> Result<(), u64>,
    ) -> Result<(), u64> {
        self.nonces.take_token(rate_check(merchant), take_token).await
    }
}

fn rate_check(merchant: &Merchant) -> Option<RateCheck<'_>> {
    let rate = merchant.limit.and_then(|allowance| allowance.rate());
    rate.map(|rate| RateCheck { merchant: &merchant.name, rate })
}

impl Signed {
    fn nonce(&self) -> Nonce<'_> {
        let (merchant, key_id, nonce) = (&self.merchant.name, &self.key_id, &self.nonce);
        Nonce { merchant, key_id, nonce, end: self.created.saturating_add(WINDOW) }
    }
}

/// The parameters of a signature in the head.
struct SignatureParameters {
    key_id: String,
    created: u64,
    expires: Option<u64>,
}

/// Checks the head alone: a signature whose time is in the window. A request that fails here is rejected without
/// reading its body. Unknown key ids make no difference, so that key ids cannot be probed. `now` is in Unix seconds.
pub(crate) fn plausible(head: &Head<'_>, now: u64) -> Result<(), Denied> {
    let is_now = |parameters: &SignatureParameters| in_window(parameters.created, parameters.expires, now);
    match scheme(head)? {
        Scheme::MessageSignature => rfc9421::plausible(head, is_now),
        Scheme::Plain => is_now(&hmac_headers::parameters(head)?),
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

/// Checks everything except the nonce, and the time by `is_in_time`.
fn signed(
    snapshot: &Snapshot,
    head: &Head<'_>,
    body: &[u8],
    is_in_time: impl FnOnce(&SignedRequest) -> Result<(), Denied>,
) -> Result<(Arc<Merchant>, SignedRequest), Denied> {
    let request = match scheme(head)? {
        Scheme::MessageSignature => rfc9421::read(head, body, |key_id| snapshot.merchant_keys.contains_key(key_id))?,
        Scheme::Plain => hmac_headers::read(head, body)?,
    };
    let merchant_key = snapshot.merchant_keys.get(&request.key_id);
    // Verifying with a dummy secret takes equal time for an unknown key, so that key ids cannot be probed.
    let secret = merchant_key.map_or(b"no such key".as_slice(), |(_, secret)| secret.expose());
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let is_valid = hmac::verify(&key, &request.message, &request.signature).is_ok();
    is_in_time(&request)?;
    let (merchant, _) = merchant_key.ok_or(Denied::UnknownKey)?;
    if !is_valid {
        return Err(Denied::WrongSignature);
    }
    Ok((Arc::clone(merchant), request))
}

fn is_nonce(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests;
