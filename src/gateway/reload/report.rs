//! Report of a reload: for the log, the metrics and the admin port.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tollgate_config::cpu::yield_cpu;
use tollgate_config::{CertificateEnd, Diagnostic, Now};

use crate::snapshot::Snapshot;
use crate::telemetry::METRICS;

/// Maximum number of changes listed for people.
const MAX_LISTED: usize = 50;

/// Result of a reload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Generation in force.
    pub generation: u64,
    /// Hash of that generation.
    pub hash: String,
    /// Added, changed and removed items, by the names of their keys. Empty if nothing changed.
    pub changed: Vec<String>,
    /// Number of merchants and channels that were reused unchanged.
    pub kept: usize,
    /// Effects on the breakers, limits and connections of changed channels.
    pub effects: Vec<String>,
    /// Changed keys of `tollgate.toml` that take effect at the next restart.
    pub needs_restart: Vec<String>,
}

impl Report {
    /// Returns the report for people, one item per line.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![self.head()];
        if !self.changed.is_empty() {
            lines.extend(truncated(&self.changed).map(|change| format!("  {change}")));
            lines.extend(truncated(&self.effects).map(|effect| format!("  {effect}")));
            lines.push(format!("  {}", self.unchanged()));
        }
        lines.extend(self.pending_restart().map(|pending_restart| format!("  {pending_restart}")));
        lines
    }

    fn head(&self) -> String {
        let (generation, hash) = (self.generation, self.hash.get(..12).unwrap_or(&self.hash));
        match self.changed.is_empty() {
            true => format!("nothing changed: generation {generation} ({hash}) stays in force"),
            false => format!("generation {generation} ({hash}) is in force:"),
        }
    }

    fn unchanged(&self) -> String {
        format!("{} merchants and channels are unchanged", self.kept)
    }

    fn pending_restart(&self) -> Option<String> {
        let keys = &self.needs_restart;
        (!keys.is_empty()).then(|| format!("not in force until a restart: {}", keys.join(", ")))
    }
}

/// Prints the report on one line, for the log.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if !self.changed.is_empty() {
            parts.extend(truncated(&self.changed).chain(truncated(&self.effects)));
            parts.push(self.unchanged());
        }
        parts.extend(self.pending_restart());
        let space = if parts.is_empty() { "" } else { " " };
        write!(f, "{}{space}{}", self.head(), parts.join("; "))
    }
}

fn truncated(all: &[String]) -> impl Iterator<Item = String> {
    let more = all.len().saturating_sub(MAX_LISTED);
    let rest = (more > 0).then(|| format!("and {more} more"));
    all.iter().take(MAX_LISTED).cloned().chain(rest)
}

pub(super) fn count_unchanged<T>(old: &BTreeMap<String, Arc<T>>, new: &BTreeMap<String, Arc<T>>) -> usize {
    new.iter().filter(|(name, value)| old.get(*name).is_some_and(|before| Arc::ptr_eq(before, value))).count()
}

pub(super) fn log_result(running: &Snapshot, result: &Result<Report, Vec<Diagnostic>>) {
    let label = match result {
        Err(_) => "rejected",
        Ok(report) if report.changed.is_empty() => "unchanged",
        Ok(_) => "applied",
    };
    METRICS.config_reloads_total.with_label_values(&[label]).inc();
    METRICS.config_last_reload_success.set(i64::from(result.is_ok()));
    match result {
        Ok(report) if report.changed.is_empty() => tracing::debug!(generation = report.generation, "{report}"),
        Ok(report) => tracing::info!(generation = report.generation, hash = report.hash, "{report}"),
        Err(diagnostics) => {
            for diagnostic in diagnostics {
                let (file, line, column) = (diagnostic.file.display(), diagnostic.line, diagnostic.column);
                tracing::error!(%file, line, column, "{diagnostic}");
            }
            let (count, generation) = (diagnostics.len(), running.generation);
            tracing::error!(
                count,
                generation,
                "the configuration was rejected: the previous generation stays in force"
            );
        }
    }
    if let Ok(report) = result
        && !report.needs_restart.is_empty()
        && !report.changed.is_empty()
    {
        tracing::warn!(
            keys = report.needs_restart.join(", "),
            "these keys of tollgate.toml take effect after a restart"
        );
    }
}

/// Exports the metrics of the snapshot in force. Called after the swap, so the metrics never run ahead of it.
pub(super) fn export_in_force(snapshot: &Snapshot, before: &[CertificateEnd]) {
    METRICS.config_generation.set(i64::try_from(snapshot.generation).unwrap_or(i64::MAX));
    METRICS.config_last_reload_success.set(1);
    METRICS.export_config(&snapshot.config.hash, &snapshot.config.routes, &snapshot.config.channels);
    // A series of a removed certificate must go. A series that does not exist needs no removal.
    let name = |end: &CertificateEnd| (end.channel.clone(), end.certificate.clone());
    let known: HashSet<_> = snapshot.config.sources.certificates.iter().map(name).collect();
    for end in before {
        if !known.contains(&name(end)) {
            let labels = [end.channel.as_str(), end.certificate.as_str()];
            drop(METRICS.certificate_days_left.remove_label_values(&labels));
        }
    }
    export_certificates(snapshot);
}

pub(super) fn export_certificates(snapshot: &Snapshot) {
    let Now(now) = Now::read();
    for end in &snapshot.config.sources.certificates {
        yield_cpu();
        let days = (end.not_after - now) as f64 / 86_400.0;
        METRICS.certificate_days_left.with_label_values(&[end.channel.as_str(), end.certificate.as_str()]).set(days);
    }
}

/// Exports how long the reload took, and what it changed.
pub(super) fn export_cost(took: Duration, result: &Result<Report, Vec<Diagnostic>>) {
    METRICS.config_reload_seconds.set(took.as_secs_f64());
    if let Ok(report) = result {
        for change in &report.changed {
            let kind = change.split_whitespace().next().unwrap_or_default();
            METRICS.config_changes_total.with_label_values(&[kind]).inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_is_one_line_for_the_log_and_several_for_people() {
        let report = Report {
            generation: 4,
            hash: "0123456789abcdef".to_owned(),
            changed: vec!["channel a changed: timeouts.total".to_owned()],
            kept: 7,
            effects: vec!["channel a: connections are re-established".to_owned()],
            needs_restart: vec!["telemetry.log".to_owned()],
        };
        let expected = "generation 4 (0123456789ab) is in force: channel a changed: timeouts.total; channel a: connections are \
                        re-established; 7 merchants and channels are unchanged; not in force until a restart: telemetry.log";
        assert_eq!(report.to_string(), expected);
        assert_eq!(report.lines().len(), 5);
        let nothing = Report { changed: Vec::new(), needs_restart: Vec::new(), ..report.clone() };
        assert_eq!(nothing.to_string(), "nothing changed: generation 4 (0123456789ab) stays in force");
        let many = Report { changed: vec!["x".to_owned(); 60], ..report };
        assert_eq!(many.lines().len(), 55);
        assert!(many.to_string().contains("and 10 more"));
    }
}
