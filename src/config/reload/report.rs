//! What is told of a reload: to the log, to the metrics, and over the admin port.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::background::yield_cpu;
use crate::config::diagnostics::Diagnostic;
use crate::config::identity::Now;
use crate::config::{CertificateEnd, Snapshot};
use crate::telemetry::METRICS;

/// So many changes are told one by one where people read them.
const MOST: usize = 50;

/// What a reload did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The generation that is in force now.
    pub generation: u64,
    /// Its hash.
    pub hash: String,
    /// In words: what was added, changed and removed, by the names of keys. Empty when nothing was.
    pub changed: Vec<String>,
    /// How many merchants and channels went on as they were.
    pub kept: usize,
    /// What became of the breakers, limits and connections of the others.
    pub effects: Vec<String>,
    /// The keys of `tollgate.toml` whose new values are not in force until a restart.
    pub needs_restart: Vec<String>,
}

impl Report {
    /// For people: one thing a line.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![self.head()];
        if !self.changed.is_empty() {
            lines.extend(few(&self.changed).map(|change| format!("  {change}")));
            lines.extend(few(&self.effects).map(|effect| format!("  {effect}")));
            lines.push(format!("  {}", self.went_on()));
        }
        lines.extend(self.waits().map(|waits| format!("  {waits}")));
        lines
    }

    fn head(&self) -> String {
        let (generation, hash) = (self.generation, self.hash.get(..12).unwrap_or(&self.hash));
        match self.changed.is_empty() {
            true => format!("nothing changed: generation {generation} ({hash}) goes on"),
            false => format!("generation {generation} ({hash}) is in force:"),
        }
    }

    fn went_on(&self) -> String {
        format!("{} merchants and channels go on as they were", self.kept)
    }

    fn waits(&self) -> Option<String> {
        let keys = &self.needs_restart;
        (!keys.is_empty()).then(|| format!("not in force until a restart: {}", keys.join(", ")))
    }
}

/// On one line, for the log.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if !self.changed.is_empty() {
            parts.extend(few(&self.changed).chain(few(&self.effects)));
            parts.push(self.went_on());
        }
        parts.extend(self.waits());
        let space = if parts.is_empty() { "" } else { " " };
        write!(f, "{}{space}{}", self.head(), parts.join("; "))
    }
}

fn few(all: &[String]) -> impl Iterator<Item = String> {
    let more = all.len().saturating_sub(MOST);
    let rest = (more > 0).then(|| format!("and {more} more"));
    all.iter().take(MOST).cloned().chain(rest)
}

pub(super) fn same<T>(old: &BTreeMap<String, Arc<T>>, new: &BTreeMap<String, Arc<T>>) -> usize {
    new.iter().filter(|(name, value)| old.get(*name).is_some_and(|before| Arc::ptr_eq(before, value))).count()
}

pub(super) fn tell(running: &Snapshot, result: &Result<Report, Vec<Diagnostic>>) {
    let counted = match result {
        Err(_) => "refused",
        Ok(report) if report.changed.is_empty() => "unchanged",
        Ok(_) => "taken",
    };
    METRICS.config_reloads_total.with_label_values(&[counted]).inc();
    METRICS.config_last_reload_success.set(i64::from(result.is_ok()));
    match result {
        Ok(report) if report.changed.is_empty() => tracing::debug!(generation = report.generation, "{report}"),
        Ok(report) => tracing::info!(generation = report.generation, hash = report.hash, "{report}"),
        Err(mistakes) => {
            for mistake in mistakes {
                let (file, line, column) = (mistake.file.display(), mistake.line, mistake.column);
                tracing::error!(%file, line, column, "{mistake}");
            }
            let (count, generation) = (mistakes.len(), running.generation);
            tracing::error!(count, generation, "the configuration was refused: the generation before goes on");
        }
    }
    if let Ok(report) = result
        && !report.needs_restart.is_empty()
        && !report.changed.is_empty()
    {
        tracing::warn!(keys = report.needs_restart.join(", "), "these keys of tollgate.toml need a restart");
    }
}

/// Of what is in force already: whoever reads the metrics believes them.
pub(super) fn tell_in_force(snapshot: &Snapshot, before: &[CertificateEnd]) {
    METRICS.config_generation.set(i64::try_from(snapshot.generation).unwrap_or(i64::MAX));
    METRICS.config_last_reload_success.set(1);
    // What is gone must not be told on. One that is missing there was never told.
    let name = |end: &CertificateEnd| (end.channel.clone(), end.certificate.clone());
    let known: HashSet<_> = snapshot.sources.certificates.iter().map(name).collect();
    for end in before {
        if !known.contains(&name(end)) {
            let labels = [end.channel.as_str(), end.certificate.as_str()];
            drop(METRICS.certificate_days_left.remove_label_values(&labels));
        }
    }
    tell_certificates(snapshot);
}

pub(super) fn tell_certificates(snapshot: &Snapshot) {
    let Now(now) = Now::read();
    for end in &snapshot.sources.certificates {
        yield_cpu();
        let days = (end.not_after - now) as f64 / 86_400.0;
        METRICS.certificate_days_left.with_label_values(&[end.channel.as_str(), end.certificate.as_str()]).set(days);
    }
}

/// How long reading took, and how much it changed.
pub(super) fn tell_cost(took: Duration, result: &Result<Report, Vec<Diagnostic>>) {
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
    fn a_report_is_one_line_for_the_log_and_some_for_people() {
        let report = Report {
            generation: 4,
            hash: "0123456789abcdef".to_owned(),
            changed: vec!["channel a changed: timeouts.total".to_owned()],
            kept: 7,
            effects: vec!["channel a: connections are made anew".to_owned()],
            needs_restart: vec!["telemetry.log".to_owned()],
        };
        let expected = "generation 4 (0123456789ab) is in force: channel a changed: timeouts.total; channel a: connections are \
                        made anew; 7 merchants and channels go on as they were; not in force until a restart: telemetry.log";
        assert_eq!(report.to_string(), expected);
        assert_eq!(report.lines().len(), 5);
        let nothing = Report { changed: Vec::new(), needs_restart: Vec::new(), ..report.clone() };
        assert_eq!(nothing.to_string(), "nothing changed: generation 4 (0123456789ab) goes on");
        let many = Report { changed: vec!["x".to_owned(); 60], ..report };
        assert_eq!(many.lines().len(), 55);
        assert!(many.to_string().contains("and 10 more"));
    }
}
