//! Tables of documented fields, and validation of a JSON object against a table.

use std::borrow::Borrow;

use serde_json::Value;

use FieldType::{Flag, Json, Object, Objects, Text, Texts, Whole};

/// One documented field.
pub(super) struct Field {
    name: &'static str,
    required: bool,
    field_type: FieldType,
}

/// Type and limits of a field.
pub(super) enum FieldType {
    /// Text with minimum and maximum length in characters, accepted by the function.
    Text(usize, usize, fn(&str) -> bool),
    /// Integer with this minimum.
    Whole(u64),
    /// `true` or `false`.
    Flag,
    /// Object with these fields and no others.
    Object(&'static [Field]),
    /// Non-empty list of such objects.
    Objects(&'static [Field]),
    /// Non-empty list of texts.
    Texts,
    /// Any JSON, not validated.
    Json,
}

/// Validation error of a body.
#[derive(Debug)]
pub(super) struct FieldError {
    /// Field as a JSON pointer.
    pub(super) field: String,
    pub(super) issue: String,
    pub(super) undocumented: bool,
}

/// Returns a required field.
pub(super) const fn required(name: &'static str, field_type: FieldType) -> Field {
    Field { name, required: true, field_type }
}

/// Returns an optional field.
pub(super) const fn optional(name: &'static str, field_type: FieldType) -> Field {
    Field { name, required: false, field_type }
}

/// Accepts any text.
pub(super) fn any(_: &str) -> bool {
    true
}

/// Validates a body against a table of fields.
pub(super) fn check(body: &Value, fields: &[Field]) -> Result<(), FieldError> {
    object(body, fields, "")
}

/// Validates a body against fields from several tables.
pub(super) fn check_fields(body: &Value, fields: &[&Field]) -> Result<(), FieldError> {
    object(body, fields, "")
}

fn object(value: &Value, fields: &[impl Borrow<Field>], path: &str) -> Result<(), FieldError> {
    let wrong = |field: &str, issue: &str| FieldError {
        field: format!("{path}{field}"),
        issue: issue.to_owned(),
        undocumented: false,
    };
    let Some(members) = value.as_object() else { return Err(wrong("", "must be an object")) };
    if let Some(name) = members.keys().find(|name| !fields.iter().any(|field| field.borrow().name == *name)) {
        return Err(FieldError { undocumented: true, ..wrong(&format!("/{name}"), "illegal extra parameter") });
    }
    for field in fields.iter().map(Borrow::borrow) {
        match members.get(field.name) {
            Some(value) => field.field_type.check(value, &format!("{path}/{}", field.name))?,
            None if field.required => return Err(wrong(&format!("/{}", field.name), "required parameter is missing")),
            None => {}
        }
    }
    Ok(())
}

impl FieldType {
    fn check(&self, value: &Value, path: &str) -> Result<(), FieldError> {
        let list = || value.as_array().filter(|list| !list.is_empty());
        let issue = match self {
            Text(min, max, is_legal) => match value.as_str() {
                None => "must be a string".to_owned(),
                Some(text) if !(*min..=*max).contains(&text.chars().count()) => {
                    format!("its length must be from {min} to {max} characters")
                }
                Some(text) if !is_legal(text) => "its value or its characters are not allowed".to_owned(),
                Some(_) => return Ok(()),
            },
            Whole(min) => match value.as_u64() {
                Some(number) if number >= *min => return Ok(()),
                _ => format!("must be a whole number of at least {min}"),
            },
            Flag if value.is_boolean() => return Ok(()),
            Flag => "must be true or false".to_owned(),
            Object(fields) => return object(value, fields, path),
            Objects(fields) => match list() {
                Some(items) => {
                    let mut indexed = items.iter().enumerate();
                    return indexed.try_for_each(|(index, item)| object(item, fields, &format!("{path}/{index}")));
                }
                None => "must be a list".to_owned(),
            },
            Texts if list().is_some_and(|items| items.iter().all(Value::is_string)) => return Ok(()),
            Texts => "must be a list of strings".to_owned(),
            Json => return Ok(()),
        };
        Err(FieldError { field: path.to_owned(), issue, undocumented: false })
    }
}
