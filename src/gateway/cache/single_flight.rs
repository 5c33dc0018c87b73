//! Single flight: concurrent callers for one key share one execution and its result.
//!
//! Own code instead of `moka`'s `get_with`: there the first caller drives the execution, and if it disconnects, the next one starts
//! a second query while the provider may still answer the first. Here the execution has a task of its own. `get_with` would also
//! keep the result, though a forced query must not find an earlier one.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;
use tollgate_ledger::RecordKey;

type Executions<T> = Mutex<HashMap<RecordKey, watch::Receiver<Option<T>>>>;

pub(crate) struct SingleFlight<T>(Arc<Executions<T>>);

impl<T> Default for SingleFlight<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Clone + Send + Sync + 'static> SingleFlight<T> {
    /// Runs `execute`, or joins the execution in progress for this key. Returns the result, and whether this call started it. The execution
    /// continues if its callers go away; the result is `None` if it panicked.
    pub(crate) async fn join<F>(&self, key: RecordKey, execute: impl FnOnce() -> F) -> (Option<T>, bool)
    where
        F: Future<Output = T> + Send + 'static,
    {
        let (mut result, is_own) = {
            let mut under_way = self.0.lock();
            match under_way.get(&key) {
                Some(result) => (result.clone(), false),
                None => {
                    let (sender, result) = watch::channel(None);
                    under_way.insert(key, result.clone());
                    let guard = ExecutionGuard { under_way: Arc::clone(&self.0), key };
                    let execution = execute();
                    tokio::spawn(async move {
                        let found = execution.await;
                        // Removed before the result is sent, so that a later caller starts anew.
                        drop(guard);
                        let _ = sender.send(Some(found));
                    });
                    (result, true)
                }
            }
        };
        let found = result.wait_for(Option::is_some).await.ok().and_then(|found| found.clone());
        (found, is_own)
    }
}

/// Removes an execution when it ends, also by a panic.
struct ExecutionGuard<T> {
    under_way: Arc<Executions<T>>,
    key: RecordKey,
}

impl<T> Drop for ExecutionGuard<T> {
    fn drop(&mut self) {
        self.under_way.lock().remove(&self.key);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    const KEY: RecordKey = RecordKey([7; 16]);

    #[tokio::test]
    async fn concurrent_calls_share_one_execution_and_the_next_starts_anew() {
        let (calls, count, gate) =
            (Arc::new(SingleFlight::default()), Arc::new(AtomicU32::new(0)), Arc::new(Semaphore::new(0)));
        let join = || {
            let (calls, count, gate) = (Arc::clone(&calls), Arc::clone(&count), Arc::clone(&gate));
            tokio::spawn(async move {
                let execute = || async move {
                    let _ = gate.acquire().await;
                    count.fetch_add(1, Ordering::SeqCst)
                };
                calls.join(KEY, execute).await
            })
        };
        let all: Vec<_> = (0..50).map(|_| join()).collect();
        // The caller that started the execution goes away; the others still get the result.
        let gone = join();
        gone.abort();
        gate.add_permits(1000);
        let mut own = 0;
        for joined in all {
            let (found, is_own) = joined.await.unwrap();
            assert_eq!(found, Some(0));
            own += u32::from(is_own);
        }
        assert!(own <= 1, "{own}");
        assert_eq!(join().await.unwrap(), (Some(1), true));
    }

    #[tokio::test]
    async fn panicked_execution_returns_none_and_does_not_block_the_next() {
        let calls = SingleFlight::<u32>::default();
        let broken = calls.join(KEY, || async { panic!("as the test wants") }).await;
        assert_eq!(broken, (None, true));
        assert_eq!(calls.join(KEY, || async { 5 }).await, (Some(5), true));
    }
}
