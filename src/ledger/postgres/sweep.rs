//! Sweeper: ends the claims of dead processes, and abandoned claims of this process.
//!
//! Runs beside the lease keeper, so that it never delays a renewal. Each process reserves a batch of claims, so that
//! no two end the same one. A batch is one transaction over rows that are read together, so that thousands of claims
//! need few round trips.
//!
//! A process also ends its own claims that are running in the tables but have no permit here: their end could not be
//! written, or was lost in the server's memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::Shared;
use super::failure::Failure;
use super::lease::RENEWAL_INTERVAL;
use super::pool::Next;
use super::session::Session;
use super::tables;
use crate::claim_guard::{Abandoned, ExecutionId};
use crate::claims;
use crate::environment::Measurement;
use crate::error::LedgerError;
use crate::ids::Id;
use crate::lock_scope::LockScope;
use crate::names::order_lock;
use crate::rows::{PaymentRow, TrackedRow};
use crate::transaction::{Durability, Read, Space, Transaction, Value};

/// Maximum number of claims ended in one transaction.
const MAX_SWEEP_BATCH: i64 = 64;
/// Time for which a batch is reserved for a process.
const CLAIM_LOCK_DURATION: Duration = Duration::from_secs(30);
/// Delay between the expiry of a lease and the next sweep.
const EXPIRED_LEASE_DELAY: Duration = Duration::from_millis(20);
/// Maximum wait for a batch, including the wait for a connection.
const BATCH_TIMEOUT: Duration = Duration::from_secs(20);
/// Maximum number of batches that a start waits for, so that most abandoned claims are ended before it serves.
const MAX_BATCHES_AT_START: usize = 16;

/// Sweeps at every renewal interval and after each expiry of a lease, until `stop` is disconnected. Drops `started`
/// after the first batches.
pub(super) fn run(shared: &Arc<Shared>, stop: &Receiver<()>, started: std::sync::mpsc::Sender<()>) {
    let mut started = Some(started);
    let mut batches = 0;
    loop {
        let pause = batch(shared);
        batches += 1;
        if !pause.is_zero() || batches == MAX_BATCHES_AT_START {
            started.take();
        }
        if stop.recv_timeout(pause) == Err(RecvTimeoutError::Disconnected) {
            return;
        }
    }
}

/// Ends some claims. Returns the pause before the next batch; zero while there may be more.
fn batch(shared: &Arc<Shared>) -> Duration {
    let (done, result) = channel();
    let weak = Arc::downgrade(shared);
    shared.queue.push(Box::new(move |session| {
        let (Ok(session), Some(shared)) = (session, weak.upgrade()) else { return Next::Done };
        let result = sweep(&shared, session);
        if let Err(error) = &result {
            tracing::warn!(%error, "claims of dead processes could not be ended; retried in {RENEWAL_INTERVAL:?}");
        }
        let _ = done.send(result.unwrap_or(RENEWAL_INTERVAL));
        Next::Done
    }));
    result.recv_timeout(BATCH_TIMEOUT).unwrap_or(RENEWAL_INTERVAL)
}

fn sweep(shared: &Arc<Shared>, session: &Session) -> Result<Duration, LedgerError> {
    const DELETE_EXPIRED: &str = "DELETE FROM tollgate_owners WHERE expires < clock_timestamp() - interval '1 day'";
    let expired_executions = take(shared, session)?;
    let is_full = expired_executions.len() as i64 >= MAX_SWEEP_BATCH;
    let mut executions: Vec<_> =
        expired_executions.into_iter().map(|execution| (execution, Abandoned::Interrupted)).collect();
    if !is_full {
        executions.extend(own(shared, session)?);
        session.query(DELETE_EXPIRED, &[])?;
    }
    for executions in executions.chunks(MAX_SWEEP_BATCH as usize) {
        end_all(shared, session, executions)?;
    }
    if is_full { Ok(Duration::ZERO) } else { Ok(pause(session, shared.owner)?) }
}

