//! The configuration in memory: one immutable, linked [`Snapshot`] per generation.
//!
//! `config` reads the files into values. Here they get what lives: connections to the hosts, the provider's published keys,
//! the index of the routes. An unchanged part is shared with the generation before, with its connections and keys.

mod routes;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tollgate_config::{
    self, Archive, ChannelConfig, Config, Diagnostic, Loaded, Merchant, NamedLedger, Now, Process, ValueChecks,
};
use tollgate_ledger::Address;
use tollgate_plugins::secret::Secret;
use tollgate_plugins::signer::{Key, Keyring};

pub use self::routes::Routes;
use crate::cache::check_redis_url;
use crate::telemetry::log;
use crate::upstream::{BillHosts, Upstream};

/// The snapshot in force. A reload replaces it as a whole.
pub type Current = Arc<ArcSwap<Snapshot>>;

/// Puts a snapshot in force.
pub fn put_in_force(snapshot: Snapshot) -> Current {
    Arc::new(ArcSwap::from_pointee(snapshot))
}

/// One generation of the configuration, checked and linked. A request uses one snapshot from its first byte to its last, so
/// all values that it reads belong together.
pub struct Snapshot {
    /// Number of the generation; each swap adds one.
    pub generation: u64,
    /// Configuration as the files describe it.
    pub config: Config,
    /// Settings in force. They differ from those of `config` in keys that take effect only at a restart.
    pub process: Arc<Process>,
    /// Merchants of earlier generations whose files are missing now, as they last were. Their events still find their sinks.
    pub missing_merchants: BTreeMap<String, Arc<Merchant>>,
    /// Merchants by key id, each with the secret of that key.
    pub merchant_keys: HashMap<String, (Arc<Merchant>, Secret)>,
    /// Channels by name.
    pub channels: BTreeMap<String, Arc<Channel>>,
    /// Routes in the order of the file.
    pub routes: Arc<Routes>,
}

/// One account at one provider: its configuration, to which it dereferences, with connections and published keys.
pub struct Channel {
    config: Arc<ChannelConfig>,
    /// Configured and published provider keys. Responses are verified with these.
    pub keys: ArcSwap<Keyring>,
    /// Connections to the hosts.
    pub upstream: Arc<Upstream>,
    /// Hosts that serve bills; `None` if the provider has no bills.
    pub bills: Option<BillHosts>,
}

impl Deref for Channel {
    type Target = ChannelConfig;

    fn deref(&self) -> &ChannelConfig {
        &self.config
    }
}

/// Checks of values that the ledger, the cache and the log interpret.
const VALUE_CHECKS: ValueChecks = ValueChecks {
    postgres_url: |url, authorities| Address::parse(url, authorities).map(|address| address.to_string()),
    redis_url: check_redis_url,
    is_log_filter: |text| log::filter(text).is_ok(),
};

/// Result of loading a directory.
pub(crate) struct Attempt {
    /// Snapshot, or every error.
    pub(crate) result: Result<Snapshot, Vec<Diagnostic>>,
    /// Every file and directory that was read or looked for. A change of any of them triggers another load.
    pub(crate) files: Arc<[PathBuf]>,
}

/// Loads the configuration in a directory. Parts that did not change since `previous` are reused, with their connections and
/// filter state.
pub fn load(dir: &Path, previous: Option<&Snapshot>) -> Result<Snapshot, Vec<Diagnostic>> {
    attempt(dir, previous).result
}

/// Like [`load`], but also returns which files to watch, even if the configuration is rejected.
pub(crate) fn attempt(dir: &Path, previous: Option<&Snapshot>) -> Attempt {
    let Loaded { config, files } = tollgate_config::load(dir, &VALUE_CHECKS, previous.map(|previous| &previous.config));
    Attempt { result: config.and_then(|config| link(dir, config, previous)), files }
}

/// Loads the configuration of a directory inside an archive.
pub(crate) fn load_archived(
    dir: &Path,
    archive: Archive,
    previous: Option<&Snapshot>,
) -> Result<Snapshot, Vec<Diagnostic>> {
    let config =
        tollgate_config::load_archived(dir, archive, &VALUE_CHECKS, previous.map(|previous| &previous.config))?;
    link(dir, config, previous)
}

