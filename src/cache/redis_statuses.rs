//! Answers to status queries in Redis, where every machine finds them, and one question at a time in the whole cluster.
//!
//! What may be believed of what is found here, [`statuses`](super::statuses) says. Redis gone: each machine asks for itself.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use redis::{FromRedisValue, Value};

use super::redis::Redis;
use super::statuses::{CachedStatus, PROPAGATION_SLACK, StatusCache, Token};
use crate::ledger::{RecordKey, Version};

/// How long a question is its asker's. Longer than any provider's answer takes.
const FLIGHT: Duration = Duration::from_secs(15);
/// How often it is seen whether another machine has its answer.
const LOOK: Duration = Duration::from_millis(20);

/// Gives an answer that is good, or the right to ask, or says that another machine asks; `ARGV[3]` names the flight of which the
/// answer is not wanted, `*` every flight so far.
const LOOK_UP: &str = "\
local e = redis.call('HMGET', KEYS[1], 'created', 'version', 'life', 'stale', 'channel', 'body', 'flight', 'asked')
if e[7] and ARGV[3] ~= '*' and e[7] ~= ARGV[3] then
  return {'found', e[1], e[2], e[3], e[4], e[5], e[6], e[8], redis.call('PTTL', KEYS[1])}
end
if redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then return {'asks'} end
return {'waits', e[7] or ''}";

/// Puts an answer there, unless there is a newer one, and ends the flight.
const PUT: &str = "\
if redis.call('GET', KEYS[2]) == ARGV[7] then redis.call('DEL', KEYS[2]) end
local e = redis.call('HMGET', KEYS[1], 'created', 'version')
local created, version = tonumber(e[1] or -1), tonumber(e[2] or -1)
local c, v = tonumber(ARGV[1]), tonumber(ARGV[2])
if c < created or (c == created and v < version) then return 0 end
redis.call('HSET', KEYS[1], 'created', ARGV[1], 'version', ARGV[2], 'life', ARGV[3], 'stale', ARGV[4], 'channel', ARGV[5],
  'body', ARGV[6], 'flight', ARGV[7], 'asked', ARGV[8])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1";

const END: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end";

/// The answers that machines on one ledger share.
pub(crate) struct RedisStatuses {
    redis: Arc<Redis>,
    /// Which ledger they are about, once that is known.
    ledger: OnceLock<String>,
}

/// The right to ask the provider.
pub(crate) struct Flight(String);

/// What another machine knows.
pub(crate) enum ClusterLookup {
    /// An answer that is good for so long yet.
    Hit(Arc<CachedStatus>, Duration),
    /// This machine is to ask.
    Leader(Flight),
    /// Nobody can say.
    Unavailable,
}

enum Looked {
    Found { status: CachedStatus, lay: Duration, left: Duration },
    Asks,
    Waits(String),
}

impl RedisStatuses {
    pub(super) fn new(redis: Arc<Redis>) -> Self {
        Self { redis, ledger: OnceLock::new() }
    }

    /// Whether it is known which ledger the answers are about, and Redis answers.
    pub(super) fn is_ready(&self) -> bool {
        self.ledger.get().is_some() && !self.redis.is_gone()
    }

    /// From now on it is known which ledger the answers are about.
    pub(super) fn is_about(&self, ledger: String) {
        let _ = self.ledger.set(ledger);
    }

    /// Waits, if need be, for the answer that another machine is getting. `forced`: no answer that is there already.
    pub(super) async fn elsewhere(&self, statuses: &StatusCache, name: RecordKey, forced: bool) -> ClusterLookup {
        let (own, began) = (hex::encode(rand::random::<[u8; 8]>()), Instant::now());
        let mut unwanted = if forced { "*".to_owned() } else { String::new() };
        while began.elapsed() < FLIGHT {
            match self.look(name, &own, &unwanted).await {
                None => return ClusterLookup::Unavailable,
                Some(Looked::Asks) => return ClusterLookup::Leader(Flight(own)),
                Some(Looked::Found { status, lay, left }) => {
                    let is_wanted = !forced || status.is_asked;
                    if is_wanted && statuses.is_current(name, status.age, lay, Instant::now()) {
                        return ClusterLookup::Hit(Arc::new(status), left);
                    }
                    "*".clone_into(&mut unwanted);
                }
                Some(Looked::Waits(flight)) => {
                    if unwanted == "*" {
                        unwanted = flight;
                    }
                    tokio::time::sleep(LOOK).await;
                }
            }
        }
        ClusterLookup::Unavailable
    }

