//! Ends the claims of processes that are gone, and those of our own that nobody holds.
//!
//! It works beside the keeper, so that no lease waits for it, in batches that the living share: each takes some claims for a
//! while, and no two end the same. A batch is one transaction over rows that were read together, so that thousands of claims
//! cost few round trips.
//!
//! A process looks after its own claims too: one that runs according to the tables and of which nobody here has the ticket
//! (its end could not be written, or was lost with the server's memory) is ended as well.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::Shared;
use super::lease::BEAT;
use super::pool::Next;
use super::schema;
use super::session::{Failure, Session};
use crate::ledger::claim_guard::{Abandoned, ExecutionId};
use crate::ledger::claims;
use crate::ledger::engine::Durability;
use crate::ledger::ids::Id;
use crate::ledger::lock_scope::{self, LockScope};
use crate::ledger::records::LedgerError;
use crate::ledger::rows::{PaymentRow, TrackedRow};
use crate::ledger::transaction::{Read, Space, Transaction, Value};
use crate::telemetry::METRICS;

/// Claims that are ended in one transaction.
const BATCH: i64 = 64;
/// How long a batch is its taker's. After that another process takes it.
const TAKEN: Duration = Duration::from_secs(30);
/// How long after the end of a lease its claims are looked for.
const ENDED: Duration = Duration::from_millis(20);
/// How long a batch is waited for, with what waits for a connection before it.
const PATIENCE: Duration = Duration::from_secs(20);
/// Batches that a start waits for, so that what was left behind is mostly ended when it serves.
const AT_START: usize = 16;

/// Sweeps at every beat, and as soon as a lease ends, until the other end of `stop` is gone. Says when the first batches are
/// done.
pub(super) fn run(shared: &Arc<Shared>, stop: &Receiver<()>, started: std::sync::mpsc::Sender<()>) {
    let mut started = Some(started);
    let mut batches = 0;
    loop {
        let pause = batch(shared);
        batches += 1;
        if !pause.is_zero() || batches == AT_START {
            started.take();
        }
        if stop.recv_timeout(pause) == Err(RecvTimeoutError::Disconnected) {
            return;
        }
    }
}

/// Ends some claims. Returns the pause before the next batch: none while there may be more.
fn batch(shared: &Arc<Shared>) -> Duration {
    let (said, swept) = channel();
    let weak = Arc::downgrade(shared);
    shared.queue.push(Box::new(move |session| {
        let (Ok(session), Some(shared)) = (session, weak.upgrade()) else { return Next::Done };
        let swept = sweep(&shared, session);
        if let Err(error) = &swept {
            tracing::warn!(%error, "claims that nobody runs could not be ended; they are tried again in {BEAT:?}");
        }
        let _ = said.send(swept.unwrap_or(BEAT));
        Next::Done
    }));
    swept.recv_timeout(PATIENCE).unwrap_or(BEAT)
}

fn sweep(shared: &Arc<Shared>, session: &Session) -> Result<Duration, LedgerError> {
    const FORGET: &str = "DELETE FROM tollgate_owners WHERE expires < clock_timestamp() - interval '1 day'";
    let taken = take(shared, session)?;
    let is_full = taken.len() as i64 >= BATCH;
    let mut executions: Vec<_> = taken.into_iter().map(|execution| (execution, Abandoned::Abandoned)).collect();
    if !is_full {
        executions.extend(own(shared, session)?);
        session.query(FORGET, &[])?;
    }
    for executions in executions.chunks(BATCH as usize) {
        end_all(shared, session, executions)?;
    }
    if is_full { Ok(Duration::ZERO) } else { Ok(pause(session, shared.owner)?) }
}

/// Returns the time until the next sweep: a beat, or less where the lease of another process ends sooner. A process that lives has
/// renewed its lease long before.
pub(super) fn pause(session: &Session, owner: u32) -> Result<Duration, Failure> {
    const SOONEST: &str = "\
        SELECT extract(epoch FROM min(expires) - clock_timestamp())::float8 FROM tollgate_owners
        WHERE owner <> $1 AND expires > clock_timestamp()";
    let rows = session.query(SOONEST, &[&i64::from(owner)])?;
    let soonest = rows.first().and_then(|row| row.get::<_, Option<f64>>(0));
    let soonest = soonest.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    Ok(soonest.map_or(BEAT, |soonest| (soonest + ENDED).min(BEAT)))
}

