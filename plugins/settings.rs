//! Reader of TOML tables that reports every error, each with its position and a suggestion.
//!
//! [`Settings`] is one table. Each reader method reads one key and reports a wrong value. Dropping the table reports every key
//! that was not read, so that a reader that lists its keys rejects all others.

mod schema;
mod value;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use self::schema::example;
pub use self::schema::{Form, Key, Outline, Shape};
pub(crate) use self::value::describe;
pub use self::value::{Setting, Size, duration};

/// Maximum length of an unknown key, in characters, that is printed in full and compared with the known keys.
const MAX_KEY_LENGTH: usize = 64;

/// Error in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Byte range in the file.
    pub span: Range<usize>,
    /// Description of the error.
    pub message: String,
    /// Advice on how to correct the value.
    pub suggestion: Option<String>,
}

/// Errors and notes collected from one file.
#[derive(Debug, Default)]
pub struct Problems {
    found: RefCell<Vec<Problem>>,
    /// Remarks that are no errors.
    notes: RefCell<Vec<Problem>>,
    /// True if a key or certificate was rejected.
    are_keys_wrong: Cell<bool>,
    /// Path of every key that was read; `None` unless created by [`recording_reads`](Self::recording_reads).
    keys_read: Option<RefCell<BTreeSet<String>>>,
}

impl Problems {
    /// Creates a collection that also records which keys are read.
    pub fn recording_reads() -> Self {
        Self { keys_read: Some(RefCell::default()), ..Self::default() }
    }

    /// Returns the paths of the keys read so far, for example `filter.rate`; empty unless they are recorded.
    pub fn keys_read(&self) -> BTreeSet<String> {
        self.keys_read.as_ref().map(|keys| keys.borrow().clone()).unwrap_or_default()
    }

    /// Adds an error.
    pub fn push(&self, span: Range<usize>, message: impl Into<String>, suggestion: Option<String>) {
        self.found.borrow_mut().push(Problem { span, message: message.into(), suggestion });
    }

    /// Adds a note: a remark that is no error.
    pub fn note(&self, span: Range<usize>, message: impl Into<String>, suggestion: Option<String>) {
        self.notes.borrow_mut().push(Problem { span, message: message.into(), suggestion });
    }

    /// Records that a key or certificate was rejected, so that consequential errors are not reported.
    pub fn mark_wrong_keys(&self) {
        self.are_keys_wrong.set(true);
    }

    /// Returns whether a key or certificate was rejected.
    pub fn are_keys_wrong(&self) -> bool {
        self.are_keys_wrong.get()
    }

    /// Removes and returns the notes, in the order of the file.
    pub fn take_notes(&self) -> Vec<Problem> {
        let mut notes = self.notes.take();
        notes.sort_by_key(|note| note.span.start);
        notes
    }

    /// Returns the number of errors.
    pub fn len(&self) -> usize {
        self.found.borrow().len()
    }

    /// Returns whether there is no error.
    pub fn is_empty(&self) -> bool {
        self.found.borrow().is_empty()
    }

    /// Returns the errors, in the order of the file.
    pub fn into_vec(self) -> Vec<Problem> {
        let mut problems = self.found.into_inner();
        problems.sort_by_key(|problem| problem.span.start);
        problems
    }
}

/// Table of a TOML file that is being read.
pub struct Settings<'a> {
    table: &'a DeTable<'a>,
    span: Range<usize>,
    name: String,
    keys_read: Vec<&'static str>,
    silent: bool,
    problems: &'a Problems,
    /// Schema under construction; `Some` only in a table from [`describe`](Self::describe). Missing values are then replaced by
    /// examples, and no key is rejected.
    outline: Option<Outline>,
}

impl<'a> Settings<'a> {
    /// Returns the root table of a file.
    pub fn root(table: &'a Spanned<DeTable<'a>>, problems: &'a Problems) -> Self {
        let table = table.get_ref();
        Self { table, span: 0..0, name: String::new(), keys_read: Vec::new(), silent: false, problems, outline: None }
    }

    /// Returns a root table that collects the schema of a file. Readers see every key as present, and the outline records what
    /// they read. The reported errors are meaningless.
    pub fn describe(table: &'a Spanned<DeTable<'a>>, problems: &'a Problems, outline: Outline) -> Self {
        let mut root = Self::root(table, problems);
        (root.outline, root.silent) = (Some(outline), true);
        root
    }

    /// Returns the position of the table.
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Returns the position of a key's value, or of the table if the key is missing.
    pub fn span_of(&self, key: &str) -> Range<usize> {
        self.table.get(key).map_or_else(|| self.span(), Spanned::span)
    }

