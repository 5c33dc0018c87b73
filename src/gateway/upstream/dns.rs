//! DNS cache: names are resolved in the background, once for all channels, and the last good addresses are used while no name
//! server answers (stale-on-error).
//!
//! The system's resolver (`getaddrinfo`) decides about the addresses, because the operator's settings must apply here too (hosts
//! files, search domains, other sources than name servers). It does not report a TTL. The name servers do ([`ttl`]), if they
//! return the same addresses; otherwise the name is resolved again after [`DEFAULT_TTL`].

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

/// TTL of the system's answer if no name server provides one.
const DEFAULT_TTL: Duration = Duration::from_secs(30);
/// Timeout of a lookup. The system's resolver tries several name servers several times.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(30);
/// First and maximum back-off after a failed lookup.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Maximum number of concurrent lookups. Each blocks a thread; a name server that hangs must not block all of them.
const MAX_LOOKUPS: usize = 8;

/// Resolves names.
#[async_trait]
pub(super) trait Resolver: Send + Sync {
    /// Returns the addresses of a name, or why there are none. `permit` is dropped once nothing works on the lookup any more, even if
    /// the caller went away before.
    async fn look_up(&self, name: &str, permit: OwnedSemaphorePermit) -> Result<Resolved, String>;
}

/// Addresses of a name.
#[derive(Clone, Debug)]
pub(super) struct Resolved {
    pub(super) addresses: Vec<IpAddr>,
    /// Time for which the addresses are valid.
    pub(super) ttl: Duration,
}

/// Cached names of all channels' hosts.
pub(super) struct DnsCache {
    resolver: Arc<dyn Resolver>,
    permits: Arc<Semaphore>,
    names: Mutex<HashMap<String, Weak<Name>>>,
}

impl DnsCache {
    pub(super) fn new(resolver: Arc<dyn Resolver>) -> Self {
        Self { resolver, permits: Arc::new(Semaphore::new(MAX_LOOKUPS)), names: Mutex::default() }
    }

    /// Returns the cache of this process, which uses the system's resolver.
    pub(super) fn system() -> &'static Self {
        static SYSTEM: LazyLock<DnsCache> = LazyLock::new(|| DnsCache::new(Arc::new(System)));
        &SYSTEM
    }

    /// Returns the shared entry of a name; it lives as long as anybody references it.
    pub(super) fn name(&self, text: &str) -> Arc<Name> {
        let mut names = self.names.lock();
        if let Some(name) = names.get(text).and_then(Weak::upgrade) {
            return name;
        }
        names.retain(|_, name| name.strong_count() > 0);
        let (resolver, permits) = (Arc::clone(&self.resolver), Arc::clone(&self.permits));
        let (text, state) = (text.to_owned(), watch::Sender::default());
        let name = Arc::new(Name { text, resolver, permits, state, is_in_progress: AtomicBool::new(false) });
        names.insert(name.text.clone(), Arc::downgrade(&name));
        name
    }
}

/// Cache entry of one name.
pub(super) struct Name {
    text: String,
    resolver: Arc<dyn Resolver>,
    permits: Arc<Semaphore>,
    state: watch::Sender<State>,
    is_in_progress: AtomicBool,
}

#[derive(Default)]
struct State {
    /// Last good addresses.
    addresses: Arc<[IpAddr]>,
    /// Next lookup; `None` if there was none yet.
    due: Option<Instant>,
    /// Failed lookups since the last success.
    failures: u32,
    /// Error of the last failed lookup.
    why: String,
}

impl State {
    fn is_due(&self) -> bool {
        self.due.is_none_or(|due| due <= Instant::now())
    }
}

impl Name {
    /// Returns the last good addresses, of any age. Waits for a lookup, until `limit`, only if there never were any and none failed a
    /// moment ago.
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

    /// Returns the last good addresses without a lookup.
    pub(super) fn known(&self) -> Arc<[IpAddr]> {
        Arc::clone(&self.state.borrow().addresses)
    }

    /// Starts a lookup in the background if the entry has expired.
    pub(super) fn refresh(self: &Arc<Self>) {
        if !self.state.borrow().is_due() || self.is_in_progress.swap(true, Ordering::AcqRel) {
            return;
        }
        let guard = LookupGuard(Arc::clone(self));
        tokio::spawn(async move { guard.0.look_up().await });
    }

    async fn look_up(&self) {
        let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else { return };
        let found = match timeout(LOOKUP_TIMEOUT, self.resolver.look_up(&self.text, permit)).await {
            Ok(Ok(found)) if found.addresses.is_empty() => Err("the name has no address".to_owned()),
            Ok(other) => other,
            Err(_) => Err("the name server does not answer".to_owned()),
        };
        let (name, now) = (self.text.as_str(), Instant::now());
        self.state.send_modify(|state| match found {
            Ok(found) => {
                if state.failures > 0 {
                    tracing::info!(name, "the host's name can be resolved again");
                }
                let addresses = found.addresses.into();
                *state = State { addresses, due: Some(now + found.ttl), failures: 0, why: String::new() };
            }
            Err(why) => {
                METRICS.upstream_lookup_failures_total.with_label_values(&[name]).inc();
                let kept = state.addresses.len();
                tracing::warn!(
                    name,
                    why,
                    kept,
                    "the host's name cannot be resolved; the last good addresses stay in use"
                );
                let (first, last) = BACKOFF;
                state.due = Some(now + first.saturating_mul(1 << state.failures.min(16)).min(last));
                state.failures = state.failures.saturating_add(1);
                state.why = why;
            }
        });
    }
}

/// Marks a lookup in progress. Clears the mark when dropped, however the lookup ends.
struct LookupGuard(Arc<Name>);

impl Drop for LookupGuard {
    fn drop(&mut self) {
        self.0.is_in_progress.store(false, Ordering::Release);
    }
}

/// Resolver of the operating system.
struct System;

#[async_trait]
impl Resolver for System {
    async fn look_up(&self, name: &str, permit: OwnedSemaphorePermit) -> Result<Resolved, String> {
        let servers = ttl::query(name);
        let name = name.to_owned();
        let lookup = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let found = (name.as_str(), 0).to_socket_addrs();
            found.map(|found| found.map(|address| address.ip()).collect::<Vec<_>>())
        });
        let lookup = lookup.await.map_err(|error| format!("the name cannot be resolved: {error}"))?;
        let mut addresses = lookup.map_err(|error| format!("the name cannot be resolved: {error}"))?;
        let mut seen = HashSet::new();
        addresses.retain(|address| seen.insert(*address));
        let ttl = servers.ttl(&addresses).await.unwrap_or(DEFAULT_TTL);
        Ok(Resolved { addresses, ttl })
    }
}

#[cfg(test)]
pub(super) mod tests;
