//! `tollgate check --probe`: says of every channel whether its hosts can be reached, and what to do where they cannot.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::AT_ONCE;
use crate::config::file;
use crate::config::report::Mistake;
use crate::output::{complain, say};

/// Probes what is in the directory; its mistakes have been told already.
pub fn check(dir: &Path) -> ExitCode {
    let Ok(runtime) = tokio::runtime::Runtime::new() else {
        complain!("tollgate: cannot start a runtime");
        return ExitCode::FAILURE;
    };
    let Ok(snapshot) = file::load(dir, None) else { return ExitCode::FAILURE };
    let results = runtime.block_on(async {
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        let mut probes = JoinSet::new();
        for channel in snapshot.channels.values() {
            let (channel, turns) = (Arc::clone(channel), Arc::clone(&turns));
            probes.spawn(async move {
                let _turn = turns.acquire_owned().await;
                (channel.name.clone(), channel.upstream.probe().await)
            });
        }
        let mut results = probes.join_all().await;
        results.sort_by(|(one, _), (other, _)| one.cmp(other));
        results
    });
    let mut unreached = 0;
    for (channel, hosts) in results {
        for (host, result) in hosts {
            match result {
                Ok(reached) => say!("{channel} {host}: {reached}"),
                Err(trouble) => {
                    unreached += 1;
                    let file = dir.join("channels").join(format!("{channel}.toml"));
                    complain!("{}", Mistake::in_file(file, format!("{host}: {trouble}"), Some(trouble.advice())));
                }
            }
        }
    }
    if let Some(redis) = snapshot.process.cache.redis() {
        match runtime.block_on(crate::cache::watch::probe(&redis)) {
            Ok(reached) => say!("Redis: {reached}"),
            Err(why) => {
                unreached += 1;
                let advice = "see `cache.url`, its password, and that it leads to a server that takes writes";
                complain!("{}", Mistake::in_file(dir.join("tollgate.toml"), format!("Redis: {why}"), Some(advice)));
            }
        }
    }
    match unreached {
        0 => ExitCode::SUCCESS,
        count => {
            complain!(
                "{}: {count} host{} not be reached",
                dir.display(),
                if count == 1 { " could" } else { "s could" }
            );
            ExitCode::FAILURE
        }
    }
}