/// Returns the time until the next sweep: the renewal interval, or less if the lease of another process expires
/// sooner. A living process renews its lease long before that.
pub(super) fn pause(session: &Session, owner: u32) -> Result<Duration, Failure> {
    const SOONEST: &str = "\
        SELECT extract(epoch FROM min(expires) - clock_timestamp())::float8 FROM tollgate_owners
        WHERE owner <> $1 AND expires > clock_timestamp()";
    let rows = session.query(SOONEST, &[&i64::from(owner)])?;
    let soonest = rows.first().and_then(|row| row.get::<_, Option<f64>>(0));
    let soonest = soonest.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    Ok(soonest.map_or(RENEWAL_INTERVAL, |soonest| (soonest + EXPIRED_LEASE_DELAY).min(RENEWAL_INTERVAL)))
}

/// Reserves claims of processes whose lease has expired.
fn take(shared: &Shared, session: &Session) -> Result<Vec<ExecutionId>, LedgerError> {
    const RESERVE_EXPIRED_CLAIMS: &str = "\
        UPDATE tollgate_due SET leased_until = clock_timestamp() + make_interval(secs => $4)
        WHERE space = $1 AND key = ANY (ARRAY(
            SELECT key FROM tollgate_due AS it WHERE space = $1 AND owner IS DISTINCT FROM $2
                AND (leased_until IS NULL OR leased_until < clock_timestamp()) AND NOT EXISTS (
                SELECT FROM tollgate_owners AS alive WHERE alive.owner = it.owner AND alive.expires > clock_timestamp())
            ORDER BY key LIMIT $3 FOR UPDATE SKIP LOCKED))
        RETURNING key, value";
    let (space, owner) = (tables::number(Space::Running), i64::from(shared.owner));
    let rows = session
        .query(RESERVE_EXPIRED_CLAIMS, &[&space, &owner, &MAX_SWEEP_BATCH, &CLAIM_LOCK_DURATION.as_secs_f64()])?;
    Ok(rows.iter().filter_map(|row| ExecutionId::listed(row.get(0), row.get(1)).ok()).collect())
}

/// Returns running claims of this process without a permit.
fn own(shared: &Shared, session: &Session) -> Result<Vec<(ExecutionId, Abandoned)>, LedgerError> {
    const OWN: &str = "SELECT key, value FROM tollgate_due WHERE space = $1 AND owner = $2";
    let rows = session.query(OWN, &[&tables::number(Space::Running), &i64::from(shared.owner)])?;
    let executions = rows.iter().filter_map(|row| ExecutionId::listed(row.get(0), row.get(1)).ok());
    let running = shared.running_executions.lock();
    Ok(executions.filter_map(|execution| Some((execution, running.end(execution)?))).collect())
}

/// Ends claims in one transaction. If one cannot be read, ends them one by one, so that it does not block the others.
fn end_all(
    shared: &Arc<Shared>,
    session: &Session,
    executions: &[(ExecutionId, Abandoned)],
) -> Result<(), LedgerError> {
    match end_batch(shared, session.reset(), executions) {
        Err(error) if session.is_broken() => return Err(error),
        Err(_) => {}
        Ok(()) => return Ok(()),
    }
    for (execution, end) in executions {
        let error = match end_claim(shared, session.reset(), *execution, *end) {
            Ok(ended) => {
                count(shared, ended.into());
                continue;
            }
            Err(error) => error,
        };
        if session.is_broken() {
            return Err(error);
        }
        let claim = String::from(execution.claim);
        if session.has_failed_statement() {
            tracing::warn!(%error, claim, "an abandoned claim could not be ended; it is retried");
        } else {
            tracing::error!(%error, claim, "an abandoned claim cannot be ended; a person must review it");
        }
    }
    Ok(())
}

