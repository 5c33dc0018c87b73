//! Worker that purges old payments, claims and events in small steps.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::watch;
use tollgate_ledger::{Ledger, LedgerError, Purge, PurgeGuard, PurgeTime};

use crate::clock;
use crate::open_ledger::retention_policy;
use crate::snapshot::Current;
use crate::telemetry::METRICS;

/// Time between two rounds.
const ROUND_INTERVAL: Duration = Duration::from_secs(60);
/// Maximum steps per round, each over about 32 rows. The rest waits for the next round.
const MAX_STEPS_PER_ROUND: u32 = 6_000;

/// Runs until shutdown.
pub async fn run(current: Current, ledger: Ledger, mut shutdown: watch::Receiver<bool>) {
    let (mut purge, mut guard, mut was_refused) = (Purge::default(), PurgeGuard::default(), false);
    loop {
        match purge_time(&ledger, &mut guard, &mut was_refused).await {
            Ok(Some(until)) => {
                if let Err(error) = purge_round(&current, &ledger, &mut purge, until, &mut shutdown).await {
                    tracing::warn!(%error, "purging failed; the next round tries again");
                }
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "the ledger's time could not be read, so nothing is purged; the next round tries again")
            }
        }
        tokio::select! {
            () = tokio::time::sleep(ROUND_INTERVAL) => {}
            _ = shutdown.wait_for(|stop| *stop) => return,
        }
    }
}

/// Returns the time limit of the purge, or `None` if nothing may be purged.
async fn purge_time(
    ledger: &Ledger,
    guard: &mut PurgeGuard,
    was_refused: &mut bool,
) -> Result<Option<Timestamp>, LedgerError> {
    // A gateway whose clock differs from PostgreSQL's must not decide.
    if !clock::is_trusted() {
        return Ok(None);
    }
    let clock = clock::reading();
    let purge_time = ledger.purge_time(guard, clock).await?;
    let is_refused = matches!(purge_time, PurgeTime::Refused { .. });
    METRICS.ledger_purge_refused.set(is_refused.into());
    let previously_refused = std::mem::replace(was_refused, is_refused);
    match purge_time {
        PurgeTime::Refused { known } if !previously_refused => tracing::error!(
            now = %clock.now,
            %known,
            "nothing is purged: the clock says `now`, but the newest time in the ledger is `known`. If the clock is wrong, \
             correct it (NTP); nothing is lost. If no gateway has run for that long, nothing needs to be done: \
             purging resumes after one hour without a clock step, once a merchant's signed request has been accepted"
        ),
        PurgeTime::Refused { .. } => {}
        _ if previously_refused => tracing::info!("the clock agrees with the ledger's time again: purging resumes"),
        _ => {}
    }
    Ok(match purge_time {
        PurgeTime::Until(until) => Some(until),
        PurgeTime::TooEarly | PurgeTime::Refused { .. } => None,
    })
}

/// Purges all rows older than `until`, up to the limit per round.
async fn purge_round(
    current: &Current,
    ledger: &Ledger,
    purge: &mut Purge,
    until: Timestamp,
    shutdown: &mut watch::Receiver<bool>,
) -> Result<(), LedgerError> {
    for _ in 0..MAX_STEPS_PER_ROUND {
        let started = Instant::now();
        let retention = retention_policy(current.load().process.keep);
        if ledger.purge(purge, &retention, until).await? {
            return Ok(());
        }
        // Pauses as long as the step took, because payments have priority.
        tokio::select! {
            () = tokio::time::sleep(started.elapsed()) => {}
            _ = shutdown.wait_for(|stop| *stop) => return Ok(()),
        }
    }
    Ok(())
}
