//! Errors and warnings of a configuration, with their position.

use std::fmt;
use std::path::PathBuf;

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
    /// Advice on fixing the problem.
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

#[cfg(test)]
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
}
