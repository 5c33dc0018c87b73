//! `tollgate check`: prints every error of a configuration, or its warnings and a summary.

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::generations::Generations;
use crate::config::{Diagnostic, warnings};
use crate::snapshot::load;

/// Loads the configuration as a start would, and summarizes it.
pub(crate) fn check(dir: &Path) -> Result<Summary, Vec<Diagnostic>> {
    let snapshot = load(dir, None)?;
    let mut notes = warnings(dir, &snapshot.config);
    let (in_use, place) = (Generations::of(dir).in_use(), &snapshot.process.ledger);
    match in_use.unreadable(place) {
        Some(file) => {
            let message = "cannot check whether `[ledger]` names the ledger in use, because this file cannot be read";
            notes.push(Diagnostic::in_file(file, message, Some("run `tollgate check` as the gateway's user")));
        }
        // A start would reject this ledger.
        None => {
            in_use.admit(place).map_err(|why| vec![Diagnostic::in_file(dir.join("tollgate.toml"), why, None)])?;
        }
    }
    Ok(Summary {
        dir: dir.to_owned(),
        merchants: snapshot.config.merchants.len(),
        channels: snapshot.channels.len(),
        routes: snapshot.routes.len(),
        notes,
    })
}

/// Contents of a configuration without errors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Directory of the configuration.
    pub(crate) dir: PathBuf,
    /// Number of merchants.
    pub(crate) merchants: usize,
    /// Number of channels.
    pub(crate) channels: usize,
    /// Number of routes.
    pub(crate) routes: usize,
    /// Warnings.
    pub(crate) notes: Vec<Diagnostic>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = [(self.merchants, "merchant"), (self.channels, "channel"), (self.routes, "route")]
            .map(|(count, noun)| format!("{count} {noun}{}", if count == 1 { "" } else { "s" }));
        write!(f, "{}: {}: fine", self.dir.display(), counted.join(", "))
    }
}

/// Runs `tollgate check`. Prints every error on standard error, one per line, and fails; otherwise prints a summary on
/// standard output. The output has no colours, so editors and CI can parse the positions.
pub(crate) fn check_command(dir: &Path) -> ExitCode {
    check_into(dir, &mut std::io::stdout().lock(), &mut std::io::stderr().lock())
}

/// Ignores write errors: a broken pipe means that the reader has seen enough.
fn check_into(dir: &Path, out: &mut dyn Write, err: &mut dyn Write) -> ExitCode {
    match check(dir) {
        Ok(summary) => {
            for note in &summary.notes {
                let _ = writeln!(out, "note: {note}");
            }
            let _ = writeln!(out, "{summary}");
            ExitCode::SUCCESS
        }
        Err(errors) => {
            for error in &errors {
                let _ = writeln!(err, "{error}");
            }
            let s = if errors.len() == 1 { "" } else { "s" };
            let _ = writeln!(err, "{}: {} error{s}", dir.display(), errors.len());
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn check_prints_summary_or_every_error() {
        let dir = tempfile::tempdir().unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        std::fs::write(dir.path().join("tollgate.toml"), "public_url = \"https://pay.example.com\"\n").unwrap();
        assert_eq!(check_into(dir.path(), &mut out, &mut err), ExitCode::SUCCESS);
        let printed = String::from_utf8(out).unwrap();
        assert_eq!(printed, format!("{}: 0 merchants, 0 channels, 0 routes: fine\n", dir.path().display()));
        assert!(err.is_empty());

        std::fs::write(dir.path().join("tollgate.toml"), "public_ulr = \"https://pay.example.com\"\n").unwrap();
        let mut out = Vec::new();
        assert_eq!(check_into(dir.path(), &mut out, &mut err), ExitCode::FAILURE);
        assert!(out.is_empty());
        let printed = String::from_utf8(err).unwrap();
        assert!(
            printed.contains("tollgate.toml:1:1: unknown key `public_ulr` (did you mean `public_url`?)"),
            "{printed}"
        );
        assert!(printed.ends_with(": 2 errors\n"), "{printed}");
    }
}
