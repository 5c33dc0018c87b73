//! Checks Redis periodically, and once for `tollgate check`.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::redis::Redis;
use crate::telemetry::METRICS;

/// Interval at which writes and the marker are checked.
const REDIS_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Number of checks after which the settings and counters are read.
const CHECKS_PER_SETTINGS_READ: u32 = 30;

/// Checks Redis periodically until shutdown.
pub async fn run(redis: Option<Arc<Redis>>, mut stop: watch::Receiver<bool>) {
    let Some(redis) = redis else { return METRICS.stores.cache_ready.set(1) };
    let mut checks = 0;
    loop {
        let is_there = redis.check().await.is_ok();
        if is_there && checks % CHECKS_PER_SETTINGS_READ == 0 {
            settings(&redis).await;
        }
        checks = if is_there { checks + 1 } else { 0 };
        tokio::select! {
            () = tokio::time::sleep(REDIS_CHECK_INTERVAL) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Checks a server once, for `tollgate check`.
pub async fn probe(redis: &Redis) -> Result<String, String> {
    redis.check().await.map_err(|error| error.0)?;
    settings(redis).await;
    Ok(match redis.health.eviction_policy().as_deref() {
        Some("noeviction") => "reached, and it evicts nothing".to_owned(),
        Some(policy) => {
            format!("reached; it evicts nonces when its memory is full (maxmemory-policy {policy}): set noeviction")
        }
        None => "reached; it does not report its eviction policy".to_owned(),
    })
}

async fn settings(redis: &Redis) {
    match redis.info(None).await {
        Ok(info) => redis.health.read(&info),
        Err(error) => redis.health.has_no_info(&error.0),
    }
}
