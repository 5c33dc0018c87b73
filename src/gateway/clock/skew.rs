//! A wrong clock for tests: the process's clock differs from the machine's by a number of seconds. `tollgate chaos` and the
//! end-to-end tests set it. It is compiled only with the feature `tools`.

use std::sync::atomic::{AtomicI64, Ordering};

use jiff::{SignedDuration, Timestamp};

/// Environment variable with the seconds by which the clock is ahead. A negative number puts it back.
const AHEAD_VARIABLE: &str = "TOLLGATE_CHAOS_CLOCK_AHEAD";

/// Seconds by which this process's clock is ahead of the machine's.
static CLOCK_SKEW: AtomicI64 = AtomicI64::new(0);

/// Reads the skew from the environment. Returns an error unless `public_url` is on the loopback interface.
pub fn read_environment(public_url: &str) -> Result<(), String> {
    let Ok(ahead) = std::env::var(AHEAD_VARIABLE) else { return Ok(()) };
    if !public_url.starts_with("http://127.") {
        return Err(format!("{AHEAD_VARIABLE} is for `tollgate chaos` alone: unset it"));
    }
    let ahead = ahead.parse().map_err(|_| format!("{AHEAD_VARIABLE} must be a number of seconds"))?;
    CLOCK_SKEW.store(ahead, Ordering::Relaxed);
    Ok(())
}

/// Returns the skewed time.
pub(super) fn applied_to(now: Timestamp) -> Timestamp {
    now.checked_add(SignedDuration::from_secs(CLOCK_SKEW.load(Ordering::Relaxed))).unwrap_or(now)
}
