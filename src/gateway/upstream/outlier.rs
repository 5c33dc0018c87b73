//! Outlier detection: a failed address is ejected for a growing time, and then one request tries it again.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// First and maximum ejection time.
const EJECTION_TIME: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

/// Failures of the addresses of one host.
#[derive(Default)]
pub(super) struct OutlierDetector(Mutex<HashMap<IpAddr, Ejection>>);

struct Ejection {
    failures: u32,
    until: Instant,
}

impl OutlierDetector {
    /// Records that the address was unreachable or did not respond.
    pub(super) fn record_failure(&self, address: IpAddr) {
        let mut ejected = self.0.lock();
        let entry = ejected.entry(address).or_insert(Ejection { failures: 0, until: Instant::now() });
        entry.until = Instant::now() + ejection_time(entry.failures);
        entry.failures = entry.failures.saturating_add(1);
    }

    /// Records that the address responded.
    pub(super) fn record_success(&self, address: IpAddr) {
        self.0.lock().remove(&address);
    }

    /// Returns the addresses to try in order: one whose ejection ended, for a single request, then the healthy ones, starting at
    /// another one for each `round_robin`. Failures of addresses that are no longer listed are dropped.
    pub(super) fn candidates(&self, addresses: &[IpAddr], round_robin: usize) -> Vec<IpAddr> {
        let (mut ejected, now) = (self.0.lock(), Instant::now());
        ejected.retain(|address, _| addresses.contains(address));
        let mut candidates: Vec<IpAddr> =
            addresses.iter().copied().filter(|address| !ejected.contains_key(address)).collect();
        if !candidates.is_empty() {
            let first = round_robin % candidates.len();
            candidates.rotate_left(first);
        }
        let recovered =
            addresses.iter().copied().find(|address| ejected.get(address).is_some_and(|ejected| ejected.until <= now));
        if let Some((address, entry)) = recovered.and_then(|address| Some((address, ejected.get_mut(&address)?))) {
            entry.until = now + ejection_time(entry.failures);
            candidates.insert(0, address);
        }
        candidates
    }

    /// Returns the number of ejected addresses.
    pub(super) fn count(&self) -> usize {
        self.0.lock().len()
    }
}

fn ejection_time(failures: u32) -> Duration {
    let (first, last) = EJECTION_TIME;
    first.saturating_mul(1 << failures.min(16)).min(last)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn addresses() -> [IpAddr; 3] {
        ["192.0.2.1", "192.0.2.2", "2001:db8::3"].map(|text| text.parse().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn traffic_is_distributed_over_healthy_addresses() {
        let (detector, [one, two, three]) = (OutlierDetector::default(), addresses());
        let firsts: Vec<_> = (0..6).map(|round_robin| detector.candidates(&addresses(), round_robin)[0]).collect();
        assert_eq!(firsts, [one, two, three, one, two, three]);
        detector.record_failure(two);
        for round_robin in 0..6 {
            let candidates = detector.candidates(&addresses(), round_robin);
            assert!(candidates.len() == 2 && !candidates.contains(&two), "{candidates:?}");
        }
        assert_eq!(detector.count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn ejected_address_is_retried_by_one_request_after_a_growing_time() {
        let (detector, [_, two, _]) = (OutlierDetector::default(), addresses());
        for seconds in [5, 10, 20, 40, 60, 60] {
            detector.record_failure(two);
            tokio::time::advance(Duration::from_secs(seconds) - Duration::from_millis(1)).await;
            assert!(!detector.candidates(&addresses(), 0).contains(&two), "not before {seconds} s");
            tokio::time::advance(Duration::from_millis(1)).await;
            assert_eq!(detector.candidates(&addresses(), 0)[0], two, "after {seconds} s");
            assert!(!detector.candidates(&addresses(), 0).contains(&two), "one request tries it");
        }
        detector.record_success(two);
        assert!(detector.candidates(&addresses(), 0).contains(&two));
        detector.record_failure(two);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(detector.candidates(&addresses(), 0)[0], two, "the ejection time starts again");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_of_removed_addresses_are_dropped() {
        let (detector, [one, two, three]) = (OutlierDetector::default(), addresses());
        detector.record_failure(two);
        assert_eq!(detector.candidates(&[one, three], 0), [one, three]);
        assert_eq!(detector.count(), 0);
    }
}
