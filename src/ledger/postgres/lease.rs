//! The lease of this process: until when no other process may hold it for dead.
//!
//! Each process has a lease, which it renews while it lives, by the server's clock. A claim names the process that runs
//! it. When the lease is over, any other process ends the claim as unknown, which means: the provider is asked, nothing is
//! sent again; and what a process had before its lease was over it may not send after it was renewed. From then on the claim runs no more, so that what the old process may still bring is heard as late news; to
//! run it a second time is not possible, because a claim begins to run when it is made, or when one process takes it from
//! the queue, and goes back there only from the hands of the process that had that turn.
//!
//! Renewal waits for nothing else: it has a thread and a connection of its own, and short time-outs. Where the server allows no
//! further connection, it goes before all other work over one of the pool's.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Shared;
use super::clock;
use super::failure::Kind;
use super::health::Part;
use super::pool::Next;
use super::session::{Failure, Session};

/// How long a process may be silent before it is held for dead.
const LEASE: Duration = Duration::from_secs(15);
/// How often it speaks.
pub(super) const BEAT: Duration = Duration::from_secs(3);
/// How soon it tries again when it was not heard.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// How long one renewal may take, in seconds: several fit into a lease.
pub(super) const RENEWAL: u64 = 3;

/// Until when nobody holds this process for dead.
#[derive(Default)]
pub(in crate::ledger) struct Lease(Mutex<State>);

#[derive(Default)]
struct State {
    until: Option<Instant>,
    /// Grows whenever somebody may have held it for dead in between: what it had before it has no right to any more.
    term: u64,
    renewals: u64,
    /// Why it could not be renewed the last time.
    why: Option<String>,
    /// The operator knows that it is over.
    is_told: bool,
}

impl Lease {
    pub(super) fn term(&self) -> u64 {
        self.0.lock().term
    }

    /// How often it was renewed.
    #[cfg(test)]
    pub(in crate::ledger) fn renewals(&self) -> u64 {
        self.0.lock().renewals
    }

    /// Says why nothing may be sent, once the lease is over. The first who asks then also tells the operator.
    pub(super) fn over(&self) -> Option<String> {
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
             and nothing is sent until it is renewed; see that PostgreSQL answers within {RENEWAL} s"
        );
        if !std::mem::replace(&mut state.is_told, true) {
            tracing::error!("{why}");
        }
        Some(why)
    }

    /// It was renewed by a statement that began then.
    fn renewed(&self, from: Instant) {
        let mut state = self.0.lock();
        // Heard in time, it was renewed in time.
        if state.until.is_none_or(|until| until < Instant::now()) {
            state.term += 1;
        }
        state.until = Some(from + LEASE);
        state.renewals += 1;
        state.why = None;
        if std::mem::replace(&mut state.is_told, false) {
            tracing::info!("the lease of this gateway is renewed: payments go on");
        }
    }

    fn failed(&self, why: &str) {
        let mut state = self.0.lock();
        state.why = Some(why.to_owned());
        let was_held = state.until.is_some();
        drop(state);
        if was_held {
            self.over();
        }
    }

    /// Ends the lease, as a renewal that fails for too long does.
    #[cfg(test)]
    pub(in crate::ledger) fn let_end(&self) {
        self.0.lock().until = None;
    }

    /// Begins a new term, as a renewal that comes too late does.
    #[cfg(test)]
    pub(in crate::ledger) fn let_break(&self) {
        self.0.lock().term += 1;
    }
}

/// Gives this process a number that no other ever had.
pub(super) fn number(session: &Session) -> Result<u32, Failure> {
    let rows = session.query("SELECT nextval('tollgate_owner_numbers')", &[])?;
    let number = rows.first().and_then(|row| u32::try_from(row.get::<_, i64>(0)).ok());
    number.ok_or_else(|| Failure::other("PostgreSQL gave no number to this process"))
}

/// Keeps the lease until the other end of `stop` is gone, then gives it up.
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
                // A renewal that was only slow says nothing about payments, as long as the lease lasts.
                if failure.kind != Kind::Conflict {
                    shared.health.bad(Part::Keeper, &failure.why);
                }
            }
        }
        let pause = if renewed.is_ok() { BEAT } else { RETRY_INTERVAL };
        let _ = ready.send(renewed);
        if stop.recv_timeout(pause) == Err(RecvTimeoutError::Disconnected) {
            break;
        }
    }
    if let Some(session) = own.filter(|session| !session.is_broken()) {
        let _ = session.query("DELETE FROM tollgate_owners WHERE owner = $1", &[&i64::from(shared.owner)]);
    }
}

/// Renews the lease over the own connection, a new one, or one of the pool's.
fn renew(shared: &Arc<Shared>, own: &mut Option<Session>) -> Result<(), Failure> {
    if let Some(session) = own.take().filter(|session| !session.is_broken()) {
        let renewed = renew_lease(shared, &session);
        if renewed.is_ok() || !session.is_broken() {
            *own = Some(session);
            return renewed;
        }
    }
    match Session::connect(&shared.address).and_then(|session| session.hasty(RENEWAL)) {
        Ok(session) => renew_lease(shared, own.insert(session)),
        Err(failure) if shared.queue.connected() == 0 => Err(failure),
        Err(failure) => over_the_pool(shared).unwrap_or(Err(failure)),
    }
}

fn over_the_pool(shared: &Arc<Shared>) -> Option<Result<(), Failure>> {
    let (said, renewed) = channel();
    let weak = Arc::downgrade(shared);
    shared.queue.push_first(Box::new(move |session| {
        if let (Ok(session), Some(shared)) = (session, weak.upgrade()) {
            let _ = said.send(renew_lease(&shared, session));
        }
        Next::Done
    }));
    renewed.recv_timeout(Duration::from_secs(RENEWAL)).ok()
}

/// Renews the lease.
fn renew_lease(shared: &Shared, session: &Session) -> Result<(), Failure> {
    const RENEW: &str = "\
        INSERT INTO tollgate_owners (owner, expires) VALUES ($1, clock_timestamp() + make_interval(secs => $2))
        ON CONFLICT (owner) DO UPDATE SET expires = excluded.expires";
    // From before it is asked: what is ours ends rather too early than too late.
    let from = Instant::now();
    session.query(RENEW, &[&i64::from(shared.owner), &LEASE.as_secs_f64()])?;
    shared.lease.renewed(from);
    clock::measure(session)?;
    Ok(())
}
