//! Old payments, claims and events go by themselves, a few at a time.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::config::Current;
use crate::ledger::{Ledger, Purge};

/// Between two rounds.
const PAUSE: Duration = Duration::from_secs(60);

/// Runs until shutdown.
pub async fn run(current: Current, ledger: Ledger, mut shutdown: watch::Receiver<bool>) {
    let mut purge = Purge::default();
    loop {
        let began = Instant::now();
        let keep = current.load().process.keep;
        let pause = match ledger.purge(&mut purge, &keep, crate::clock::now()).await {
            Ok(true) => PAUSE,
            // As long a rest as the work took: payments come first.
            Ok(false) => began.elapsed(),
            Err(error) => {
                tracing::warn!(%error, "what is old stays for now");
                PAUSE
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = shutdown.wait_for(|stop| *stop) => return,
        }
    }
}
