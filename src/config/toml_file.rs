//! One TOML file while it is read: its text, where its mistakes are, and everything that it names.

mod places;

use std::cell::{OnceCell, RefCell};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tollgate_plugins::secret::Secret;
use tollgate_plugins::settings::{Outline, Problem, Problems, Settings};
use toml::de::DeTable;

use self::places::Places;
use super::diagnostics::Diagnostic;
use super::file_source::{Content, Origin};
use super::key_cache::Known;

/// So many mistakes of one file are listed: nobody reads more.
const MOST_MISTAKES: usize = 1_000;

/// One file. What it names is noted as it is read, so that the [fingerprint](Source::fingerprint) covers it and it can
/// be watched.
pub(super) struct Source {
    path: PathBuf,
    text: String,
    /// Made with the first mistake.
    places: OnceCell<Places>,
    hasher: RefCell<Sha256>,
    named: RefCell<Vec<PathBuf>>,
    trace: RefCell<Vec<Dependency>>,
    notes: RefCell<Vec<Diagnostic>>,
    origin: Arc<Origin>,
    known: Arc<Known>,
}

/// What a fingerprint covers: enough to see whether anything changed without reading what it means, and to say in words
/// what did.
#[derive(Clone, Default)]
pub(crate) struct Dependencies {
    /// The file's own text.
    pub(super) text: Secret,
    /// What it names, in order.
    pub(super) fed: Vec<Dependency>,
}

/// Something that a file names.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Dependency {
    pub(super) what: Reference,
    digest: [u8; 32],
}

/// What it is, as it is written there: a copy of the whole directory names the same by the same words.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Reference {
    File(String),
    Variable(String),
}

impl Dependencies {
    /// The file at this path and those that it names, each with the SHA-256 of what it held.
    pub(super) fn contents(&self, path: &Path) -> impl Iterator<Item = (PathBuf, [u8; 32])> {
        let named = self.fed.iter().filter_map(move |fed| match &fed.what {
            Reference::File(name) => Some((beside(path, name), fed.digest)),
            Reference::Variable(_) => None,
        });
        std::iter::once((path.to_owned(), Sha256::digest(self.text.expose()).into())).chain(named)
    }
}

impl Dependencies {
    /// The files that are named, as it is written and where they are.
    pub(super) fn files(&self, path: &Path) -> impl Iterator<Item = (&str, PathBuf)> {
        self.fed.iter().filter_map(move |fed| match &fed.what {
            Reference::File(name) => Some((name.as_str(), beside(path, name))),
            Reference::Variable(_) => None,
        })
    }
}

impl Dependency {
    /// Whether the same words name something else than they did.
    pub(super) fn differs(&self, before: &Self) -> bool {
        self.what == before.what && self.digest != before.digest
    }

    fn new(what: Reference, digest: [u8; 32]) -> Self {
        Self { what, digest }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(name) => write!(f, "the content of {name}"),
            Self::Variable(name) => write!(f, "the environment variable {name}"),
        }
    }
}

impl Source {
    /// Opens a file that should be there.
    pub(super) fn open(path: &Path, origin: &Arc<Origin>, known: &Arc<Known>) -> Result<Self, Diagnostic> {
        let content = origin.read(path).map_err(|message| Diagnostic::in_file(path, message, None))?;
        let text = String::from_utf8(content).map_err(|error| {
            let valid = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(&error.as_bytes()[..valid]);
            let (line, column) = Places::of(&text).find(&text, valid);
            let message = "this is not UTF-8 text".to_owned();
            Diagnostic { file: path.to_owned(), line, column, message, suggestion: None }
        })?;
        Ok(Self { origin: Arc::clone(origin), known: Arc::clone(known), ..Self::with_text(path, text) })
    }

    /// A file with this text.
    pub(super) fn with_text(path: &Path, text: String) -> Self {
        let source = Self {
            path: path.to_owned(),
            text,
            places: OnceCell::new(),
            hasher: RefCell::default(),
            named: RefCell::new(vec![path.into()]),
            trace: RefCell::default(),
            notes: RefCell::default(),
            origin: Arc::default(),
            known: Arc::default(),
        };
        source.hash_in("file", source.text.as_bytes());
        source
    }

