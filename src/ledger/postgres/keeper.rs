//! Who runs a claim, and what becomes of it when the process that runs it is gone.
//!
//! Each process has a lease, which it renews while it lives, by the server's clock. A claim names the process that runs
//! it. When the lease is over, any other process ends the claim as unknown, which means: the provider is asked, nothing is
//! sent again; and what a process had before its lease was over it may not send after it was renewed. From then on the claim runs no more, so that what the old process may still bring is heard as late news; to
//! run it a second time is not possible, because a claim begins to run when it is made, or when one process takes it from
//! the queue, and goes back there only from the hands of the process that had that turn.
//!
//! A process also looks after its own claims: one that runs according to the tables and of which nobody here has the ticket
//! (its end could not be written, or was lost with the server's memory) is ended too.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use super::Shared;
use super::clock;
use super::pool::Line;
use super::schema;
use super::session::{Failure, Session};
use crate::ledger::about::About;
use crate::ledger::engine::Durability;
use crate::ledger::held::{End, Turn};
use crate::ledger::records::LedgerError;
use crate::ledger::transaction::Space;

/// How long a process may be silent before it is held for dead.
const LEASE: Duration = Duration::from_secs(15);
/// How often it speaks.
const BEAT: Duration = Duration::from_secs(3);
/// How soon it tries again when it was not heard.
const AGAIN: Duration = Duration::from_millis(500);

/// Gives this process a number that no other ever had.
pub(super) fn number(session: &Session) -> Result<u32, Failure> {
    let rows = session.query("SELECT nextval('tollgate_owner_numbers')", &[])?;
    let number = rows.first().and_then(|row| u32::try_from(row.get::<_, i64>(0)).ok());
    number.ok_or_else(|| Failure("PostgreSQL gave no number to this process".to_owned()))
}

/// Keeps the lease until the other end of `stop` is gone, then gives it up.
pub(super) fn keep(
    shared: &Arc<Shared>,
    session: Session,
    stop: &Receiver<()>,
    ready: &mpsc::Sender<Result<(), Failure>>,
) {
    let mut line = Line::of(session);
    loop {
        let beat = line.session(shared).and_then(|session| beat(shared, session));
        let pause = if beat.is_ok() { BEAT } else { AGAIN };
        match &beat {
            Ok(()) => shared.health.good(),
            Err(failure) => shared.health.bad(&failure.0),
        }
        let _ = ready.send(beat);
        if stop.recv_timeout(pause) == Err(RecvTimeoutError::Disconnected) {
            break;
        }
    }
    if let Ok(session) = line.session(shared) {
        let _ = session.query("DELETE FROM tollgate_owners WHERE owner = $1", &[&i64::from(shared.owner)]);
    }
}

fn beat(shared: &Arc<Shared>, session: &Session) -> Result<(), Failure> {
    const RENEW: &str = "\
        INSERT INTO tollgate_owners (owner, expires) VALUES ($1, clock_timestamp() + make_interval(secs => $2))
        ON CONFLICT (owner) DO UPDATE SET expires = excluded.expires";
    // From before it is asked: what is ours ends rather too early than too late.
    let from = Instant::now();
    session.query(RENEW, &[&i64::from(shared.owner), &LEASE.as_secs_f64()])?;
    let mut lease = shared.lease.lock();
    // Heard in time, it was renewed in time.
    if lease.until.is_none_or(|until| until < Instant::now()) {
        lease.term += 1;
    }
    lease.until = Some(from + LEASE);
    drop(lease);
    clock::measure(session)?;
    sweep(shared, session)?;
    session.query("DELETE FROM tollgate_owners WHERE expires < clock_timestamp() - interval '1 day'", &[])?;
    Ok(())
}

/// Ends the claims of those whose lease is over, and our own that nobody holds.
fn sweep(shared: &Arc<Shared>, session: &Session) -> Result<(), Failure> {
    const RUNNING: &str = "\
        SELECT key, owner, value FROM tollgate_due AS it WHERE space = $1 AND (owner = $2 OR NOT EXISTS (
            SELECT FROM tollgate_owners AS alive WHERE alive.owner = it.owner AND alive.expires > clock_timestamp()))";
    let owner = i64::from(shared.owner);
    for row in session.query(RUNNING, &[&schema::number(Space::Running), &owner])? {
        let Ok(turn) = Turn::listed(row.get(0), row.get(2)) else { continue };
        let is_ours = row.get::<_, Option<i64>>(1) == Some(owner);
        let end = match shared.tickets.lock().end(turn) {
            None if is_ours => continue,
            Some(end) if is_ours => end,
            _ => End::Lost,
        };
        // One that cannot be read must not keep all others from being served.
        if let Err(error) = end_claim(shared, session, turn, end) {
            if session.is_broken() {
                return Err(Failure(error.0));
            }
            let claim = String::from(turn.claim);
            tracing::error!(%error, claim, "a claim that nobody runs cannot be ended; a person must look at it");
        }
    }
    Ok(())
}

/// Ends one claim that runs; one that does not is left alone.
pub(super) fn end_claim(shared: &Arc<Shared>, session: &Session, turn: Turn, end: End) -> Result<(), LedgerError> {
    let work = move |tx: &mut crate::ledger::transaction::Transaction<'_>| end.of(tx, turn);
    let ((), wakes) = session.transaction(Durability::Durable, &About::Claim(turn.claim), shared, work)?;
    shared.tickets.lock().ended(turn);
    if wakes {
        shared.wake();
    }
    Ok(())
}
