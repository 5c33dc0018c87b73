//! Worker of the job queue: dequeues asynchronous requests and executes them like synchronous ones.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tollgate_ledger::{ClaimId, DueLimit};

use crate::clock;
use crate::operations::{Gateway, execute_job};
use crate::proxy::InFlight;
use crate::task_pool::KeyedTaskPool;

/// Maximum number of concurrent jobs.
const MAX_CONCURRENT_JOBS: usize = 64;

/// Runs until shutdown, then waits for its running jobs.
pub async fn run(gateway: Arc<Gateway>, in_flight: InFlight, mut shutdown: watch::Receiver<bool>) {
    let mut wake = gateway.ledger.wake();
    let mut pool = KeyedTaskPool::new(MAX_CONCURRENT_JOBS, MAX_CONCURRENT_JOBS);
    let worker_name: Arc<str> = worker_name().into();
    loop {
        // Dequeuing writes to the ledger, and without the lease a job could not be sent.
        if gateway.ledger.may_work() && clock::is_trusted() && !pool.is_full() {
            // With several merchants, each may use at most half of the pool.
            let per_merchant = if gateway.current.load().config.merchants.len() > 1 {
                MAX_CONCURRENT_JOBS / 2
            } else {
                MAX_CONCURRENT_JOBS
            };
            // Fetches no more jobs than can start now: a fetched job is not offered to other gateways for a while.
            let limit = DueLimit { total: pool.free(), each: per_merchant, under_way: pool.counts().clone() };
            for (claim, merchant) in gateway.ledger.due_jobs(clock::now(), limit).await {
                if pool.count(&merchant) >= per_merchant {
                    continue;
                }
                let (gateway, worker_name, in_flight_guard) =
                    (Arc::clone(&gateway), Arc::clone(&worker_name), in_flight.enter());
                let key: String = claim.into();
                pool.start(&key, &merchant, async move {
                    run_job(&gateway, claim, &worker_name).await;
                    drop(in_flight_guard);
                });
            }
        }
        tokio::select! {
            _ = pool.join_next() => {}
            _ = wake.changed(), if !pool.is_full() => {}
            () = tokio::time::sleep(Duration::from_millis(250)) => {}
            _ = shutdown.wait_for(|stop| *stop) => break,
        }
    }
    pool.join_all().await;
}

async fn run_job(gateway: &Arc<Gateway>, claim: ClaimId, worker_name: &str) {
    match gateway.ledger.dequeue(claim, worker_name, clock::now()).await {
        Ok(Some(permit)) => execute_job(gateway, permit).await,
        // Another gateway dequeued it first.
        Ok(None) => {}
        Err(error) => {
            tracing::warn!(%error, "a job could not be dequeued; it is retried in 1 s");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// Returns this gateway's name for operators: host name and process id.
fn worker_name() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host}, process {}", std::process::id())
}