fn end_batch(
    shared: &Arc<Shared>,
    session: &Session,
    executions: &[(ExecutionId, Abandoned)],
) -> Result<(), LedgerError> {
    let names = PreloadedRows::read(session, executions)?.names(executions)?;
    session.begin_alone(&names)?;
    // Read again under the locks.
    let base = PreloadedRows::read(session, executions).inspect_err(|_| session.roll_back())?;
    let now = shared.environment.now();
    let work = |tx: &mut Transaction<'_>| {
        let mut ended = 0;
        for (execution, end) in executions {
            ended += u64::from(claims::is_running(tx, *execution)?);
            end.of(tx, *execution, now)?;
        }
        Ok(ended)
    };
    let (ended, wakes) = session.finish(&base, Durability::Durable, shared, work)?;
    count(shared, ended);
    executions.iter().for_each(|(execution, _)| shared.running_executions.lock().ended(*execution));
    if wakes {
        shared.wake();
    }
    Ok(())
}

/// Counts claims that were still running. A claim of this process may have ended between reading the tables and the
/// permits.
fn count(shared: &Shared, ended: u64) {
    shared.environment.metrics.record(Measurement::ClaimsTakenOver(ended));
}

/// Ends one claim if it is running. Returns whether it was.
pub(super) fn end_claim(
    shared: &Arc<Shared>,
    session: &Session,
    execution: ExecutionId,
    end: Abandoned,
) -> Result<bool, LedgerError> {
    let now = shared.environment.now();
    let work = move |tx: &mut Transaction<'_>| {
        let runs = claims::is_running(tx, execution)?;
        end.of(tx, execution, now)?;
        Ok(runs)
    };
    let (ran, wakes) = session.transaction(Durability::Durable, &LockScope::Claim(execution.claim), shared, work)?;
    shared.running_executions.lock().ended(execution);
    if wakes {
        shared.wake();
    }
    Ok(ran)
}

/// Ends a claim as soon as a connection is free. The sweeper retries a failure.
pub(super) fn end_soon(
    weak: &Weak<Shared>,
    execution: ExecutionId,
    end: Abandoned,
    session: Result<&Session, LedgerError>,
) -> Next {
    let Some(shared) = weak.upgrade() else { return Next::Done };
    let ended = session.and_then(|session| end_claim(&shared, session, execution, end));
    if let Err(error) = ended {
        tracing::warn!(%error, "an abandoned claim could not be ended yet; retried in {RENEWAL_INTERVAL:?}");
    }
    Next::Done
}

/// Rows of several claims, read together.
struct PreloadedRows<'a> {
    session: &'a Session,
    rows: BTreeMap<(Space, Vec<u8>), Option<Value>>,
}

impl<'a> PreloadedRows<'a> {
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
        let rows = self.session.query(FETCH, &[&tables::number(space), &keys])?;
        self.rows.extend(keys.into_iter().map(|key| ((space, key), None)));
        for row in rows {
            self.rows.insert((space, row.get(0)), Some(row.get::<_, &[u8]>(1).into()));
        }
        Ok(())
    }

    /// Returns the names to lock, sorted.
    fn names(&self, executions: &[(ExecutionId, Abandoned)]) -> Result<Vec<Id>, LedgerError> {
        let mut names = BTreeSet::new();
        for (execution, _) in executions {
            let Some((payment, _)) = claims::records_of(self, execution.claim)? else { continue };
            if let Some(tracked) = TrackedRow::<PaymentRow>::load(self, payment)? {
                names.insert(order_lock(&tracked.row.payment.merchant, &tracked.row.payment.order_id));
            }
        }
        Ok(names.into_iter().collect())
    }
}

impl Read for PreloadedRows<'_> {
    fn bytes(&self, space: Space, key: &[u8]) -> Result<Option<Value>, LedgerError> {
        match self.rows.get(&(space, key.to_vec())) {
            Some(value) => Ok(value.clone()),
            None => self.session.bytes(space, key),
        }
    }
}
