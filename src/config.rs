//! What the program uses of the configuration: one immutable, linked [`Snapshot`] a generation.

mod address;
mod archive;
mod background;
mod channel;
pub mod diagnostics;
mod diff;
pub mod file;
mod file_source;
mod filters;
pub mod generations;
mod identity;
pub(crate) mod in_use;
mod key_cache;
mod key_file;
mod keys;
mod ledger;
mod merchant;
mod named;
pub mod operate;
mod process;
pub mod reload;
mod routes;
pub mod schema;
mod secret;
mod server;
pub(crate) mod special_purpose;
mod telemetry;
mod time_windows;
mod token;
mod toml_file;
mod watch;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use tollgate_plugins::filter::Filter;
use tollgate_plugins::provider::{PollInterval, Provider};
use tollgate_plugins::secret::Secret;
use tollgate_plugins::signer::{Keyring, Signer};

pub(crate) use self::address::Address;
pub use self::server::{ServerLimits, ServerTls};
pub use self::token::Token;
use crate::cache::{CacheKind, LONGEST};
use crate::ledger::{Address as LedgerAddress, RetentionPolicy};
use crate::routing::Routes;
use crate::upstream::{BillHosts, Upstream};

/// The configuration that is in force, swapped as a whole.
pub type Current = Arc<ArcSwap<Snapshot>>;

/// One generation: everything that a request needs, checked and linked. A request holds one from its first byte to its
/// last, so that every pair of values it sees belongs together.
pub struct Snapshot {
    /// Counts up by one with each swap.
    pub generation: u64,
    /// SHA-256 over all files that went into it, in hexadecimal.
    pub hash: String,
    /// From `tollgate.toml`.
    pub process: Arc<Process>,
    /// By name.
    pub merchants: BTreeMap<String, Arc<Merchant>>,
    /// The merchants again, by the ids of their keys, with the key's secret.
    pub merchant_keys: HashMap<String, (Arc<Merchant>, Secret)>,
    /// By name.
    pub channels: BTreeMap<String, Arc<Channel>>,
    /// In the order of the file.
    pub routes: Arc<Routes>,
    /// What it was made from.
    pub sources: Sources,
    /// What was made of files, for the next generation.
    pub(crate) known: Arc<key_cache::Known>,
}

/// What a snapshot was made from: for watching, for telling what changed, and for keeping a copy of what was good.
#[derive(Clone, Default)]
pub struct Sources {
    /// Every file and directory that was looked at, those that files name included, each once.
    pub files: Arc<[PathBuf]>,
    /// The certificates that were shown or believed, with their ends.
    pub certificates: Vec<CertificateEnd>,
    /// What is no mistake but may surprise, as far as only reading shows it.
    pub(crate) notes: Vec<diagnostics::Diagnostic>,
    /// Changes when `tollgate.toml`, or a file that it names, changes.
    pub process: String,
    /// What that covers.
    trace: toml_file::Dependencies,
    /// Changes when `routes.toml` changes.
    pub routes: String,
    /// The SHA-256 of that file, if there is one.
    routes_digest: Option<[u8; 32]>,
}

/// When a certificate ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateEnd {
    /// Whose it is; empty for the listener's own.
    pub channel: String,
    /// Which, as in `mtls`.
    pub certificate: String,
    /// Unix seconds.
    pub not_after: i64,
}

/// How long an answer to a status query is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusTtl {
    /// While the payment is not at its end.
    pub pending: Duration,
    /// Once it is.
    pub settled: Duration,
}

impl Default for StatusTtl {
    fn default() -> Self {
        Self { pending: Duration::from_secs(2), settled: LONGEST }
    }
}

