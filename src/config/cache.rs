//! `[cache]`: where nonces and shared state are, and how long statuses are cached.

use std::fmt;
use std::time::Duration;

use tollgate_plugins::secret::Secret;
use tollgate_plugins::settings::Settings;

use super::secret::{self, Plain};
use super::toml_file::{TomlFile, suggest};
use super::value_checks::ValueChecks;

/// Kinds of cache, the default first.
pub(super) const CACHES: [&str; 2] = ["memory", "redis"];

/// Default nonce capacity: about 40,000 signed requests per second, for as long as each nonce is remembered.
const DEFAULT_MAX_NONCES: u64 = 16_000_000;

/// Maximum lifetime of a cached status. A change that no gateway noticed shows after this time at the latest.
pub const MAX_STATUS_TTL: Duration = Duration::from_mins(5);

/// Kind of cache that `[cache]` names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CacheKind {
    /// Memory of this machine.
    #[default]
    Memory,
    /// Redis server shared by several gateways.
    Redis(RedisUrl),
}

/// Address of a Redis server, for example `rediss://user:password@cache.example.com:6379/0`. It is a secret and is not printed.
#[derive(Clone)]
pub struct RedisUrl(Secret);

impl RedisUrl {
    /// Returns an address whose form the caller has checked.
    pub fn new(url: Secret) -> Self {
        Self(url)
    }

    /// Returns the whole address.
    pub fn secret(&self) -> &Secret {
        &self.0
    }
}

/// Compared only between configurations, so it need not take constant time.
impl PartialEq for RedisUrl {
    fn eq(&self, other: &Self) -> bool {
        self.0.expose() == other.0.expose()
    }
}

impl Eq for RedisUrl {}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RedisUrl(***)")
    }
}

/// Cache lifetimes of status responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusTtl {
    /// Lifetime while the payment is pending.
    pub pending: Duration,
    /// Lifetime once the payment is final.
    pub settled: Duration,
}

impl Default for StatusTtl {
    fn default() -> Self {
        Self { pending: Duration::from_secs(2), settled: MAX_STATUS_TTL }
    }
}

/// Reads the section: kind of cache, nonce capacity, and lifetimes.
pub(super) fn read(
    source: &TomlFile,
    section: Option<Settings<'_>>,
    is_sandbox: bool,
    checks: &ValueChecks,
) -> (CacheKind, u64, StatusTtl) {
    let Some(mut section) = section else { return (CacheKind::Memory, DEFAULT_MAX_NONCES, StatusTtl::default()) };
    let fresh = fresh(&mut section);
    let nonces = section.or("nonces", DEFAULT_MAX_NONCES);
    if !(1_000..=1_000_000_000).contains(&nonces) {
        section.problem("nonces", "`cache.nonces` must be from 1000 to 1000000000", None);
    }
    (cache_kind(source, section, is_sandbox, checks), nonces, fresh)
}

/// Reads the cache lifetimes of status responses.
fn fresh(section: &mut Settings<'_>) -> StatusTtl {
    let fresh = StatusTtl {
        pending: section.or("ttl_pending", StatusTtl::default().pending),
        settled: section.or("ttl_final", StatusTtl::default().settled),
    };
    if fresh.settled > MAX_STATUS_TTL {
        section.problem("ttl_final", "`cache.ttl_final` must be at most 5m", None);
    }
    if fresh.pending > Duration::from_mins(1) {
        let message = "`cache.ttl_pending` must be at most 1m: callers may see an outdated status for that long";
        section.problem("ttl_pending", message, None);
    }
    fresh
}

fn cache_kind(source: &TomlFile, mut section: Settings<'_>, is_sandbox: bool, checks: &ValueChecks) -> CacheKind {
    if kind_of(&mut section, "cache", &CACHES) != Some("redis") {
        return CacheKind::Memory;
    }
    let reason = "`public_url` is no loopback address";
    let plain = if is_sandbox { Plain::Allowed } else { Plain::Refused(reason) };
    let Some(url) = secret::required(source, &mut section, "url", plain) else { return CacheKind::Memory };
    match (checks.redis_url)(&url) {
        Ok(()) => CacheKind::Redis(RedisUrl::new(url)),
        Err(wrong) => {
            let suggestion = "as in \"rediss://user:password@cache.example.com:6379\"".to_owned();
            section.problem("url", format!("`cache.url` {wrong}"), Some(suggestion));
            CacheKind::Memory
        }
    }
}

/// Returns the named kind if it is known; the first kind if none is named.
fn kind_of(section: &mut Settings<'_>, name: &str, kinds: &[&'static str]) -> Option<&'static str> {
    let kind: Option<String> = section.optional("kind");
    section.choices("kind", kinds.iter().copied());
    let Some(kind) = kind else { return kinds.first().copied() };
    let known = kinds.iter().find(|known| **known == kind).copied();
    if known.is_none() {
        let message = format!("there is no {name} of kind `{kind}`");
        section.problem("kind", message, suggest(&kind, kinds.iter().copied()));
    }
    known
}
