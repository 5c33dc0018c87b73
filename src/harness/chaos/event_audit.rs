//! Waits until every sink has every event, and compares the sinks with two pulls.

use std::time::{Duration, Instant};

use super::environment::ChaosEnvironment;
use super::event_books::{EventReport, compare_events};
use super::pull_reader::PullReader;

/// Pause between two comparisons.
const PAUSE: Duration = Duration::from_secs(2);

/// Compares until all agree, an error is final, or the time is over. `reader` has pulled during the run. After each
/// comparison the events that wait are retried at once, as an operator does after an outage: a third retry would come
/// after half an hour.
pub(super) async fn audit_events(
    environment: &ChaosEnvironment,
    mut reader: PullReader,
    deadline: Instant,
) -> EventReport {
    loop {
        let mut again = PullReader::default();
        let read = match reader.read_to_end(environment).await {
            Ok(()) => again.read_to_end(environment).await,
            Err(error) => Err(error),
        };
        let mut report = environment.with_sinks(|sinks| compare_events(&reader.record, &again.record, sinks));
        report.errors.extend(read.err());
        let is_final = report.errors.is_empty() || !report.may_settle() || Instant::now() > deadline;
        if is_final {
            return report;
        }
        environment.retry_sinks().await;
        tokio::time::sleep(PAUSE).await;
    }
}
