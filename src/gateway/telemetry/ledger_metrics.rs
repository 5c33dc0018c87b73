//! Metrics of the ledger.

use tollgate_config::{LedgerConfig, Process};
use tollgate_ledger::{Measurement, Metrics};

use super::METRICS;

/// Exports the ledger's measurements as [`METRICS`].
pub(crate) struct LedgerMetrics;

impl Metrics for LedgerMetrics {
    fn record(&self, measurement: Measurement<'_>) {
        match measurement {
            Measurement::CommitSeconds(seconds) => METRICS.ledger_commit_seconds.observe(seconds),
            Measurement::BatchSize(size) => METRICS.ledger_batch_size.observe(size as f64),
            Measurement::Read => METRICS.ledger_reads_total.inc(),
            Measurement::Purged { rows, count } => METRICS.ledger_purged_total.with_label_values(&[rows]).inc_by(count),
            Measurement::OldestRow { kind, seconds } => {
                METRICS.ledger_oldest_seconds.with_label_values(&[kind]).set(seconds);
            }
            Measurement::DoublePayment { channel } => METRICS.double_payments_total.with_label_values(&[channel]).inc(),
            Measurement::ClaimsTakenOver(count) => METRICS.stores.ledger_claims_taken_over_total.inc_by(count),
        }
    }
}

impl super::Metrics {
    /// Exports the free space of the embedded ledger's disk. The disk of a PostgreSQL server is not known here.
    pub fn export_disk_space(&self, process: &Process) {
        let LedgerConfig::Embedded(path) = &process.ledger else { return };
        let Ok(disk) = rustix::fs::statvfs(path) else { return };
        let free = i128::from(disk.f_bavail) * i128::from(disk.f_frsize);
        let headroom = i64::try_from(free - i128::from(process.reserve)).unwrap_or(i64::MIN);
        self.ledger_headroom_bytes.with_label_values::<&str>(&[]).set(headroom);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ledger_measurements_are_exported_under_their_metric_names() {
        for measurement in [
            Measurement::CommitSeconds(0.004),
            Measurement::BatchSize(3),
            Measurement::Read,
            Measurement::Purged { rows: "of-test", count: 7 },
            Measurement::OldestRow { kind: "of-test", seconds: 1.5 },
            Measurement::DoublePayment { channel: "of-test" },
            Measurement::ClaimsTakenOver(1),
        ] {
            LedgerMetrics.record(measurement);
        }
        let page = METRICS.render();
        for line in [
            "tollgate_ledger_purged_total{rows=\"of-test\"} 7",
            "tollgate_ledger_oldest_seconds{list=\"of-test\"} 1.5",
            "tollgate_double_payments_total{channel=\"of-test\"} 1",
        ] {
            assert!(page.contains(line), "{line} is missing: {page}");
        }
        for name in [
            "ledger_commit_seconds_count",
            "ledger_batch_size_count",
            "ledger_reads_total",
            "ledger_claims_taken_over_total",
        ] {
            let line = page.lines().find_map(|line| line.strip_prefix(&format!("tollgate_{name} ")));
            assert!(line.is_some_and(|count| count != "0"), "{name} is not counted: {page}");
        }
    }
}
