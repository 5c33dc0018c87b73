//! Which addresses of a host did badly: they stand behind the others for a while that grows, and then one request finds out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// How long an address stands behind the others: at first, doubled until the last.
const PAUSES: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

/// What is known against addresses.
#[derive(Default)]
pub(super) struct Health(Mutex<HashMap<IpAddr, Bad>>);

struct Bad {
    times: u32,
    until: Instant,
}

impl Health {
    /// It could not be reached, or did not answer.
    pub(super) fn failed(&self, address: IpAddr) {
        let mut bad = self.0.lock();
        let entry = bad.entry(address).or_insert(Bad { times: 0, until: Instant::now() });
        entry.until = Instant::now() + pause(entry.times);
        entry.times = entry.times.saturating_add(1);
    }

    /// It answered.
    pub(super) fn worked(&self, address: IpAddr) {
        self.0.lock().remove(&address);
    }

    /// The addresses to be tried now, in this order: one that may have recovered, for one request to find out, then those
    /// that are well, beginning with another one at each turn. What is known against others is forgotten.
    pub(super) fn good(&self, addresses: &[IpAddr], turn: usize) -> Vec<IpAddr> {
        let (mut bad, now) = (self.0.lock(), Instant::now());
        bad.retain(|address, _| addresses.contains(address));
        let mut good: Vec<IpAddr> = addresses.iter().copied().filter(|address| !bad.contains_key(address)).collect();
        if !good.is_empty() {
            let first = turn % good.len();
            good.rotate_left(first);
        }
        let recovered = addresses.iter().copied().find(|address| bad.get(address).is_some_and(|bad| bad.until <= now));
        if let Some((address, entry)) = recovered.and_then(|address| Some((address, bad.get_mut(&address)?))) {
            entry.until = now + pause(entry.times);
            good.insert(0, address);
        }
        good
    }

    /// How many stand behind.
    pub(super) fn count(&self) -> usize {
        self.0.lock().len()
    }
}

fn pause(times: u32) -> Duration {
    let (first, last) = PAUSES;
    first.saturating_mul(1 << times.min(16)).min(last)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn addresses() -> [IpAddr; 3] {
        ["192.0.2.1", "192.0.2.2", "2001:db8::3"].map(|text| text.parse().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn traffic_is_spread_over_those_that_are_well() {
        let (health, [one, two, three]) = (Health::default(), addresses());
        let firsts: Vec<_> = (0..6).map(|turn| health.good(&addresses(), turn)[0]).collect();
        assert_eq!(firsts, [one, two, three, one, two, three]);
        health.failed(two);
        for turn in 0..6 {
            let good = health.good(&addresses(), turn);
            assert!(good.len() == 2 && !good.contains(&two), "{good:?}");
        }
        assert_eq!(health.count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn one_request_finds_out_after_a_pause_that_grows() {
        let (health, [_, two, _]) = (Health::default(), addresses());
        for seconds in [5, 10, 20, 40, 60, 60] {
            health.failed(two);
            tokio::time::advance(Duration::from_secs(seconds) - Duration::from_millis(1)).await;
            assert!(!health.good(&addresses(), 0).contains(&two), "not before {seconds} s");
            tokio::time::advance(Duration::from_millis(1)).await;
            assert_eq!(health.good(&addresses(), 0)[0], two, "after {seconds} s");
            assert!(!health.good(&addresses(), 0).contains(&two), "one is enough to find out");
        }
        health.worked(two);
        assert!(health.good(&addresses(), 0).contains(&two));
        health.failed(two);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(health.good(&addresses(), 0)[0], two, "it begins anew");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_gone_is_forgotten() {
        let (health, [one, two, three]) = (Health::default(), addresses());
        health.failed(two);
        assert_eq!(health.good(&[one, three], 0), [one, three]);
        assert_eq!(health.count(), 0);
    }
}
