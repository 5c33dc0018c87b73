//! Nonces in a Redis server shared by several gateways. The same round trip counts the merchant's rate limit.

use std::sync::Arc;
use std::time::Instant;

use redis::{SetExpiry, SetOptions};
use tollgate_plugins::filter::limit::Rate;

use super::counters::{TAKE, interval, take, verdict};
use super::redis::Redis;
use super::{Admitted, CacheError, Capacity, Remembered, memory, nonce_mark};
use crate::clock::unix_now;

/// Nonces in Redis. Each is a key of its own with an expiry.
pub(crate) struct Nonces {
    redis: Arc<Redis>,
    /// Nonces that this process accepted, in case Redis loses data.
    own: memory::Nonces,
}

/// Capacity of the local copy. Redis is authoritative; the copy only detects a loss.
const LOCAL_CAPACITY: Capacity = Capacity { total: 16_000_000, is_shared: false };

/// Token bucket that an admitted request takes a token from.
#[derive(Clone, Copy)]
pub(crate) struct RateCheck<'a> {
    pub(crate) merchant: &'a str,
    pub(crate) rate: Rate,
}

impl Nonces {
    pub(super) fn new(redis: Arc<Redis>) -> Self {
        Self { redis, own: memory::Nonces::default() }
    }

    /// Returns whether a signature of that Unix second may have been used before Redis lost data.
    pub(super) fn has_forgotten(&self, created: u64) -> bool {
        self.redis.health.has_forgotten(created, (unix_now(), Instant::now()))
    }

    pub(super) async fn admit(
        &self,
        (merchant, mark): (&str, [u8; 16]),
        (end, now): (u64, u64),
        rate_check: Option<RateCheck<'_>>,
    ) -> Result<Admitted, CacheError> {
        let admitted = self.shared((merchant, mark), end.saturating_sub(now).max(1), rate_check).await?;
        // A rate-limited request stores nothing, neither in Redis nor here.
        if !admitted.first_time || matches!(admitted.counted, Some(Err(_))) {
            return Ok(admitted);
        }
        match self.own.remember(nonce_mark::NonceMark { hash: mark, end }, "", LOCAL_CAPACITY, now) {
            Remembered::First => Ok(admitted),
            Remembered::Seen => Ok(Admitted { first_time: false, ..admitted }),
            Remembered::Forgotten => Err(CacheError("the clock of this machine was set back".to_owned())),
            Remembered::Full => Err(CacheError("this machine can store no more nonces".to_owned())),
        }
    }

    /// Takes a token of the merchant's bucket without a nonce. `None` if Redis does not answer.
    pub(super) async fn take_token(&self, RateCheck { merchant, rate }: RateCheck<'_>) -> Option<Result<(), u64>> {
        take(&self.redis, &bucket_key(merchant), rate).await
    }

    /// Returns whether this process accepted the nonce.
    pub(super) fn is_seen(&self, mark: &nonce_mark::NonceMark) -> bool {
        self.own.is_seen(mark)
    }

    async fn shared(
        &self,
        (merchant, mark): (&str, [u8; 16]),
        seconds: u64,
        rate_check: Option<RateCheck<'_>>,
    ) -> Result<Admitted, CacheError> {
        // The part in braces decides the slot: a script in a Redis cluster may use only one.
        let key = format!("tollgate:nonce:{{{merchant}}}:{}", hex::encode(mark));
        // A random value identifies the writer: after a lost reply, the retry must recognize its own entry.
        let own = hex::encode(rand::random::<[u8; 16]>());
        let command = match rate_check {
            Some(rate_check) => admission(&key, &own, seconds, rate_check),
            None => set_once(&key, &own, seconds),
        };
        let answer = match self.redis.ask_surely(&command).await {
            // Retried also because a restart of the server shows only at the next command.
            Err(_) => self.redis.ask_surely(&command).await?,
            Ok(answer) => answer,
        };
        let wrong = |error: redis::ParsingError| CacheError(error.to_string());
        if rate_check.is_none() {
            let known: Option<String> = redis::from_redis_value(answer).map_err(wrong)?;
            return Ok(Admitted { first_time: known.is_none_or(|known| known == own), counted: None });
        }
        let (first_time, wait): (bool, i64) = redis::from_redis_value(answer).map_err(wrong)?;
        Ok(Admitted { first_time, counted: first_time.then(|| verdict(wait)) })
    }
}

/// Returns the key of a merchant's bucket. The part in braces decides the slot, as for the nonces of the merchant.
fn bucket_key(merchant: &str) -> String {
    format!("tollgate:limit:{{{merchant}}}")
}

/// Returns a command that sets the key if it is missing, and returns the existing value.
fn set_once(key: &str, own: &str, seconds: u64) -> redis::Cmd {
    let options = SetOptions::default()
        .conditional_set(redis::ExistenceCheck::NX)
        .get(true)
        .with_expiration(SetExpiry::EX(seconds));
    let mut command = redis::cmd("SET");
    command.arg(key).arg(own).arg(options);
    command
}

/// Like [`set_once`], but also takes a token. A replay takes none, and a rate-limited request sets no key.
fn admission(key: &str, own: &str, seconds: u64, RateCheck { merchant, rate }: RateCheck<'_>) -> redis::Cmd {
    const ADMIT: &str = "\
local known = redis.call('GET', KEYS[1])
if known then return {known == ARGV[1] and 1 or 0, 0} end
local wait = take(KEYS[2], tonumber(ARGV[3]), tonumber(ARGV[4]))
if wait == 0 then redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2]) end
return {1, wait}";
    let mut command = redis::cmd("EVAL");
    command.arg(format!("{TAKE}{ADMIT}")).arg(2);
    command.arg(key).arg(bucket_key(merchant));
    command.arg(own).arg(seconds).arg(interval(rate)).arg(rate.burst);
    command
}
