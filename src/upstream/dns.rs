//! Names of hosts and the addresses behind them: looked up in the background, each name once for all channels, and the last
//! good addresses kept while no name server answers.
//!
//! The system's own resolver says what a name means (`getaddrinfo`), because what an operator has set up there (hosts files,
//! search domains, other sources than name servers) must be true here too. How long that holds it does not say: the name
//! servers do ([`ttl`]), where they mean the same addresses; else it is asked again every [`HOLDS`].

mod ttl;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Weak};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::Lost;
use crate::telemetry::METRICS;

/// How long an answer of the system holds when no name server says so.
const HOLDS: Duration = Duration::from_secs(30);
/// The system's resolver tries several name servers several times.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pauses after a failed look-up: the first one, doubled until the last.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Look-ups at the same time. Each blocks a thread; a name server that hangs must not take them all.
const AT_ONCE: usize = 8;

/// Whoever knows addresses.
#[async_trait]
pub(super) trait Resolver: Send + Sync {
    /// The addresses of a name, or why there are none. The turn is given back when nothing is busy with it any more, even if
    /// nobody waits for the answer by then.
    async fn look_up(&self, name: &str, turn: OwnedSemaphorePermit) -> Result<Found, String>;
}

/// Addresses of a name.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) addresses: Vec<IpAddr>,
    /// How long they hold.
    pub(super) holds: Duration,
}

/// The names that channels have hosts of.
pub(super) struct DnsCache {
    source: Arc<dyn Resolver>,
    turns: Arc<Semaphore>,
    names: Mutex<HashMap<String, Weak<Name>>>,
}

impl DnsCache {
    pub(super) fn new(source: Arc<dyn Resolver>) -> Self {
        Self { source, turns: Arc::new(Semaphore::new(AT_ONCE)), names: Mutex::default() }
    }

    /// Those of this process.
    pub(super) fn system() -> &'static Self {
        static SYSTEM: LazyLock<DnsCache> = LazyLock::new(|| DnsCache::new(Arc::new(System)));
        &SYSTEM
    }

    /// The same one for everybody who asks for it while anybody has it.
    pub(super) fn name(&self, text: &str) -> Arc<Name> {
        let mut names = self.names.lock();
        if let Some(name) = names.get(text).and_then(Weak::upgrade) {
            return name;
        }
        names.retain(|_, name| name.strong_count() > 0);
        let (source, turns) = (Arc::clone(&self.source), Arc::clone(&self.turns));
        let (text, state) = (text.to_owned(), watch::Sender::default());
        let name = Arc::new(Name { text, source, turns, state, is_asked: AtomicBool::new(false) });
        names.insert(name.text.clone(), Arc::downgrade(&name));
        name
    }
}

/// One name with what was last known of it.
pub(super) struct Name {
    text: String,
    source: Arc<dyn Resolver>,
    turns: Arc<Semaphore>,
    state: watch::Sender<State>,
    is_asked: AtomicBool,
}

#[derive(Default)]
struct State {
    /// The last good ones.
    addresses: Arc<[IpAddr]>,
    /// When it is to be looked up again; never was, when it is nothing.
    due: Option<Instant>,
    /// Look-ups that failed since one worked.
    failures: u32,
    /// Why the last one did.
    why: String,
}

impl State {
    fn is_due(&self) -> bool {
        self.due.is_none_or(|due| due <= Instant::now())
    }
}

impl Name {
    /// The last good addresses, whatever their age. Only when there never were any is a look-up waited for, until `limit`;
    /// and not even then when one has just failed.
    pub(super) async fn addresses(self: &Arc<Self>, limit: Instant) -> Result<Arc<[IpAddr]>, Lost> {
        let mut changes = self.state.subscribe();
        let known = |state: &State| -> Option<Result<Arc<[IpAddr]>, Lost>> {
            match &state.addresses {
                some if !some.is_empty() => Some(Ok(Arc::clone(some))),
                _ if state.is_due() => None,
                _ => Some(Err(state.why.clone().into())),
            }
        };
        self.refresh();
        let answer = timeout_at(limit, changes.wait_for(|state| known(state).is_some())).await;
        let answer = answer.ok().and_then(Result::ok).and_then(|state| known(&state));
        answer.unwrap_or_else(|| Err(Lost::timeout("the name server did not answer in time")))
    }

    /// The last good addresses, without asking anybody.
    pub(super) fn known(&self) -> Arc<[IpAddr]> {
        Arc::clone(&self.state.borrow().addresses)
    }

    /// Looks it up in the background when it is time to.
    pub(super) fn refresh(self: &Arc<Self>) {
        if !self.state.borrow().is_due() || self.is_asked.swap(true, Ordering::AcqRel) {
            return;
        }
        let asked = Asked(Arc::clone(self));
        tokio::spawn(async move { asked.0.look_up().await });
    }

    async fn look_up(&self) {
        let Ok(turn) = Arc::clone(&self.turns).acquire_owned().await else { return };
        let found = match timeout(PATIENCE, self.source.look_up(&self.text, turn)).await {
            Ok(Ok(found)) if found.addresses.is_empty() => Err("the name has no address".to_owned()),
            Ok(other) => other,
            Err(_) => Err("the name server does not answer".to_owned()),
        };
        let (name, now) = (self.text.as_str(), Instant::now());
        self.state.send_modify(|state| match found {
            Ok(found) => {
                if state.failures > 0 {
                    tracing::info!(name, "the host's name can be looked up again");
                }
                let addresses = found.addresses.into();
                *state = State { addresses, due: Some(now + found.holds), failures: 0, why: String::new() };
            }
            Err(why) => {
                METRICS.upstream_lookup_failures_total.with_label_values(&[name]).inc();
                let kept = state.addresses.len();
                tracing::warn!(name, why, kept, "the host's name cannot be looked up; the last good addresses stay");
                let (first, last) = PAUSES;
                state.due = Some(now + first.saturating_mul(1 << state.failures.min(16)).min(last));
                state.failures = state.failures.saturating_add(1);
                state.why = why;
            }
        });
    }
}

/// Somebody looks the name up. However that ends, it can be asked for again.
struct Asked(Arc<Name>);

impl Drop for Asked {
    fn drop(&mut self) {
        self.0.is_asked.store(false, Ordering::Release);
    }
}

/// The operating system.
struct System;

#[async_trait]
impl Resolver for System {
    async fn look_up(&self, name: &str, turn: OwnedSemaphorePermit) -> Result<Found, String> {
        let servers = ttl::ask(name);
        let name = name.to_owned();
        let asked = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let found = (name.as_str(), 0).to_socket_addrs();
            found.map(|found| found.map(|address| address.ip()).collect::<Vec<_>>())
        });
        let asked = asked.await.map_err(|error| format!("the name cannot be looked up: {error}"))?;
        let mut addresses = asked.map_err(|error| format!("the name cannot be looked up: {error}"))?;
        let mut seen = HashSet::new();
        addresses.retain(|address| seen.insert(*address));
        let holds = servers.holds(&addresses).await.unwrap_or(HOLDS);
        Ok(Found { addresses, holds })
    }
}

#[cfg(test)]
pub(super) mod tests;
