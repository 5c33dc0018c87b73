//! Opens the configured ledger.

use std::sync::Arc;

use crate::clock::AuthoritativeClock;
use crate::config::{self, LedgerConfig, PostgresUrl, Process, Retention};
use crate::ledger::{self, Address, Environment, Ledger, LedgerError, RetentionPolicy};
use crate::telemetry::LedgerMetrics;

// The defaults of the keys are those of the ledger.
const _: () = assert!(config::DEFAULT_CONNECTIONS == ledger::CONNECTIONS);
const _: () = assert!(config::MIN_CONNECTIONS == ledger::FEWEST_CONNECTIONS);
const _: () = assert!(config::DEFAULT_MIN_FREE_DISK == ledger::RESERVE);

/// Returns the clock and the metrics of this process for a ledger.
pub(crate) fn environment() -> Environment {
    Environment { clock: Arc::new(AuthoritativeClock), metrics: Arc::new(LedgerMetrics) }
}

/// Opens the ledger. The error says what to do.
pub(crate) fn open_ledger(process: &Process) -> Result<Ledger, String> {
    match &process.ledger {
        LedgerConfig::Embedded(path) => {
            Ledger::open_with(path, process.reserve, environment()).map_err(|error| error.to_string())
        }
        LedgerConfig::Postgres(url) => {
            let connected = Ledger::connect_with(postgres_address(url)?, process.connections, environment());
            connected.map_err(|error| match error {
                LedgerError::Unreachable { .. } | LedgerError::Refused { .. } | LedgerError::Timeout => {
                    format!("{error}; check that PostgreSQL is running and that `ledger.url` in tollgate.toml is right")
                }
                error => error.to_string(),
            })
        }
    }
}

/// Returns the address of a PostgreSQL server, whose URL was checked when the configuration was read.
pub(crate) fn postgres_address(url: &PostgresUrl) -> Result<Address, String> {
    Address::parse(&url.url, url.authorities.as_deref()).map_err(|why| format!("`ledger.url` is not usable: {why}"))
}

/// Returns the retention periods in the ledger's terms.
pub(crate) fn retention_policy(keep: Retention) -> RetentionPolicy {
    let Retention { claims, payments, events } = keep;
    RetentionPolicy { claims, payments, events }
}
