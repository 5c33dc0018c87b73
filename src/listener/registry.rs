//! Open connections of one listener: how many, of which address, and which is closed when there are too many.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::state::ConnectionState;
use crate::config::ServerLimits;
use crate::telemetry::METRICS;

/// Connections of one listener.
pub(super) struct Registry {
    listener: &'static str,
    open: Mutex<Open>,
    /// Those that are being closed included.
    descriptors: AtomicUsize,
}

#[derive(Default)]
struct Open {
    next: u64,
    /// In the order in which they were accepted.
    all: BTreeMap<u64, (IpAddr, Arc<ConnectionState>)>,
    by_address: HashMap<IpAddr, usize>,
}

/// One connection among them, until dropped.
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

    /// Number of connections that have a descriptor still.
    pub(super) fn descriptors(&self) -> usize {
        self.descriptors.load(Ordering::Acquire)
    }

    /// Adds a connection. When `most` are open, or `most_of_address` of its address, the oldest idle one is closed for it;
    /// `None` when all of them are worked
    /// for.
    pub(super) fn enter(
        self: &Arc<Self>,
        address: IpAddr,
        most: usize,
        most_of_address: usize,
        limits: &ServerLimits,
    ) -> Option<Entry> {
        let address = network(address);
        let mut open = self.open.lock();
        // More than one are too many after a reload that lowered the limit.
        let of_address = open.by_address.get(&address).copied().unwrap_or_default();
        if !open.close_idle(Some(address), (of_address + 1).saturating_sub(most_of_address)) {
            return None;
        }
        let too_many = (open.all.len() + 1).saturating_sub(most);
        if !open.close_idle(None, too_many) {
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

    /// Closes the oldest idle connection.
    pub(super) fn close_idle(&self) {
        self.open.lock().close_idle(None, 1);
    }
}

impl Open {
    fn len(&self) -> i64 {
        i64::try_from(self.all.len()).unwrap_or(i64::MAX)
    }

    /// Closes so many idle connections, the oldest first; true when there were as many. Strangers' connections go first, those
    /// of known callers only when there is no other.
    fn close_idle(&mut self, of: Option<IpAddr>, count: usize) -> bool {
        if count == 0 {
            return true;
        }
        let mut known = Vec::new();
        let mut closed = Vec::new();
        for (number, (address, state)) in &self.all {
            if closed.len() == count {
                break;
            }
            if of.is_some_and(|of| of != *address) || !state.is_idle() {
                continue;
            }
            if state.is_trusted() {
                known.push((*number, state));
            } else if state.evict() {
                closed.push(*number);
            }
        }
        for (number, state) in known {
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

/// One IPv4 address, or the /64 network of an IPv6 address: whoever has one of its addresses has all.
fn network(address: IpAddr) -> IpAddr {
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

    fn enter(registry: &Arc<Registry>, address: &str, most: usize, of_address: usize) -> Option<Entry> {
        registry.enter(address.parse().unwrap(), most, of_address, &ServerLimits::default())
    }

    fn work(entry: &Entry) -> bool {
        entry.state().begin() && entry.state().begin_work()
    }

    #[test]
    fn full_registry_closes_the_oldest_idle_connection_of_a_stranger_first() {
        let registry = Arc::new(Registry::new("test"));
        let busy = enter(&registry, "10.0.0.1", 4, 4).unwrap();
        assert!(work(&busy));
        let known = enter(&registry, "10.0.0.2", 4, 4).unwrap();
        known.state().trust();
        let (first, second) =
            (enter(&registry, "10.0.0.3", 4, 4).unwrap(), enter(&registry, "10.0.0.4", 4, 4).unwrap());
        let new = enter(&registry, "10.0.0.5", 4, 4).unwrap();
        assert!(!work(&first) && work(&second), "the older of the two");
        assert_eq!((registry.count(), registry.descriptors()), (4, 5), "it is counted out, and being closed");
        drop(first);
        assert_eq!((registry.count(), registry.descriptors()), (4, 4));
        assert!(work(&new));
        let newer = enter(&registry, "10.0.0.6", 4, 4).unwrap();
        assert!(!work(&known), "the known caller's goes when all others are busy");
        assert!(work(&newer));
        assert!(enter(&registry, "10.0.0.7", 4, 4).is_none(), "all are busy");
    }

    #[test]
    fn idle_connections_beyond_a_lowered_limit_are_closed_with_the_next_one() {
        let registry = Arc::new(Registry::new("test"));
        let enters = |most, of_address| enter(&registry, "10.0.0.1", most, of_address);
        let _held: Vec<_> = (0..40).map(|_| enters(40, 40).unwrap()).collect();
        let _of_address = enters(40, 30).unwrap();
        assert_eq!(registry.count(), 30);
        let _of_all = enters(10, 30).unwrap();
        assert_eq!(registry.count(), 10);
    }

    #[test]
    fn address_has_a_share_and_an_ipv6_network_counts_as_one_address() {
        let registry = Arc::new(Registry::new("test"));
        let held: Vec<_> = ["2001:db8::1", "2001:db8::2"].map(|one| enter(&registry, one, 9, 2).unwrap()).into();
        assert!(held.iter().all(work));
        assert!(enter(&registry, "2001:db8::3", 9, 2).is_none());
        assert!(enter(&registry, "2001:db8:0:1::1", 9, 2).is_some(), "another network");
        let mapped = enter(&registry, "::ffff:10.0.0.1", 9, 1).unwrap();
        assert!(work(&mapped));
        assert!(enter(&registry, "10.0.0.1", 9, 1).is_none(), "the same address in another form");
        drop(held);
        assert!(enter(&registry, "2001:db8::3", 9, 2).is_some());
    }
}
