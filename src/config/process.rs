//! Settings of the process, and which of them a reload applies.

use std::net::SocketAddr;
use std::time::Duration;

use super::cache::{CacheKind, StatusTtl};
use super::ledger::{self, LedgerConfig, Retention};
use super::server::{ServerLimits, ServerTls};
use super::sinks::SinkConfig;
use super::token::Token;

/// Settings of the process: listeners, ledger, admin port, telemetry.
///
/// A reload applies `public_url`, `in_flight`, `limits`, `keep`, `queue`, `nonces`, `fresh`, `admin_hosts`, `admin_token`,
/// `auto_rollback`, `webhook_allow`, `operator_sinks` and the certificates of the listeners. All other fields need a restart.
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
    pub keep: Retention,
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
    /// Destinations of operator events.
    pub operator_sinks: Vec<SinkConfig>,
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

impl Process {
    /// Returns the keys of `file` that differ from this running process but take effect only at start.
    pub fn needs_restart(&self, file: &Self) -> Vec<String> {
        let same = [
            ("server.listen", self.listen == file.listen),
            ("server.tls", self.tls.is_some() == file.tls.is_some()),
            ("server.body_limit", self.body_limit == file.body_limit),
            ("server.shutdown_timeout", self.drain == file.drain),
            ("admin.listen", self.admin_listen == file.admin_listen),
            ("admin.tls", self.admin_tls.is_some() == file.admin_tls.is_some()),
            (ledger::difference(&self.ledger, &file.ledger).unwrap_or_default(), self.ledger == file.ledger),
            ("ledger.connections", self.connections == file.connections),
            ("ledger.min_free_disk", self.reserve == file.reserve),
            ("ledger.max_clock_offset", self.max_clock_offset == file.max_clock_offset),
            ("cache", self.cache == file.cache),
            ("telemetry.log", self.log == file.log),
            ("telemetry.log_buffer", self.log_buffer == file.log_buffer),
        ];
        same.into_iter().filter(|(_, same)| !same).map(|(name, _)| name.to_owned()).collect()
    }

    /// Returns the reloadable values of `file`, and the values of this running process for all other keys.
    pub fn reloaded(&self, file: &Self) -> Self {
        let tls = |running: &Option<ServerTls>, file: &Option<ServerTls>| match (running, file) {
            (Some(_), Some(file)) => Some(file.clone()),
            (running, _) => running.clone(),
        };
        Self {
            tls: tls(&self.tls, &file.tls),
            admin_tls: tls(&self.admin_tls, &file.admin_tls),
            public_url: file.public_url.clone(),
            in_flight: file.in_flight,
            limits: file.limits,
            webhook_allow: file.webhook_allow.clone(),
            operator_sinks: file.operator_sinks.clone(),
            auto_rollback: file.auto_rollback,
            admin_hosts: file.admin_hosts.clone(),
            keep: file.keep,
            queue: file.queue,
            nonces: file.nonces,
            fresh: file.fresh,
            admin_token: file.admin_token.clone(),
            ..self.clone()
        }
    }
}
