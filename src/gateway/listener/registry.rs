//! Registry of a listener's open connections: counts them in total and per address, and evicts idle ones when full.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tollgate_config::ServerLimits;

use super::state::ConnectionState;
use crate::telemetry::METRICS;

/// The connections of one listener.
pub(super) struct Registry {
    listener: &'static str,
    open: Mutex<Open>,
    /// Number of open descriptors, including connections being closed.
    descriptors: AtomicUsize,
}

#[derive(Default)]
struct Open {
    next: u64,
    /// Connections in order of acceptance.
    all: BTreeMap<u64, (IpAddr, Arc<ConnectionState>)>,
    by_address: HashMap<IpAddr, usize>,
}

/// A registered connection, until dropped.
pub(super) struct Entry {
    registry: Arc<Registry>,
    number: u64,
    state: Arc<ConnectionState>,
}

impl Registry {
    pub(super) fn new(listener: &'static str) -> Self {
        Self { listener, open: Mutex::default(), descriptors: AtomicUsize::new(0) }
    }

    pub(super) fn count(&self) -> usize {
        self.open.lock().all.len()
    }

    /// Returns the number of connections that still have a descriptor.
    pub(super) fn descriptors(&self) -> usize {
        self.descriptors.load(Ordering::Acquire)
    }

    /// Adds a connection. If `maximum` are open, or `maximum_per_address` of its address, the oldest idle one is
    /// evicted. Returns `None` if all of them are busy.
    pub(super) fn enter(
        self: &Arc<Self>,
        address: IpAddr,
        maximum: usize,
        maximum_per_address: usize,
        limits: &ServerLimits,
    ) -> Option<Entry> {
        let address = address_group(address);
        let mut open = self.open.lock();
        // After a reload that lowered the limit, more than one connection may be in excess.
        let address_count = open.by_address.get(&address).copied().unwrap_or_default();
        if !open.close_idle(Some(address), (address_count + 1).saturating_sub(maximum_per_address)) {
            return None;
        }
        let excess = (open.all.len() + 1).saturating_sub(maximum);
        if !open.close_idle(None, excess) {
            return None;
        }
        let number = open.next;
        open.next += 1;
        let state = ConnectionState::new(limits);
        open.all.insert(number, (address, Arc::clone(&state)));
        *open.by_address.entry(address).or_default() += 1;
        METRICS.connections.with_label_values(&[self.listener]).set(open.len());
        self.descriptors.fetch_add(1, Ordering::AcqRel);
        Some(Entry { registry: Arc::clone(self), number, state })
    }

    /// Evicts the oldest idle connection.
    pub(super) fn close_idle(&self) {
        self.open.lock().close_idle(None, 1);
    }
}

impl Open {
    fn len(&self) -> i64 {
        i64::try_from(self.all.len()).unwrap_or(i64::MAX)
    }

    /// Evicts `count` idle connections, the oldest first. Returns true if there were enough. Connections of
    /// authenticated callers are evicted only if there is no other.
    fn close_idle(&mut self, address_filter: Option<IpAddr>, count: usize) -> bool {
        if count == 0 {
            return true;
        }
        let mut trusted = Vec::new();
        let mut closed = Vec::new();
        for (number, (address, state)) in &self.all {
            if closed.len() == count {
                break;
            }
            if address_filter.is_some_and(|address_filter| address_filter != *address) || !state.is_idle() {
                continue;
            }
            if state.is_trusted() {
                trusted.push((*number, state));
            } else if state.evict() {
                closed.push(*number);
            }
        }
        for (number, state) in trusted {
            if closed.len() < count && state.evict() {
                closed.push(number);
            }
        }
        let is_enough = closed.len() == count;
        for number in closed {
            self.remove(number);
        }
        is_enough
    }

    fn remove(&mut self, number: u64) {
        let Some((address, _)) = self.all.remove(&number) else { return };
        if let Some(count) = self.by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&address);
            }
        }
    }
}

impl Entry {
    pub(super) fn state(&self) -> &Arc<ConnectionState> {
        &self.state
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.registry.descriptors.fetch_sub(1, Ordering::AcqRel);
        let mut open = self.registry.open.lock();
        open.remove(self.number);
        METRICS.connections.with_label_values(&[self.registry.listener]).set(open.len());
    }
}

/// Returns the address for counting: an IPv4 address, or the /64 network of an IPv6 address, which usually has one
/// owner.
fn address_group(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(registry: &Arc<Registry>, address: &str, maximum: usize, address_count: usize) -> Option<Entry> {
        registry.enter(address.parse().unwrap(), maximum, address_count, &ServerLimits::default())
    }

    fn begin_work_on(entry: &Entry) -> bool {
        entry.state().begin() && entry.state().begin_work()
    }

    #[test]
    fn full_registry_evicts_oldest_idle_unauthenticated_connection_first() {
        let registry = Arc::new(Registry::new("test"));
        let busy = enter(&registry, "10.0.0.1", 4, 4).unwrap();
        assert!(begin_work_on(&busy));
        let trusted = enter(&registry, "10.0.0.2", 4, 4).unwrap();
        trusted.state().trust();
        let (first, second) =
            (enter(&registry, "10.0.0.3", 4, 4).unwrap(), enter(&registry, "10.0.0.4", 4, 4).unwrap());
        let new = enter(&registry, "10.0.0.5", 4, 4).unwrap();
        assert!(!begin_work_on(&first) && begin_work_on(&second), "the older of the two was evicted");
        assert_eq!(
            (registry.count(), registry.descriptors()),
            (4, 5),
            "it is no longer counted but still being closed"
        );
        drop(first);
        assert_eq!((registry.count(), registry.descriptors()), (4, 4));
        assert!(begin_work_on(&new));
        let newest = enter(&registry, "10.0.0.6", 4, 4).unwrap();
        assert!(!begin_work_on(&trusted), "a trusted connection is evicted when all others are busy");
        assert!(begin_work_on(&newest));
        assert!(enter(&registry, "10.0.0.7", 4, 4).is_none(), "all are busy");
    }

    #[test]
    fn idle_connections_above_lowered_limit_are_evicted_on_next_accept() {
        let registry = Arc::new(Registry::new("test"));
        let enter_one = |maximum, address_count| enter(&registry, "10.0.0.1", maximum, address_count);
        let _connections: Vec<_> = (0..40).map(|_| enter_one(40, 40).unwrap()).collect();
        let _one_more = enter_one(40, 30).unwrap();
        assert_eq!(registry.count(), 30);
        let _another = enter_one(10, 30).unwrap();
        assert_eq!(registry.count(), 10);
    }

    #[test]
    fn address_has_limit_and_ipv6_network_counts_as_one_address() {
        let registry = Arc::new(Registry::new("test"));
        let connections: Vec<_> = ["2001:db8::1", "2001:db8::2"].map(|one| enter(&registry, one, 9, 2).unwrap()).into();
        assert!(connections.iter().all(begin_work_on));
        assert!(enter(&registry, "2001:db8::3", 9, 2).is_none());
        assert!(enter(&registry, "2001:db8:0:1::1", 9, 2).is_some(), "another network");
        let mapped = enter(&registry, "::ffff:10.0.0.1", 9, 1).unwrap();
        assert!(begin_work_on(&mapped));
        assert!(enter(&registry, "10.0.0.1", 9, 1).is_none(), "the same address in another form");
        drop(connections);
        assert!(enter(&registry, "2001:db8::3", 9, 2).is_some());
    }
}
