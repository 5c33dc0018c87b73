//! Work of callers: queued for a connection, retried, and answered in time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::pool::{Next, RetryBudget};
use super::session::Session;
use super::{Engine, dequeue};
use crate::error::LedgerError;
use crate::limits::{QueueFull, QueueLimit};
use crate::lock_scope::LockScope;
use crate::records::ClaimResult;
use crate::transaction::{Durability, Transaction};

/// Maximum time that a caller waits for a reply.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

impl Engine {
    /// Implements [`Engine::write`](crate::engine::Engine::write).
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        durability: Durability,
        scope: LockScope,
        work: impl FnMut(&mut Transaction<'_>) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        self.ask(self.transaction(durability, scope, work)).await
    }

    /// Runs the transaction of a claim, like [`Engine::claim`](crate::engine::Engine::claim).
    pub(crate) async fn claim<T: Send + 'static>(
        &self,
        scope: LockScope,
        work: impl FnMut(&mut Transaction<'_>) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let claimed = self.submit(Unawaited::Skipped, self.transaction(Durability::Durable, scope, work)).await;
        claimed.unwrap_or_else(|| Err(LedgerError::Timeout))
    }

    fn transaction<T: Send + 'static>(
        &self,
        durability: Durability,
        scope: LockScope,
        mut work: impl FnMut(&mut Transaction<'_>) -> Result<T, LedgerError> + Send + 'static,
    ) -> impl FnMut(&Session) -> Result<T, LedgerError> + Send + 'static {
        let shared = Arc::downgrade(&self.shared);
        move |session| {
            let Some(shared) = shared.upgrade() else { return Err(LedgerError::Closed) };
            let work = |tx: &mut Transaction<'_>| Ok((work(tx)?, tx.take_double_payments()));
            let ((value, double_payments), wakes) = session.transaction(durability, &scope, &shared, work)?;
            // Reported here, because the caller may have stopped waiting.
            double_payments.iter().for_each(|found| found.report(&*shared.environment.metrics));
            if wakes {
                shared.wake();
            }
            Ok(value)
        }
    }

    /// Implements [`Engine::enqueue`](crate::engine::Engine::enqueue).
    pub(crate) async fn enqueue(
        &self,
        merchant: String,
        limit: QueueLimit,
        scope: LockScope,
        mut work: impl FnMut(&mut Transaction<'_>, Option<QueueFull>) -> Result<ClaimResult, LedgerError> + Send + 'static,
    ) -> Result<ClaimResult, LedgerError> {
        let shared = Arc::downgrade(&self.shared);
        let accepted = self.submit(Unawaited::Skipped, move |session| {
            let Some(shared) = shared.upgrade() else { return Err(LedgerError::Closed) };
            let work = |tx: &mut Transaction<'_>| work(tx, dequeue::reached_limit(session, &merchant, limit)?);
            match session.transaction(Durability::Durable, &scope, &shared, work) {
                Ok((claimed, wakes)) => {
                    if wakes {
                        shared.wake();
                    }
                    Ok(claimed)
                }
                Err(error) if session.is_in_doubt() => Ok(ClaimResult::InDoubt(error)),
                Err(error) => Err(error),
            }
        });
        // A transaction that has started may still be committed.
        accepted.await.unwrap_or_else(|| Ok(ClaimResult::InDoubt(LedgerError::Timeout)))
    }

    /// Runs work on a connection. Retries after a conflict or a lost connection, if certainly nothing was committed.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        work: impl FnMut(&Session) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        self.submit(Unawaited::Done, work).await.unwrap_or_else(|| Err(LedgerError::Timeout))
    }

    /// Runs work within a time limit. `None` after a timeout; the work may still be executed then.
    async fn submit<T: Send + 'static>(
        &self,
        unawaited: Unawaited,
        mut work: impl FnMut(&Session) -> Result<T, LedgerError> + Send + 'static,
    ) -> Option<Result<T, LedgerError>> {
        let (reply, answer) = oneshot::channel();
        let (mut reply, mut budget) = (Some(reply), RetryBudget::default());
        self.shared.queue.push(Box::new(move |session| {
            if unawaited == Unawaited::Skipped && reply.as_ref().is_none_or(oneshot::Sender::is_closed) {
                return Next::Done;
            }
            let done = match session {
                Ok(session) => {
                    let done = work(session);
                    if done.is_err() && budget.may_retry(session) {
                        return Next::Retry;
                    }
                    done
                }
                Err(error) => Err(error),
            };
            // The caller may be gone. The value is then dropped, which ends its claim.
            reply.take().map(|reply| reply.send(done));
            Next::Done
        }));
        let answer = tokio::time::timeout(REQUEST_TIMEOUT, answer).await.ok()?;
        Some(answer.unwrap_or_else(|_| Err(LedgerError::Closed)))
    }
}

/// Handling of work that has not started when its caller stops waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unawaited {
    Done,
    /// The work is not executed, and the caller gets an error.
    Skipped,
}