    /// Reads the text; gives the mistakes beside what the reader makes of it. A file whose grammar is broken is not read
    /// further, because what seems missing from it may stand behind the break.
    pub(super) fn read<T>(&self, reader: impl FnOnce(Settings<'_>) -> T) -> (Option<T>, Vec<Diagnostic>) {
        let problems = Problems::default();
        let (table, errors) = DeTable::parse_recoverable(&self.text);
        let value = if errors.is_empty() { Some(reader(Settings::root(&table, &problems))) } else { None };
        let broken = !errors.is_empty();
        self.notes.borrow_mut().extend(problems.take_notes().into_iter().map(|note| self.mistake(note)));
        for error in errors {
            problems.push(error.span().unwrap_or(0..0), error.message(), None);
        }
        let mut mistakes: Vec<_> = problems.into_vec().into_iter().map(|problem| self.mistake(problem)).collect();
        let more = mistakes.len().saturating_sub(MOST_MISTAKES);
        mistakes.truncate(MOST_MISTAKES + 1);
        if more > 0
            && let Some(next) = mistakes.last_mut()
        {
            next.message = format!("from here on there are {more} more mistakes in this file, which are not listed");
            next.suggestion = None;
        }
        if broken {
            // What the parser says next of the same line follows from the first.
            mistakes.dedup_by_key(|mistake| mistake.line);
        }
        (value, mistakes)
    }

    /// Takes what the reader found odd, and no mistake.
    pub(super) fn take_notes(&self) -> Vec<Diagnostic> {
        self.notes.take()
    }

    /// What a reader would ask for in this file, whatever it holds; see [`Settings::sketch`].
    pub(super) fn sketch(&self, reader: impl FnOnce(Settings<'_>)) -> Outline {
        let (table, _) = DeTable::parse_recoverable(&self.text);
        let (problems, outline) = (Problems::default(), Outline::default());
        reader(Settings::describe(&table, &problems, outline.clone()));
        outline
    }

    /// The mistakes, and the keys that the reader asked for.
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
        (problems.into_vec().into_iter().map(|problem| self.mistake(problem)).collect(), asked)
    }

    /// The content of a file that this one names; says what is wrong in a sentence.
    pub(super) fn read_named(&self, name: &str) -> Result<Arc<Content>, String> {
        let path = self.resolve(name);
        self.named.borrow_mut().push(path.clone());
        match self.origin.read_shared(&path) {
            Ok(content) => {
                self.hash_in("named", &content.digest);
                self.trace.borrow_mut().push(Dependency::new(Reference::File(name.to_owned()), content.digest));
                Ok(content)
            }
            Err(message) => Err(format!("`{}`: {message}", path.display())),
        }
    }

    /// The content of the file that a key names, which may be missing.
    pub(super) fn optional_file(&self, settings: &mut Settings<'_>, key: &'static str) -> Option<Arc<Content>> {
        let name: String = settings.optional(key)?;
        self.file(settings, key, &name)
    }

    /// The content of the file that a key names, which must be there.
    pub(super) fn required_file(&self, settings: &mut Settings<'_>, key: &'static str) -> Option<Arc<Content>> {
        let name: String = settings.required(key)?;
        self.file(settings, key, &name)
    }

    fn file(&self, settings: &Settings<'_>, key: &str, name: &str) -> Option<Arc<Content>> {
        self.read_named(name).map_err(|message| settings.problem(key, message, None)).ok()
    }

    /// The file's text.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// What was made of other files before.
    pub(super) fn known(&self) -> &Known {
        &self.known
    }

    /// A path as this file means it: relative to the directory that the file is in.
    pub(super) fn resolve(&self, name: &str) -> PathBuf {
        beside(&self.path, name)
    }

    /// Adds something that decides what the file means.
    pub(super) fn hash_in(&self, what: &str, content: &[u8]) {
        hash_in(&mut self.hasher.borrow_mut(), what, content);
    }

    /// Adds the value of an environment variable that the file names.
    pub(super) fn feed_variable(&self, name: &str, value: &[u8]) {
        self.hash_in("env", value);
        self.trace
            .borrow_mut()
            .push(Dependency::new(Reference::Variable(name.to_owned()), Sha256::digest(value).into()));
    }

    /// What the fingerprint covers by now.
    pub(super) fn trace(&self) -> Dependencies {
        Dependencies { text: Secret::new(self.text.as_bytes()), fed: self.trace.borrow().clone() }
    }

    /// Whether this file, not read yet, and all that it named then, are what they were when it had this fingerprint.
    pub(super) fn is_as_before(&self, trace: &Dependencies, fingerprint: &str) -> bool {
        let mut hasher = self.hasher.borrow().clone();
        let mut named = Vec::new();
        for fed in &trace.fed {
            match &fed.what {
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

    /// SHA-256 of the text alone.
    pub(super) fn digest(&self) -> [u8; 32] {
        Sha256::digest(&self.text).into()
    }

    /// SHA-256 over everything so far, in hexadecimal.
    pub(super) fn fingerprint(&self) -> String {
        hex::encode(self.hasher.borrow().clone().finalize())
    }

    /// This file and those that it names.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.named.borrow().clone()
    }

    /// Where in the file a span starts, for a mistake that shows only later.
    pub(super) fn mistake_at(&self, span: &Range<usize>, message: String, suggestion: Option<String>) -> Diagnostic {
        self.mistake(Problem { span: span.clone(), message, suggestion })
    }

    fn mistake(&self, problem: Problem) -> Diagnostic {
        let places = self.places.get_or_init(|| Places::of(&self.text));
        let (line, column) = places.find(&self.text, problem.span.start);
        let Problem { message, suggestion, .. } = problem;
        Diagnostic { file: self.path.clone(), line, column, message, suggestion }
    }
}

/// What a path means that stands in a file.
fn beside(file: &Path, name: &str) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).join(name)
}

/// Lengths keep `ab` + `c` apart from `a` + `bc`.
fn hash_in(hasher: &mut Sha256, what: &str, content: &[u8]) {
    hasher.update(format!("{what}:{}:", content.len()));
    hasher.update(content);
}

/// Once so many mistakes of a file are known, no name is looked for that is near another: with many of both it takes long.
pub(super) const MOST_SUGGESTED: usize = 100;
/// So many names are said where none is near.
const MOST_NAMED: usize = 20;

/// "did you mean …?" for the known name that is nearest, or the list of those that exist.
pub(super) fn suggest<'a>(wrong: &str, known: impl Iterator<Item = &'a str> + Clone) -> Option<String> {
    let near = known
        .clone()
        .map(|name| (strsim::osa_distance(name, wrong), name))
        .filter(|(distance, name)| *distance <= name.len().div_ceil(3))
        .min();
    if let Some((_, name)) = near {
        return Some(format!("did you mean `{name}`?"));
    }
    let first: Vec<_> = known.clone().take(MOST_NAMED).collect();
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
    fn every_break_of_the_grammar_is_told_and_nothing_else() {
        let source = Source::with_text(Path::new("x.toml"), "a = \nb = 1\nc 2\n".into());
        let (value, mistakes) = source.read(|mut settings| settings.required::<String>("missing"));
        assert!(value.is_none());
        assert_eq!(mistakes.iter().map(|mistake| mistake.line).collect::<Vec<_>>(), [1, 3], "{mistakes:?}");
    }

    #[test]
    fn the_fingerprint_covers_what_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let print = |content: &str| {
            std::fs::write(dir.path().join("key"), content).unwrap();
            let source = Source::with_text(&dir.path().join("x.toml"), "a = 1".into());
            source.read_named("key").unwrap();
            source.fingerprint()
        };
        assert_eq!(print("one"), print("one"));
        assert_ne!(print("one"), print("two"));
    }

    #[test]
    fn suggestions() {
        assert_eq!(
            suggest("wechat-man", ["wechat-main", "alipay"].into_iter()).unwrap(),
            "did you mean `wechat-main`?"
        );
        assert_eq!(suggest("zzz", ["wechat-main", "alipay"].into_iter()).unwrap(), "there are wechat-main, alipay");
        assert_eq!(suggest("zzz", [].into_iter()), None);
    }
}
