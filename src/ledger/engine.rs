//! Where the ledger lies: on this machine's disk, or in a PostgreSQL that several machines share. The rules are the same.

use std::sync::{Arc, Weak};

use jiff::Timestamp;
use tokio::sync::watch;

use super::abandoned_attempts::DoublePayment;
use super::change_feed::{ChangeListener, RecordKey};
use super::claim_guard::{ClaimOwner, ExecutionId};
use super::embedded;
use super::ids::Id;
use super::limits::{DueLimit, QueueFull, QueueLimit};
use super::lock_scope::LockScope;
use super::postgres;
use super::records::{Backlog, ClaimResult, Delivery, LedgerError, Record};
use super::transaction::{Read, Space, Transaction};
use super::{inquiries, jobs, outbox};

/// Spaces whose keys begin with the times at which their rows were made.
const TIMED: [Space; 4] = [Space::Payments, Space::Refunds, Space::Claims, Space::Events];

/// When a transaction is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// After the sync: it survives a power cut.
    Durable,
    /// After the commit, before the sync: everyone sees it, it survives the end of the process, and it can be found out
    /// again if a power cut takes it. The sync follows soon.
    Applied,
}

/// One of the engines. Clones share it.
#[derive(Clone)]
pub(super) enum Engine {
    Embedded(Arc<embedded::Engine>),
    Postgres(Arc<postgres::Engine>),
}

impl Engine {
    /// What a transaction is about, where that matters: on this machine one runs after another anyway.
    pub(super) fn lock_scope(&self, scope: impl FnOnce() -> LockScope) -> LockScope {
        match self {
            Self::Embedded(_) => LockScope::Names(Vec::new()),
            Self::Postgres(_) => scope(),
        }
    }

