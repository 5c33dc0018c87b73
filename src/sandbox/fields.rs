//! Tables of documented fields, and the check of a JSON object against one.

use std::borrow::Borrow;

use serde_json::Value;

use Form::{Flag, Json, Object, Objects, Text, Texts, Whole};

/// One documented field.
pub(super) struct Field {
    name: &'static str,
    required: bool,
    form: Form,
}

/// What a field may hold.
pub(super) enum Form {
    /// A text of so many characters, made of what the last function allows.
    Text(usize, usize, fn(&str) -> bool),
    /// A whole number of at least this.
    Whole(u64),
    /// `true` or `false`.
    Flag,
    /// An object with these fields and no others.
    Object(&'static [Field]),
    /// A list of such objects.
    Objects(&'static [Field]),
    /// A list of texts.
    Texts,
    /// Anything; what is in it is nobody's business here.
    Json,
}

/// What is wrong with a body.
#[derive(Debug)]
pub(super) struct Issue {
    /// As a JSON pointer.
    pub(super) field: String,
    pub(super) issue: String,
    pub(super) undocumented: bool,
}

/// A field that must be there.
pub(super) const fn required(name: &'static str, form: Form) -> Field {
    Field { name, required: true, form }
}

/// A field that may be missing.
pub(super) const fn optional(name: &'static str, form: Form) -> Field {
    Field { name, required: false, form }
}

/// Any text will do.
pub(super) fn any(_: &str) -> bool {
    true
}

/// Checks a body against its fields.
pub(super) fn check(body: &Value, fields: &[Field]) -> Result<(), Issue> {
    object(body, fields, "")
}

/// Checks a body against fields from several tables.
pub(super) fn check_fields(body: &Value, fields: &[&Field]) -> Result<(), Issue> {
    object(body, fields, "")
}

fn object(value: &Value, fields: &[impl Borrow<Field>], path: &str) -> Result<(), Issue> {
    let wrong = |field: &str, issue: &str| Issue {
        field: format!("{path}{field}"),
        issue: issue.to_owned(),
        undocumented: false,
    };
    let Some(members) = value.as_object() else { return Err(wrong("", "must be an object")) };
    if let Some(name) = members.keys().find(|name| !fields.iter().any(|field| field.borrow().name == *name)) {
        return Err(Issue { undocumented: true, ..wrong(&format!("/{name}"), "illegal extra parameter") });
    }
    for field in fields.iter().map(Borrow::borrow) {
        match members.get(field.name) {
            Some(value) => field.form.check(value, &format!("{path}/{}", field.name))?,
            None if field.required => return Err(wrong(&format!("/{}", field.name), "required parameter is missing")),
            None => {}
        }
    }
    Ok(())
}

impl Form {
    fn check(&self, value: &Value, path: &str) -> Result<(), Issue> {
        let list = || value.as_array().filter(|list| !list.is_empty());
        let issue = match self {
            Text(least, most, legal) => match value.as_str() {
                None => "must be a string".to_owned(),
                Some(text) if !(*least..=*most).contains(&text.chars().count()) => {
                    format!("its length must be from {least} to {most} characters")
                }
                Some(text) if !legal(text) => "its value or its characters are not allowed".to_owned(),
                Some(_) => return Ok(()),
            },
            Whole(least) => match value.as_u64() {
                Some(number) if number >= *least => return Ok(()),
                _ => format!("must be a whole number of at least {least}"),
            },
            Flag if value.is_boolean() => return Ok(()),
            Flag => "must be true or false".to_owned(),
            Object(fields) => return object(value, fields, path),
            Objects(fields) => match list() {
                Some(items) => {
                    let mut places = items.iter().enumerate();
                    return places.try_for_each(|(place, item)| object(item, fields, &format!("{path}/{place}")));
                }
                None => "must be a list".to_owned(),
            },
            Texts if list().is_some_and(|items| items.iter().all(Value::is_string)) => return Ok(()),
            Texts => "must be a list of strings".to_owned(),
            Json => return Ok(()),
        };
        Err(Issue { field: path.to_owned(), issue, undocumented: false })
    }
}
