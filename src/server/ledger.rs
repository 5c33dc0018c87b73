//! Opens the configured ledger.

use std::sync::Arc;

use crate::clock::AuthoritativeClock;
use crate::config::{LedgerConfig, Process};
use crate::ledger::{Environment, Ledger, LedgerError};
use crate::telemetry::LedgerMetrics;

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
        LedgerConfig::Postgres(address) => {
            let connected = Ledger::connect_with(address.as_ref().clone(), process.connections, environment());
            connected.map_err(|error| match error {
                LedgerError::Unreachable { .. } | LedgerError::Refused { .. } | LedgerError::Timeout => {
                    format!("{error}; check that PostgreSQL is running and that `ledger.url` in tollgate.toml is right")
                }
                error => error.to_string(),
            })
        }
    }
}
