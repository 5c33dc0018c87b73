//! Diagnostics of the configuration, and the `tollgate check` command that prints them.

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::file;

/// One configuration error or warning with its position and, where known, a suggestion.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Diagnostic {
    /// File of the diagnostic.
    pub file: PathBuf,
    /// Line, from 1; 0 if the diagnostic concerns the whole file.
    pub line: usize,
    /// Column in characters, from 1; 0 if the diagnostic concerns the whole file.
    pub column: usize,
    /// Description of the problem. Never contains a secret's value.
    pub message: String,
    /// How to fix the problem.
    pub suggestion: Option<String>,
}

impl Diagnostic {
    /// Returns a diagnostic about a whole file, or about its absence.
    pub fn in_file(file: impl Into<PathBuf>, message: impl Into<String>, suggestion: Option<&str>) -> Self {
        let suggestion = suggestion.map(str::to_owned);
        Self { file: file.into(), line: 0, column: 0, message: message.into(), suggestion }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if self.line > 0 {
            write!(f, "{}:{}:", self.line, self.column)?;
        }
        write!(f, " {}", self.message)?;
        match &self.suggestion {
            Some(suggestion) => write!(f, " ({suggestion})"),
            None => Ok(()),
        }
    }
}

/// Contents of a configuration without errors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Directory of the configuration.
    pub dir: PathBuf,
    /// Number of merchants.
    pub merchants: usize,
    /// Number of channels.
    pub channels: usize,
    /// Number of routes.
    pub routes: usize,
    /// Warnings.
    pub notes: Vec<Diagnostic>,
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
pub fn check_command(dir: &Path) -> ExitCode {
    check_into(dir, &mut std::io::stdout().lock(), &mut std::io::stderr().lock())
}

/// Ignores write errors: a broken pipe means that the reader has seen enough.
fn check_into(dir: &Path, out: &mut dyn Write, err: &mut dyn Write) -> ExitCode {
    match file::check(dir) {
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
    fn diagnostic_is_printed_in_compiler_format() {
        let diagnostic = Diagnostic {
            file: "conf/channels/a.toml".into(),
            line: 12,
            column: 5,
            message: "unknown key `ratee`".into(),
            suggestion: Some("did you mean `rate`?".into()),
        };
        assert_eq!(diagnostic.to_string(), "conf/channels/a.toml:12:5: unknown key `ratee` (did you mean `rate`?)");
        assert_eq!(Diagnostic::in_file("conf", "is missing", None).to_string(), "conf: is missing");
    }

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
