//! Configuration as the program uses it: one immutable, linked [`Snapshot`] per generation.

mod address;
mod archive;
mod background;
mod channel;
pub mod diagnostics;
mod diff;
pub mod file;
mod file_content;
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
use crate::cache::{CacheKind, MAX_STATUS_TTL};
use crate::ledger::{Address as LedgerAddress, RetentionPolicy};
use crate::routing::Routes;
use crate::upstream::{BillHosts, Upstream};

/// The snapshot in force. A reload replaces it as a whole.
pub type Current = Arc<ArcSwap<Snapshot>>;

/// One generation of the configuration, checked and linked. A request uses one snapshot from its first byte to its last, so
/// all values that it reads belong together.
pub struct Snapshot {
    /// Number of the generation; each swap adds one.
    pub generation: u64,
    /// SHA-256 over all files of the configuration, in hexadecimal.
    pub hash: String,
    /// Settings of `tollgate.toml`.
    pub process: Arc<Process>,
    /// Merchants by name.
    pub merchants: BTreeMap<String, Arc<Merchant>>,
    /// Merchants by key id, each with the secret of that key.
    pub merchant_keys: HashMap<String, (Arc<Merchant>, Secret)>,
    /// Channels by name.
    pub channels: BTreeMap<String, Arc<Channel>>,
    /// Routes in the order of the file.
    pub routes: Arc<Routes>,
    /// Files and digests that the snapshot was built from.
    pub sources: Sources,
    /// Parsed keys and certificates, reused by the next generation.
    pub(crate) known: Arc<key_cache::KeyCache>,
}

/// Inputs of a snapshot: needed to watch files, to describe changes, and to archive the generation.
#[derive(Clone, Default)]
pub struct Sources {
    /// Every file and directory that was read, files named by other files included, each once.
    pub files: Arc<[PathBuf]>,
    /// Expiry of every certificate that is presented or trusted.
    pub certificates: Vec<CertificateEnd>,
    /// Warnings that only reading the files reveals.
    pub(crate) notes: Vec<diagnostics::Diagnostic>,
    /// Fingerprint of `tollgate.toml` and of every file that it names.
    pub process: String,
    /// Inputs of that fingerprint.
    dependencies: toml_file::Dependencies,
    /// Fingerprint of `routes.toml`.
    pub routes: String,
    /// SHA-256 of `routes.toml`; `None` if there is no such file.
    routes_digest: Option<[u8; 32]>,
}

/// Expiry of one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateEnd {
    /// Channel that uses the certificate; empty for a listener's certificate.
    pub channel: String,
    /// Name of the certificate within the file, for example `mtls`.
    pub certificate: String,
    /// Expiry in Unix seconds.
    pub not_after: i64,
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

/// Settings of the process: listeners, ledger, admin port, telemetry.
///
/// A reload applies `public_url`, `in_flight`, `limits`, `keep`, `queue`, `nonces`, `fresh`, `admin_hosts`, `admin_token`,
/// `auto_rollback`, `webhook_allow` and the certificates of the listeners. All other fields need a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Base URL that providers call, without a trailing slash.
    pub public_url: String,
    /// Address of the listener for merchants and providers.
    pub listen: SocketAddr,
    /// TLS of that listener; plain HTTP if `None`.
    pub tls: Option<ServerTls>,
    /// Address of the admin port (metrics, health, readiness, operations).
    pub admin_listen: SocketAddr,
    /// TLS of the admin port; plain HTTP if `None`.
    pub admin_tls: Option<ServerTls>,
    /// Accepted `Host` names of the admin port, besides addresses and `localhost`.
    pub admin_hosts: Vec<String>,
    /// Bearer token that the admin port requires, if any.
    pub admin_token: Option<Token>,
    /// Ledger engine and its location.
    pub ledger: LedgerConfig,
    /// Maximum number of PostgreSQL connections of this process.
    pub connections: usize,
    /// Free bytes on the embedded ledger's disk below which new payments are rejected.
    pub reserve: u64,
    /// Maximum difference between this machine's clock and PostgreSQL's. Beyond it the gateway does no background work.
    pub max_clock_offset: Duration,
    /// Retention periods of finished records in the ledger.
    pub keep: RetentionPolicy,
    /// Limits of the job queue.
    pub queue: Queue,
    /// Store for nonces and for state that gateways share (cached statuses, limits).
    pub cache: CacheKind,
    /// Maximum number of nonces in memory.
    pub nonces: u64,
    /// Cache lifetimes of status responses.
    pub fresh: StatusTtl,
    /// Log filter, for example `info` or `tollgate=debug`.
    pub log: String,
    /// Maximum bytes of buffered log lines.
    pub log_buffer: u64,
    /// Time that a graceful shutdown waits for requests in flight.
    pub drain: Duration,
    /// Maximum size of a request body in bytes.
    pub body_limit: u64,
    /// Maximum number of requests in flight.
    pub in_flight: u32,
    /// Limits of callers' connections and bodies.
    pub limits: ServerLimits,
    /// Thresholds of the automatic rollback; `None` disables it.
    pub auto_rollback: Option<AutoRollback>,
    /// Private networks that webhooks may reach.
    pub webhook_allow: Vec<ipnet::IpNet>,
}

/// Thresholds of the automatic rollback of a new generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AutoRollback {
    /// Length of the probation.
    pub window: Duration,
    /// Minimum number of calls of a changed channel before its error rate counts.
    pub calls: u64,
    /// Allowed increase of the error rate over the baseline, in percentage points.
    pub error_percentage: u32,
    /// Number of opened breakers of changed channels that triggers the rollback.
    pub breaker_trips: u64,
}

