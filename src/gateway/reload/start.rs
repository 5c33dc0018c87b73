//! The first generation of a process: of the files, or else the newest archived one that is readable and on the same ledger.

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tollgate_config::{Diagnostic, LedgerConfig, NamedLedger};

use super::announcement::announce_rejected;
use super::generations::{Generations, StoredGeneration};
use super::in_use::LedgerIdentity;
use super::report::export_in_force;
use crate::snapshot::{self, Current, Snapshot};
use crate::telemetry::{LABELS, METRICS};

/// Loads the configuration that the process starts with, and puts it in force.
///
/// If it has errors or was rolled back, the last readable generation is used instead, and the log says so at level error. That
/// never crosses a change of `[ledger]`, because the payments of one ledger are unknown in another.
pub fn load_first(dir: &Path) -> Result<Current, Vec<Diagnostic>> {
    let generations = Generations::of(dir);
    let last = generations.last();
    let is_rolled_back = |read: &Snapshot| last.is_some() && generations.is_rolled_back(&read.config.hash);
    let first = snapshot::load(dir, None);
    let mistakes = first.as_ref().err().cloned();
    let (snapshot, kept) = match first {
        Ok(read) if is_rolled_back(&read) => match last_readable(&generations, dir, Vec::new()) {
            Ok((snapshot, kept)) => (snapshot, Some(kept)),
            Err(diagnostics) => {
                diagnostics.iter().for_each(|diagnostic| tracing::error!("{diagnostic}"));
                tracing::error!(
                    "the configuration was rolled back earlier, but no other one can be read: it comes into force again"
                );
                (read, None)
            }
        },
        Ok(read) => (read, None),
        Err(diagnostics) => {
            last_readable(&generations, dir, diagnostics).map(|(snapshot, kept)| (snapshot, Some(kept)))?
        }
    };
    let is_same = |last: &&StoredGeneration| snapshot.config.hash.starts_with(&last.hash);
    let generation = last.as_ref().map_or(1, |last| last.number + u64::from(!is_same(&last)));
    let snapshot = Snapshot { generation, ..snapshot };
    if let Err(why) = generations.archive(&snapshot, kept.as_ref(), None) {
        tracing::error!("{why}");
    }
    LABELS.register(&snapshot.config.merchants, &snapshot.channels);
    export_in_force(&snapshot, &[]);
    METRICS.config_last_reload_success.set(i64::from(mistakes.is_none()));
    mistakes.iter().for_each(|diagnostics| announce_rejected(generation, diagnostics));
    Ok(Arc::new(ArcSwap::from_pointee(snapshot)))
}

/// Returns the newest readable generation, for a configuration that has these errors or was rolled back.
fn last_readable(
    generations: &Generations,
    dir: &Path,
    mut diagnostics: Vec<Diagnostic>,
) -> Result<(Snapshot, StoredGeneration), Vec<Diagnostic>> {
    let why = if diagnostics.is_empty() { "the configuration was rolled back" } else { "the configuration has errors" };
    let named = snapshot::named_ledger(dir);
    let in_use = generations.in_use().read();
    for kept in generations.list().into_iter().rev() {
        let loaded = generations.load(&kept, None).and_then(with_existing_ledger);
        match loaded.and_then(|snapshot| on_same_ledger(snapshot, &kept, dir, &named, &in_use)) {
            Ok(snapshot) => {
                log_fallback(why, &diagnostics, &kept);
                return Ok((snapshot, kept));
            }
            Err(why) => diagnostics.extend(why),
        }
    }
    Err(diagnostics)
}

/// Rejects a generation unless its ledger is certainly the one that the files name and that the last start used.
fn on_same_ledger(
    snapshot: Snapshot,
    kept: &StoredGeneration,
    dir: &Path,
    named: &NamedLedger,
    in_use: &Result<Option<LedgerIdentity>, String>,
) -> Result<Snapshot, Vec<Diagnostic>> {
    let place = &snapshot.process.ledger;
    let why = match (in_use, named) {
        (Err(why), _) => why.clone(),
        (Ok(Some(known)), _) if !known.is_named_by(place) => format!("{known} is in use"),
        (Ok(_), named) if named.names_ledger_of(&snapshot.config) => return Ok(snapshot),
        (Ok(_), NamedLedger::Parsed(other)) => format!("`[ledger]` of the files names {}", other),
        (Ok(_), NamedLedger::Lines(_) | NamedLedger::Nothing) => {
            "`[ledger]` of the files is not the same or cannot be read".to_owned()
        }
    };
    let (number, hash) = (kept.number, &kept.hash);
    let message =
        format!("generation {number} ({hash}) names {place}, but {why}: starting on it could execute payments twice");
    let advice = "correct the errors in the files; the gateway does not start before";
    Err(vec![Diagnostic::in_file(dir.join("tollgate.toml"), message, Some(advice))])
}

/// Rejects a generation whose embedded ledger is missing (unmounted disk, changed link). An empty ledger in its place would not
/// know any payment.
fn with_existing_ledger(snapshot: Snapshot) -> Result<Snapshot, Vec<Diagnostic>> {
    match &snapshot.process.ledger {
        LedgerConfig::Embedded(path) if !path.is_dir() => {
            let advice = "restore it, or correct the files: an empty ledger would not know any payment";
            Err(vec![Diagnostic::in_file(path, "the ledger of the last generation is missing", Some(advice))])
        }
        _ => Ok(snapshot),
    }
}

fn log_fallback(why: &str, diagnostics: &[Diagnostic], last: &StoredGeneration) {
    for diagnostic in diagnostics {
        tracing::error!("{diagnostic}");
    }
    tracing::error!("{why}: generation {} ({}), the last one in force, is used instead", last.number, last.hash);
}
