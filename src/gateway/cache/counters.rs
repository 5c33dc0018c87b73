//! Shared rate limits: token buckets counted for all gateways together.
//!
//! A bucket is one number in Redis: the time at which it will be full again (GCRA). A script reads and changes it atomically, by
//! the server's clock. Without Redis, each gateway counts alone.

use std::sync::Arc;

use async_trait::async_trait;
use redis::Value;
use tollgate_plugins::filter::Counter;
use tollgate_plugins::filter::limit::Rate;

use super::redis::Redis;

/// Takes a token. Returns 0, or the microseconds until one is available. All times are in microseconds.
pub(super) const TAKE: &str = "\
local function take(key, interval, burst)
  local time = redis.call('TIME')
  local now, most = time[1] * 1000000 + time[2], interval * burst
  local full = tonumber(redis.call('GET', key) or now)
  full = math.min(math.max(full, now), now + most) + interval
  if full - now > most + 1 then return math.ceil(full - now - most) end
  redis.call('SET', key, string.format('%.0f', full), 'PX', math.ceil((full - now) / 1000) + 1)
  return 0
end
";

/// Shared rate limits of merchants and channels.
#[derive(Clone, Default)]
pub(crate) struct Counters(Option<Arc<Redis>>);

impl Counters {
    pub(crate) fn new(redis: Option<Arc<Redis>>) -> Self {
        Self(redis)
    }
}

#[async_trait]
impl Counter for Counters {
    async fn take(&self, name: &str, rate: Rate) -> Option<Result<(), u64>> {
        let redis = self.0.as_ref()?;
        take(redis, &format!("tollgate:limit:{name}:{}:{}", rate.per_second, rate.burst), rate).await
    }
}

/// Takes a token of the bucket with this key. `None` if Redis does not answer.
pub(super) async fn take(redis: &Redis, key: &str, rate: Rate) -> Option<Result<(), u64>> {
    let mut command = redis::cmd("EVAL");
    command.arg(format!("{TAKE}return take(KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2]))"));
    command.arg(1).arg(key).arg(interval(rate)).arg(rate.burst);
    match redis.try_ask(&command).await.ok()? {
        Value::Int(wait) => Some(verdict(wait)),
        _ => None,
    }
}

/// Returns the microseconds between two tokens.
pub(super) fn interval(rate: Rate) -> f64 {
    1_000_000.0 / rate.per_second
}

/// Converts the wait to a verdict; the error is the whole seconds until a retry is worthwhile.
pub(super) fn verdict(wait: i64) -> Result<(), u64> {
    match u64::try_from(wait) {
        Ok(0) | Err(_) => Ok(()),
        Ok(wait) => Err(wait.div_ceil(1_000_000).max(1)),
    }
}