/// Limits of the job queue (`Prefer: respond-async`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Maximum number of queued jobs; further jobs are rejected.
    pub limit: u64,
    /// Age at which a job that could not be sent expires.
    pub max_age: Duration,
}

impl Default for Queue {
    fn default() -> Self {
        Self { limit: 10_000, max_age: Duration::from_hours(1) }
    }
}

/// Ledger engine and its location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LedgerConfig {
    /// Directory on this machine, used by this process alone.
    Embedded(PathBuf),
    /// PostgreSQL database that several gateways may share.
    Postgres(Box<LedgerAddress>),
}

/// Caller of the gateway.
pub struct Merchant {
    /// Name of the file without `.toml`.
    pub name: String,
    /// Changes if anything in the file, or a secret that it names, changes.
    pub fingerprint: String,
    /// Inputs of the fingerprint.
    pub(crate) dependencies: toml_file::Dependencies,
    /// Key ids with their secrets; several while a key is rotated.
    pub keys: Vec<(String, Secret)>,
    /// Destination of events.
    pub webhook: Option<Webhook>,
    /// Request limit. Its usage lives outside the snapshot and survives a reload.
    pub limit: Option<tollgate_plugins::filter::limit::LimitConfig>,
    /// Channels whose bills the merchant may read. A bill contains the orders of every merchant on the channel.
    pub bills: Vec<String>,
}

/// Destination of a merchant's events.
pub struct Webhook {
    /// `https://…`, or `http://…` on loopback.
    pub url: String,
    /// Raw key bytes, decoded from `whsec_…`. Every key signs, so receivers can rotate.
    pub secrets: Vec<Secret>,
}

/// One account at one provider.
pub struct Channel {
    /// Name of the file without `.toml`.
    pub name: String,
    /// Changes if anything in the file, or a key or secret that it names, changes.
    pub fingerprint: String,
    /// Inputs of the fingerprint.
    dependencies: toml_file::Dependencies,
    /// Parsed certificates, retained so that the next generation need not parse them again.
    _read: (Option<Arc<identity::Pair>>, Option<Arc<[identity::Authority]>>),
    /// Name of the provider, for example `wechat-v3`.
    pub provider_name: &'static str,
    /// Payment methods that the provider serves.
    pub methods: &'static [&'static str],
    /// Protocol of the provider, configured for this account.
    pub provider: Box<dyn Provider>,
    /// Signs requests.
    pub signer: Arc<dyn Signer>,
    /// Provider keys that the file names.
    pub configured_keys: Keyring,
    /// Configured and published provider keys. Responses are verified with these.
    pub keys: ArcSwap<Keyring>,
    /// Changes if previously published keys must no longer be trusted.
    trust: String,
    /// Hosts, identity, timeouts and connection pool.
    pub upstream: Arc<Upstream>,
    /// Changes if the connections must be re-established.
    connections: [u8; 32],
    /// Hosts that serve bills; `None` if the provider has no bills.
    pub bills: Option<BillHosts>,
    /// Filters around each call, outermost first.
    pub filters: Vec<Arc<dyn Filter>>,
    /// Time after a request during which a provider's not-found is not final.
    pub not_found_grace: Duration,
    /// Minimum interval of status inquiries for a record that a caller waits for.
    pub pace: PollInterval,
    /// Limitation of this configuration, shown by `tollgate check` as a note.
    pub note: Option<&'static str>,
    /// Maintenance windows (start, end) without new payments.
    pub maintenance: Vec<(Timestamp, Timestamp)>,
}

impl Channel {
    /// Returns the seconds until the current maintenance window ends; `None` outside of one.
    pub fn maintenance(&self, now: Timestamp) -> Option<u64> {
        let window = self.maintenance.iter().find(|(from, to)| (*from..*to).contains(&now));
        window.map(|(_, to)| u64::try_from(to.duration_since(now).as_secs()).unwrap_or(0).saturating_add(1))
    }

    /// Returns the provider and its account number. Payments exist per account, not per channel.
    pub fn account(&self) -> String {
        format!("{}:{}", self.provider_name, self.provider.account())
    }
}

/// Input of [`Upstream`].
#[derive(Clone)]
pub struct UpstreamSettings {
    /// The channel's name; connections are never shared between channels.
    pub channel: String,
    /// Hosts in order of preference.
    pub hosts: Vec<Host>,
    /// Trusted authorities as DER; the public roots if `None`.
    pub ca: Option<Vec<Vec<u8>>>,
    /// Client certificate presented to the provider.
    pub identity: Option<Identity>,
    /// Timeouts of an exchange.
    pub timeouts: Timeouts,
    /// Size and lifetime of the connection pool.
    pub pool: Pool,
    /// Maximum size of a response in bytes.
    pub answer_limit: usize,
    /// Whether HTTP/2 is offered.
    pub http2: bool,
}

/// One `https://host:port` of a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// DNS name or IP address.
    pub name: String,
    /// TCP port.
    pub port: u16,
    /// False for `http://`, which is allowed for loopback addresses only.
    pub tls: bool,
}

/// Certificate chain with its private key.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Certificates as DER, leaf first.
    pub certificates: Vec<Vec<u8>>,
    /// Private key as DER (PKCS#8, PKCS#1 or SEC1).
    pub key: Secret,
}

/// Timeouts of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Limit of TCP connect and TLS handshake.
    pub connect: Duration,
    /// Limit of each read.
    pub read: Duration,
    /// Limit of each write.
    pub write: Duration,
    /// Limit of the whole exchange.
    pub total: Duration,
}

/// Limits of idle connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Maximum number of idle connections.
    pub idle: usize,
    /// Time after which an idle connection is closed.
    pub idle_timeout: Duration,
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.certificates == other.certificates && self.key.expose() == other.key.expose()
    }
}

impl Eq for Identity {}
