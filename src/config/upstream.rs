//! Connections of a channel: hosts, client certificate, timeouts, pool.

use std::ops::Range;
use std::time::Duration;

use tollgate_plugins::settings::Settings;

use super::address::Address;
use super::pair::Identity;

/// Maximum size of a response in bytes; the documented ones have a few KiB.
pub const MAX_ANSWER_SIZE: usize = 1 << 20;

/// Settings of the connections to one set of hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// True if HTTP/2 is offered.
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

pub(super) fn host(Address { tls, host, port, .. }: Address) -> Host {
    Host { name: host, port, tls }
}

pub(super) fn payment_hosts(root: &mut Settings<'_>) -> Vec<(Range<usize>, Address)> {
    let before = root.problems().len();
    let hosts = hosts_of(root, "hosts");
    if hosts.is_empty() && root.problems().len() == before {
        let suggestion = "add `hosts = [\"https://…\"]`".to_owned();
        root.problem("hosts", "a channel must have at least one host", Some(suggestion));
    }
    hosts
}

pub(super) fn hosts_of(root: &mut Settings<'_>, key: &'static str) -> Vec<(Range<usize>, Address)> {
    let mut hosts: Vec<(Range<usize>, Address)> = Vec::new();
    for (place, text) in root.items::<String>(key) {
        let reason = match Address::parse(&text) {
            Err(reason) => Some(reason),
            Ok(host) if !host.path.is_empty() || host.has_query => {
                Some("must have no path: the provider's protocol sets it")
            }
            Ok(host) if !host.tls && !host.is_loopback() => {
                Some("must start with https://; http:// is for loopback only")
            }
            Ok(host) if hosts.iter().any(|(_, other)| *other == host) => Some("is listed twice"),
            Ok(host) => {
                hosts.push((place.clone(), host));
                None
            }
        };
        if let Some(reason) = reason {
            root.problems().push(place, format!("a host of `{key}` {reason}"), None);
        }
    }
    hosts
}

/// Defaults of `timeouts`.
pub(super) const TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_secs(1),
    read: Duration::from_secs(2),
    write: Duration::from_secs(2),
    total: Duration::from_secs(5),
};

pub(super) fn timeouts(mut section: Settings<'_>) -> Timeouts {
    let timeouts = Timeouts {
        connect: section.or("connect", TIMEOUTS.connect),
        read: section.or("read", TIMEOUTS.read),
        write: section.or("write", TIMEOUTS.write),
        total: section.or("total", TIMEOUTS.total),
    };
    let Timeouts { connect, read, write, total } = timeouts;
    for (key, time) in [("connect", connect), ("read", read), ("write", write), ("total", total)] {
        if time.is_zero() {
            section.problem(key, format!("`timeouts.{key}` must be more than 0"), None);
        }
    }
    if total < connect {
        let message = "`timeouts.total` must be at least as long as `timeouts.connect`, which is a part of it";
        section.problem("total", message, None);
    }
    timeouts
}

/// Default of `pool`.
pub(super) const POOL: Pool = Pool { idle: 128, idle_timeout: Duration::from_secs(60) };

pub(super) fn pool(mut section: Settings<'_>) -> Pool {
    let idle = section.or("idle", POOL.idle as u64);
    let pool = Pool {
        idle: usize::try_from(idle).unwrap_or(usize::MAX),
        idle_timeout: section.or("idle_timeout", POOL.idle_timeout),
    };
    if !(1..=65_536).contains(&idle) {
        section.problem("idle", "`pool.idle` must be from 1 to 65536", None);
    }
    if pool.idle_timeout.is_zero() {
        section.problem("idle_timeout", "`pool.idle_timeout` must be more than 0", None);
    }
    pool
}
