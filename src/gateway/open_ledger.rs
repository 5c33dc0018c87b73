//! Opens the configured ledger.

use std::sync::Arc;

use tollgate_config::{LedgerConfig, PostgresUrl, Process, Retention};
use tollgate_ledger::{Address, Environment, Ledger, LedgerError, RetentionPolicy};

use crate::clock::AuthoritativeClock;
use crate::delivery::CurrentSubscriptions;
use crate::snapshot::Current;
use crate::telemetry::LedgerMetrics;

// The defaults of the keys are those of the ledger.
const _: () = assert!(tollgate_config::DEFAULT_CONNECTIONS == tollgate_ledger::CONNECTIONS);
const _: () = assert!(tollgate_config::MIN_CONNECTIONS == tollgate_ledger::FEWEST_CONNECTIONS);
const _: () = assert!(tollgate_config::DEFAULT_MIN_FREE_DISK == tollgate_ledger::RESERVE);

/// Returns the clock, the metrics and the merchants' sinks of this process for a ledger.
pub fn environment(current: &Current) -> Environment {
    let subscriptions = Arc::new(CurrentSubscriptions::new(Arc::clone(current)));
    Environment { clock: Arc::new(AuthoritativeClock), metrics: Arc::new(LedgerMetrics), subscriptions }
}

/// Opens the ledger. The error says what to do.
pub fn open_ledger(process: &Process, current: &Current) -> Result<Ledger, String> {
    match &process.ledger {
        LedgerConfig::Embedded(path) => {
            Ledger::open_with(path, process.reserve, environment(current)).map_err(|error| error.to_string())
        }
        LedgerConfig::Postgres(url) => {
            let connected = Ledger::connect_with(postgres_address(url)?, process.connections, environment(current));
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
pub fn postgres_address(url: &PostgresUrl) -> Result<Address, String> {
    Address::parse(&url.url, url.authorities.as_deref()).map_err(|why| format!("`ledger.url` is not usable: {why}"))
}

/// Returns the retention periods in the ledger's terms.
pub fn retention_policy(keep: Retention) -> RetentionPolicy {
    let Retention { claims, payments, events } = keep;
    RetentionPolicy { claims, payments, events }
}
