//! Probes the channels' hosts in the background before a payment needs them: resolves their names and connects as
//! soon as their channel is in force. A reload that keeps a channel's connections causes no new probe. An unreachable
//! host is logged as an error but blocks nothing, because an operator must be able to change the configuration during
//! an outage.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tollgate_config::OperatorEventType;

use crate::operator_events::{Details, OperatorEvent, emit};
use crate::snapshot::{Channel, Current, Snapshot};
use crate::telemetry::METRICS;
use crate::upstream::Upstream;
use crate::upstream::probe::{ProbeError, ProbeSuccess};

/// Interval for checking for new channels and due retries.
const PROBE_CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// Maximum number of channels probed at the same time.
pub const MAX_CONCURRENT_PROBES: usize = 8;
/// First and last retry interval after a failed probe; doubles in between.
const PROBE_RETRY_INTERVALS: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(600));

/// Results of the probes by channel.
#[derive(Default)]
pub struct Probes(Mutex<BTreeMap<String, ChannelProbes>>);

/// Probe state of one channel.
struct ChannelProbes {
    /// The probed connections. A change of key, host or authority creates new ones.
    upstream: Weak<Upstream>,
    /// Result per host; `None` during the first probe.
    results: Vec<(String, Option<Result<ProbeSuccess, ProbeError>>)>,
    next_retry: Option<Instant>,
    failures: u32,
}

impl ChannelProbes {
    fn is_of(&self, channel: &Channel) -> bool {
        self.upstream.as_ptr() == Arc::as_ptr(&channel.upstream)
    }
}

/// Resolves names and probes new channels, until shutdown.
pub async fn run(probes: Arc<Probes>, current: Current, mut stop: watch::Receiver<bool>) {
    let permits = Arc::new(Semaphore::new(MAX_CONCURRENT_PROBES));
    let mut tick = tokio::time::interval(PROBE_CHECK_INTERVAL);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let snapshot = current.load_full();
        for channel in snapshot.channels.values() {
            channel.upstream.refresh();
        }
        for channel in probes.due(&snapshot) {
            let (probes, permits) = (Arc::clone(&probes), Arc::clone(&permits));
            tokio::spawn(async move {
                let Ok(_permit) = permits.acquire_owned().await else { return };
                let results = channel.upstream.probe().await;
                probes.record(&channel, results);
            });
        }
    }
}

impl Probes {
    /// Returns the channels to probe now and registers them. Removes channels that are no longer configured.
    fn due(&self, snapshot: &Snapshot) -> Vec<Arc<Channel>> {
        let mut channels = self.0.lock();
        channels.retain(|name, _| snapshot.channels.contains_key(name));
        let mut due = Vec::new();
        for (name, channel) in &snapshot.channels {
            match channels.get_mut(name) {
                Some(entry) if entry.is_of(channel) => {
                    if entry.next_retry.is_some_and(|next_retry| next_retry <= Instant::now()) {
                        entry.next_retry = None;
                        due.push(Arc::clone(channel));
                    }
                }
                _ => {
                    let results = channel.upstream.labels().map(|host| (host, None)).collect();
                    let upstream = Arc::downgrade(&channel.upstream);
                    channels.insert(name.clone(), ChannelProbes { upstream, results, next_retry: None, failures: 0 });
                    due.push(Arc::clone(channel));
                }
            }
        }
        due
    }

