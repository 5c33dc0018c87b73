//! What becomes of a generation that was replaced.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Snapshot;
use crate::config::background::{run_low_priority, yield_cpu};
use crate::telemetry::LABELS;

/// How often it is looked whether nobody uses an old generation any more.
const RETIRED_EVERY: Duration = Duration::from_millis(100);

/// Frees a generation once nobody works with it, where no request waits for that: ten thousand channels take a while.
pub(super) async fn retire(mut old: Arc<Snapshot>) {
    loop {
        match Arc::try_unwrap(old) {
            Ok(last) => {
                run_low_priority(move || free(last)).await;
                return;
            }
            Err(used) => old = used,
        }
        tokio::time::sleep(RETIRED_EVERY).await;
    }
}

/// Piece by piece, so that others get their turns. Nobody tells of its names any more.
fn free(last: Snapshot) {
    LABELS.unregister(&last);
    let Snapshot { channels, merchants, merchant_keys, .. } = last;
    drop(merchant_keys);
    channels.into_values().for_each(|channel| {
        drop(channel);
        yield_cpu();
    });
    merchants.into_values().for_each(|merchant| {
        drop(merchant);
        yield_cpu();
    });
}
