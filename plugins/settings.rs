//! How a part of a TOML file is read: every mistake is told, not only the first, each with its place and a suggestion.
//!
//! A [`Settings`] is one table. Its readers take a key each and note what is wrong with the value; when it is dropped it
//! notes every key that nobody asked for. So a reader that lists its keys has refused all others.

mod schema;
mod value;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use self::schema::example;
pub use self::schema::{Form, Key, Outline, Shape};
use self::value::describe;
pub use self::value::{Setting, Size, duration};

/// A key of more characters is told by its beginning, and is nobody's misspelling.
const LONGEST_NEAR: usize = 64;

/// One mistake in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where in the file, in bytes.
    pub span: Range<usize>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub suggestion: Option<String>,
}

/// The mistakes found so far in one file.
#[derive(Debug, Default)]
pub struct Problems {
    found: RefCell<Vec<Problem>>,
    /// What is no mistake, but odd.
    notes: RefCell<Vec<Problem>>,
    /// Whether a key or certificate was refused.
    are_keys_wrong: Cell<bool>,
    /// Every key that a reader asked for, by its path, where somebody wants to know.
    asked: Option<RefCell<BTreeSet<String>>>,
}

impl Problems {
    /// Such as also note which keys are asked for.
    pub fn watching() -> Self {
        Self { asked: Some(RefCell::default()), ..Self::default() }
    }

    /// The keys that readers asked for by now, as in `filter.rate`.
    pub fn asked(&self) -> BTreeSet<String> {
        self.asked.as_ref().map(|asked| asked.borrow().clone()).unwrap_or_default()
    }

    /// Notes one.
    pub fn push(&self, span: Range<usize>, message: impl Into<String>, suggestion: Option<String>) {
        self.found.borrow_mut().push(Problem { span, message: message.into(), suggestion });
    }

    /// Notes what is odd, and no mistake.
    pub fn note(&self, span: Range<usize>, message: impl Into<String>, suggestion: Option<String>) {
        self.notes.borrow_mut().push(Problem { span, message: message.into(), suggestion });
    }

    /// Notes that a key or certificate was refused: what would follow from that need not be told.
    pub fn mark_wrong_keys(&self) {
        self.are_keys_wrong.set(true);
    }

    /// Whether a key or certificate was refused.
    pub fn are_keys_wrong(&self) -> bool {
        self.are_keys_wrong.get()
    }

    /// Takes the notes, in the order of the file.
    pub fn take_notes(&self) -> Vec<Problem> {
        let mut notes = self.notes.take();
        notes.sort_by_key(|note| note.span.start);
        notes
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.found.borrow().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.found.borrow().is_empty()
    }

    /// All of them, in the order of the file.
    pub fn into_vec(self) -> Vec<Problem> {
        let mut problems = self.found.into_inner();
        problems.sort_by_key(|problem| problem.span.start);
        problems
    }
}

/// One table of a TOML file, being read.
pub struct Settings<'a> {
    table: &'a DeTable<'a>,
    span: Range<usize>,
    name: String,
    asked: Vec<&'static str>,
    silent: bool,
    problems: &'a Problems,
    /// Where it is written down what is asked for; then nothing is known of a value that is missing, and nothing refused.
    outline: Option<Outline>,
}

impl<'a> Settings<'a> {
    /// The root of a file.
    pub fn root(table: &'a Spanned<DeTable<'a>>, problems: &'a Problems) -> Self {
        let table = table.get_ref();
        Self { table, span: 0..0, name: String::new(), asked: Vec::new(), silent: false, problems, outline: None }
    }

    /// The root of a file of which only some values are given: the readers see each key as if it were there, and what they ask
    /// for is written down. What they find wrong means nothing.
    pub fn describe(table: &'a Spanned<DeTable<'a>>, problems: &'a Problems, outline: Outline) -> Self {
        let mut root = Self::root(table, problems);
        (root.outline, root.silent) = (Some(outline), true);
        root
    }

    /// Where this table stands, for a mistake that concerns all of it.
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Where the value of a key stands, or the table where the key is missing.
    pub fn span_of(&self, key: &str) -> Range<usize> {
        self.table.get(key).map_or_else(|| self.span(), Spanned::span)
    }

    /// Notes a mistake in the value of a key.
    pub fn problem(&self, key: &str, message: impl Into<String>, suggestion: Option<String>) {
        self.problems.push(self.span_of(key), message, suggestion);
    }

    /// The texts of the table by their keys, without asking for them.
    pub fn peek_texts(&self) -> Vec<(String, String)> {
        let text = |value: &DeValue<'_>| value.as_str().map(str::to_owned);
        self.table.iter().filter_map(|(key, value)| Some((key.get_ref().to_string(), text(value.get_ref())?))).collect()
    }

    /// Whether the key is there.
    pub fn has(&self, key: &str) -> bool {
        self.outline.is_some() || self.table.contains_key(key)
    }