    /// Records the results, unless the channel's connections were replaced meanwhile. Logs changes.
    fn record(&self, channel: &Channel, results: Vec<(String, Result<ProbeSuccess, ProbeError>)>) {
        let mut channels = self.0.lock();
        let Some(entry) = channels.get_mut(&channel.name).filter(|entry| entry.is_of(channel)) else {
            return;
        };
        for ((host, result), (_, before)) in results.iter().zip(&entry.results) {
            let is_new = match (before, result) {
                (Some(Ok(_)), Ok(_)) => false,
                (Some(Err(before)), Err(now)) => before != now,
                _ => true,
            };
            match result {
                _ if !is_new => {}
                Ok(success) => tracing::info!(channel = channel.name, host, "the host was reached: {success}"),
                Err(error) => {
                    let advice = error.advice();
                    tracing::error!(
                        channel = channel.name,
                        host,
                        advice,
                        "payments on this channel would fail: {error}"
                    );
                    emit([probe_failed(&channel.name, host, error)]);
                }
            }
        }
        let has_failed = results.iter().any(|(_, result)| result.is_err());
        let (first, last) = PROBE_RETRY_INTERVALS;
        entry.next_retry =
            has_failed.then(|| Instant::now() + first.saturating_mul(1 << entry.failures.min(16)).min(last));
        entry.failures = if has_failed { entry.failures.saturating_add(1) } else { 0 };
        entry.results = results.into_iter().map(|(host, result)| (host, Some(result))).collect();
    }

    /// Returns one line per channel and host.
    pub fn list(&self, snapshot: &Snapshot) -> String {
        let (channels, mut lines) = (self.0.lock(), String::new());
        for channel in snapshot.channels.values() {
            let entry = channels.get(&channel.name).filter(|entry| entry.is_of(channel));
            for (number, host) in channel.upstream.labels().enumerate() {
                let result = match entry.and_then(|entry| entry.results.get(number)?.1.as_ref()) {
                    None => "in progress".to_owned(),
                    Some(Ok(success)) => success.to_string(),
                    Some(Err(error)) => format!("{error} ({})", error.advice()),
                };
                lines += &format!("{} {host}: {result}\n", channel.name);
            }
        }
        if lines.is_empty() { "there are no channels\n".to_owned() } else { lines }
    }

    /// Updates the gauges. Removed channels disappear from them.
    pub fn update_metrics(&self, snapshot: &Snapshot) {
        METRICS.channel_probe.reset();
        for (channel, entry) in &*self.0.lock() {
            for (host, result) in &entry.results {
                if let Some(result) = result {
                    METRICS.channel_probe.with_label_values(&[channel, host]).set(i64::from(result.is_ok()));
                }
            }
        }
        METRICS.upstream_addresses.reset();
        for channel in snapshot.channels.values() {
            for (host, known, unhealthy) in channel.upstream.addresses() {
                for (state, count) in [("known", known), ("unhealthy", unhealthy)] {
                    let gauge = METRICS.upstream_addresses.with_label_values(&[channel.name.as_str(), &host, state]);
                    gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
                }
            }
        }
    }
}

fn probe_failed(channel: &str, host: &str, error: &ProbeError) -> OperatorEvent {
    let details = Details {
        cause: format!("Payments on this channel would fail: {error}"),
        advice: error.advice().to_owned(),
        channel: channel.to_owned(),
        host: host.to_owned(),
        ..Details::default()
    };
    OperatorEvent::new(OperatorEventType::ProbeFailed, details)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tollgate_config::testing::edit;

    use super::*;
    use crate::snapshot::load;
    use crate::snapshot::testing::sandbox;

    #[test]
    fn reload_probes_only_changed_connections() {
        let dir = sandbox();
        let file = "channels/wechat.toml";
        let (probes, first) = (Probes::default(), load(dir.path(), None).unwrap());
        let due = |snapshot: &Snapshot| -> Vec<String> {
            probes.due(snapshot).iter().map(|channel| channel.name.clone()).collect()
        };
        assert!(due(&first).contains(&"wechat".to_owned()));
        assert!(due(&first).is_empty(), "probed once");
        edit(&dir, file, "\nrate = 600", "\nrate = 1");
        let second = load(dir.path(), Some(&first)).unwrap();
        assert!(!Arc::ptr_eq(&first.channels["wechat"], &second.channels["wechat"]));
        assert!(due(&second).is_empty(), "it keeps its connections");
        edit(&dir, file, "connect = \"1s\"", "connect = \"2s\"");
        let third = load(dir.path(), Some(&second)).unwrap();
        assert_eq!(due(&third), ["wechat"]);
    }
}
