//! Waiting for conditions, and addresses that stay free.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Limit for every wait, long enough for a busy machine. A failed wait prints the last value.
pub const TEST_TIMEOUT: Duration = Duration::from_secs(120);

/// Polls a condition until it holds. A timeout panics with the last value.
pub async fn until<T, F, S>(what: &str, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, S>>,
    S: std::fmt::Display,
{
    let end = Instant::now() + TEST_TIMEOUT;
    loop {
        match look().await {
            Ok(found) => return found,
            Err(instead) => assert!(Instant::now() < end, "timed out waiting until {what}; last value: {instead:#}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Returns an address for a listener that must be bound again after a crash, so port 0 is not possible. Each is on its own
/// loopback IP: no connection of another test can take its port meanwhile.
pub fn free_address() -> SocketAddr {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let number = GIVEN.fetch_add(1, Ordering::SeqCst) + (std::process::id() << 10);
    let [_, a, b, c] = number.to_be_bytes();
    std::net::TcpListener::bind((Ipv4Addr::new(127, a | 1, b, c), 0)).unwrap().local_addr().unwrap()
}
