//! One host of a provider: its addresses, and the order in which to try them.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::time::Instant;
use tollgate_config::Host;

use super::Lost;
use super::dns::{DnsCache, Name};
use super::outlier::OutlierDetector;

/// Host with its addresses and their failures.
pub(super) struct KnownHost {
    pub(super) host: Host,
    location: Location,
    outliers: OutlierDetector,
    round_robin: AtomicUsize,
}

enum Location {
    Address(IpAddr),
    Name(Arc<Name>),
}

/// Addresses to try.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Round {
    /// Healthy addresses of all hosts.
    Healthy,
    /// All addresses, ejected ones too.
    All,
}

impl KnownHost {
    pub(super) fn new(host: Host, dns: &DnsCache) -> Self {
        let location = match host.name.parse() {
            Ok(address) => Location::Address(address),
            Err(_) => Location::Name(dns.name(&host.name)),
        };
        Self { host, location, outliers: OutlierDetector::default(), round_robin: AtomicUsize::new(0) }
    }

    /// Returns the addresses to try, in order. Waits, until `limit`, only for a name that was never resolved.
    pub(super) async fn addresses(&self, round: Round, limit: Instant) -> Result<Vec<SocketAddr>, Lost> {
        let all = match &self.location {
            Location::Address(address) => Arc::from([*address]),
            Location::Name(name) => name.addresses(limit).await?,
        };
        let addresses = match round {
            Round::Healthy => self.outliers.candidates(&all, self.round_robin.fetch_add(1, Ordering::Relaxed)),
            Round::All => all.to_vec(),
        };
        Ok(addresses.into_iter().map(|address| SocketAddr::new(address, self.host.port)).collect())
    }

    /// Refreshes an expired DNS entry in the background.
    pub(super) fn refresh(&self) {
        if let Location::Name(name) = &self.location {
            name.refresh();
        }
    }

    /// Records whether an address responded.
    pub(super) fn record(&self, address: SocketAddr, responded: bool) {
        match responded {
            true => self.outliers.record_success(address.ip()),
            false => self.outliers.record_failure(address.ip()),
        }
    }

    /// Returns the number of known addresses, and of ejected ones.
    pub(super) fn count(&self) -> (usize, usize) {
        let known = match &self.location {
            Location::Address(_) => 1,
            Location::Name(name) => name.known().len(),
        };
        (known, self.outliers.count().min(known))
    }

    /// Returns the host as `name:port`.
    pub(super) fn label(&self) -> String {
        match self.host.name.contains(':') {
            true => format!("[{}]:{}", self.host.name, self.host.port),
            false => format!("{}:{}", self.host.name, self.host.port),
        }
    }
}
