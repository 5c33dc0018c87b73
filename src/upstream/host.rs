//! One host of a provider: where it is, and which of its addresses to try in which order.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::time::Instant;

use super::Lost;
use super::dns::{DnsCache, Name};
use super::outlier::Health;
use crate::config::Host;

/// One host, with what is known of where it is.
pub(super) struct KnownHost {
    pub(super) host: Host,
    place: Place,
    health: Health,
    turn: AtomicUsize,
}

enum Place {
    Address(IpAddr),
    Name(Arc<Name>),
}

/// Which addresses of the hosts to try.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Round {
    /// First those that nothing is known against, of all hosts.
    Good,
    /// Then the others: one of them may work all the same.
    All,
}

impl KnownHost {
    pub(super) fn new(host: Host, names: &DnsCache) -> Self {
        let place = match host.name.parse() {
            Ok(address) => Place::Address(address),
            Err(_) => Place::Name(names.name(&host.name)),
        };
        Self { host, place, health: Health::default(), turn: AtomicUsize::new(0) }
    }

    /// The addresses to try, in this order; waits only for a name that was never looked up, until `limit`.
    pub(super) async fn addresses(&self, round: Round, limit: Instant) -> Result<Vec<SocketAddr>, Lost> {
        let all = match &self.place {
            Place::Address(address) => Arc::from([*address]),
            Place::Name(name) => name.addresses(limit).await?,
        };
        let addresses = match round {
            Round::Good => self.health.good(&all, self.turn.fetch_add(1, Ordering::Relaxed)),
            Round::All => all.to_vec(),
        };
        Ok(addresses.into_iter().map(|address| SocketAddr::new(address, self.host.port)).collect())
    }

    /// Looks its name up in the background when it is time to.
    pub(super) fn refresh(&self) {
        if let Place::Name(name) = &self.place {
            name.refresh();
        }
    }

    /// Whether an address did what it is there for.
    pub(super) fn tell(&self, address: SocketAddr, worked: bool) {
        match worked {
            true => self.health.worked(address.ip()),
            false => self.health.failed(address.ip()),
        }
    }

    /// How many addresses are known, and how many of them stand behind the others.
    pub(super) fn count(&self) -> (usize, usize) {
        let known = match &self.place {
            Place::Address(_) => 1,
            Place::Name(name) => name.known().len(),
        };
        (known, self.health.count().min(known))
    }

    /// As people write it.
    pub(super) fn label(&self) -> String {
        match self.host.name.contains(':') {
            true => format!("[{}]:{}", self.host.name, self.host.port),
            false => format!("{}:{}", self.host.name, self.host.port),
        }
    }
}
