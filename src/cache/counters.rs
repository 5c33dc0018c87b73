//! How many calls a second are taken, counted for all machines together.
//!
//! A bucket of tokens is one number in Redis: when it will be full again (GCRA). It is looked at and changed in one step
//! there, by the server's own clock. Where Redis is not there, each machine counts alone.

use std::sync::Arc;

use async_trait::async_trait;
use redis::Value;
use tollgate_plugins::filter::Counter;
use tollgate_plugins::filter::limit::Rate;

use super::redis::Redis;

/// Takes a token: gives the microseconds until there is one, 0 when it was taken. All times are microseconds.
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

/// What merchants and channels share of their limits.
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
        let mut command = redis::cmd("EVAL");
        command.arg(format!("{TAKE}return take(KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2]))"));
        command.arg(1).arg(format!("tollgate:limit:{name}:{}:{}", rate.per_second, rate.burst));
        command.arg(interval(rate)).arg(rate.burst);
        let answer = redis.try_ask(&command).await.ok()?;
        match answer {
            Value::Int(wait) => Some(verdict(wait)),
            _ => None,
        }
    }
}

/// Microseconds between two tokens.
pub(super) fn interval(rate: Rate) -> f64 {
    1_000_000.0 / rate.per_second
}

/// Or the whole seconds after which it is worth another try.
pub(super) fn verdict(wait: i64) -> Result<(), u64> {
    match u64::try_from(wait) {
        Ok(0) | Err(_) => Ok(()),
        Ok(wait) => Err(wait.div_ceil(1_000_000).max(1)),
    }
}