/// Takes claims of processes whose lease is over.
fn take(shared: &Shared, session: &Session) -> Result<Vec<ExecutionId>, LedgerError> {
    const TAKE: &str = "\
        UPDATE tollgate_due SET taken_until = clock_timestamp() + make_interval(secs => $4)
        WHERE space = $1 AND key = ANY (ARRAY(
            SELECT key FROM tollgate_due AS it WHERE space = $1 AND owner IS DISTINCT FROM $2
                AND (taken_until IS NULL OR taken_until < clock_timestamp()) AND NOT EXISTS (
                SELECT FROM tollgate_owners AS alive WHERE alive.owner = it.owner AND alive.expires > clock_timestamp())
            ORDER BY key LIMIT $3 FOR UPDATE SKIP LOCKED))
        RETURNING key, value";
    let (space, owner) = (schema::number(Space::Running), i64::from(shared.owner));
    let rows = session.query(TAKE, &[&space, &owner, &BATCH, &TAKEN.as_secs_f64()])?;
    Ok(rows.iter().filter_map(|row| ExecutionId::listed(row.get(0), row.get(1)).ok()).collect())
}

/// Our own claims of which nobody has the ticket.
fn own(shared: &Shared, session: &Session) -> Result<Vec<(ExecutionId, Abandoned)>, LedgerError> {
    const OWN: &str = "SELECT key, value FROM tollgate_due WHERE space = $1 AND owner = $2";
    let rows = session.query(OWN, &[&schema::number(Space::Running), &i64::from(shared.owner)])?;
    let executions = rows.iter().filter_map(|row| ExecutionId::listed(row.get(0), row.get(1)).ok());
    let permits = shared.running_executions.lock();
    Ok(executions.filter_map(|execution| Some((execution, permits.end(execution)?))).collect())
}

/// Ends claims together, or one by one where one of them cannot be read: it must not keep all others from being served.
fn end_all(
    shared: &Arc<Shared>,
    session: &Session,
    executions: &[(ExecutionId, Abandoned)],
) -> Result<(), LedgerError> {
    match end_together(shared, session.fresh(), executions) {
        Err(error) if session.is_broken() => return Err(error),
        Err(_) => {}
        Ok(()) => return Ok(()),
    }
    for (execution, end) in executions {
        let error = match end_claim(shared, session.fresh(), *execution, *end) {
            Ok(ended) => {
                count(ended.into());
                continue;
            }
            Err(error) => error,
        };
        if session.is_broken() {
            return Err(error);
        }
        let claim = String::from(execution.claim);
        if session.is_in_trouble() {
            tracing::warn!(%error, claim, "a claim that nobody runs could not be ended; it is tried again");
        } else {
            tracing::error!(%error, claim, "a claim that nobody runs cannot be ended; a person must look at it");
        }
    }
    Ok(())
}

fn end_together(
    shared: &Arc<Shared>,
    session: &Session,
    executions: &[(ExecutionId, Abandoned)],
) -> Result<(), LedgerError> {
    let names = Together::read(session, executions)?.names(executions)?;
    session.begin_alone(&names)?;
    // Anew behind the locks.
    let base = Together::read(session, executions).inspect_err(|_| session.give_up())?;
    let work = |tx: &mut Transaction<'_>| {
        let mut ended = 0;
        for (execution, end) in executions {
            ended += u64::from(claims::is_running(tx, *execution)?);
            end.of(tx, *execution)?;
        }
        Ok(ended)
    };
    let (ended, wakes) = session.finish(&base, Durability::Durable, shared, work)?;
    count(ended);
    executions.iter().for_each(|(execution, _)| shared.running_executions.lock().ended(*execution));
    if wakes {
        shared.wake();
    }
    Ok(())
}

