//! Checks of values whose form only the library knows that will use them.

use tollgate_plugins::secret::Secret;

/// Check of a URL with the authorities of its server (DER).
type PostgresUrlCheck = fn(&Secret, Option<&[Vec<u8>]>) -> Result<String, String>;

/// Checks that the caller supplies, because their libraries open sockets or write the log. An error is a sentence without the
/// value, which may be secret.
#[derive(Clone, Copy)]
pub struct ValueChecks {
    /// Checks `ledger.url` with the authorities of `ledger.ca` (DER), and returns host and database for messages.
    pub postgres_url: PostgresUrlCheck,
    /// Checks `cache.url`. The error continues "`cache.url` …".
    pub redis_url: fn(&Secret) -> Result<(), &'static str>,
    /// Returns whether a value of `telemetry.log` is a log filter.
    pub is_log_filter: fn(&str) -> bool,
}

impl ValueChecks {
    /// Accepts every value, for a schema.
    pub(crate) const ACCEPT: Self =
        Self { postgres_url: |_, _| Ok(String::new()), redis_url: |_| Ok(()), is_log_filter: |_| true };
}
