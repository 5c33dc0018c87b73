//! Token with which a payer's browser watches one payment: it cannot sign requests.
//!
//! A token is stateless: end, key of the payment, and a MAC of 128 bits over both and the order id. It therefore needs
//! no row, and is the same in every repetition of a response. The MAC's key is derived from the secret that all
//! gateways of one ledger share, so each of them accepts the token of another. The merchant's name is not in it.

use std::time::Duration;

use aws_lc_rs::{constant_time, hmac};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use tokio::time::Instant;
use tollgate_ledger::{Ledger, LedgerError, Payment, RecordId, RecordKey};

use crate::problem::Problem;

/// Time after the end of the order during which its token is still accepted.
const GRACE: SignedDuration = SignedDuration::from_mins(10);
/// Assumed lifetime of an order whose end only the provider knows.
const DEFAULT_LIFETIME: SignedDuration = SignedDuration::from_hours(24);
/// Time during which a ledger without a secret is not read again. No token can be valid there.
const NO_SECRET_INTERVAL: Duration = Duration::from_secs(1);
/// Time during which a ledger that failed is not asked again. Responses have no token meanwhile.
const FAILURE_INTERVAL: Duration = Duration::from_secs(1);
/// Length of the MAC in bytes.
const MAC_BYTES: usize = 16;
/// Length of a token's parts in bytes: end, key, MAC.
const TOKEN_BYTES: usize = 8 + 16 + MAC_BYTES;

/// Key of the watch tokens, read from the ledger once.
#[derive(Default)]
pub(crate) struct WatchTokens {
    key: OnceCell<TokenKey>,
    missing_since: Mutex<Option<Instant>>,
    failed_since: Mutex<Option<Instant>>,
}

/// The ledger failed a moment ago.
struct Failed;

impl WatchTokens {
    /// Returns the key that makes tokens. The first call writes to the ledger, so a payment must be claimed before.
    /// `None` if the ledger fails: the response then has no token.
    pub(crate) async fn key(&self, ledger: &Ledger) -> Option<TokenKey> {
        self.key_from(|| ledger.shared_secret()).await
    }

    /// Returns the key that makes tokens if this process has it, without waiting for the ledger.
    pub(crate) fn known_key(&self) -> Option<TokenKey> {
        self.key.get().cloned()
    }

    async fn key_from<R>(&self, secret: impl Fn() -> R) -> Option<TokenKey>
    where
        R: Future<Output = Result<[u8; 32], LedgerError>>,
    {
        // Callers wait for each other here, so only one of them waits for a ledger that fails.
        let read = || async {
            if self.failed_since.lock().is_some_and(|since| since.elapsed() < FAILURE_INTERVAL) {
                return Err(Failed);
            }
            secret().await.map(|secret| TokenKey::derive(&secret)).map_err(|error| {
                tracing::warn!(%error, "the key of the watch tokens cannot be read; responses have no `watch`");
                *self.failed_since.lock() = Some(Instant::now());
                Failed
            })
        };
        self.key.get_or_try_init(read).await.ok().cloned()
    }

    /// Returns the key that checks tokens; `None` if no token was ever made on this ledger.
    pub(super) async fn existing_key(&self, ledger: &Ledger) -> Result<Option<TokenKey>, Problem> {
        if let Some(key) = self.key.get() {
            return Ok(Some(key.clone()));
        }
        if self.missing_since.lock().is_some_and(|since| since.elapsed() < NO_SECRET_INTERVAL) {
            return Ok(None);
        }
        match ledger.find_shared_secret().await.map_err(|error| Problem::ledger(&error))? {
            Some(secret) => Ok(Some(self.key.get_or_init(|| async { TokenKey::derive(&secret) }).await.clone())),
            None => {
                *self.missing_since.lock() = Some(Instant::now());
                Ok(None)
            }
        }
    }
}

/// Key that makes and checks tokens.
#[derive(Clone, Debug)]
pub(crate) struct TokenKey(hmac::Key);

/// Content of a valid token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    /// The payment.
    pub(super) payment: RecordKey,
    /// Time at which the token ends, in Unix seconds.
    pub(super) ends_at: u64,
}

