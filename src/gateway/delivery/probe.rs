//! Probe of every sink that keeps a connection, for `tollgate check --probe`.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::sinks::Sinks;
use crate::probe::MAX_CONCURRENT_PROBES;
use crate::snapshot::Snapshot;

/// Result of connecting to one sink.
pub struct SinkProbe {
    /// Merchant that owns the sink; `None` for one of the operator.
    pub merchant: Option<String>,
    /// Name of the sink.
    pub sink: String,
    /// Reason why it cannot be reached.
    pub result: Result<(), String>,
}

/// Connects to every sink of a snapshot. The operator's come first, then the merchants' by name. A merchant's webhook is not
/// probed.
pub async fn probe_sinks(snapshot: &Snapshot) -> Vec<SinkProbe> {
    let permits = Arc::new(Semaphore::new(MAX_CONCURRENT_PROBES));
    let mut probes = JoinSet::new();
    let operators = Sinks::new().follow_operators(snapshot).added.into_iter().map(|(name, sink)| (None, name, sink));
    let merchants = Sinks::new().follow(snapshot).added.into_iter().map(|(subscription, sink)| {
        let (merchant, name) = subscription.split_once('/').unwrap_or((&subscription, ""));
        (Some(merchant.to_owned()), name.to_owned(), sink)
    });
    for (merchant, name, sink) in operators.chain(merchants) {
        let (permits, process) = (Arc::clone(&permits), Arc::clone(&snapshot.process));
        probes.spawn(async move {
            let _permit = permits.acquire_owned().await;
            let result = sink.connect(&process.webhook_allow).await.map_err(|error| error.to_string());
            SinkProbe { merchant, sink: name, result }
        });
    }
    let mut results = probes.join_all().await;
    results.sort_by(|one, other| (&one.merchant, &one.sink).cmp(&(&other.merchant, &other.sink)));
    results
}
