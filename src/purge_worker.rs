//! Old payments, claims and events go by themselves, a few at a time.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::watch;

use crate::clock;
use crate::config::Current;
use crate::ledger::{Ledger, LedgerError, Purge, PurgeGuard, PurgeTime};
use crate::telemetry::METRICS;

/// Between two rounds.
const PAUSE: Duration = Duration::from_secs(60);
/// Steps in one round at most; each looks at some 32 rows. More waits for the next round.
const MOST_STEPS: u32 = 6_000;

/// Runs until shutdown.
pub async fn run(current: Current, ledger: Ledger, mut shutdown: watch::Receiver<bool>) {
    let (mut purge, mut guard, mut was_refused) = (Purge::default(), PurgeGuard::default(), false);
    loop {
        match purge_time(&ledger, &mut guard, &mut was_refused).await {
            Ok(Some(until)) => {
                if let Err(error) = round(&current, &ledger, &mut purge, until, &mut shutdown).await {
                    tracing::warn!(%error, "what is old stays for now");
                }
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "the ledger's time could not be read: what is old stays for now"),
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            _ = shutdown.wait_for(|stop| *stop) => return,
        }
    }
}

/// Returns the time by which may be purged, if anything may.
async fn purge_time(
    ledger: &Ledger,
    guard: &mut PurgeGuard,
    was_refused: &mut bool,
) -> Result<Option<Timestamp>, LedgerError> {
    // Another clock than PostgreSQL's is no gateway's to judge.
    if !clock::is_trusted() {
        return Ok(None);
    }
    let clock = clock::reading();
    let verdict = ledger.purge_time(guard, clock).await?;
    let is_refused = matches!(verdict, PurgeTime::Refused { .. });
    METRICS.ledger_purge_refused.set(is_refused.into());
    let before = std::mem::replace(was_refused, is_refused);
    match verdict {
        PurgeTime::Refused { known } if !before => tracing::error!(
            now = %clock.now,
            %known,
            "nothing is purged: the clock says `now`, but the newest time that the ledger knows is `known`. Is the clock wrong, \
             set it right (NTP), and nothing is lost. Is it right because no gateway ran for so long, nothing is to be done: \
             purging goes on after an hour of running without a step, as soon as a merchant's signed request is accepted"
        ),
        PurgeTime::Refused { .. } => {}
        _ if before => tracing::info!("the clock agrees with the ledger's time again: purging goes on"),
        _ => {}
    }
    Ok(match verdict {
        PurgeTime::Until(until) => Some(until),
        PurgeTime::TooEarly | PurgeTime::Refused { .. } => None,
    })
}

/// Purges all that is old by then, or as much as one round may.
async fn round(
    current: &Current,
    ledger: &Ledger,
    purge: &mut Purge,
    until: Timestamp,
    shutdown: &mut watch::Receiver<bool>,
) -> Result<(), LedgerError> {
    for _ in 0..MOST_STEPS {
        let began = Instant::now();
        let keep = current.load().process.keep;
        if ledger.purge(purge, &keep, until).await? {
            return Ok(());
        }
        // As long a rest as the work took: payments come first.
        tokio::select! {
            () = tokio::time::sleep(began.elapsed()) => {}
            _ = shutdown.wait_for(|stop| *stop) => return Ok(()),
        }
    }
    Ok(())
}
