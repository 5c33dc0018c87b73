//! Transactions of the rules over a connection: lock, run, save, announce, commit.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use super::Shared;
use super::failure::Failure;
use super::feed::Announced;
use super::save::save;
use super::session::Session;
use crate::change_feed::Changes;
use crate::environment::Measurement;
use crate::error::LedgerError;
use crate::ids::Id;
use crate::lock_scope::LockScope;
use crate::transaction::{Durability, Nothing, Read, Transaction};

/// A statement sees what was committed before it began, so a read after a lock sees the latest state.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

impl Session {
    /// Runs one transaction of the rules. Every process first locks the name of the order, so transactions about one
    /// order run one after another. Returns the value and whether something became due sooner.
    ///
    /// An error means that nothing was committed, with one exception: if the connection is lost during the commit,
    /// the result is unknown. For a claim this is as good as an error: its permit was not returned, so nothing is
    /// sent, and the drop of the guard releases the claim.
    pub(super) fn transaction<T>(
        &self,
        durability: Durability,
        scope: &LockScope,
        shared: &Shared,
        work: impl FnMut(&mut Transaction<'_>) -> Result<T, LedgerError>,
    ) -> Result<(T, bool), LedgerError> {
        let is_known = match scope {
            LockScope::Names(_) => {
                let names = scope.names(self)?.unwrap_or_default();
                self.begin_alone(&names)?;
                true
            }
            _ => {
                self.begin(BEGIN)?;
                match scope.names(self).and_then(|names| names.map(|names| Ok(self.run(&locks(&names))?)).transpose()) {
                    Ok(locked) => locked.is_some(),
                    Err(error) => return self.end(Err(error), ""),
                }
            }
        };
        // If there was no record before the lock, none may be read behind it, because no lock protects it.
        self.finish(if is_known { self } else { &Nothing }, durability, shared, work)
    }

    /// Begins a transaction and locks these names. [`finish`](Self::finish) ends it.
    pub(super) fn begin_alone(&self, names: &[Id]) -> Result<(), Failure> {
        self.begin(&format!("{BEGIN}{}", locks(names)))
    }

    /// Runs the rules in a transaction that was begun, and commits.
    pub(super) fn finish<T>(
        &self,
        base: &dyn Read,
        durability: Durability,
        shared: &Shared,
        mut work: impl FnMut(&mut Transaction<'_>) -> Result<T, LedgerError>,
    ) -> Result<(T, bool), LedgerError> {
        let mut transaction = Transaction::new(base, &shared.ids, &*shared.environment.subscriptions);
        let done = catch_unwind(AssertUnwindSafe(|| work(&mut transaction)));
        let writes = transaction.into_writes();
        let done = done.unwrap_or_else(|_| Err(LedgerError::Internal("a transaction panicked".to_owned())));
        let done = done.and_then(|value| {
            if !writes.is_empty() {
                save(self, &writes, shared.owner)?;
            }
            // Announced after the writes, so that `quiesce` sees the transaction.
            Ok((value, Announced::before(shared, self, Changes::of(&writes))?))
        });
        let may_be_late = durability == Durability::Applied && !writes.wakes;
        let commit = if may_be_late { "SET LOCAL synchronous_commit = off; COMMIT" } else { "COMMIT" };
        let started = Instant::now();
        let (value, announced) = self.end(done, commit)?;
        announced.after();
        shared.environment.metrics.record(Measurement::CommitSeconds(started.elapsed().as_secs_f64()));
        Ok((value, writes.wakes))
    }
}

/// Returns statements that lock these names until the end of the transaction.
fn locks(names: &[Id]) -> String {
    let lock = |name: &Id| {
        let number = name.0.first_chunk().map_or(0, |bytes| i64::from_be_bytes(*bytes));
        format!("; SELECT pg_advisory_xact_lock({number})")
    };
    names.iter().map(lock).collect()
}
