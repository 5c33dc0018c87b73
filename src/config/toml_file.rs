//! One TOML file while it is read: its text, the positions of its errors, and every file and variable that it names.

mod lines;

use std::cell::{OnceCell, RefCell};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tollgate_plugins::secret::Secret;
use tollgate_plugins::settings::{Outline, Problem, Problems, Settings};
use toml::de::DeTable;

use self::lines::LineIndex;
use super::dependencies::{Dependencies, Dependency, Reference, beside};
use super::diagnostics::Diagnostic;
use super::file_content::Content;
use super::file_source::FileSource;
use super::key_cache::KeyCache;

/// Maximum number of diagnostics listed per file.
const MAX_DIAGNOSTICS: usize = 1_000;

/// One open TOML file. Records everything that the file names, so that the [fingerprint](TomlFile::fingerprint) covers it and it
/// can be watched.
pub(super) struct TomlFile {
    path: PathBuf,
    text: String,
    /// Line index, built for the first diagnostic.
    lines: OnceCell<LineIndex>,
    hasher: RefCell<Sha256>,
    named: RefCell<Vec<PathBuf>>,
    dependencies: RefCell<Vec<Dependency>>,
    notes: RefCell<Vec<Diagnostic>>,
    origin: Arc<FileSource>,
    known: Arc<KeyCache>,
}

impl TomlFile {
    /// Opens a file that must exist.
    pub(super) fn open(path: &Path, origin: &Arc<FileSource>, known: &Arc<KeyCache>) -> Result<Self, Diagnostic> {
        let content = origin.read(path).map_err(|message| Diagnostic::in_file(path, message, None))?;
        let text = String::from_utf8(content).map_err(|error| {
            let valid = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(&error.as_bytes()[..valid]);
            let (line, column) = LineIndex::of(&text).find(&text, valid);
            let message = "this is not UTF-8 text".to_owned();
            Diagnostic { file: path.to_owned(), line, column, message, suggestion: None }
        })?;
        Ok(Self { origin: Arc::clone(origin), known: Arc::clone(known), ..Self::with_text(path, text) })
    }

    /// Returns a file with this text.
    pub(super) fn with_text(path: &Path, text: String) -> Self {
        let source = Self {
            path: path.to_owned(),
            text,
            lines: OnceCell::new(),
            hasher: RefCell::default(),
            named: RefCell::new(vec![path.into()]),
            dependencies: RefCell::default(),
            notes: RefCell::default(),
            origin: Arc::default(),
            known: Arc::default(),
        };
        source.hash_in("file", source.text.as_bytes());
        source
    }

