//! Opens the configured ledger.

use crate::config::{self, LedgerConfig, PostgresUrl, Process, Retention};
use crate::ledger::{self, Address, Ledger, RetentionPolicy, refuse_moved};

// The defaults of the keys are those of the ledger.
const _: () = assert!(config::DEFAULT_CONNECTIONS == ledger::CONNECTIONS);
const _: () = assert!(config::MIN_CONNECTIONS == ledger::FEWEST_CONNECTIONS);
const _: () = assert!(config::DEFAULT_MIN_FREE_DISK == ledger::RESERVE);

/// Opens the ledger. The error says what to do.
pub(crate) fn open_ledger(process: &Process) -> Result<Ledger, String> {
    match &process.ledger {
        // This error contains its own advice.
        LedgerConfig::Embedded(path) if let Err(error) = refuse_moved(path) => Err(error.0),
        LedgerConfig::Embedded(path) => Ledger::open_with(path, process.reserve).map_err(|error| error.to_string()),
        LedgerConfig::Postgres(url) => {
            Ledger::connect_with(postgres_address(url)?, process.connections).map_err(|error| {
                format!("{error}; check that PostgreSQL is running and that `ledger.url` in tollgate.toml is right")
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