/// Reads `[ledger]` of a directory that has errors elsewhere.
pub(crate) fn named_ledger(dir: &Path) -> NamedLedger {
    NamedLedger::read(dir, &VALUE_CHECKS)
}

/// Links a configuration of this directory. Channels and routes that it shares with the previous one are reused.
pub(crate) fn link(dir: &Path, config: Config, previous: Option<&Snapshot>) -> Result<Snapshot, Vec<Diagnostic>> {
    let (mut channels, mut diagnostics) = (BTreeMap::new(), Vec::new());
    for (name, settings) in &config.channels {
        match Channel::link(settings, previous.and_then(|previous| previous.channels.get(name))) {
            Ok(channel) => drop(channels.insert(name.clone(), channel)),
            Err(why) => {
                let file = dir.join("channels").join(format!("{name}.toml"));
                diagnostics.push(Diagnostic::in_file(file, format!("no connections can be prepared: {why}"), None));
            }
        }
    }
    if !diagnostics.is_empty() {
        return Err(diagnostics);
    }
    let keys = config
        .merchants
        .values()
        .flat_map(|merchant| merchant.keys.iter().cloned().map(|(id, key)| (id, (Arc::clone(merchant), key))));
    let routes = previous.filter(|previous| Arc::ptr_eq(&previous.config.routes, &config.routes));
    Ok(Snapshot {
        generation: previous.map_or(1, |previous| previous.generation + 1),
        process: Arc::clone(&config.process),
        missing_merchants: missing_merchants(&config, previous),
        merchant_keys: keys.collect(),
        channels,
        routes: match routes {
            Some(previous) => Arc::clone(&previous.routes),
            None => Arc::new(Routes::new(Arc::clone(&config.routes))),
        },
        config,
    })
}

fn missing_merchants(config: &Config, previous: Option<&Snapshot>) -> BTreeMap<String, Arc<Merchant>> {
    let known = previous.into_iter().flat_map(|it| it.missing_merchants.iter().chain(&it.config.merchants));
    let missing = known.filter(|(name, _)| !config.merchants.contains_key(*name));
    missing.map(|(name, merchant)| (name.clone(), Arc::clone(merchant))).collect()
}

impl Channel {
    /// Links a channel. Equal connection settings keep the connections, an equal account with equal hosts the published keys.
    fn link(config: &Arc<ChannelConfig>, previous: Option<&Arc<Self>>) -> Result<Arc<Self>, String> {
        if let Some(unchanged) = previous.filter(|previous| Arc::ptr_eq(&previous.config, config)) {
            return Ok(Arc::clone(unchanged));
        }
        let reusable = previous.filter(|previous| previous.config.connection == config.connection);
        let upstream = match reusable {
            Some(previous) => Arc::clone(&previous.upstream),
            None => Arc::new(Upstream::new(config.connection.as_ref().clone())?),
        };
        let trusted = previous.filter(|previous| previous.config.trust == config.trust);
        let bills = config.bill_hosts.clone().map(|hosts| BillHosts::new(&config.connection, hosts));
        Ok(Arc::new(Self {
            keys: ArcSwap::from_pointee(with_fetched(&config.configured_keys, trusted, Now::read())),
            upstream,
            bills,
            config: Arc::clone(config),
        }))
    }
}

/// Returns the configured keys and those that were fetched before a reload. Without the fetched keys responses could not be
/// verified until the next fetch.
fn with_fetched(configured: &Keyring, previous: Option<&Arc<Channel>>, Now(now): Now) -> Keyring {
    let now = u64::try_from(now).unwrap_or_default();
    let is_in = |keyring: &Keyring, id: &str| keyring.iter().any(|key| key.id == id);
    let known: Vec<Key> = previous
        .iter()
        .flat_map(|previous| {
            let is_fetched = |key: &&Key| !is_in(&previous.configured_keys, &key.id);
            previous.keys.load().iter().filter(is_fetched).cloned().collect::<Vec<_>>()
        })
        .collect();
    let fetched = known.into_iter().filter(|key| key.is_valid(now) && !is_in(configured, &key.id));
    Keyring::new(configured.iter().cloned().chain(fetched).collect())
}
