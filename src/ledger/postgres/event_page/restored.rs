//! Order of events whose tables were restored on another server.
//!
//! Numbers of transactions belong to one server. After a restore from a dump, or a logical failover, the numbers in the
//! rows may be greater than those of new transactions: the events would be withheld, and new ones would precede them.

use parking_lot::Mutex;

use super::super::address::Address;
use super::super::failure::Failure;
use super::super::origin;
use super::super::schema::MIGRATION_LOCK;
use super::super::session::Session;

/// Time limit for the renumbering of all events, in seconds.
const RENUMBER_TIMEOUT_SECS: u64 = 3600;

/// Identity of the server, the database and the tables whose events this process has numbered. `None` until it is known.
#[derive(Default)]
pub(crate) struct NumberedFor(Mutex<Option<String>>);

impl NumberedFor {
    /// Renumbers all events if the session leads to another server than the last one did, and the tables come from elsewhere.
    /// Called before the first work on each session, because a logical failover ends sessions and no process.
    pub(crate) fn follow(&self, address: &Address, session: &Session) -> Result<(), Failure> {
        let identity = origin::identity(session).ok();
        if identity.is_some() && *self.0.lock() == identity {
            return Ok(());
        }
        renumber_restored(address, session)?;
        *self.0.lock() = identity;
        Ok(())
    }
}

/// Renumbers all events if the tables come from another server: in their order, before every transaction. Called before
/// this process writes there.
fn renumber_restored(address: &Address, session: &Session) -> Result<(), Failure> {
    // At most the position in the events of one merchant minus their number, so never positive.
    const RENUMBER: &str = "\
        UPDATE tollgate_merchant_events AS it SET xact = ranked.xact FROM (
            SELECT merchant, event, row_number() OVER (PARTITION BY merchant ORDER BY xact, event)
                - count(*) OVER (PARTITION BY merchant) AS xact FROM tollgate_merchant_events) AS ranked
        WHERE it.merchant = ranked.merchant AND it.event = ranked.event";
    if !are_restored(session)? {
        return Ok(());
    }
    let session = Session::connect(address)?.with_timeout(RENUMBER_TIMEOUT_SECS)?;
    session.run(&format!("BEGIN; SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))?;
    // Another process may have renumbered them in the meantime.
    if are_restored(&session)? {
        tracing::info!(
            "the ledger's tables come from another PostgreSQL server: the events are renumbered in their order"
        );
        session.query(RENUMBER, &[])?;
    }
    session.run("COMMIT")
}

/// Returns whether an event has the number of a transaction that this server has not begun.
fn are_restored(session: &Session) -> Result<bool, Failure> {
    // A loose index scan from merchant to merchant, which reads the newest event of each.
    const ARE_RESTORED: &str = "\
        WITH RECURSIVE newest AS (
            (SELECT merchant, xact FROM tollgate_merchant_events ORDER BY merchant DESC, xact DESC LIMIT 1)
            UNION ALL
            SELECT next.merchant, next.xact FROM newest CROSS JOIN LATERAL (
                SELECT merchant, xact FROM tollgate_merchant_events AS it WHERE it.merchant < newest.merchant
                ORDER BY merchant DESC, xact DESC LIMIT 1) AS next)
        SELECT EXISTS (SELECT FROM newest WHERE xact >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint)";
    Ok(session.query(ARE_RESTORED, &[])?.first().is_some_and(|row| row.get(0)))
}