/// The process: listeners, ledger, admin, telemetry. All but `public_url`, `in_flight`, `limits`, `keep`, `queue`, `nonces`, `fresh`,
/// `admin_hosts`, `admin_token`, `auto_rollback`, `webhook_allow` and the certificates of the listeners needs a restart to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// What providers call back, without a slash at its end.
    pub public_url: String,
    /// Where merchants and providers come in.
    pub listen: SocketAddr,
    /// TLS at the door; without it, plain HTTP.
    pub tls: Option<ServerTls>,
    /// Where metrics, health and readiness are.
    pub admin_listen: SocketAddr,
    /// TLS there; without it, plain HTTP.
    pub admin_tls: Option<ServerTls>,
    /// Names under which it is asked there, besides addresses and `localhost`.
    pub admin_hosts: Vec<String>,
    /// What callers must know there, if anything.
    pub admin_token: Option<Token>,
    /// Where the ledger lies.
    pub ledger: LedgerConfig,
    /// How many connections to a ledger in PostgreSQL this process has at most.
    pub connections: usize,
    /// Bytes of the embedded ledger's disk that stay free for the end of what is under way.
    pub reserve: u64,
    /// How far this machine's clock may be from PostgreSQL's before the gateway does no background work.
    pub max_clock_offset: Duration,
    /// How long the ledger keeps what has come to its end.
    pub keep: RetentionPolicy,
    /// What waits to be made later.
    pub queue: Queue,
    /// Where nonces, and what machines share of answers and limits, are remembered.
    pub cache: CacheKind,
    /// How many nonces of signed requests are remembered in memory at the same time.
    pub nonces: u64,
    /// How long answers to status queries are good.
    pub fresh: StatusTtl,
    /// The log's filter, as in `info` or `tollgate=debug`.
    pub log: String,
    /// Bytes of the log that wait for their reader at most.
    pub log_buffer: u64,
    /// How long SIGTERM waits for what is in flight.
    pub drain: Duration,
    /// The largest body of a request.
    pub body_limit: u64,
    /// How many requests are served at the same time.
    pub in_flight: u32,
    /// Bounds of the callers' connections and bodies.
    pub limits: ServerLimits,
    /// When a new generation is taken back by itself; nothing for never.
    pub auto_rollback: Option<AutoRollback>,
    /// Networks that webhooks may reach although they are private.
    pub webhook_allow: Vec<ipnet::IpNet>,
}

/// What takes a new generation back by itself, soon after it came into force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AutoRollback {
    /// For how long it is watched.
    pub window: Duration,
    /// How many calls of a changed channel must have been made before its errors count.
    pub calls: u64,
    /// So many errors of a hundred calls more than before are too many.
    pub error_percentage: u32,
    /// So many breakers of changed channels that opened are too many.
    pub breaker_trips: u64,
}

/// What is accepted to be made later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// So many may wait; beyond, nothing is accepted.
    pub limit: u64,
    /// What provably could not be sent for so long is given up.
    pub max_age: Duration,
}

impl Default for Queue {
    fn default() -> Self {
        Self { limit: 10_000, max_age: Duration::from_hours(1) }
    }
}

/// Where a ledger lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LedgerConfig {
    /// In a directory of this machine, for this process alone.
    Embedded(PathBuf),
    /// In a PostgreSQL that several processes may share.
    Postgres(Box<LedgerAddress>),
}

/// Who calls the gateway.
pub struct Merchant {
    /// The file's name.
    pub name: String,
    /// Changes when anything in the file, or a secret that it names, changes.
    pub fingerprint: String,
    /// What the fingerprint covers.
    pub(crate) trace: toml_file::Dependencies,
    /// Several at once while they are rotated.
    pub keys: Vec<(String, Secret)>,
    /// Where events go.
    pub webhook: Option<Webhook>,
    /// How much of the gateway it may use; what it has used lives outside, so that it outlives a reload.
    pub limit: Option<tollgate_plugins::filter::limit::LimitConfig>,
    /// The channels whose bills it may read: what is in them is of every merchant on the channel.
    pub bills: Vec<String>,
}

/// Where a merchant's events go.
pub struct Webhook {
    /// `https://…`, or `http://…` on loopback.
    pub url: String,
    /// The raw key bytes (decoded from `whsec_…`); each signs, so that receivers can rotate.
    pub secrets: Vec<Secret>,
}

