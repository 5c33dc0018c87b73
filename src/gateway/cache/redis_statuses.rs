//! Statuses in Redis, where every gateway finds them, and a single flight of status queries in the cluster.
//!
//! [`cached_status`](super::cached_status) has what is stored, [`statuses`](super::statuses) decides what is current. Without Redis,
//! each gateway queries for itself.
//!
//! Why it exists: a provider gets one query per order and lifetime, not one per gateway. With `ttl_pending` of 2 s, three gateways
//! would triple the queries about every open order, and providers limit them.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use redis::{FromRedisValue, Value};
use tollgate_ledger::{RecordKey, Version};

use super::cached_status::{CachedStatus, PROPAGATION_SLACK, Token};
use super::redis::Redis;

/// Lifetime of the right to query. Longer than any provider query takes.
const LEASE_TIMEOUT: Duration = Duration::from_secs(15);
/// Interval at which a waiting gateway checks for the result.
const LEASE_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Returns a stored status, or grants the right to query, or reports that another gateway queries. `ARGV[3]` names a lease whose
/// status is not wanted; `*` means all so far.
const LOOK_UP: &str = "\
local e = redis.call('HMGET', KEYS[1], 'created', 'version', 'life', 'stale', 'channel', 'body', 'flight', 'asked')
if e[7] and ARGV[3] ~= '*' and e[7] ~= ARGV[3] then
  return {'found', e[1], e[2], e[3], e[4], e[5], e[6], e[8], redis.call('PTTL', KEYS[1])}
end
if redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then return {'asks'} end
return {'waits', e[7] or ''}";

/// Stores a status unless a newer one is stored, and ends the lease.
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

/// Statuses shared by the gateways on one ledger.
pub(crate) struct RedisStatuses {
    redis: Arc<Redis>,
    /// Identity of the ledger, once known.
    ledger: OnceLock<String>,
}

/// Right to query the provider for the cluster.
pub(crate) struct QueryLease(String);

/// Result of a cluster lookup.
pub(crate) enum ClusterLookup {
    /// A stored status with its remaining lifetime.
    Hit(Arc<CachedStatus>, Duration),
    /// This gateway must query.
    Leader(QueryLease),
    /// Redis is unavailable.
    Unavailable,
}

enum LookupReply {
    Found { status: CachedStatus, stored_for: Duration, left: Duration },
    Granted,
    InProgress(String),
}

impl RedisStatuses {
    pub(super) fn new(redis: Arc<Redis>) -> Self {
        Self { redis, ledger: OnceLock::new() }
    }

    /// Returns whether the identity of the ledger is known and Redis responds.
    pub(super) fn is_ready(&self) -> bool {
        self.ledger.get().is_some() && !self.redis.is_gone()
    }

    /// Sets the identity of the ledger that the statuses belong to.
    pub(super) fn set_ledger(&self, ledger: String) {
        let _ = self.ledger.set(ledger);
    }

    /// Looks up a status; waits while another gateway queries. `forced` rejects statuses that are already stored.
    /// `is_current` decides by the version of a status and the time since it was stored.
    pub(super) async fn find(
        &self,
        name: RecordKey,
        forced: bool,
        is_current: impl Fn(Version, Duration) -> bool,
    ) -> ClusterLookup {
        let (lease_id, began) = (hex::encode(rand::random::<[u8; 8]>()), Instant::now());
        let mut unwanted = if forced { "*".to_owned() } else { String::new() };
        while began.elapsed() < LEASE_TIMEOUT {
            match self.look_up(name, &lease_id, &unwanted).await {
                None => return ClusterLookup::Unavailable,
                Some(LookupReply::Granted) => return ClusterLookup::Leader(QueryLease(lease_id)),
                Some(LookupReply::Found { status, stored_for, left }) => {
                    let is_wanted = !forced || status.is_from_provider;
                    if is_wanted && is_current(status.age, stored_for) {
                        return ClusterLookup::Hit(Arc::new(status), left);
                    }
                    "*".clone_into(&mut unwanted);
                }
                Some(LookupReply::InProgress(lease)) => {
                    if unwanted == "*" {
                        unwanted = lease;
                    }
                    tokio::time::sleep(LEASE_POLL_INTERVAL).await;
                }
            }
        }
        ClusterLookup::Unavailable
    }

