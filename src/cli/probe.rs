//! `tollgate check --probe`: reports for every channel whether its hosts are reachable and its provider's keys
//! available, and for every sink and source whether it can be reached, with advice for failures.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tollgate_config::Diagnostic;
use tollgate_gateway::cache::Redis;
use tollgate_gateway::delivery::{SinkProbe, probe_sinks};
use tollgate_gateway::provider_keys;
use tollgate_gateway::snapshot;
use tollgate_gateway::source::{SourceProbe, probe_sources};

use crate::output::{complain, say};
use tollgate_gateway::probe::MAX_CONCURRENT_PROBES;

/// Probes the channels of a configuration directory. Configuration errors were reported before.
pub(crate) fn run(dir: &Path) -> ExitCode {
    let Ok(runtime) = tokio::runtime::Runtime::new() else {
        complain!("tollgate: cannot start a runtime");
        return ExitCode::FAILURE;
    };
    let Ok(snapshot) = snapshot::load(dir, None) else { return ExitCode::FAILURE };
    let results = runtime.block_on(async {
        let permits = Arc::new(Semaphore::new(MAX_CONCURRENT_PROBES));
        let mut probes = JoinSet::new();
        for channel in snapshot.channels.values() {
            let (channel, permits) = (Arc::clone(channel), Arc::clone(&permits));
            probes.spawn(async move {
                let _permit = permits.acquire_owned().await;
                let hosts = channel.upstream.probe().await;
                // Without a reachable host, fetching keys would only repeat the same error.
                let is_reached = hosts.iter().any(|(_, result)| result.is_ok());
                let keys = if is_reached { provider_keys::fetch_now(&channel).await } else { None };
                (channel.name.clone(), hosts, keys)
            });
        }
        let mut results = probes.join_all().await;
        results.sort_by(|(left, ..), (right, ..)| left.cmp(right));
        results
    });
    let mut unreached = 0;
    let mut channels_without_keys = 0;
    for (channel, hosts, keys) in results {
        let file = dir.join("channels").join(format!("{channel}.toml"));
        match keys {
            None => {}
            Some(Ok(count)) => say!("{channel} keys: {count} fetched from the provider"),
            Some(Err(cause)) => {
                channels_without_keys += 1;
                let message = format!(
                    "nothing would be sent, because there is no key to verify the provider's response: {cause}"
                );
                complain!("{}", Diagnostic::in_file(file.clone(), message, Some(cause.advice)));
            }
        }
        for (host, result) in hosts {
            match result {
                Ok(success) => say!("{channel} {host}: {success}"),
                Err(problem) => {
                    unreached += 1;
                    complain!(
                        "{}",
                        Diagnostic::in_file(file.clone(), format!("{host}: {problem}"), Some(problem.advice()))
                    );
                }
            }
        }
    }
    // A sink that cannot be reached is no error: its events wait.
    for SinkProbe { merchant, sink, result } in runtime.block_on(probe_sinks(&snapshot)) {
        match result {
            Ok(()) => say!("{} {sink}: reached", merchant.as_deref().unwrap_or("operator")),
            Err(why) => {
                let file = match &merchant {
                    Some(merchant) => dir.join("merchants").join(format!("{merchant}.toml")),
                    None => dir.join("tollgate.toml"),
                };
                let advice = match merchant {
                    Some(_) => {
                        "its events wait; check `url`, `ca` and `exchange` of the sink, and that the broker runs"
                    }
                    None => {
                        "its events are retried for an hour; check `url` of the sink, and that the destination runs"
                    }
                };
                complain!("{}", Diagnostic::in_file(file, format!("the sink `{sink}`: {why}"), Some(advice)));
            }
        }
    }
    report_sources(dir, runtime.block_on(probe_sources(&snapshot)));
    if let Some(redis) = Redis::from_config(&snapshot.process.cache) {
        match runtime.block_on(tollgate_gateway::cache::watch::probe(&redis)) {
            Ok(success) => say!("Redis: {success}"),
            Err(why) => {
                unreached += 1;
                let advice = "check `cache.url`, its password, and that the server accepts writes";
                complain!("{}", Diagnostic::in_file(dir.join("tollgate.toml"), format!("Redis: {why}"), Some(advice)));
            }
        }
    }
    for (count, noun, problem) in
        [(unreached, "host", "could not be reached"), (channels_without_keys, "channel", "without a key")]
    {
        if count > 0 {
            complain!("{}: {count} {noun}{} {problem}", dir.display(), if count == 1 { "" } else { "s" });
        }
    }
    if unreached + channels_without_keys == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Reports the sources. One that cannot be reached is no error: its messages wait in their queue.
fn report_sources(dir: &Path, probes: Vec<SourceProbe>) {
    for SourceProbe { merchant, source, keeps_refused, result } in probes {
        let file = dir.join("merchants").join(format!("{merchant}.toml"));
        let warn = |message: String, advice: &str| {
            complain!("{}", Diagnostic::in_file(file.clone(), message, Some(advice)));
        };
        match result {
            Ok(()) => say!("{merchant} {source}: reached"),
            Err(why) => warn(
                format!("the source `{source}`: {why}"),
                "its messages wait; check `url`, `ca`, `queue` and `dead_letter` of the source, and that the broker runs",
            ),
        }
        if !keeps_refused {
            warn(
                format!(
                    "the source `{source}`: a refused message is lost unless the broker has a dead-letter policy for the queue"
                ),
                "set `dead_letter` to an exchange, which gets it with the reason, or add such a policy (nobody but the broker can see it)",
            );
        }
    }
}
