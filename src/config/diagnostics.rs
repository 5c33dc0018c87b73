//! What a person is told of the configuration: its mistakes, or that there are none.

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::file;

/// One mistake in the configuration, with its place and, where it can be known, what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Diagnostic {
    /// In which file.
    pub file: PathBuf,
    /// From 1; 0 when the mistake concerns no line of the file.
    pub line: usize,
    /// From 1, in characters; 0 as above.
    pub column: usize,
    /// What is wrong; never a secret's value.
    pub message: String,
    /// What to do about it.
    pub suggestion: Option<String>,
}

impl Diagnostic {
    /// One that concerns a whole file, or its absence.
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

/// What a configuration without mistakes has in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Where it is.
    pub dir: PathBuf,
    /// How many merchants.
    pub merchants: usize,
    /// How many channels.
    pub channels: usize,
    /// How many routes.
    pub routes: usize,
    /// What is no mistake but may surprise.
    pub notes: Vec<Diagnostic>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = [(self.merchants, "merchant"), (self.channels, "channel"), (self.routes, "route")]
            .map(|(count, what)| format!("{count} {what}{}", if count == 1 { "" } else { "s" }));
        write!(f, "{}: {}: fine", self.dir.display(), counted.join(", "))
    }
}

/// `tollgate check`: says every mistake on standard error, one a line, and fails; or says on standard output what there
/// is. Without colours, so that editors and CI can read the places.
pub fn check_command(dir: &Path) -> ExitCode {
    check_into(dir, &mut std::io::stdout().lock(), &mut std::io::stderr().lock())
}

/// A broken pipe is the reader's wish, so what cannot be written is left out.
fn check_into(dir: &Path, out: &mut dyn Write, err: &mut dyn Write) -> ExitCode {
    match file::check(dir) {
        Ok(summary) => {
            for note in &summary.notes {
                let _ = writeln!(out, "note: {note}");
            }
            let _ = writeln!(out, "{summary}");
            ExitCode::SUCCESS
        }
        Err(mistakes) => {
            for mistake in &mistakes {
                let _ = writeln!(err, "{mistake}");
            }
            let s = if mistakes.len() == 1 { "" } else { "s" };
            let _ = writeln!(err, "{}: {} mistake{s}", dir.display(), mistakes.len());
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_reads_as_compilers_write_them() {
        let mistake = Diagnostic {
            file: "conf/channels/a.toml".into(),
            line: 12,
            column: 5,
            message: "unknown key `ratee`".into(),
            suggestion: Some("did you mean `rate`?".into()),
        };
        assert_eq!(mistake.to_string(), "conf/channels/a.toml:12:5: unknown key `ratee` (did you mean `rate`?)");
        assert_eq!(Diagnostic::in_file("conf", "is missing", None).to_string(), "conf: is missing");
    }

    #[test]
    fn check_says_what_there_is_or_every_mistake() {
        let dir = tempfile::tempdir().unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        std::fs::write(dir.path().join("tollgate.toml"), "public_url = \"https://pay.example.com\"\n").unwrap();
        assert_eq!(check_into(dir.path(), &mut out, &mut err), ExitCode::SUCCESS);
        let said = String::from_utf8(out).unwrap();
        assert_eq!(said, format!("{}: 0 merchants, 0 channels, 0 routes: fine\n", dir.path().display()));
        assert!(err.is_empty());

        std::fs::write(dir.path().join("tollgate.toml"), "public_ulr = \"https://pay.example.com\"\n").unwrap();
        let mut out = Vec::new();
        assert_eq!(check_into(dir.path(), &mut out, &mut err), ExitCode::FAILURE);
        assert!(out.is_empty());
        let said = String::from_utf8(err).unwrap();
        assert!(said.contains("tollgate.toml:1:1: unknown key `public_ulr` (did you mean `public_url`?)"), "{said}");
        assert!(said.ends_with(": 2 mistakes\n"), "{said}");
    }
}