/// One account at one provider.
pub struct Channel {
    /// The file's name.
    pub name: String,
    /// Changes when anything in the file, or a key or secret that it names, changes.
    pub fingerprint: String,
    /// What the fingerprint covers.
    trace: toml_file::Dependencies,
    /// Held so that the next generation need not read them anew.
    _read: (Option<Arc<identity::Pair>>, Option<Arc<[identity::Authority]>>),
    /// As in `wechat-v3`.
    pub provider_name: &'static str,
    /// The methods that the provider serves.
    pub methods: &'static [&'static str],
    /// The dialect with this account in it.
    pub provider: Box<dyn Provider>,
    /// Signs requests.
    pub signer: Arc<dyn Signer>,
    /// The provider's keys that the file names.
    pub configured_keys: Keyring,
    /// Those and the ones that the provider published; this is what answers are checked against.
    pub keys: ArcSwap<Keyring>,
    /// Changes when keys that the provider published are not to be believed any more.
    trust: String,
    /// Hosts, identity, time limits, pool.
    pub upstream: Arc<Upstream>,
    /// Changes when the connections must be made anew.
    connections: [u8; 32],
    /// Where its bills come from; nothing when the provider has none.
    pub bills: Option<BillHosts>,
    /// Around each call, outermost first.
    pub filters: Vec<Arc<dyn Filter>>,
    /// How long after a request "there is no such order" is not believed yet.
    pub not_found_grace: Duration,
    /// How often its provider may be asked about what somebody waits for.
    pub pace: PollInterval,
    /// What it cannot do as it is configured, though that is no mistake.
    pub note: Option<&'static str>,
    /// When it takes no new payments, each from a moment to another.
    pub maintenance: Vec<(Timestamp, Timestamp)>,
}

impl Channel {
    /// In how many seconds it takes new payments again, when it takes none now.
    pub fn maintenance(&self, now: Timestamp) -> Option<u64> {
        let window = self.maintenance.iter().find(|(from, to)| (*from..*to).contains(&now));
        window.map(|(_, to)| u64::try_from(to.duration_since(now).as_secs()).unwrap_or(0).saturating_add(1))
    }

    /// Whose account it leads to: the provider and its number of the account. What was paid there is known there only.
    pub fn account(&self) -> String {
        format!("{}:{}", self.provider_name, self.provider.account())
    }
}

/// What [`Upstream`] is made from.
#[derive(Clone)]
pub struct UpstreamSettings {
    /// The channel's name; connections are never shared between channels.
    pub channel: String,
    /// In the order of preference.
    pub hosts: Vec<Host>,
    /// PEM certificates (DER inside) of the only authorities that are believed; the public roots when `None`.
    pub ca: Option<Vec<Vec<u8>>>,
    /// Shown to the provider.
    pub identity: Option<Identity>,
    /// How long each part of an exchange may take.
    pub timeouts: Timeouts,
    /// How many idle connections are kept, and how long.
    pub pool: Pool,
    /// The longest answer that is read, in bytes.
    pub answer_limit: usize,
    /// Whether HTTP/2 is offered to the hosts.
    pub http2: bool,
}

/// One `https://host:port` of a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Name or address.
    pub name: String,
    /// The port.
    pub port: u16,
    /// False for `http://`, which is for loopback addresses only.
    pub tls: bool,
}

/// A certificate with its key.
#[derive(Clone, Debug)]
pub struct Identity {
    /// DER, leaf first.
    pub certificates: Vec<Vec<u8>>,
    /// DER (PKCS#8, PKCS#1 or SEC1).
    pub key: Secret,
}

/// How long each part of an exchange may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP and TLS.
    pub connect: Duration,
    /// Each read.
    pub read: Duration,
    /// Each write.
    pub write: Duration,
    /// The whole exchange.
    pub total: Duration,
}

/// Idle connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// How many are kept.
    pub idle: usize,
    /// How long one is kept.
    pub idle_timeout: Duration,
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.certificates == other.certificates && self.key.expose() == other.key.expose()
    }
}

impl Eq for Identity {}
