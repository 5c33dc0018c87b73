//! Frees a replaced snapshot in the background.

use std::sync::Arc;
use std::time::Duration;

use tollgate_config::cpu::yield_cpu;

use super::background::run_low_priority;
use crate::snapshot::Snapshot;
use crate::telemetry::LABELS;

/// Interval at which the reference count of an old snapshot is checked.
const RECLAIM_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Frees a snapshot once no request uses it. Freeing ten thousand channels takes a while, so it runs on a background thread.
pub(super) async fn reclaim(mut old: Arc<Snapshot>) {
    loop {
        match Arc::try_unwrap(old) {
            Ok(last) => {
                run_low_priority(move || free(last)).await;
                return;
            }
            Err(used) => old = used,
        }
        tokio::time::sleep(RECLAIM_CHECK_INTERVAL).await;
    }
}

/// Frees the snapshot piece by piece, yielding the CPU in between, and unregisters its metric labels.
fn free(last: Snapshot) {
    LABELS.unregister(&last.config.merchants, &last.channels);
    let Snapshot { config, channels, merchant_keys, .. } = last;
    drop(merchant_keys);
    channels.into_values().for_each(|channel| {
        drop(channel);
        yield_cpu();
    });
    config.channels.into_values().for_each(|channel| {
        drop(channel);
        yield_cpu();
    });
    config.merchants.into_values().for_each(|merchant| {
        drop(merchant);
        yield_cpu();
    });
}