    /// Reports an error in the value of a key.
    pub fn problem(&self, key: &str, message: impl Into<String>, suggestion: Option<String>) {
        self.problems.push(self.span_of(key), message, suggestion);
    }

    /// Returns the strings of the table by key. They do not count as read.
    pub fn peek_texts(&self) -> Vec<(String, String)> {
        let text = |value: &DeValue<'_>| value.as_str().map(str::to_owned);
        self.table.iter().filter_map(|(key, value)| Some((key.get_ref().to_string(), text(value.get_ref())?))).collect()
    }

    /// Returns whether the key is present.
    pub fn has(&self, key: &str) -> bool {
        self.outline.is_some() || self.table.contains_key(key)
    }

    /// Adds the allowed strings of a key to the schema. The caller must reject other values itself.
    pub fn choices(&self, key: &'static str, choices: impl IntoIterator<Item = &'static str>) {
        if let Some(outline) = &self.outline {
            outline.choices(key, choices.into_iter().collect());
        }
    }

    /// Reads an optional key. Returns `None` if it is missing, or wrong and reported.
    pub fn optional<T: Setting>(&mut self, key: &'static str) -> Option<T> {
        self.keys_read.push(key);
        self.outline.iter().for_each(|outline| outline.value::<T>(key, None));
        let value = self.table.get(key)?;
        match T::read(value.get_ref()) {
            Ok(value) => Some(value),
            Err(found) => {
                let path = self.path(key);
                self.problems.push(value.span(), format!("`{path}` must be {}, not {found}", T::EXPECTED), None);
                None
            }
        }
    }

    /// Reads a required key. Returns `None` if it is missing or wrong, and reported.
    pub fn required<T: Setting>(&mut self, key: &'static str) -> Option<T> {
        self.required_as(key, T::EXPECTED)
    }

    /// Reads a required key. If it is missing, the report contains `advice`: what the value is and where to find it.
    pub fn required_as<T: Setting>(&mut self, key: &'static str, advice: &str) -> Option<T> {
        if let Some(outline) = &self.outline {
            outline.value::<T>(key, Some(advice));
            return if self.table.contains_key(key) { self.optional(key) } else { example() };
        }
        if !self.has(key) {
            self.keys_read.push(key);
            let path = self.path(key);
            self.problems.push(self.span(), format!("`{path}` is missing"), Some(format!("add `{key} = …`: {advice}")));
            return None;
        }
        self.optional(key)
    }

    /// Reads a key, with a default if it is missing or wrong.
    pub fn or<T: Setting>(&mut self, key: &'static str, default: T) -> T {
        self.optional(key).unwrap_or(default)
    }

