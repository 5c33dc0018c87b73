//! Nonces in a Redis server that several machines share; what a merchant's limit allows is counted on the same way.

use std::sync::Arc;
use std::time::Instant;

use redis::{SetExpiry, SetOptions};
use tollgate_plugins::filter::limit::Rate;

use super::counters::{TAKE, interval, verdict};
use super::redis::Redis;
use super::{Admitted, CacheError, Capacity, Remembered, memory};
use crate::clock::unix_now;

/// Each nonce is a key of its own, which Redis forgets by itself.
pub(crate) struct Nonces {
    redis: Arc<Redis>,
    /// Those that passed here, should Redis lose what it knows.
    own: memory::Nonces,
}

/// Redis is what remembers; these only tell when it has lost something.
const OWN: Capacity = Capacity { total: 16_000_000, is_shared: false };

/// A bucket from which a request takes a token, if it is let in.
#[derive(Clone, Copy)]
pub(crate) struct RateCheck<'a> {
    pub(crate) merchant: &'a str,
    pub(crate) rate: Rate,
}

impl Nonces {
    pub(super) fn new(redis: Arc<Redis>) -> Self {
        Self { redis, own: memory::Nonces::default() }
    }

    /// Whether a signature of that unix second may have been used before Redis forgot.
    pub(super) fn has_forgotten(&self, created: u64) -> bool {
        self.redis.watched.has_forgotten(created, (unix_now(), Instant::now()))
    }

    pub(super) async fn admit(
        &self,
        (merchant, mark): (&str, [u8; 16]),
        (end, now): (u64, u64),
        toll: Option<RateCheck<'_>>,
    ) -> Result<Admitted, CacheError> {
        let admitted = self.shared((merchant, mark), end.saturating_sub(now).max(1), toll).await?;
        // A request over its rate leaves nothing behind, here as there.
        if !admitted.first_time || matches!(admitted.counted, Some(Err(_))) {
            return Ok(admitted);
        }
        match self.own.remember(memory::Mark { hash: mark, end }, "", OWN, now) {
            Remembered::First => Ok(admitted),
            Remembered::Seen => Ok(Admitted { first_time: false, ..admitted }),
            Remembered::Forgotten => Err(CacheError("the clock of this machine was set back".to_owned())),
            Remembered::Full => Err(CacheError("this machine can remember no more nonces".to_owned())),
        }
    }

    /// Whether it passed here.
    pub(super) fn is_seen(&self, mark: &memory::Mark) -> bool {
        self.own.is_seen(mark)
    }

    async fn shared(
        &self,
        (merchant, mark): (&str, [u8; 16]),
        seconds: u64,
        toll: Option<RateCheck<'_>>,
    ) -> Result<Admitted, CacheError> {
        // In braces what decides the slot: a script in a cluster may touch only one.
        let key = format!("tollgate:nonce:{{{merchant}}}:{}", hex::encode(mark));
        // Who set it: when an answer is lost, the second try must know its own mark from somebody else's.
        let own = hex::encode(rand::random::<[u8; 16]>());
        let command = match toll {
            Some(toll) => admission(&key, &own, seconds, toll),
            None => set_once(&key, &own, seconds),
        };
        let answer = match self.redis.ask_surely(&command).await {
            // Also after the server's restart: the connection notices only now.
            Err(_) => self.redis.ask_surely(&command).await?,
            Ok(answer) => answer,
        };
        let wrong = |error: redis::ParsingError| CacheError(error.to_string());
        if toll.is_none() {
            let known: Option<String> = redis::from_redis_value(answer).map_err(wrong)?;
            return Ok(Admitted { first_time: known.is_none_or(|known| known == own), counted: None });
        }
        let (first_time, wait): (bool, i64) = redis::from_redis_value(answer).map_err(wrong)?;
        Ok(Admitted { first_time, counted: first_time.then(|| verdict(wait)) })
    }
}

/// Sets the key if it is not there; gives what was there.
fn set_once(key: &str, own: &str, seconds: u64) -> redis::Cmd {
    let options = SetOptions::default()
        .conditional_set(redis::ExistenceCheck::NX)
        .get(true)
        .with_expiration(SetExpiry::EX(seconds));
    let mut command = redis::cmd("SET");
    command.arg(key).arg(own).arg(options);
    command
}

/// The same, if a token could be taken. A repetition takes none, and a request over its rate sets no key.
fn admission(key: &str, own: &str, seconds: u64, RateCheck { merchant, rate }: RateCheck<'_>) -> redis::Cmd {
    const ADMIT: &str = "\
local known = redis.call('GET', KEYS[1])
if known then return {known == ARGV[1] and 1 or 0, 0} end
local wait = take(KEYS[2], tonumber(ARGV[3]), tonumber(ARGV[4]))
if wait == 0 then redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2]) end
return {1, wait}";
    let mut command = redis::cmd("EVAL");
    command.arg(format!("{TAKE}{ADMIT}")).arg(2);
    command.arg(key).arg(format!("tollgate:limit:{{{merchant}}}"));
    command.arg(own).arg(seconds).arg(interval(rate)).arg(rate.burst);
    command
}