/// Counts claims that ran until now. Our own may have ended between the look at the tables and the look at the tickets.
fn count(ended: u64) {
    METRICS.stores.ledger_claims_taken_over_total.inc_by(ended);
}

/// Ends one claim that runs; one that does not is left alone. Returns whether it ran.
pub(super) fn end_claim(
    shared: &Arc<Shared>,
    session: &Session,
    execution: ExecutionId,
    end: Abandoned,
) -> Result<bool, LedgerError> {
    let work = move |tx: &mut Transaction<'_>| {
        let runs = claims::is_running(tx, execution)?;
        end.of(tx, execution)?;
        Ok(runs)
    };
    let (ran, wakes) = session.transaction(Durability::Durable, &LockScope::Claim(execution.claim), shared, work)?;
    shared.running_executions.lock().ended(execution);
    if wakes {
        shared.wake();
    }
    Ok(ran)
}

/// Ends a claim as soon as there is a connection; what fails is left to the next sweep.
pub(super) fn end_soon(
    weak: &Weak<Shared>,
    execution: ExecutionId,
    end: Abandoned,
    session: Result<&Session, LedgerError>,
) -> Next {
    let Some(shared) = weak.upgrade() else { return Next::Done };
    let ended = session.and_then(|session| end_claim(&shared, session, execution, end));
    if let Err(error) = ended {
        tracing::warn!(%error, "a claim that nobody holds any more could not be ended yet; it is tried again in {BEAT:?}");
    }
    Next::Done
}

/// The rows that claims are about, read together.
struct Together<'a> {
    session: &'a Session,
    rows: BTreeMap<(Space, Vec<u8>), Option<Value>>,
}

impl<'a> Together<'a> {
    fn read(session: &'a Session, executions: &[(ExecutionId, Abandoned)]) -> Result<Self, LedgerError> {
        let mut it = Self { session, rows: BTreeMap::new() };
        it.fetch(Space::Claims, executions.iter().map(|(execution, _)| execution.claim))?;
        let (mut payments, mut refunds) = (BTreeSet::new(), BTreeSet::new());
        for (execution, _) in executions {
            if let Some((payment, refund)) = claims::records_of(&it, execution.claim)? {
                payments.insert(payment);
                refunds.extend(refund);
            }
        }
        it.fetch(Space::Payments, payments.iter().copied())?;
        it.fetch(Space::Timeline, payments.into_iter())?;
        it.fetch(Space::Refunds, refunds.into_iter())?;
        Ok(it)
    }

    fn fetch(&mut self, space: Space, ids: impl Iterator<Item = Id>) -> Result<(), LedgerError> {
        const FETCH: &str = "SELECT key, value FROM tollgate_records WHERE space = $1 AND key = ANY ($2)";
        let keys: Vec<Vec<u8>> = ids.map(|id| id.0.to_vec()).collect();
        if keys.is_empty() {
            return Ok(());
        }
        let rows = self.session.query(FETCH, &[&schema::number(space), &keys])?;
        self.rows.extend(keys.into_iter().map(|key| ((space, key), None)));
        for row in rows {
            self.rows.insert((space, row.get(0)), Some(row.get::<_, &[u8]>(1).into()));
        }
        Ok(())
    }

    /// What to lock, in one order.
    fn names(&self, executions: &[(ExecutionId, Abandoned)]) -> Result<Vec<Id>, LedgerError> {
        let mut names = BTreeSet::new();
        for (execution, _) in executions {
            let Some((payment, _)) = claims::records_of(self, execution.claim)? else { continue };
            if let Some(tracked) = TrackedRow::<PaymentRow>::load(self, payment)? {
                names.insert(lock_scope::name(&tracked.row.payment.merchant, &tracked.row.payment.order_id));
            }
        }
        Ok(names.into_iter().collect())
    }
}

impl Read for Together<'_> {
    fn bytes(&self, space: Space, key: &[u8]) -> Result<Option<Value>, LedgerError> {
        match self.rows.get(&(space, key.to_vec())) {
            Some(value) => Ok(value.clone()),
            None => self.session.bytes(space, key),
        }
    }
}
