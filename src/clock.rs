//! Time and chance: the only place where the machine's clock and random numbers come in.

use std::time::Duration;

use async_trait::async_trait;
use rand::Rng;
use tokio::time::Instant;
use tollgate_plugins::filter::Clock;
use tollgate_plugins::provider::Stamp;

/// The machine's own clock, counted from when this was made.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    origin: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { origin: Instant::now() }
    }
}

#[async_trait]
impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    fn random(&self) -> f64 {
        rand::rng().random()
    }
}

/// The moment and a fresh nonce for one signature.
pub fn stamp() -> Stamp {
    let nonce = rand::rng().sample_iter(rand::distr::Alphanumeric).take(32).map(char::from).collect();
    Stamp { unix_time: unix_now(), nonce }
}

/// Seconds since 1970.
pub fn unix_now() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0)
}