impl TokenKey {
    /// Derives the key from the ledger's shared secret.
    pub(super) fn derive(secret: &[u8]) -> Self {
        let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), b"tollgate watch token 1");
        Self(hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()))
    }

    /// Returns the token of a payment.
    pub(crate) fn token(&self, payment: &Payment) -> String {
        let key = RecordKey::of(&RecordId {
            merchant: payment.merchant.clone(),
            order_id: payment.order_id.clone(),
            refund_id: None,
        });
        let known_end = payment.expires_at.or_else(|| payment.created_at.checked_add(DEFAULT_LIFETIME).ok());
        let end = known_end.and_then(|end| end.checked_add(GRACE).ok()).unwrap_or(Timestamp::MAX);
        let grant = Grant { payment: key, ends_at: u64::try_from(end.as_second()).unwrap_or(0) };
        let mac = self.mac(grant, &payment.order_id);
        let token = [&grant.ends_at.to_be_bytes()[..], &grant.payment.0, &mac].concat();
        BASE64_URL_SAFE_NO_PAD.encode(token)
    }

    /// Returns the content of a token of this order that has not ended. `now` is in Unix seconds.
    pub(super) fn check(&self, token: &str, order_id: &str, now: u64) -> Option<Grant> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).ok().filter(|bytes| bytes.len() == TOKEN_BYTES)?;
        let (end, rest) = bytes.split_first_chunk::<8>()?;
        let (payment, mac) = rest.split_first_chunk::<16>()?;
        let grant = Grant { payment: RecordKey(*payment), ends_at: u64::from_be_bytes(*end) };
        constant_time::verify_slices_are_equal(mac, &self.mac(grant, order_id)).ok()?;
        (now < grant.ends_at).then_some(grant)
    }

    fn mac(&self, grant: Grant, order_id: &str) -> [u8; MAC_BYTES] {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(&grant.ends_at.to_be_bytes());
        context.update(&grant.payment.0);
        context.update(order_id.as_bytes());
        let mut mac = [0; MAC_BYTES];
        let tag = context.sign();
        mac.copy_from_slice(&tag.as_ref()[..MAC_BYTES]);
        mac
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tollgate_ledger::testing::a_payment;

    use super::*;

    #[test]
    fn token_is_accepted_for_its_order_until_ten_minutes_after_the_orders_end() {
        let key = TokenKey::derive(&[7; 32]);
        let end = Timestamp::from_second(2_000_000_000).unwrap();
        let payment = Payment { expires_at: Some(end), ..a_payment("o") };
        let token = key.token(&payment);
        assert_eq!(token, TokenKey::derive(&[7; 32]).token(&payment), "another gateway makes the same token");
        let grant = key.check(&token, "o", 2_000_000_599).unwrap();
        assert_eq!(grant.ends_at, 2_000_000_600);
        assert_eq!(key.check(&token, "o", 2_000_000_600), None, "it has ended");
        assert_eq!(key.check(&token, "p", 1), None, "another order");
        assert_eq!(TokenKey::derive(&[8; 32]).check(&token, "o", 1), None, "another ledger");
        let other = Payment { merchant: "other".into(), ..payment.clone() };
        assert_ne!(key.check(&key.token(&other), "o", 1).unwrap().payment, grant.payment);
        let open = Payment { expires_at: None, ..payment };
        let created_at = u64::try_from(open.created_at.as_second()).unwrap();
        assert_eq!(key.check(&key.token(&open), "o", 1).unwrap().ends_at, created_at + 86_400 + 600);
    }

    #[tokio::test(start_paused = true)]
    async fn failing_ledger_is_asked_by_one_caller_a_second_for_the_key() {
        let (tokens, reads) = (WatchTokens::default(), std::cell::Cell::new(0));
        let secret = |fails: bool| {
            let reads = &reads;
            async move {
                reads.set(reads.get() + 1);
                tokio::time::sleep(Duration::from_secs(7)).await;
                if fails { Err(LedgerError::Timeout) } else { Ok([7; 32]) }
            }
        };
        let before = Instant::now();
        let answers = futures_util::future::join_all((0..100).map(|_| tokens.key_from(|| secret(true)))).await;
        assert!(answers.iter().all(Option::is_none) && tokens.known_key().is_none());
        assert_eq!((reads.get(), before.elapsed().as_secs()), (1, 7), "nobody waits for a second read");
        tokio::time::advance(FAILURE_INTERVAL).await;
        assert!(tokens.key_from(|| secret(false)).await.is_some() && tokens.known_key().is_some());
        assert!(tokens.key_from(|| secret(true)).await.is_some());
        assert_eq!(reads.get(), 2);
    }

    #[test]
    fn every_changed_byte_or_length_invalidates_a_token() {
        let key = TokenKey::derive(&[7; 32]);
        let token = key.token(&a_payment("o"));
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(&token).unwrap();
        for place in 0..bytes.len() {
            let mut forged = bytes.clone();
            forged[place] ^= 1;
            assert_eq!(key.check(&BASE64_URL_SAFE_NO_PAD.encode(forged), "o", 1), None, "{place}");
        }
        for wrong in ["", "a", "%", &token[1..], &format!("{token}A"), "\u{e4}"] {
            assert_eq!(key.check(wrong, "o", 1), None, "{wrong}");
        }
    }
}