    /// Reads the text with `reader`, and returns its value with all diagnostics. A file with a syntax error is not passed to the
    /// reader, because a key that seems to be missing may follow the error.
    pub(super) fn read<T>(&self, reader: impl FnOnce(Settings<'_>) -> T) -> (Option<T>, Vec<Diagnostic>) {
        let problems = Problems::default();
        let (table, errors) = DeTable::parse_recoverable(&self.text);
        let value = if errors.is_empty() { Some(reader(Settings::root(&table, &problems))) } else { None };
        let broken = !errors.is_empty();
        self.notes.borrow_mut().extend(problems.take_notes().into_iter().map(|note| self.diagnostic(note)));
        for error in errors {
            problems.push(error.span().unwrap_or(0..0), error.message(), None);
        }
        let mut diagnostics: Vec<_> = problems.into_vec().into_iter().map(|problem| self.diagnostic(problem)).collect();
        let more = diagnostics.len().saturating_sub(MAX_DIAGNOSTICS);
        diagnostics.truncate(MAX_DIAGNOSTICS + 1);
        if more > 0
            && let Some(next) = diagnostics.last_mut()
        {
            next.message = format!("{more} more errors in this file are not listed");
            next.suggestion = None;
        }
        if broken {
            // Further syntax errors on one line follow from the first.
            diagnostics.dedup_by_key(|diagnostic| diagnostic.line);
        }
        (value, diagnostics)
    }

    /// Takes the warnings of the reader.
    pub(super) fn take_notes(&self) -> Vec<Diagnostic> {
        self.notes.take()
    }

    /// Returns the keys that a reader asks for in this file, independent of its content; see [`Settings::describe`].
    pub(super) fn sketch(&self, reader: impl FnOnce(Settings<'_>)) -> Outline {
        let (table, _) = DeTable::parse_recoverable(&self.text);
        let (problems, outline) = (Problems::default(), Outline::default());
        reader(Settings::describe(&table, &problems, outline.clone()));
        outline
    }

    /// Returns the diagnostics, and the keys that the reader asked for.
    #[cfg(test)]
    pub(super) fn read_watching(
        &self,
        reader: impl FnOnce(Settings<'_>),
    ) -> (Vec<Diagnostic>, std::collections::BTreeSet<String>) {
        let problems = Problems::recording_reads();
        let (table, errors) = DeTable::parse_recoverable(&self.text);
        assert!(errors.is_empty(), "{errors:?} in {}", self.text);
        reader(Settings::root(&table, &problems));
        let asked = problems.keys_read();
        (problems.into_vec().into_iter().map(|problem| self.diagnostic(problem)).collect(), asked)
    }

    /// Reads a file that this file names. The error is a sentence for a diagnostic.
    pub(super) fn read_named(&self, name: &str) -> Result<Arc<Content>, String> {
        let path = self.resolve(name);
        self.named.borrow_mut().push(path.clone());
        match self.origin.read_shared(&path) {
            Ok(content) => {
                self.hash_in("named", &content.digest);
                self.dependencies.borrow_mut().push(Dependency::new(Reference::File(name.to_owned()), content.digest));
                Ok(content)
            }
            Err(message) => Err(format!("`{}`: {message}", path.display())),
        }
    }

    /// Reads the file that an optional key names.
    pub(super) fn optional_file(&self, settings: &mut Settings<'_>, key: &'static str) -> Option<Arc<Content>> {
        let name: String = settings.optional(key)?;
        self.file(settings, key, &name)
    }

    /// Reads the file that a required key names.
    pub(super) fn required_file(&self, settings: &mut Settings<'_>, key: &'static str) -> Option<Arc<Content>> {
        let name: String = settings.required(key)?;
        self.file(settings, key, &name)
    }

    fn file(&self, settings: &Settings<'_>, key: &str, name: &str) -> Option<Arc<Content>> {
        self.read_named(name).map_err(|message| settings.problem(key, message, None)).ok()
    }

    /// Returns the text of the file.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Returns the cache of parsed keys and certificates.
    pub(super) fn known(&self) -> &KeyCache {
        &self.known
    }

    /// Resolves a path relative to the directory of this file.
    pub(super) fn resolve(&self, name: &str) -> PathBuf {
        beside(&self.path, name)
    }

    /// Adds content to the fingerprint.
    pub(super) fn hash_in(&self, kind: &str, content: &[u8]) {
        hash_in(&mut self.hasher.borrow_mut(), kind, content);
    }

    /// Adds the value of an environment variable that the file names to the fingerprint.
    pub(super) fn add_variable(&self, name: &str, value: &[u8]) {
        self.hash_in("env", value);
        self.dependencies
            .borrow_mut()
            .push(Dependency::new(Reference::Variable(name.to_owned()), Sha256::digest(value).into()));
    }

    /// Returns the inputs of the fingerprint so far.
    pub(super) fn dependencies(&self) -> Dependencies {
        Dependencies { text: Secret::new(self.text.as_bytes()), items: self.dependencies.borrow().clone() }
    }

    /// Returns whether this unread file and everything that it named earlier are unchanged since `fingerprint` was
    /// taken.
    pub(super) fn is_as_before(&self, dependencies: &Dependencies, fingerprint: &str) -> bool {
        let mut hasher = self.hasher.borrow().clone();
        let mut named = Vec::new();
        for item in &dependencies.items {
            match &item.reference {
                Reference::File(name) => {
                    let path = self.resolve(name);
                    let Ok(content) = self.origin.read_shared(&path) else { return false };
                    hash_in(&mut hasher, "named", &content.digest);
                    named.push(path);
                }
                Reference::Variable(name) => {
                    let value = std::env::var_os(name).unwrap_or_default();
                    hash_in(&mut hasher, "env", value.as_encoded_bytes());
                }
            }
        }
        let is_same = hex::encode(hasher.finalize()) == fingerprint;
        if is_same {
            self.named.borrow_mut().append(&mut named);
        }
        is_same
    }

    /// Returns the SHA-256 of the text alone.
    pub(super) fn digest(&self) -> [u8; 32] {
        Sha256::digest(&self.text).into()
    }

    /// Returns the SHA-256 over all inputs so far, in hexadecimal.
    pub(super) fn fingerprint(&self) -> String {
        hex::encode(self.hasher.borrow().clone().finalize())
    }

    /// Returns this file and the files that it names.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.named.borrow().clone()
    }

    /// Returns a diagnostic at the start of a span, for an error that is detected after reading.
    pub(super) fn diagnostic_at(&self, span: &Range<usize>, message: String, suggestion: Option<String>) -> Diagnostic {
        self.diagnostic(Problem { span: span.clone(), message, suggestion })
    }

    fn diagnostic(&self, problem: Problem) -> Diagnostic {
        let lines = self.lines.get_or_init(|| LineIndex::of(&self.text));
        let (line, column) = lines.find(&self.text, problem.span.start);
        let Problem { message, suggestion, .. } = problem;
        Diagnostic { file: self.path.clone(), line, column, message, suggestion }
    }
}

/// Hashes one input. The length keeps `ab` + `c` apart from `a` + `bc`.
fn hash_in(hasher: &mut Sha256, kind: &str, content: &[u8]) {
    hasher.update(format!("{kind}:{}:", content.len()));
    hasher.update(content);
}

/// Number of diagnostics from which no similar name is searched: many errors times many names would take long.
pub(super) const MAX_SUGGESTIONS: usize = 100;
/// Maximum number of names that a suggestion lists.
const MAX_LISTED_NAMES: usize = 20;

/// Suggests the known name that is nearest to `wrong`, or lists the known names.
pub(super) fn suggest<'a>(wrong: &str, known: impl Iterator<Item = &'a str> + Clone) -> Option<String> {
    let near = known
        .clone()
        .map(|name| (strsim::osa_distance(name, wrong), name))
        .filter(|(distance, name)| *distance <= name.len().div_ceil(3))
        .min();
    if let Some((_, name)) = near {
        return Some(format!("did you mean `{name}`?"));
    }
    let first: Vec<_> = known.clone().take(MAX_LISTED_NAMES).collect();
    let more = known.count() - first.len();
    match (first.join(", "), more) {
        (none, _) if none.is_empty() => None,
        (all, 0) => Some(format!("there are {all}")),
        (first, more) => Some(format!("there are {first} and {more} more")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_syntax_error_is_reported_and_nothing_else() {
        let source = TomlFile::with_text(Path::new("x.toml"), "a = \nb = 1\nc 2\n".into());
        let (value, diagnostics) = source.read(|mut settings| settings.required::<String>("missing"));
        assert!(value.is_none());
        assert_eq!(diagnostics.iter().map(|diagnostic| diagnostic.line).collect::<Vec<_>>(), [1, 3], "{diagnostics:?}");
    }

    #[test]
    fn fingerprint_covers_named_files() {
        let dir = tempfile::tempdir().unwrap();
        let print = |content: &str| {
            std::fs::write(dir.path().join("key"), content).unwrap();
            let source = TomlFile::with_text(&dir.path().join("x.toml"), "a = 1".into());
            source.read_named("key").unwrap();
            source.fingerprint()
        };
        assert_eq!(print("one"), print("one"));
        assert_ne!(print("one"), print("two"));
    }

    #[test]
    fn suggestion_names_the_nearest_or_lists_known_names() {
        assert_eq!(
            suggest("wechat-man", ["wechat-main", "alipay"].into_iter()).unwrap(),
            "did you mean `wechat-main`?"
        );
        assert_eq!(suggest("zzz", ["wechat-main", "alipay"].into_iter()).unwrap(), "there are wechat-main, alipay");
        assert_eq!(suggest("zzz", [].into_iter()), None);
    }
}
