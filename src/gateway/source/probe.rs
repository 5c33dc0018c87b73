//! Probe of every source, for `tollgate check --probe`: login, queue, and exchange for refused messages.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::link::Link;
use crate::probe::MAX_CONCURRENT_PROBES;
use crate::snapshot::Snapshot;

/// Result of connecting to one source.
pub struct SourceProbe {
    /// Merchant that owns the source.
    pub merchant: String,
    /// Name of the source.
    pub source: String,
    /// True if refused messages have an exchange. Otherwise nobody but the broker knows what becomes of them.
    pub keeps_refused: bool,
    /// Reason why it cannot be consumed.
    pub result: Result<(), String>,
}

/// Connects to every source of a snapshot, sorted by merchant and name. Consumes nothing.
pub async fn probe_sources(snapshot: &Snapshot) -> Vec<SourceProbe> {
    let permits = Arc::new(Semaphore::new(MAX_CONCURRENT_PROBES));
    let mut probes = JoinSet::new();
    for ((merchant, source), config) in super::configured(snapshot) {
        let (permits, process) = (Arc::clone(&permits), Arc::clone(&snapshot.process));
        probes.spawn(async move {
            let _permit = permits.acquire_owned().await;
            let opened = Link::open(&config, &process.webhook_allow).await;
            let result = match opened {
                Ok(link) => {
                    link.close().await;
                    Ok(())
                }
                Err(error) => Err(error.to_string()),
            };
            SourceProbe { merchant, source, keeps_refused: config.dead_letter.is_some(), result }
        });
    }
    let mut results = probes.join_all().await;
    results.sort_by(|one, other| (&one.merchant, &one.source).cmp(&(&other.merchant, &other.source)));
    results
}
