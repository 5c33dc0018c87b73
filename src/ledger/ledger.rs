//! Handle of the ledger. Each method is one transaction.

mod deliveries;
mod events;
mod reads;
mod requests;
mod sink_queues;
mod updates;

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::watch;

use crate::claims;
use crate::embedded;
use crate::engine::Engine;
use crate::environment::{Environment, Reading};
use crate::error::LedgerError;
use crate::known_time::{self, PurgeGuard, PurgeTime, Witness};
use crate::moved::refuse_moved;
use crate::postgres::{self, Address};
use crate::purge::{self, Purge};
use crate::records::Backlog;
use crate::retention::RetentionPolicy;
use crate::transaction::Transaction;

/// Handle of the ledger. Clones share one engine.
#[derive(Clone)]
pub struct Ledger {
    pub(crate) engine: Engine,
    pub(crate) witness: Witness,
}

impl Ledger {
    /// Opens the ledger in a directory, or creates it. A claim that was running when the last process ended becomes
    /// unknown, and so does its payment or refund. Its inquiry is due at once.
    ///
    /// While less than `reserve` bytes are free on the disk, new claims are rejected, so that claims in progress can
    /// still be completed.
    pub fn open_with(path: &Path, reserve: u64, environment: Environment) -> Result<Self, LedgerError> {
        refuse_moved(path)?;
        let now = environment.now();
        let recover = move |tx: &mut Transaction<'_>, running| claims::recover(tx, running, now);
        let engine = embedded::Engine::open(path, reserve, environment, recover)?;
        Ok(Self::over(Engine::Embedded(Arc::new(engine))))
    }

    /// Returns the identity of the embedded ledger in a directory, or `None` if the directory holds no ledger.
    /// Changes nothing. Fails if the file with the identity is damaged.
    pub fn identity_in(path: &Path) -> Result<Option<String>, LedgerError> {
        embedded::identity_in(path)
    }

    /// Connects to a ledger in PostgreSQL, which several processes may share, and migrates its tables. A claim of a
    /// process whose lease has expired becomes unknown, as in [`open_with`](Self::open_with). Uses at most this many
    /// connections.
    pub fn connect_with(address: Address, connections: usize, environment: Environment) -> Result<Self, LedgerError> {
        Ok(Self::over(Engine::Postgres(Arc::new(postgres::Engine::open(address, connections, environment)?))))
    }

    pub(crate) fn over(engine: Engine) -> Self {
        Self { engine, witness: Witness::default() }
    }

    /// Returns the name of a ledger in PostgreSQL and the ids of the migrations that filled it.
    pub fn origin(&self) -> Option<(&str, &[String])> {
        match &self.engine {
            Engine::Embedded(_) => None,
            Engine::Postgres(engine) => Some(engine.origin()),
        }
    }

    /// Returns a counter that changes whenever a delivery, job or inquiry becomes due sooner.
    pub fn wake(&self) -> watch::Receiver<u64> {
        self.engine.wake()
    }

    /// Returns the backlog.
    pub async fn waiting(&self) -> Result<Backlog, LedgerError> {
        self.engine.waiting().await
    }

    /// Advances the ledger's own clock and returns the time up to which rows may be purged now.
    pub async fn purge_time(&self, guard: &mut PurgeGuard, clock: Reading) -> Result<PurgeTime, LedgerError> {
        known_time::purge_time(&self.engine, &self.witness, guard, clock).await
    }

    /// Purges the next rows that are older than the policy allows. Returns true at the end of a round. After an error
    /// the purge continues at the same position.
    pub async fn purge(&self, purge: &mut Purge, keep: &RetentionPolicy, now: Timestamp) -> Result<bool, LedgerError> {
        purge::step(&self.engine, purge, keep, now).await
    }

    /// Returns why this process must get no new requests. Embedded: a commit or sync failed, or the disk is full.
    /// PostgreSQL: the server is unreachable, or the lease of this process has expired.
    pub fn not_ready(&self) -> Option<LedgerError> {
        match &self.engine {
            Engine::Embedded(engine) => engine.failure(),
            Engine::Postgres(engine) => engine.not_ready(),
        }
    }

    /// Returns whether background work may start: the ledger is writable and this process holds its lease.
    pub fn may_work(&self) -> bool {
        self.not_ready().is_none()
    }

    /// Returns whether the ledger is writable, whatever the lease.
    #[cfg(test)]
    pub(crate) fn is_healthy(&self) -> bool {
        self.engine.is_healthy()
    }
}