    async fn look(&self, name: RecordKey, own: &str, unwanted: &str) -> Option<Looked> {
        let [answer, flight] = self.keys(name)?;
        let mut command = redis::cmd("EVAL");
        command.arg(LOOK_UP).arg(2).arg(answer).arg(flight);
        command.arg(own).arg(FLIGHT.as_millis() as u64).arg(unwanted);
        looked(self.redis.try_ask(&command).await.ok()?)
    }

    /// Puts an answer there for the others, if it was read a moment ago, and ends the flight.
    pub(super) async fn put(
        &self,
        name: RecordKey,
        Flight(own): Flight,
        token: Token,
        status: &CachedStatus,
        life: Duration,
    ) {
        let Some([answer, flight]) = self.keys(name) else { return };
        if token.at.elapsed() > PROPAGATION_SLACK / 2 || life.is_zero() {
            return self.end(name, Flight(own)).await;
        }
        let mut command = redis::cmd("EVAL");
        command.arg(PUT).arg(2).arg(answer).arg(flight);
        command.arg(status.age.created).arg(status.age.version).arg(life.as_millis() as u64);
        command.arg(u8::from(status.is_stale)).arg(&status.channel).arg(status.body.as_ref()).arg(own);
        command.arg(u8::from(status.is_asked));
        // What could not be put there is found out by each for himself.
        let _ = self.redis.try_ask(&command).await;
    }

    /// Ends a flight that came to no answer.
    pub(super) async fn end(&self, name: RecordKey, Flight(own): Flight) {
        let Some([_, flight]) = self.keys(name) else { return };
        let mut command = redis::cmd("EVAL");
        command.arg(END).arg(1).arg(flight).arg(own);
        let _ = self.redis.try_ask(&command).await;
    }

    fn keys(&self, RecordKey(name): RecordKey) -> Option<[String; 2]> {
        let (ledger, name) = (self.ledger.get()?, hex::encode(name));
        // In braces what decides the slot: a script in a cluster may touch only one.
        Some(["status", "asking"].map(|kind| format!("tollgate:{kind}:{ledger}:{{{name}}}")))
    }
}

fn looked(answer: Value) -> Option<Looked> {
    let parts: Vec<Value> = redis::from_redis_value(answer).ok()?;
    let mut parts = parts.into_iter();
    let kind: String = next(&mut parts)?;
    match kind.as_str() {
        "asks" => Some(Looked::Asks),
        "waits" => next(&mut parts).map(Looked::Waits),
        _ => {
            let age = Version { created: next(&mut parts)?, version: next(&mut parts)? };
            let life: u64 = next(&mut parts)?;
            let is_stale = next::<u8>(&mut parts)? == 1;
            let (channel, body): (String, Vec<u8>) = (next(&mut parts)?, next(&mut parts)?);
            let is_asked = next::<u8>(&mut parts)? == 1;
            let left = u64::try_from(next::<i64>(&mut parts)?).ok()?;
            let status = CachedStatus { body: Bytes::from(body), channel, age, is_asked, is_stale };
            let [lay, left] = [life.saturating_sub(left), left].map(Duration::from_millis);
            Some(Looked::Found { status, lay, left })
        }
    }
}

fn next<T: FromRedisValue>(parts: &mut impl Iterator<Item = Value>) -> Option<T> {
    redis::from_redis_value(parts.next()?).ok()
}

#[cfg(test)]
mod tests;