    /// Reads an optional table.
    pub fn section(&mut self, key: &'static str) -> Option<Settings<'a>> {
        self.keys_read.push(key);
        let outline = self.outline.as_ref().map(|outline| outline.table(key, None));
        match self.table.get(key) {
            Some(value) => self.as_table(key, value, outline),
            None => outline.map(|outline| self.empty(key, outline)),
        }
    }

    /// Reads a required table.
    pub fn required_section(&mut self, key: &'static str) -> Option<Settings<'a>> {
        let advice = format!("add `[{}]`", self.path(key));
        self.section_or(key, advice)
    }

    /// Reads a required table. If it is missing, the report contains `advice`: what the value is.
    pub fn required_section_as(&mut self, key: &'static str, advice: &str) -> Option<Settings<'a>> {
        self.section_or(key, format!("add `{key} = …`: {advice}"))
    }

    fn section_or(&mut self, key: &'static str, suggestion: String) -> Option<Settings<'a>> {
        self.outline.iter().for_each(|outline| drop(outline.table(key, Some(&suggestion))));
        if !self.has(key) {
            self.keys_read.push(key);
            let message = format!("the table `{}` is missing", self.path(key));
            self.problems.push(self.span(), message, Some(suggestion));
            return None;
        }
        self.section(key)
    }

    /// Reads a list of tables such as `[[filter]]`; empty if it is missing.
    pub fn sections(&mut self, key: &'static str) -> Vec<Settings<'a>> {
        self.keys_read.push(key);
        let outline = self.outline.as_ref().map(|outline| outline.tables(key));
        let Some(value) = self.table.get(key) else {
            return outline.map(|outline| self.empty(key, outline)).into_iter().collect();
        };
        match value.get_ref() {
            DeValue::Array(items) => {
                items.iter().filter_map(|item| self.as_table(key, item, outline.clone())).collect()
            }
            other => {
                let path = self.path(key);
                let message = format!("`{path}` must be a list of tables, not {}", describe(other));
                self.problems.push(value.span(), message, Some(format!("write `[[{path}]]`")));
                Vec::new()
            }
        }
    }

    /// Reads a list of values, each with its position for reports; empty if it is missing.
    pub fn items<T: Setting>(&mut self, key: &'static str) -> Vec<(Range<usize>, T)> {
        self.keys_read.push(key);
        self.outline.iter().for_each(|outline| outline.values::<T>(key));
        let Some(value) = self.table.get(key) else { return Vec::new() };
        let path = self.path(key);
        let Some(items) = value.get_ref().as_array() else {
            let message = format!("`{path}` must be a list in brackets, each item {}", T::EXPECTED);
            self.problems.push(value.span(), message, None);
            return Vec::new();
        };
        let mut read = Vec::new();
        for item in items.iter() {
            match T::read(item.get_ref()) {
                Ok(value) => read.push((item.span(), value)),
                Err(found) => {
                    let message = format!("an item of `{path}` must be {}, not {found}", T::EXPECTED);
                    self.problems.push(item.span(), message, None);
                }
            }
        }
        read
    }

    /// Reads a table of strings with arbitrary keys; empty if it is missing.
    pub fn texts(&mut self, key: &'static str) -> Vec<(String, String)> {
        if let Some(outline) = &self.outline {
            outline.texts(key);
            return Vec::new();
        }
        let Some(mut table) = self.section(key) else { return Vec::new() };
        table.silent = true;
        let mut read = Vec::new();
        for (name, value) in table.table.iter() {
            match String::read(value.get_ref()) {
                Ok(text) => read.push((name.get_ref().to_string(), text)),
                Err(found) => {
                    let path = table.path(name.get_ref());
                    let message = format!("`{path}` must be {}, not {found}", String::EXPECTED);
                    self.problems.push(value.span(), message, None);
                }
            }
        }
        read
    }

    /// Ends the reading without reporting unread keys, for a table whose kind is unknown.
    pub fn ignore_rest(mut self) {
        self.silent = true;
    }

    /// Returns the collection of errors.
    pub fn problems(&self) -> &'a Problems {
        self.problems
    }

    fn empty(&self, key: &str, outline: Outline) -> Settings<'a> {
        Settings {
            table: &schema::EMPTY,
            span: self.span(),
            name: self.path(key),
            keys_read: Vec::new(),
            silent: true,
            problems: self.problems,
            outline: Some(outline),
        }
    }

    fn as_table(&self, key: &str, value: &'a Spanned<DeValue<'a>>, outline: Option<Outline>) -> Option<Settings<'a>> {
        match value.get_ref() {
            DeValue::Table(table) => Some(Settings {
                table,
                span: value.span(),
                name: self.path(key),
                keys_read: Vec::new(),
                silent: outline.is_some(),
                problems: self.problems,
                outline,
            }),
            other => {
                let path = self.path(key);
                self.problems.push(value.span(), format!("`{path}` must be a table, not {}", describe(other)), None);
                None
            }
        }
    }

    fn path(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }
}

impl Drop for Settings<'_> {
    fn drop(&mut self) {
        if let Some(keys) = &self.problems.keys_read {
            keys.borrow_mut().extend(self.keys_read.iter().map(|key| self.path(key)));
        }
        if self.silent {
            return;
        }
        for (key, _) in self.table.iter().filter(|(key, _)| !self.keys_read.contains(&key.get_ref().as_ref())) {
            // A long key is no misspelling of a known one, and its edit distance would be slow to compute.
            let is_short = key.get_ref().len() <= MAX_KEY_LENGTH;
            let similar = self
                .keys_read
                .iter()
                .filter(|_| is_short)
                .map(|known| (strsim::osa_distance(known, key.get_ref()), known))
                .filter(|(distance, known)| *distance <= known.len().div_ceil(3))
                .min();
            let suggestion = match similar {
                Some((_, known)) => format!("did you mean `{known}`?"),
                None if self.keys_read.is_empty() => "remove it".to_owned(),
                None => format!("known keys here: {}", self.keys_read.join(", ")),
            };
            let path = match key.get_ref().char_indices().nth(MAX_KEY_LENGTH) {
                Some((end, _)) => self.path(&format!("{}…", &key.get_ref()[..end])),
                None => self.path(key.get_ref()),
            };
            self.problems.push(key.span(), format!("unknown key `{path}`"), Some(suggestion));
        }
    }
}

#[cfg(test)]
mod tests;
