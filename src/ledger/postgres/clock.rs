//! The measurement of PostgreSQL's clock, which decides in every gateway that shares the ledger.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::session::{Failure, Session};
use crate::clock;
use crate::ledger::ids::{millis_at, time};
use crate::ledger::transaction::Space;

/// A slower answer says too little at a start.
const EXACT: Duration = Duration::from_millis(200);
/// How often a start tries for an exact answer.
const TRIES: u32 = 5;

/// Asks PostgreSQL for its time.
pub(super) fn measure(session: &Session) -> Result<Duration, Failure> {
    const TIME: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    let sent = Instant::now();
    let rows = session.query(TIME, &[])?;
    let received = Instant::now();
    let told = rows.first().and_then(|row| Timestamp::from_microsecond(row.get(0)).ok());
    let told = told.ok_or_else(|| Failure::other("PostgreSQL tells no time"))?;
    clock::measured(sent, received, told);
    Ok(received.duration_since(sent))
}

/// Asks until an answer is exact, because everything after it is decided by that time. The first round trip prepares the
/// statement as well.
pub(super) fn measure_first(session: &Session) -> Result<(), Failure> {
    measure(session)?;
    for _ in 1..TRIES {
        if measure(session)? <= EXACT {
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
        let rows = session.query(NEWEST, &[&super::schema::number(*space)])?;
        newest = newest.max(rows.first().map(|row| time(millis_at(row.get::<_, &[u8]>(0)))));
    }
    Ok(newest)
}
