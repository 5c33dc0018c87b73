//! `tollgate diff` and `tollgate rollback`: what would change, and back to what was.

use std::path::Path;
use std::sync::Arc;

use super::Snapshot;
use super::diagnostics::Diagnostic;
use super::diff;
use super::file;
use super::generations::Generations;
use super::process;
use crate::admin;
use crate::output::say;

/// Prints what the files would change of the generation that was last put in force.
pub fn diff(conf: &Path) -> Result<(), String> {
    let generations = Generations::of(conf);
    let last = generations.last().ok_or("nothing was in force yet: start `tollgate run` first")?;
    let running = generations.load(&last, None).map_err(|mistakes| lines(&mistakes))?;
    let files = file::load(conf, Some(&running)).map_err(|mistakes| lines(&mistakes))?;
    let (number, hash) = (last.number, &last.hash);
    let changed = diff::changes(&running, &files);
    if changed.is_empty() {
        say!("nothing would change: generation {number} ({hash}) is made from these files");
        return Ok(());
    }
    say!("against generation {number} ({hash}):");
    let effects = diff::effects(&running, &files);
    changed.iter().chain(&effects).for_each(|change| say!("  {change}"));
    for key in process::needs_restart(&running.process, &files.process) {
        say!("  `{key}` would be in force after a restart only");
    }
    Ok(())
}

/// Asks the gateway that runs to go back; prints what it did.
pub async fn roll_back(conf: &Path, to: Option<u64>) -> Result<(), String> {
    let process = Arc::clone(&in_force(conf)?.process);
    let target = to.map_or_else(|| "/rollback".to_owned(), |to| format!("/rollback?to={to}"));
    let (status, said) = admin::ask(&process, "POST", &target)
        .await
        .map_err(|why| format!("{why}; is `tollgate run` running with this configuration?"))?;
    let said = said.as_str().unwrap_or_default().trim_end().to_owned();
    if status == 200 {
        say!("{said}");
        return Ok(());
    }
    Err(said)
}

/// What was last in force, or else what the files say: the files may be what is wrong.
pub(crate) fn in_force(conf: &Path) -> Result<Snapshot, String> {
    let generations = Generations::of(conf);
    let last = generations.last().and_then(|last| generations.load(&last, None).ok());
    last.map_or_else(|| file::load(conf, None), Ok).map_err(|mistakes| lines(&mistakes))
}

fn lines(mistakes: &[Diagnostic]) -> String {
    let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
    format!("the configuration has mistakes:\n{}", lines.join("\n"))
}
