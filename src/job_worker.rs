//! What was accepted to be made later: taken by whichever gateway has a place free, and made as if its caller waited.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::clock;
use crate::gateway::{Gateway, execute_job};
use crate::ledger::{ClaimId, DueLimit};
use crate::proxy::InFlight;
use crate::task_pool::KeyedTaskPool;

/// How many are made at once.
const MAX_CONCURRENT_JOBS: usize = 64;

/// Runs until shutdown. What is being made then is waited for as requests are.
pub(crate) async fn run(gateway: Arc<Gateway>, in_flight: InFlight, mut shutdown: watch::Receiver<bool>) {
    let mut wake = gateway.ledger.wake();
    let mut places = KeyedTaskPool::new(MAX_CONCURRENT_JOBS, MAX_CONCURRENT_JOBS);
    let here: Arc<str> = name().into();
    loop {
        // Taking is writing, and without the lease nothing of it may be sent.
        if gateway.ledger.may_work() && clock::is_trusted() && !places.is_full() {
            // With several merchants, each leaves half of the places to the others.
            let each =
                if gateway.current.load().merchants.len() > 1 { MAX_CONCURRENT_JOBS / 2 } else { MAX_CONCURRENT_JOBS };
            // No more than are made at once: what one gateway has found is not given to another for a while.
            let limit = DueLimit { total: places.free(), each, under_way: places.lanes() };
            for (claim, merchant) in gateway.ledger.due_jobs(clock::now(), limit).await {
                if places.lanes().get(&merchant).is_some_and(|count| *count >= each) {
                    continue;
                }
                let (gateway, here, inside) = (Arc::clone(&gateway), Arc::clone(&here), in_flight.enter());
                let number: String = claim.into();
                places.start(&number, &merchant, async move {
                    run_job(&gateway, claim, &here).await;
                    drop(inside);
                });
            }
        }
        tokio::select! {
            () = places.one_ends() => {}
            _ = wake.changed(), if !places.is_full() => {}
            () = tokio::time::sleep(Duration::from_millis(250)) => {}
            _ = shutdown.wait_for(|stop| *stop) => break,
        }
    }
    places.all_end().await;
}

async fn run_job(gateway: &Arc<Gateway>, claim: ClaimId, here: &str) {
    match gateway.ledger.dequeue(claim, here, clock::now()).await {
        Ok(Some(ticket)) => execute_job(gateway, ticket).await,
        // Somebody else was faster.
        Ok(None) => {}
        Err(error) => {
            tracing::warn!(%error, "what waits in the queue could not be taken");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// What a person knows this gateway by.
fn name() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host}, process {}", std::process::id())
}
