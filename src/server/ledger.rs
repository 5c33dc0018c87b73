//! Opens the configured ledger.

use std::sync::Arc;

use crate::clock::AuthoritativeClock;
use crate::config::{LedgerConfig, Process};
use crate::ledger::{Environment, Ledger, refuse_moved};
use crate::telemetry::LedgerMetrics;

/// Returns the clock and the metrics of this process for a ledger.
pub(crate) fn environment() -> Environment {
    Environment { clock: Arc::new(AuthoritativeClock), metrics: Arc::new(LedgerMetrics) }
}

/// Opens the ledger. The error says what to do.
pub(crate) fn open_ledger(process: &Process) -> Result<Ledger, String> {
    match &process.ledger {
        // This error contains its own advice.
        LedgerConfig::Embedded(path) if let Err(error) = refuse_moved(path) => Err(error.0),
        LedgerConfig::Embedded(path) => Ledger::open_with(path, process.reserve, environment()).map_err(|error| error.to_string()),
        LedgerConfig::Postgres(address) => {
            Ledger::connect_with(address.as_ref().clone(), process.connections, environment()).map_err(|error| {
                format!("{error}; check that PostgreSQL is running and that `ledger.url` in tollgate.toml is right")
            })
        }
    }
}