    async fn look_up(&self, name: RecordKey, lease_id: &str, unwanted: &str) -> Option<LookupReply> {
        let [answer, lease] = self.keys(name)?;
        let mut command = redis::cmd("EVAL");
        command.arg(LOOK_UP).arg(2).arg(answer).arg(lease);
        command.arg(lease_id).arg(LEASE_TIMEOUT.as_millis() as u64).arg(unwanted);
        parse_reply(self.redis.try_ask(&command).await.ok()?)
    }

    /// Stores a status for the other gateways if it was read a moment ago, and ends the lease.
    pub(super) async fn put(
        &self,
        name: RecordKey,
        QueryLease(lease_id): QueryLease,
        token: Token,
        status: &CachedStatus,
        life: Duration,
    ) {
        let Some([answer, lease]) = self.keys(name) else { return };
        if token.at.elapsed() > PROPAGATION_SLACK / 2 || life.is_zero() {
            return self.end(name, QueryLease(lease_id)).await;
        }
        let mut command = redis::cmd("EVAL");
        command.arg(PUT).arg(2).arg(answer).arg(lease);
        command.arg(status.age.created).arg(status.age.version).arg(life.as_millis() as u64);
        command.arg(u8::from(status.is_stale)).arg(&status.channel).arg(status.body.as_ref()).arg(lease_id);
        command.arg(u8::from(status.is_from_provider));
        // If it cannot be stored, each gateway queries for itself.
        let _ = self.redis.try_ask(&command).await;
    }

    /// Ends a lease without a result.
    pub(super) async fn end(&self, name: RecordKey, QueryLease(lease_id): QueryLease) {
        let Some([_, lease]) = self.keys(name) else { return };
        let mut command = redis::cmd("EVAL");
        command.arg(END).arg(1).arg(lease).arg(lease_id);
        let _ = self.redis.try_ask(&command).await;
    }

    fn keys(&self, RecordKey(name): RecordKey) -> Option<[String; 2]> {
        let (ledger, name) = (self.ledger.get()?, hex::encode(name));
        // The part in braces decides the slot: a script in a Redis cluster may use only one.
        Some(["status", "asking"].map(|kind| format!("tollgate:{kind}:{ledger}:{{{name}}}")))
    }
}

fn parse_reply(answer: Value) -> Option<LookupReply> {
    let parts: Vec<Value> = redis::from_redis_value(answer).ok()?;
    let mut parts = parts.into_iter();
    let kind: String = next(&mut parts)?;
    match kind.as_str() {
        "asks" => Some(LookupReply::Granted),
        "waits" => next(&mut parts).map(LookupReply::InProgress),
        _ => {
            let age = Version { created: next(&mut parts)?, version: next(&mut parts)? };
            let life: u64 = next(&mut parts)?;
            let is_stale = next::<u8>(&mut parts)? == 1;
            let (channel, body): (String, Vec<u8>) = (next(&mut parts)?, next(&mut parts)?);
            let is_from_provider = next::<u8>(&mut parts)? == 1;
            let left = u64::try_from(next::<i64>(&mut parts)?).ok()?;
            let status = CachedStatus { body: Bytes::from(body), channel, age, is_from_provider, is_stale };
            let [stored_for, left] = [life.saturating_sub(left), left].map(Duration::from_millis);
            Some(LookupReply::Found { status, stored_for, left })
        }
    }
}

fn next<T: FromRedisValue>(parts: &mut impl Iterator<Item = Value>) -> Option<T> {
    redis::from_redis_value(parts.next()?).ok()
}

#[cfg(test)]
mod tests;
