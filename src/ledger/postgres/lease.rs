//! Lease of this process: until it expires, no other process may take over its claims.
//!
//! Each process renews its lease by the server's clock. A claim names the process that executes it. When the lease
//! has expired, any other process may end the claim as unknown: the provider is then asked, and nothing is sent
//! again. Permits granted before the lease expired stay invalid after a later renewal.
//!
//! A claim cannot be executed twice. It starts to run when it is created or when one process dequeues it, and only
//! the holder of that execution may requeue it. An update from an old holder is applied like a late notification.
//!
//! Renewal has a thread and a connection of its own and short timeouts. If the server allows no further connection,
//! the renewal runs first on a connection of the pool.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Shared;
use super::clock;
use super::failure::{Failure, Kind};
use super::health::Part;
use super::pool::Next;
use super::session::Session;

/// Duration of the lease.
const LEASE_DURATION: Duration = Duration::from_secs(15);
/// Interval of renewals.
pub(super) const RENEWAL_INTERVAL: Duration = Duration::from_secs(3);
/// Interval of retries after a failed renewal.
const RENEWAL_RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// Timeout of one renewal, in seconds. Several retries fit into a lease.
pub(super) const RENEWAL_TIMEOUT_SECS: u64 = 3;

/// Present lease of this process.
#[derive(Default)]
pub(crate) struct Lease(Mutex<State>);

#[derive(Default)]
struct State {
    until: Option<Instant>,
    /// Incremented when the lease may have expired in between. Permits of an earlier term are invalid.
    term: u64,
    renewals: u64,
    /// Reason why the last renewal failed.
    why: Option<String>,
    /// True after the expiry was logged.
    is_reported: bool,
}

impl Lease {
    pub(super) fn term(&self) -> u64 {
        self.0.lock().term
    }

    /// Returns the number of renewals.
    #[cfg(test)]
    pub(crate) fn renewals(&self) -> u64 {
        self.0.lock().renewals
    }

    /// Returns why nothing may be sent, if the lease has expired. The first call after the expiry logs it.
    pub(super) fn expired_reason(&self) -> Option<String> {
        let mut state = self.0.lock();
        let until = state.until.filter(|until| *until <= Instant::now());
        let ago = match (until, state.until) {
            (Some(until), _) => format!("{} s ago", until.elapsed().as_secs()),
            (None, Some(_)) => return None,
            (None, None) => "before it was renewed".to_owned(),
        };
        let cause = state.why.as_ref().map_or_else(String::new, |why| format!(" ({why})"));
        let why = format!(
            "the lease of this gateway in PostgreSQL ended {ago} and could not be renewed{cause}: the other gateways end its payments, \
             and nothing is sent until it is renewed; see that PostgreSQL answers within {RENEWAL_TIMEOUT_SECS} s"
        );
        if !std::mem::replace(&mut state.is_reported, true) {
            tracing::error!("{why}");
        }
        Some(why)
    }

    /// Records a renewal whose statement started at `from`.
    fn renewed(&self, from: Instant) {
        let mut state = self.0.lock();
        // A renewal before the expiry continues the term.
        if state.until.is_none_or(|until| until < Instant::now()) {
            state.term += 1;
        }
        state.until = Some(from + LEASE_DURATION);
        state.renewals += 1;
        state.why = None;
        if std::mem::replace(&mut state.is_reported, false) {
            tracing::info!("the lease of this gateway is renewed: payments go on");
        }
    }

    fn failed(&self, why: &str) {
        let mut state = self.0.lock();
        state.why = Some(why.to_owned());
        let was_held = state.until.is_some();
        drop(state);
        if was_held {
            self.expired_reason();
        }
    }

    /// Ends the lease, as if renewals had failed for too long.
    #[cfg(test)]
    pub(crate) fn expire(&self) {
        self.0.lock().until = None;
    }

    /// Starts a new term, as a late renewal does.
    #[cfg(test)]
    pub(crate) fn start_new_term(&self) {
        self.0.lock().term += 1;
    }
}

/// Returns a number for this process that no other process ever had.
pub(super) fn number(session: &Session) -> Result<u32, Failure> {
    let rows = session.query("SELECT nextval('tollgate_owner_numbers')", &[])?;
    let number = rows.first().and_then(|row| u32::try_from(row.get::<_, i64>(0)).ok());
    number.ok_or_else(|| Failure::other("PostgreSQL gave no number to this process"))
}

/// Renews the lease until `stop` is disconnected, then deletes it.
pub(super) fn keep(
    shared: &Arc<Shared>,
    session: Session,
    stop: &Receiver<()>,
    ready: &mpsc::Sender<Result<(), Failure>>,
) {
    let mut own = Some(session);
    loop {
        let renewed = renew(shared, &mut own);
        match &renewed {
            Ok(()) => shared.health.good(Part::Keeper),
            Err(failure) => {
                shared.lease.failed(&failure.why);
                // A slow renewal says nothing about payments while the lease lasts.
                if failure.kind != Kind::Conflict {
                    shared.health.bad(Part::Keeper, &failure.why);
                }
            }
        }
        let pause = if renewed.is_ok() { RENEWAL_INTERVAL } else { RENEWAL_RETRY_INTERVAL };
        let _ = ready.send(renewed);
        if stop.recv_timeout(pause) == Err(RecvTimeoutError::Disconnected) {
            break;
        }
    }
    if let Some(session) = own.filter(|session| !session.is_broken()) {
        let _ = session.query("DELETE FROM tollgate_owners WHERE owner = $1", &[&i64::from(shared.owner)]);
    }
}

/// Renews the lease on the own connection, a new one, or one of the pool.
fn renew(shared: &Arc<Shared>, own: &mut Option<Session>) -> Result<(), Failure> {
    if let Some(session) = own.take().filter(|session| !session.is_broken()) {
        let renewed = renew_lease(shared, &session);
        if renewed.is_ok() || !session.is_broken() {
            *own = Some(session);
            return renewed;
        }
    }
    match Session::connect(&shared.address).and_then(|session| session.with_timeout(RENEWAL_TIMEOUT_SECS)) {
        Ok(session) => renew_lease(shared, own.insert(session)),
        Err(failure) if shared.queue.connected() == 0 => Err(failure),
        Err(failure) => renew_over_pool(shared).unwrap_or(Err(failure)),
    }
}

fn renew_over_pool(shared: &Arc<Shared>) -> Option<Result<(), Failure>> {
    let (done, renewed) = channel();
    let weak = Arc::downgrade(shared);
    shared.queue.push_first(Box::new(move |session| {
        if let (Ok(session), Some(shared)) = (session, weak.upgrade()) {
            let _ = done.send(renew_lease(&shared, session));
        }
        Next::Done
    }));
    renewed.recv_timeout(Duration::from_secs(RENEWAL_TIMEOUT_SECS)).ok()
}

/// Renews the lease on this connection.
fn renew_lease(shared: &Shared, session: &Session) -> Result<(), Failure> {
    const RENEW: &str = "\
        INSERT INTO tollgate_owners (owner, expires) VALUES ($1, clock_timestamp() + make_interval(secs => $2))
        ON CONFLICT (owner) DO UPDATE SET expires = excluded.expires";
    // Measured before the statement, so that the local deadline is never later than the server's.
    let from = Instant::now();
    session.query(RENEW, &[&i64::from(shared.owner), &LEASE_DURATION.as_secs_f64()])?;
    shared.lease.renewed(from);
    clock::measure(session, &*shared.environment.clock)?;
    Ok(())
}
