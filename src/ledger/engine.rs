//! The two engines: the local disk, or a PostgreSQL shared by several machines. The rules are the same.

use std::sync::{Arc, Weak};

use jiff::Timestamp;
use tokio::sync::watch;

use super::change_feed::ChangeListener;
use super::claim_guard::{ClaimOwner, ExecutionId};
use super::claims::jobs;
use super::embedded;
use super::environment::Environment;
use super::error::LedgerError;
use super::ids::Id;
use super::limits::{DueLimit, QueueFull, QueueLimit};
use super::lock_scope::LockScope;
use super::postgres;
use super::record_key::{MerchantKey, RecordKey};
use super::records::{Backlog, ClaimResult, Delivery, EventPage, Record};
use super::schedule::Schedule;
use super::transaction::{Durability, Read, Space, Transaction};
use super::{event_reads, inquiries, outbox};

/// Spaces whose keys begin with the creation time of their rows.
const TIMED: [Space; 4] = [Space::Payments, Space::Refunds, Space::Claims, Space::Events];

/// One of the engines. Clones share it.
#[derive(Clone)]
pub(super) enum Engine {
    Embedded(Arc<embedded::Engine>),
    Postgres(Arc<postgres::Engine>),
}

impl Engine {
    /// Returns the clock and the metrics of the process.
    pub(super) fn environment(&self) -> &Environment {
        match self {
            Self::Embedded(engine) => engine.environment(),
            Self::Postgres(engine) => engine.environment(),
        }
    }

    /// Returns the lock scope of a transaction. The embedded engine runs transactions one after another and needs
    /// none.
    pub(super) fn lock_scope(&self, scope: impl FnOnce() -> LockScope) -> LockScope {
        match self {
            Self::Embedded(_) => LockScope::Names(Vec::new()),
            Self::Postgres(_) => scope(),
        }
    }

