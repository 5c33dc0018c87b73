//! The commands `tollgate diff` and `tollgate rollback`.

use std::path::Path;
use std::sync::Arc;

use tollgate_config::{Diagnostic, diff};
use tollgate_gateway::snapshot::{self, Snapshot};

use crate::admin_client;
use crate::output::say;
use tollgate_gateway::reload::effects::effects;
use tollgate_gateway::reload::generations::Generations;

/// Prints what the files would change compared with the generation that was last in force.
pub(crate) fn diff(conf: &Path) -> Result<(), String> {
    let generations = Generations::of(conf);
    let last = generations.last().ok_or("no configuration was in force yet: start `tollgate run` first")?;
    let running = generations.load(&last, None).map_err(|diagnostics| joined(&diagnostics))?;
    let files = snapshot::load(conf, Some(&running)).map_err(|diagnostics| joined(&diagnostics))?;
    let (number, hash) = (last.number, &last.hash);
    let changed = diff::changes(&running.config, &files.config);
    if changed.is_empty() {
        say!("nothing would change: generation {number} ({hash}) was built from these files");
        return Ok(());
    }
    say!("compared with generation {number} ({hash}):");
    changed.iter().chain(&effects(&running, &files)).for_each(|change| say!("  {change}"));
    for key in running.process.needs_restart(&files.process) {
        say!("  `{key}` would take effect only after a restart");
    }
    Ok(())
}

/// Requests a rollback from the running gateway, and prints the result.
pub(crate) async fn roll_back(conf: &Path, to: Option<u64>) -> Result<(), String> {
    let process = Arc::clone(&in_force(conf)?.process);
    let target = to.map_or_else(|| "/rollback".to_owned(), |to| format!("/rollback?to={to}"));
    let (status, answer) = admin_client::ask(&process, "POST", &target)
        .await
        .map_err(|why| format!("{why}; is `tollgate run` running with this configuration?"))?;
    let answer = answer.as_str().unwrap_or_default().trim_end().to_owned();
    if status == 200 {
        say!("{answer}");
        return Ok(());
    }
    Err(answer)
}

/// Returns the configuration that was last in force, else that of the files, which may have errors.
pub(crate) fn in_force(conf: &Path) -> Result<Snapshot, String> {
    let generations = Generations::of(conf);
    let last = generations.last().and_then(|last| generations.load(&last, None).ok());
    last.map_or_else(|| snapshot::load(conf, None), Ok).map_err(|diagnostics| joined(&diagnostics))
}

fn joined(diagnostics: &[Diagnostic]) -> String {
    let joined: Vec<String> = diagnostics.iter().map(ToString::to_string).collect();
    format!("the configuration has errors:\n{}", joined.join("\n"))
}
