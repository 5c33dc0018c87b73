//! One at a time finds out about one thing, and all who want to know meanwhile hear of it.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::ledger::RecordKey;

type Under<T> = Mutex<HashMap<RecordKey, watch::Receiver<Option<T>>>>;

pub(crate) struct SingleFlight<T>(Arc<Under<T>>);

impl<T> Default for SingleFlight<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Clone + Send + Sync + 'static> SingleFlight<T> {
    /// What is found out about it, and whether it was this caller's flight. It goes on when callers are gone. `None` when it
    /// broke off.
    pub(crate) async fn join<F>(&self, name: RecordKey, fly: impl FnOnce() -> F) -> (Option<T>, bool)
    where
        F: Future<Output = T> + Send + 'static,
    {
        let (mut landed, is_own) = {
            let mut under_way = self.0.lock();
            match under_way.get(&name) {
                Some(landed) => (landed.clone(), false),
                None => {
                    let (land, landed) = watch::channel(None);
                    under_way.insert(name, landed.clone());
                    let end = End { under_way: Arc::clone(&self.0), name };
                    let flight = fly();
                    tokio::spawn(async move {
                        let found = flight.await;
                        // First: whoever comes after the landing flies himself.
                        drop(end);
                        let _ = land.send(Some(found));
                    });
                    (landed, true)
                }
            }
        };
        let found = landed.wait_for(Option::is_some).await.ok().and_then(|found| found.clone());
        (found, is_own)
    }
}

/// Ends a flight, however it ends.
struct End<T> {
    under_way: Arc<Under<T>>,
    name: RecordKey,
}

impl<T> Drop for End<T> {
    fn drop(&mut self) {
        self.under_way.lock().remove(&self.name);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    const NAME: RecordKey = RecordKey([7; 16]);

    #[tokio::test]
    async fn many_at_once_are_one_flight_and_the_next_is_another() {
        let (flights, count, gate) =
            (Arc::new(SingleFlight::default()), Arc::new(AtomicU32::new(0)), Arc::new(Semaphore::new(0)));
        let join = || {
            let (flights, count, gate) = (Arc::clone(&flights), Arc::clone(&count), Arc::clone(&gate));
            tokio::spawn(async move {
                let fly = || async move {
                    let _ = gate.acquire().await;
                    count.fetch_add(1, Ordering::SeqCst)
                };
                flights.join(NAME, fly).await
            })
        };
        let all: Vec<_> = (0..50).map(|_| join()).collect();
        // Whoever began it goes away; the others do not wait in vain.
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
    async fn one_that_breaks_off_is_told_and_is_in_nobodys_way() {
        let flights = SingleFlight::<u32>::default();
        let broken = flights.join(NAME, || async { panic!("as the test wants") }).await;
        assert_eq!(broken, (None, true));
        assert_eq!(flights.join(NAME, || async { 5 }).await, (Some(5), true));
    }
}
