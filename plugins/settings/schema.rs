//! What a table may hold, written down while its readers ask for it: so that a description of the files cannot say anything
//! else than what the readers take.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::LazyLock;

use toml::de::{DeTable, DeValue};

use super::Setting;

/// A table, by its keys.
#[derive(Clone, Debug, Default)]
pub struct Outline(Rc<RefCell<BTreeMap<&'static str, Key>>>);

/// One key of a table.
#[derive(Clone, Debug)]
pub struct Key {
    /// Whether nothing goes without it.
    pub required: bool,
    /// What belongs there, in words; empty for tables.
    pub words: String,
    /// What its value may be.
    pub shape: Shape,
}

/// What a key's value may be.
#[derive(Clone, Debug)]
pub enum Shape {
    /// One value, with an example as a file writes it.
    Value(Form, &'static str),
    /// A list of values, with an example of one.
    Values(Form, &'static str),
    /// A table.
    Table(Outline),
    /// A list of tables that have the same keys.
    Tables(Outline),
    /// A table of texts, whatever their keys are.
    Texts,
}

/// How a value is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// Any text.
    Text,
    /// A text that this regular expression describes.
    Pattern(&'static str),
    /// One of these texts.
    OneOf(Vec<&'static str>),
    /// `true` or `false`.
    Flag,
    /// A whole number from 0 to this.
    Whole(u64),
    /// A number.
    Number,
    /// A text, or TOML's own date and time.
    Moment,
    /// A list.
    List(Box<Form>),
}

/// A table with nothing in it: what is read when only the asking counts.
pub(super) static EMPTY: LazyLock<DeTable<'static>> = LazyLock::new(DeTable::new);

impl Outline {
    /// The keys in it, by name.
    pub fn keys(&self) -> BTreeMap<&'static str, Key> {
        self.0.borrow().clone()
    }

    /// Notes that a reader asked for a value.
    pub(super) fn value<T: Setting>(&self, key: &'static str, advice: Option<&str>) {
        let words = advice.unwrap_or(T::EXPECTED);
        self.note(key, advice.is_some(), words, || Shape::Value(T::form(), T::EXAMPLE));
    }

    pub(super) fn values<T: Setting>(&self, key: &'static str) {
        let words = format!("a list, each item {}", T::EXPECTED);
        self.note(key, false, &words, || Shape::Values(T::form(), T::EXAMPLE));
    }

    pub(super) fn texts(&self, key: &'static str) {
        self.note(key, false, "texts by names of your own", || Shape::Texts);
    }

    /// The outline of the table under a key.
    pub(super) fn table(&self, key: &'static str, advice: Option<&str>) -> Outline {
        self.note(key, advice.is_some(), advice.unwrap_or_default(), || Shape::Table(Self::default()));
        self.below(key)
    }

    /// The same of each table in the list under it.
    pub(super) fn tables(&self, key: &'static str) -> Outline {
        self.note(key, false, "", || Shape::Tables(Self::default()));
        self.below(key)
    }

    /// Which texts a key may have, of which the reader asked already or will ask.
    pub(super) fn choices(&self, key: &'static str, choices: Vec<&'static str>) {
        if let Some(known) = self.0.borrow_mut().get_mut(key)
            && let Shape::Value(form, _) = &mut known.shape
        {
            *form = Form::OneOf(choices);
        }
    }

    fn note(&self, key: &'static str, required: bool, words: &str, shape: impl FnOnce() -> Shape) {
        let mut keys = self.0.borrow_mut();
        let known = keys.entry(key).or_insert_with(|| Key { required, words: words.to_owned(), shape: shape() });
        known.required |= required;
    }

    fn below(&self, key: &str) -> Outline {
        match self.0.borrow().get(key).map(|known| &known.shape) {
            Some(Shape::Table(below) | Shape::Tables(below)) => below.clone(),
            _ => Self::default(),
        }
    }
}

/// What a reader is given in the place of a value that must be there.
pub(super) fn example<T: Setting>() -> Option<T> {
    let value = DeValue::parse(T::EXAMPLE).ok()?;
    T::read(value.get_ref()).ok()
}