    /// Tells which texts a key may have, for descriptions of the file; to refuse any other is the reader's own.
    pub fn choices(&self, key: &'static str, choices: impl IntoIterator<Item = &'static str>) {
        if let Some(outline) = &self.outline {
            outline.choices(key, choices.into_iter().collect());
        }
    }

    /// The value of a key that may be missing; `None` also when it is wrong (then that is noted).
    pub fn optional<T: Setting>(&mut self, key: &'static str) -> Option<T> {
        self.asked.push(key);
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

    /// The value of a key that must be there.
    pub fn required<T: Setting>(&mut self, key: &'static str) -> Option<T> {
        self.required_as(key, T::EXPECTED)
    }

    /// The same; where it is missing, the advice says what belongs there and where one finds it.
    pub fn required_as<T: Setting>(&mut self, key: &'static str, advice: &str) -> Option<T> {
        if let Some(outline) = &self.outline {
            outline.value::<T>(key, Some(advice));
            return if self.table.contains_key(key) { self.optional(key) } else { example() };
        }
        if !self.has(key) {
            self.asked.push(key);
            let path = self.path(key);
            self.problems.push(self.span(), format!("`{path}` is missing"), Some(format!("add `{key} = …`: {advice}")));
            return None;
        }
        self.optional(key)
    }

    /// The value of a key, or this one when it is missing or wrong.
    pub fn or<T: Setting>(&mut self, key: &'static str, default: T) -> T {
        self.optional(key).unwrap_or(default)
    }

    /// The table under a key.
    pub fn section(&mut self, key: &'static str) -> Option<Settings<'a>> {
        self.asked.push(key);
        let outline = self.outline.as_ref().map(|outline| outline.table(key, None));
        match self.table.get(key) {
            Some(value) => self.as_table(key, value, outline),
            None => outline.map(|outline| self.empty(key, outline)),
        }
    }

    /// The table under a key that must be there.
    pub fn required_section(&mut self, key: &'static str) -> Option<Settings<'a>> {
        let advice = format!("add `[{}]`", self.path(key));
        self.section_or(key, advice)
    }

    /// The same; where it is missing, the advice says what belongs there.
    pub fn required_section_as(&mut self, key: &'static str, advice: &str) -> Option<Settings<'a>> {
        self.section_or(key, format!("add `{key} = …`: {advice}"))
    }

    fn section_or(&mut self, key: &'static str, suggestion: String) -> Option<Settings<'a>> {
        self.outline.iter().for_each(|outline| drop(outline.table(key, Some(&suggestion))));
        if !self.has(key) {
            self.asked.push(key);
            let message = format!("the table `{}` is missing", self.path(key));
            self.problems.push(self.span(), message, Some(suggestion));
            return None;
        }
        self.section(key)
    }

    /// The tables under a key, as in `[[filter]]`; none when it is missing.
    pub fn sections(&mut self, key: &'static str) -> Vec<Settings<'a>> {
        self.asked.push(key);
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

    /// The items of the list under a key, each with its place, so that what is wrong with one is told where it stands;
    /// none when it is missing.
    pub fn items<T: Setting>(&mut self, key: &'static str) -> Vec<(Range<usize>, T)> {
        self.asked.push(key);
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

    /// The texts in the table under a key, whatever their own keys are; none when it is missing.
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

    /// Ends the reading without a word about the keys that nobody asked for: when what they belong to is not known, nobody
    /// can say which of them are wrong.
    pub fn ignore_rest(mut self) {
        self.silent = true;
    }

    /// Where mistakes are noted.
    pub fn problems(&self) -> &'a Problems {
        self.problems
    }

    fn empty(&self, key: &str, outline: Outline) -> Settings<'a> {
        Settings {
            table: &schema::EMPTY,
            span: self.span(),
            name: self.path(key),
            asked: Vec::new(),
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
                asked: Vec::new(),
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
        if let Some(asked) = &self.problems.asked {
            asked.borrow_mut().extend(self.asked.iter().map(|key| self.path(key)));
        }
        if self.silent {
            return;
        }
        for (key, _) in self.table.iter().filter(|(key, _)| !self.asked.contains(&key.get_ref().as_ref())) {
            // A long key is near to none, and to compare it would take long.
            let is_short = key.get_ref().len() <= LONGEST_NEAR;
            let near = self
                .asked
                .iter()
                .filter(|_| is_short)
                .map(|known| (strsim::osa_distance(known, key.get_ref()), known))
                .filter(|(distance, known)| *distance <= known.len().div_ceil(3))
                .min();
            let suggestion = match near {
                Some((_, known)) => format!("did you mean `{known}`?"),
                None if self.asked.is_empty() => "remove it".to_owned(),
                None => format!("known keys here: {}", self.asked.join(", ")),
            };
            let path = match key.get_ref().char_indices().nth(LONGEST_NEAR) {
                Some((end, _)) => self.path(&format!("{}…", &key.get_ref()[..end])),
                None => self.path(key.get_ref()),
            };
            self.problems.push(key.span(), format!("unknown key `{path}`"), Some(suggestion));
        }
    }
}

#[cfg(test)]
mod tests;
