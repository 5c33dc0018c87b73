//! `tollgate check --probe`: says of every channel whether its hosts can be reached and its provider's keys can be had, and what
//! to do where not.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::AT_ONCE;
use crate::config::diagnostics::Diagnostic;
use crate::config::file;
use crate::output::{complain, say};
use crate::provider_keys;

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
                let hosts = channel.upstream.probe().await;
                // Where no host is reached, the keys would only say the same again.
                let is_reached = hosts.iter().any(|(_, result)| result.is_ok());
                let keys = if is_reached { provider_keys::fetch_now(&channel).await } else { None };
                (channel.name.clone(), hosts, keys)
            });
        }
        let mut results = probes.join_all().await;
        results.sort_by(|(one, ..), (other, ..)| one.cmp(other));
        results
    });
    let mut unreached = 0;
    let mut without_keys = 0;
    for (channel, hosts, keys) in results {
        let file = dir.join("channels").join(format!("{channel}.toml"));
        match keys {
            None => {}
            Some(Ok(count)) => say!("{channel} keys: {count} fetched from the provider"),
            Some(Err(cause)) => {
                without_keys += 1;
                let message =
                    format!("nothing would be sent, because no key could verify the provider's answer: {cause}");
                complain!("{}", Diagnostic::in_file(file.clone(), message, Some(cause.advice)));
            }
        }
        for (host, result) in hosts {
            match result {
                Ok(reached) => say!("{channel} {host}: {reached}"),
                Err(trouble) => {
                    unreached += 1;
                    complain!(
                        "{}",
                        Diagnostic::in_file(file.clone(), format!("{host}: {trouble}"), Some(trouble.advice()))
                    );
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
                complain!("{}", Diagnostic::in_file(dir.join("tollgate.toml"), format!("Redis: {why}"), Some(advice)));
            }
        }
    }
    for (count, what, trouble) in
        [(unreached, "host", "could not be reached"), (without_keys, "channel", "without a key")]
    {
        if count > 0 {
            complain!("{}: {count} {what}{} {trouble}", dir.display(), if count == 1 { "" } else { "s" });
        }
    }
    if unreached + without_keys == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