    /// Runs one transaction. An error of `work` rolls it back. With PostgreSQL `work` may run again after a conflict;
    /// only its last run counts.
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
                double_payments.iter().for_each(|found| found.report(&*engine.environment().metrics));
                Ok(value)
            }
            Self::Postgres(engine) => engine.write(durability, scope, work).await,
        }
    }

    /// Runs the transaction of a claim. If its caller has stopped waiting, the transaction is neither started nor
    /// retried.
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

    /// Reads a consistent snapshot.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        mut read: impl FnMut(&dyn Read) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        match self {
            Self::Embedded(engine) => read(&engine.view()?),
            Self::Postgres(engine) => engine.read(read).await,
        }
    }

    /// Reads each row at its own time, without a snapshot. Blocks no writer, however long it takes.
    pub(super) async fn read_uncommitted_view<T: Send + 'static>(
        &self,
        mut read: impl FnMut(&dyn Read) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        match self {
            Self::Embedded(engine) => read(&**engine),
            Self::Postgres(engine) => engine.read(read).await,
        }
    }

    /// Returns the first keys of a space in the range from `from` (inclusive) to `until` (exclusive).
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
            // The range may contain many deleted keys.
            Self::Embedded(engine) => {
                let engine = engine.clone();
                let keys = tokio::task::spawn_blocking(move || engine.keys(space, &from, &until, limit)).await;
                keys.unwrap_or_else(|error| Err(LedgerError::Internal(error.to_string())))
            }
            Self::Postgres(engine) => engine.keys(space, from, until, limit).await,
        }
    }

    /// Implements [`Ledger::events`](super::Ledger::events).
    pub(super) async fn events(
        &self,
        merchant: MerchantKey,
        after: Option<Id>,
        limit: usize,
    ) -> Result<EventPage, LedgerError> {
        match self {
            Self::Embedded(engine) => {
                let shared = Arc::clone(engine);
                // The range may contain many deleted keys.
                let read = move || event_reads::page_by_id(&shared, merchant, after, limit);
                let page = tokio::task::spawn_blocking(read).await;
                let page = page.unwrap_or_else(|error| Err(LedgerError::Internal(error.to_string())))?;
                // A reader must not pass an event that a power cut could still undo.
                if !page.events.is_empty() {
                    engine.write(Durability::Durable, |_| Ok(())).await?;
                }
                Ok(page)
            }
            Self::Postgres(engine) => engine.events(merchant, after, limit).await,
        }
    }

    /// Implements [`Ledger::listen`](super::Ledger::listen).
    pub(super) fn listen(&self, listener: Arc<dyn ChangeListener>) -> Result<(), LedgerError> {
        match self {
            Self::Embedded(engine) => {
                engine.listen(listener);
                Ok(())
            }
            Self::Postgres(engine) => engine.listen(listener),
        }
    }

    /// Implements [`Ledger::caught_up`](super::Ledger::caught_up).
    pub(super) async fn caught_up(&self) -> bool {
        match self {
            Self::Embedded(_) => true,
            Self::Postgres(engine) => engine.caught_up().await,
        }
    }

    /// Implements [`Ledger::quiesce`](super::Ledger::quiesce).
    pub(super) async fn quiesce(&self) -> Result<(), LedgerError> {
        match self {
            // Earlier changes are in this batch or an earlier one.
            Self::Embedded(engine) => engine.write(Durability::Applied, |_| Ok(())).await,
            Self::Postgres(engine) => engine.quiesce().await,
        }
    }

    /// Implements [`Ledger::cluster_id`](super::Ledger::cluster_id).
    pub(super) async fn cluster_id(&self) -> Result<Option<String>, LedgerError> {
        match self {
            Self::Embedded(_) => Ok(None),
            Self::Postgres(engine) => engine.cluster_id().await.map(Some),
        }
    }

    /// Implements [`Ledger::names`](super::Ledger::names).
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

    /// Implements [`Ledger::due_inquiries`](super::Ledger::due_inquiries).
    pub(super) async fn due_inquiries(&self, now: Timestamp, limit: usize, busy: &[String]) -> Vec<Record> {
        match self {
            Self::Embedded(engine) => {
                let due = engine.schedule(|schedule| inquiries::due(schedule, now, limit, busy));
                inquiries::records(&**engine, &due)
            }
            Self::Postgres(engine) => engine.due_inquiries(now, limit, busy).await,
        }
    }

    /// Implements [`Ledger::due_jobs`](super::Ledger::due_jobs).
    pub(super) async fn due_jobs(&self, now: Timestamp, limit: DueLimit) -> Vec<(Id, String)> {
        match self {
            Self::Embedded(engine) => engine.schedule(|schedule| jobs::due(schedule, now, &limit)),
            Self::Postgres(engine) => engine.due_jobs(now, limit).await,
        }
    }

    /// Runs the transaction that enqueues a job. `work` receives the limit of the queue that is reached, if any. No
    /// concurrent transaction on any machine can exceed a limit. If its caller has stopped waiting, the transaction
    /// is neither started nor retried.
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

    /// Implements [`Ledger::due_deliveries`](super::Ledger::due_deliveries).
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
                // An event must not be delivered before it is durable. After this transaction everything written so
                // far is synced.
                if due.is_empty() || engine.write(Durability::Durable, |_| Ok(())).await.is_err() {
                    return Vec::new();
                }
                outbox::deliveries(&**engine, due)
            }
            Self::Postgres(engine) => engine.due_deliveries(now, limit, free, under_way).await,
        }
    }

    /// Implements [`Ledger::waiting`](super::Ledger::waiting).
    pub(super) async fn waiting(&self) -> Result<Backlog, LedgerError> {
        match self {
            Self::Embedded(engine) => Ok(engine.schedule(Schedule::backlog)),
            Self::Postgres(engine) => engine.waiting().await,
        }
    }

    /// Implements [`Ledger::wake`](super::Ledger::wake).
    pub(super) fn wake(&self) -> watch::Receiver<u64> {
        match self {
            Self::Embedded(engine) => engine.wake(),
            Self::Postgres(engine) => engine.wake(),
        }
    }

    #[cfg(test)]
    pub(super) fn is_healthy(&self) -> bool {
        match self {
            Self::Embedded(engine) => engine.failure().is_none(),
            Self::Postgres(engine) => engine.is_healthy(),
        }
    }

    /// Checks that the disk has room for a new claim. The disk of a PostgreSQL server is not checked.
    pub(super) fn check_disk_space(&self) -> Result<(), LedgerError> {
        match self {
            Self::Embedded(engine) => engine.check_disk_space(),
            Self::Postgres(_) => Ok(()),
        }
    }

    /// Implements [`Ledger::may_send`](super::Ledger::may_send).
    pub(super) fn may_send(&self, execution: ExecutionId) -> Result<(), LedgerError> {
        match self {
            Self::Embedded(_) => Ok(()),
            Self::Postgres(engine) => engine.may_send(execution),
        }
    }

    /// Returns a weak reference for claim guards, which does not keep the engine running.
    pub(super) fn holder(&self) -> Weak<dyn ClaimOwner> {
        match self {
            Self::Embedded(engine) => engine.weak(),
            Self::Postgres(engine) => engine.weak(),
        }
    }
}
