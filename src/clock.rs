//! Time and chance: the only place where the machine's clock and random numbers come in.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
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

/// How many seconds this process's clock is ahead of the machine's: 0, unless `tollgate chaos` wants it wrong.
static AHEAD: AtomicI64 = AtomicI64::new(0);

/// The variable with which `tollgate chaos` makes a gateway's clock wrong.
pub(crate) const AHEAD_VARIABLE: &str = "TOLLGATE_CHAOS_CLOCK_AHEAD";

/// Makes this process's clock wrong if the variable is set; refuses where real money is.
pub(crate) fn go_wrong(public_url: &str) -> Result<(), String> {
    let Ok(ahead) = std::env::var(AHEAD_VARIABLE) else { return Ok(()) };
    if !public_url.starts_with("http://127.") {
        return Err(format!("{AHEAD_VARIABLE} is for `tollgate chaos` alone: unset it"));
    }
    let ahead = ahead.parse().map_err(|_| format!("{AHEAD_VARIABLE} must be a number of seconds"))?;
    AHEAD.store(ahead, Ordering::Relaxed);
    Ok(())
}

/// The moment by this process's clock.
pub(crate) fn now() -> Timestamp {
    let now = Timestamp::now();
    now.checked_add(SignedDuration::from_secs(AHEAD.load(Ordering::Relaxed))).unwrap_or(now)
}

/// The moment and a fresh nonce for one signature.
pub fn stamp() -> Stamp {
    let nonce = rand::rng().sample_iter(rand::distr::Alphanumeric).take(32).map(char::from).collect();
    Stamp { unix_time: unix_now(), nonce }
}

/// Seconds since 1970.
pub fn unix_now() -> u64 {
    u64::try_from(now().as_second()).unwrap_or(0)
}
