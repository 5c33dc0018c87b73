//! Measurement of PostgreSQL's clock, which is authoritative for all gateways of the ledger.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::failure::Failure;
use super::session::Session;
use crate::environment::Clock;
use crate::ids::{millis_at, time};
use crate::transaction::Space;

/// Round-trip time above which a measurement at a start is repeated.
const MAX_ROUND_TRIP: Duration = Duration::from_millis(200);
/// Maximum number of measurements at a start.
const MAX_MEASUREMENTS: u32 = 5;

/// Measures PostgreSQL's clock. Returns the round-trip time.
pub(super) fn measure(session: &Session, clock: &dyn Clock) -> Result<Duration, Failure> {
    const TIME: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    let sent = Instant::now();
    let rows = session.query(TIME, &[])?;
    let received = Instant::now();
    let server_time = rows.first().and_then(|row| Timestamp::from_microsecond(row.get(0)).ok());
    let server_time = server_time.ok_or_else(|| Failure::other("PostgreSQL returned no time"))?;
    clock.measured(sent, received, server_time);
    Ok(received.duration_since(sent))
}

/// Measures until a measurement is exact, because all later decisions use it. The first round trip also prepares the
/// statement.
pub(super) fn measure_first(session: &Session, clock: &dyn Clock) -> Result<(), Failure> {
    measure(session, clock)?;
    for _ in 1..MAX_MEASUREMENTS {
        if measure(session, clock)? <= MAX_ROUND_TRIP {
            break;
        }
    }
    Ok(())
}

/// Returns the time of the newest row in these spaces, whose keys begin with their times.
pub(super) fn newest(session: &Session, spaces: &[Space]) -> Result<Option<Timestamp>, Failure> {
    const NEWEST: &str = "SELECT key FROM tollgate_records WHERE space = $1 ORDER BY key DESC LIMIT 1";
    let mut newest = None;
    for space in spaces {
        let rows = session.query(NEWEST, &[&super::tables::number(*space)])?;
        newest = newest.max(rows.first().map(|row| time(millis_at(row.get::<_, &[u8]>(0)))));
    }
    Ok(newest)
}
