//! Schema of a configuration table, collected while its reader runs, so that schema and reader always agree.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::LazyLock;

use toml::de::{DeTable, DeValue};

use super::Setting;

/// Schema of a table: its keys by name.
#[derive(Clone, Debug, Default)]
pub struct Outline(Rc<RefCell<BTreeMap<&'static str, Key>>>);

/// Schema of one key of a table.
#[derive(Clone, Debug)]
pub struct Key {
    /// True if the key is required.
    pub required: bool,
    /// Description of the value; empty for optional tables.
    pub description: String,
    /// Allowed values.
    pub shape: Shape,
}

/// Structure of a key's value.
#[derive(Clone, Debug)]
pub enum Shape {
    /// Single value, with an example in TOML notation.
    Value(Form, &'static str),
    /// List of values, with an example of one in TOML notation.
    Values(Form, &'static str),
    /// Table.
    Table(Outline),
    /// List of tables with the same keys.
    Tables(Outline),
    /// Table of strings with arbitrary keys.
    Texts,
}

/// Notation of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// Any string.
    Text,
    /// String that matches this regular expression.
    Pattern(&'static str),
    /// One of these strings.
    OneOf(Vec<&'static str>),
    /// `true` or `false`.
    Flag,
    /// Integer from 0 to this maximum.
    Whole(u64),
    /// Number.
    Number,
    /// String, or a TOML date and time.
    Moment,
    /// List of values.
    List(Box<Form>),
}

/// Empty table, read in place of a missing one while the schema is collected.
pub(super) static EMPTY: LazyLock<DeTable<'static>> = LazyLock::new(DeTable::new);

impl Outline {
    /// Returns the keys by name.
    pub fn keys(&self) -> BTreeMap<&'static str, Key> {
        self.0.borrow().clone()
    }

    /// Records a value. It is required if there is `advice`, which then describes it.
    pub(super) fn value<T: Setting>(&self, key: &'static str, advice: Option<&str>) {
        let description = advice.unwrap_or(T::EXPECTED);
        self.note(key, advice.is_some(), description, || Shape::Value(T::form(), T::EXAMPLE));
    }

    /// Records a list of values.
    pub(super) fn values<T: Setting>(&self, key: &'static str) {
        let description = format!("a list, each item {}", T::EXPECTED);
        self.note(key, false, &description, || Shape::Values(T::form(), T::EXAMPLE));
    }

    /// Records a table of strings.
    pub(super) fn texts(&self, key: &'static str) {
        self.note(key, false, "strings with arbitrary keys", || Shape::Texts);
    }

    /// Records a table and returns its schema. It is required if there is `advice`.
    pub(super) fn table(&self, key: &'static str, advice: Option<&str>) -> Outline {
        self.note(key, advice.is_some(), advice.unwrap_or_default(), || Shape::Table(Self::default()));
        self.below(key)
    }

    /// Records a list of tables and returns the schema of one.
    pub(super) fn tables(&self, key: &'static str) -> Outline {
        self.note(key, false, "", || Shape::Tables(Self::default()));
        self.below(key)
    }

    /// Restricts a recorded value to these strings. Does nothing if the key was not recorded before.
    pub(super) fn choices(&self, key: &'static str, choices: Vec<&'static str>) {
        if let Some(known) = self.0.borrow_mut().get_mut(key)
            && let Shape::Value(form, _) = &mut known.shape
        {
            *form = Form::OneOf(choices);
        }
    }

    fn note(&self, key: &'static str, required: bool, description: &str, shape: impl FnOnce() -> Shape) {
        let mut keys = self.0.borrow_mut();
        let known =
            keys.entry(key).or_insert_with(|| Key { required, description: description.to_owned(), shape: shape() });
        known.required |= required;
    }

    fn below(&self, key: &str) -> Outline {
        match self.0.borrow().get(key).map(|known| &known.shape) {
            Some(Shape::Table(below) | Shape::Tables(below)) => below.clone(),
            _ => Self::default(),
        }
    }
}

/// Returns the example of a type, in place of a missing required value while the schema is collected.
pub(super) fn example<T: Setting>() -> Option<T> {
    let value = DeValue::parse(T::EXAMPLE).ok()?;
    T::read(value.get_ref()).ok()
}
