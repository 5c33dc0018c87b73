//! Channels' hosts are reached before a payment needs them: looked up and kept looked up, and connected to as soon as their
//! channel is put in force, in the background; not again while reloads leave its connections as they are. A host that cannot be
//! reached is told loudly and refuses nothing: a name server's or a provider's trouble must not keep an operator from changing
//! the configuration.

mod command;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

pub use self::command::check;
use crate::config::{Channel, Current, Snapshot};
use crate::telemetry::METRICS;
use crate::upstream::Upstream;
use crate::upstream::probe::{ProbeError, ProbeSuccess};

/// How often new channels and old addresses are looked for.
const EVERY: Duration = Duration::from_millis(500);
/// Channels that are probed at the same time.
const AT_ONCE: usize = 8;
/// How long until what could not be reached is tried again: at first, doubled until the last.
const AGAIN: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(600));

/// What came of the probes.
#[derive(Default)]
pub struct Probes(Mutex<BTreeMap<String, ChannelProbes>>);

/// One channel's.
struct ChannelProbes {
    /// Which connections of the channel: another key, host or authority makes others.
    upstream: Weak<Upstream>,
    /// By host; nothing while it is under way for the first time.
    results: Vec<(String, Option<Result<ProbeSuccess, ProbeError>>)>,
    again: Option<Instant>,
    failures: u32,
}

impl ChannelProbes {
    fn is_of(&self, channel: &Channel) -> bool {
        self.upstream.as_ptr() == Arc::as_ptr(&channel.upstream)
    }
}

/// Looks names up and probes what is put in force, until told to stop.
pub async fn run(probes: Arc<Probes>, current: Current, mut stop: watch::Receiver<bool>) {
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut tick = tokio::time::interval(EVERY);
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
            let (probes, turns) = (Arc::clone(&probes), Arc::clone(&turns));
            tokio::spawn(async move {
                let Ok(_turn) = turns.acquire_owned().await else { return };
                let results = channel.upstream.probe().await;
                probes.put(&channel, results);
            });
        }
    }
}

impl Probes {
    /// The channels to probe now, which are on the board from now on. Those that are gone go from it.
    fn due(&self, snapshot: &Snapshot) -> Vec<Arc<Channel>> {
        let mut boards = self.0.lock();
        boards.retain(|name, _| snapshot.channels.contains_key(name));
        let mut due = Vec::new();
        for (name, channel) in &snapshot.channels {
            match boards.get_mut(name) {
                Some(board) if board.is_of(channel) => {
                    if board.again.is_some_and(|again| again <= Instant::now()) {
                        board.again = None;
                        due.push(Arc::clone(channel));
                    }
                }
                _ => {
                    let results = channel.upstream.labels().map(|host| (host, None)).collect();
                    let upstream = Arc::downgrade(&channel.upstream);
                    boards.insert(name.clone(), ChannelProbes { upstream, results, again: None, failures: 0 });
                    due.push(Arc::clone(channel));
                }
            }
        }
        due
    }

    /// Puts results on the board, unless the channel is another one meanwhile; tells what is new.
    fn put(&self, channel: &Channel, results: Vec<(String, Result<ProbeSuccess, ProbeError>)>) {
        let mut boards = self.0.lock();
        let Some(board) = boards.get_mut(&channel.name).filter(|board| board.is_of(channel)) else {
            return;
        };
        for ((host, result), (_, before)) in results.iter().zip(&board.results) {
            let is_new = match (before, result) {
                (Some(Ok(_)), Ok(_)) => false,
                (Some(Err(before)), Err(now)) => before != now,
                _ => true,
            };
            match result {
                _ if !is_new => {}
                Ok(reached) => tracing::info!(channel = channel.name, host, "the host was reached: {reached}"),
                Err(trouble) => {
                    let advice = trouble.advice();
                    tracing::error!(channel = channel.name, host, advice, "a payment would not get through: {trouble}");
                }
            }
        }
        let has_failed = results.iter().any(|(_, result)| result.is_err());
        let (first, last) = AGAIN;
        board.again = has_failed.then(|| Instant::now() + first.saturating_mul(1 << board.failures.min(16)).min(last));
        board.failures = if has_failed { board.failures.saturating_add(1) } else { 0 };
        board.results = results.into_iter().map(|(host, result)| (host, Some(result))).collect();
    }

    /// A line for each channel and host.
    pub fn listed(&self, snapshot: &Snapshot) -> String {
        let (boards, mut lines) = (self.0.lock(), String::new());
        for channel in snapshot.channels.values() {
            let board = boards.get(&channel.name).filter(|board| board.is_of(channel));
            for (number, host) in channel.upstream.labels().enumerate() {
                let said = match board.and_then(|board| board.results.get(number)?.1.as_ref()) {
                    None => "under way".to_owned(),
                    Some(Ok(reached)) => reached.to_string(),
                    Some(Err(trouble)) => format!("{trouble} ({})", trouble.advice()),
                };
                lines += &format!("{} {host}: {said}\n", channel.name);
            }
        }
        if lines.is_empty() { "there are no channels\n".to_owned() } else { lines }
    }

    /// Brings the gauges up to date. What is gone is not told any more.
    pub fn tell(&self, snapshot: &Snapshot) {
        METRICS.channel_probe.reset();
        for (channel, board) in &*self.0.lock() {
            for (host, result) in &board.results {
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::file::load;
    use crate::config::file::tests::{edit, sandbox};

    #[test]
    fn only_new_connections_are_probed() {
        let dir = sandbox();
        let file = "channels/wechat.toml";
        let (probes, first) = (Probes::default(), load(dir.path(), None).unwrap());
        let due = |snapshot: &Snapshot| -> Vec<String> {
            probes.due(snapshot).iter().map(|channel| channel.name.clone()).collect()
        };
        assert!(due(&first).contains(&"wechat".to_owned()));
        assert!(due(&first).is_empty(), "once");
        edit(&dir, file, "\nrate = 600", "\nrate = 1");
        let second = load(dir.path(), Some(&first)).unwrap();
        assert!(!Arc::ptr_eq(&first.channels["wechat"], &second.channels["wechat"]));
        assert!(due(&second).is_empty(), "it goes on with its connections");
        edit(&dir, file, "connect = \"1s\"", "connect = \"2s\"");
        let third = load(dir.path(), Some(&second)).unwrap();
        assert_eq!(due(&third), ["wechat"]);
    }
}