    /// Runs one transaction. An error of `work` leaves nothing written. It may run again where several processes are in each
    /// other's way: only its last run counts.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        durability: Durability,
        scope: LockScope,
        mut work: impl FnMut(&mut Transaction<'_>) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        match self {
            Self::Embedded(engine) => {
                let work = move |tx: &mut Transaction<'_>| Ok((work(tx)?, tx.take_double_payments()));
                let (value, double_payments) = engine.write(durability, work).await?;
                double_payments.iter().for_each(DoublePayment::report);
                Ok(value)
            }
            Self::Postgres(engine) => engine.write(durability, scope, work).await,
        }
    }

    /// Runs the transaction of a durable claim. Once its caller has stopped waiting it is not begun, and not repeated.
    pub(super) async fn claim<T: Send + 'static>(
        &self,
        scope: LockScope,
        work: impl FnMut(&mut Transaction<'_>) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        match self {
            Self::Embedded(engine) => engine.write(Durability::Durable, work).await,
            Self::Postgres(engine) => engine.claim(scope, work).await,
        }
    }

    /// Looks at everything as it is at this moment.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        mut look: impl FnMut(&dyn Read) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        match self {
            Self::Embedded(engine) => look(&engine.view()?),
            Self::Postgres(engine) => engine.read(look).await,
        }
    }

    /// Looks at each row as it is when it is read: nobody waits for whoever looks, however long it takes.
    pub(super) async fn read_uncommitted_view<T: Send + 'static>(
        &self,
        mut look: impl FnMut(&dyn Read) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        match self {
            Self::Embedded(engine) => look(&**engine),
            Self::Postgres(engine) => engine.read(look).await,
        }
    }

    /// The first keys of a space from one on and before another.
    pub(super) async fn keys(
        &self,
        space: Space,
        from: Vec<u8>,
        until: Vec<u8>,
        limit: usize,
    ) -> Result<Vec<Vec<u8>>, LedgerError> {
        if from >= until {
            return Ok(Vec::new());
        }
        match self {
            // It may lead over much that is gone.
            Self::Embedded(engine) => {
                let engine = engine.clone();
                let keys = tokio::task::spawn_blocking(move || engine.keys(space, &from, &until, limit)).await;
                keys.unwrap_or_else(|error| Err(LedgerError(error.to_string())))
            }
            Self::Postgres(engine) => engine.keys(space, from, until, limit).await,
        }
    }

    /// As [`Ledger::listen`](super::Ledger::listen).
    pub(super) fn listen(&self, listener: Arc<dyn ChangeListener>) -> Result<(), LedgerError> {
        match self {
            Self::Embedded(engine) => {
                engine.listen(listener);
                Ok(())
            }
            Self::Postgres(engine) => engine.listen(listener),
        }
    }

    /// As [`Ledger::caught_up`](super::Ledger::caught_up).
    pub(super) async fn caught_up(&self) -> bool {
        match self {
            Self::Embedded(_) => true,
            Self::Postgres(engine) => engine.caught_up().await,
        }
    }

    /// As [`Ledger::settled`](super::Ledger::settled).
    pub(super) async fn quiesce(&self) -> Result<(), LedgerError> {
        match self {
            // What was told before is in this batch or an earlier one.
            Self::Embedded(engine) => engine.write(Durability::Applied, |_| Ok(())).await,
            Self::Postgres(engine) => engine.quiesce().await,
        }
    }

    /// As [`Ledger::identity`](super::Ledger::identity).
    pub(super) async fn cluster_id(&self) -> Result<Option<String>, LedgerError> {
        match self {
            Self::Embedded(_) => Ok(None),
            Self::Postgres(engine) => engine.cluster_id().await.map(Some),
        }
    }

    /// As [`Ledger::names`](super::Ledger::names).
    pub(super) async fn names(&self, after: Option<RecordKey>, limit: usize) -> Result<Vec<RecordKey>, LedgerError> {
        let from = after.map_or_else(Vec::new, |RecordKey(last)| [&last[..], &[0]].concat());
        let keys = self.keys(Space::Index, from, vec![0xff; 17], limit).await?;
        keys.iter().map(|key| Id::from_bytes(key).map(|Id(name)| RecordKey(name))).collect()
    }

    /// Returns the time of the newest record.
    pub(super) async fn newest(&self) -> Result<Option<Timestamp>, LedgerError> {
        match self {
            Self::Embedded(engine) => engine.newest(&TIMED),
            Self::Postgres(engine) => engine.newest(&TIMED).await,
        }
    }

    /// As [`Ledger::due_searches`](super::Ledger::due_searches).
    pub(super) async fn due_searches(&self, now: Timestamp, limit: usize, busy: &[String]) -> Vec<Record> {
        match self {
            Self::Embedded(engine) => {
                let due = engine.schedule(|schedule| inquiries::due(schedule, now, limit, busy));
                inquiries::records(&**engine, &due)
            }
            Self::Postgres(engine) => engine.due_searches(now, limit, busy).await,
        }
    }

    /// As [`Ledger::due_jobs`](super::Ledger::due_jobs).
    pub(super) async fn due_jobs(&self, now: Timestamp, limit: DueLimit) -> Vec<(Id, String)> {
        match self {
            Self::Embedded(engine) => engine.schedule(|schedule| jobs::due(schedule, now, &limit)),
            Self::Postgres(engine) => engine.due_jobs(now, limit).await,
        }
    }

    /// Runs the transaction that accepts a merchant's job. `work` is told which limit of the queue is reached; no other
    /// transaction, on no machine, accepts a job between that and its end so that a limit would be passed. Once its caller has
    /// stopped waiting it is not begun, and not repeated.
    pub(super) async fn enqueue(
        &self,
        merchant: String,
        limit: QueueLimit,
        scope: LockScope,
        work: impl FnMut(&mut Transaction<'_>, Option<QueueFull>) -> Result<ClaimResult, LedgerError> + Send + 'static,
    ) -> Result<ClaimResult, LedgerError> {
        match self {
            Self::Embedded(engine) => engine.enqueue(merchant, limit, work).await,
            Self::Postgres(engine) => engine.enqueue(merchant, limit, scope, work).await,
        }
    }

    /// As [`Ledger::due_deliveries`](super::Ledger::due_deliveries).
    pub(super) async fn due_deliveries(
        &self,
        now: Timestamp,
        limit: usize,
        free: impl Fn(&str) -> usize,
        under_way: impl Fn(&str, &str) -> bool,
    ) -> Vec<Delivery> {
        match self {
            Self::Embedded(engine) => {
                let due = engine.schedule(|schedule| outbox::due(schedule, now, limit, free, under_way));
                // Nobody may hear of what a power cut would still take back: everything so far is on the disk after this.
                if due.is_empty() || engine.write(Durability::Durable, |_| Ok(())).await.is_err() {
                    return Vec::new();
                }
                outbox::deliveries(&**engine, due)
            }
            Self::Postgres(engine) => engine.due_deliveries(now, limit, free, under_way).await,
        }
    }

    /// As [`Ledger::waiting`](super::Ledger::waiting).
    pub(super) async fn waiting(&self) -> Result<Backlog, LedgerError> {
        match self {
            Self::Embedded(engine) => Ok(engine.schedule(inquiries::waiting)),
            Self::Postgres(engine) => engine.waiting().await,
        }
    }

    /// As [`Ledger::wake`](super::Ledger::wake).
    pub(super) fn wake(&self) -> watch::Receiver<u64> {
        match self {
            Self::Embedded(engine) => engine.wake(),
            Self::Postgres(engine) => engine.wake(),
        }
    }

    /// As [`Ledger::is_healthy`](super::Ledger::is_healthy).
    pub(super) fn is_healthy(&self) -> bool {
        match self {
            Self::Embedded(engine) => engine.is_healthy(),
            Self::Postgres(engine) => engine.is_healthy(),
        }
    }

    /// Whether something new may begin: there is room for its end. How much a server has is its operator's concern.
    pub(super) fn check_disk_space(&self) -> Result<(), LedgerError> {
        match self {
            Self::Embedded(engine) => engine.check_disk_space(),
            Self::Postgres(_) => Ok(()),
        }
    }

    /// As [`Ledger::may_send`](super::Ledger::may_send).
    pub(super) fn may_send(&self, execution: ExecutionId) -> Result<(), LedgerError> {
        match self {
            Self::Embedded(_) => Ok(()),
            Self::Postgres(engine) => engine.may_send(execution),
        }
    }

    /// A way back for tickets, which does not keep the engine running.
    pub(super) fn holder(&self) -> Weak<dyn ClaimOwner> {
        match self {
            Self::Embedded(engine) => engine.weak(),
            Self::Postgres(engine) => engine.weak(),
        }
    }
}
