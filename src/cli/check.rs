//! `tollgate check`: prints every error of a configuration, or its warnings and a summary.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use tollgate_gateway::reload::check::check;

/// Runs `tollgate check`. Prints every error on standard error, one per line, and fails; otherwise prints a summary on
/// standard output. The output has no colours, so editors and CI can parse the positions.
pub(crate) fn run(dir: &Path) -> ExitCode {
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
