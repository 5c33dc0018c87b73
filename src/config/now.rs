//! The time against which certificates are checked.

use std::time::{SystemTime, UNIX_EPOCH};

/// Time of reading the configuration, in Unix seconds.
#[derive(Clone, Copy, Debug)]
pub struct Now(pub i64);

impl Now {
    /// Reads the machine's clock.
    pub fn read() -> Self {
        Self(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs() as i64))
    }

    /// Returns a moment in 2026.
    #[cfg(test)]
    pub(crate) fn for_test() -> Self {
        Self(1_780_000_000)
    }
}
