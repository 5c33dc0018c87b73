//! Messages: fields with names and values, in three formats.
//!
//! Requests and notifications are forms. Answers look like forms too, but are not percent-encoded, and a value may
//! contain `&` and `=` between brackets: `reqReserved={a=1&b=2}`. With `codec = "json"` each message is a JSON object
//! of strings.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use memchr::{memchr, memchr2, memchr3};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde::{Serialize, Serializer};

use super::super::{Member, Source, Verified, form};

/// Format of bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    Form,
    Json,
}

/// Message: a text that contains `name=value` for each field, and the byte ranges of the fields. A parsed message
/// borrows its text.
///
/// The fields are sorted by the bytes of their names, capitals before small letters. They are signed in this order.
#[derive(Clone, Debug, Default)]
pub(super) struct Message<'a> {
    text: Cow<'a, str>,
    fields: Cow<'a, [Member]>,
}

/// Message that the gateway builds.
pub(super) type Fields = Message<'static>;

/// Name of the field with the signature, which is never part of the signed text.
pub(super) const SIGNATURE: &str = "signature";

/// Capacity for the fields of a typical message.
const TYPICAL_FIELDS: usize = 32;

impl<'a> Message<'a> {
    /// Parses a received message. Returns `None` if its format is unknown, a name is duplicated, or the signed text is
    /// ambiguous.
    pub(super) fn read(codec: Codec, source: Source, body: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(body).ok()?;
        let message: Option<Self> = match (codec, source) {
            (Codec::Form, Source::Answer) => return Self::of_answer(text),
            (Codec::Json, Source::Answer) => serde_json::from_str(text).ok(),
            // Notifications are defined as forms, but may be JSON for an account that uses JSON.
            (Codec::Json, Source::Notification) if text.starts_with('{') => serde_json::from_str(text).ok(),
            (_, Source::Notification) => form::read(body).map(Fields::from),
        };
        message.filter(Self::is_unambiguous)
    }

    /// Restores a verified message from the fields found by its check.
    pub(super) fn verified(codec: Codec, source: Source, message: &'a Verified) -> Option<Self> {
        match message.members() {
            [] => Self::read(codec, source, message.bytes()),
            members => Some(Self { text: std::str::from_utf8(message.bytes()).ok()?.into(), fields: members.into() }),
        }
    }

    /// Returns the byte ranges of the fields in the received text; empty if the text was rebuilt.
    pub(super) fn into_members(self) -> Vec<Member> {
        match self.text {
            Cow::Borrowed(_) => self.fields.into_owned(),
            Cow::Owned(_) => Vec::new(),
        }
    }

    /// Parses an answer. The first opening bracket of a value ends at the first matching closing bracket; `&` between
    /// the two is text. An unclosed bracket extends to the end of the answer, so it must be in the last field of the
    /// signed text too.
    fn of_answer(text: &'a str) -> Option<Self> {
        let mut fields = Vec::with_capacity(TYPICAL_FIELDS);
        let mut start = 0;
        loop {
            let rest = text.as_bytes().get(start..)?;
            // Names are too short for memchr to pay off.
            let length = rest.iter().position(|byte| matches!(byte, b'=' | b'&'))?;
            let length = Some(length).filter(|length| *length > 0 && rest.get(*length) == Some(&b'='))?;
            let name = start..start + length;
            let (length, is_open) = value_end(rest.get(length + 1..)?);
            let value = name.end + 1..name.end + 1 + length;
            let (end, last) = (value.end, name.start);
            fields.push(Member { name, value });
            if end == text.len() {
                let message = Self::sorted(text.into(), fields)?;
                let is_last = message.signed().last().is_some_and(|field| field.name.start == last);
                return (!is_open || is_last).then_some(message);
            }
            start = end + 1;
        }
    }

    /// Sorts the fields. Returns `None` if a name is duplicated, because it would be unknown which value counts.
    fn sorted(text: Cow<'a, str>, mut fields: Vec<Member>) -> Option<Self> {
        let name = |field: &Member| text.as_bytes().get(field.name.clone());
        let is_sorted = |fields: &[Member]| fields.is_sorted_by(|one, next| name(one) < name(next));
        if !is_sorted(&fields) {
            fields.sort_unstable_by(|one, other| name(one).cmp(&name(other)));
            is_sorted(&fields).then_some(())?;
        }
        Some(Self { text, fields: fields.into() })
    }

    /// Returns the signed text: every field but the signature and empty ones.
    pub(super) fn signed_text(&self) -> String {
        self.signed_parts().collect()
    }

    /// Returns the signed text in as few parts as possible: fields that are adjacent and in order form one part.
    pub(super) fn signed_parts(&self) -> impl Iterator<Item = &str> {
        let mut fields = self.signed().map(|field| field.name.start..field.value.end).peekable();
        let runs = std::iter::from_fn(move || {
            let mut run = fields.next()?;
            while let Some(next) = fields.next_if(|next| self.is_adjacent(&run, next)) {
                run.end = next.end;
            }
            Some(run)
        });
        runs.enumerate().flat_map(|(before, run)| [if before == 0 { "" } else { "&" }, self.part(run)])
    }

    /// Returns whether only `&` is between the two.
    fn is_adjacent(&self, field: &Range<usize>, next: &Range<usize>) -> bool {
        next.start.checked_sub(1) == Some(field.end) && self.text.as_bytes().get(field.end) == Some(&b'&')
    }

    fn signed(&self) -> impl Iterator<Item = &Member> {
        self.fields.iter().filter(|field| !field.value.is_empty() && self.name(field) != SIGNATURE.as_bytes())
    }

    fn name(&self, field: &Member) -> &[u8] {
        self.text.as_bytes().get(field.name.clone()).unwrap_or_default()
    }

    fn part(&self, index: Range<usize>) -> &str {
        self.text.get(index).unwrap_or_default()
    }

    fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|field| (self.part(field.name.clone()), self.part(field.value.clone())))
    }

    /// Returns whether the signed text has only one interpretation.
    ///
    /// `a=1&b=2` is the text of two fields and also of one field with the value `1&b=2`, and a form could contain
    /// either. So `&` in a value must be inside brackets, an unclosed bracket must not reach into the next field, and a
    /// name must not contain such characters.
    fn is_unambiguous(&self) -> bool {
        let mut open = false;
        self.signed().all(|field| {
            let was_open = std::mem::replace(&mut open, false);
            let (name, value) = (self.part(field.name.clone()), self.part(field.value.clone()));
            let (end, is_open) = value_end(value.as_bytes());
            open = is_open;
            !was_open && end == value.len() && is_name(name)
        })
    }

    /// Returns a value; `None` if it is missing or empty, which is equivalent. A linear search is faster than a binary
    /// one for this number of fields, because branches are predicted better.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let first = |field: &Member| self.text.as_bytes().get(field.name.start);
        let is_named = |field: &&Member| {
            let may_match = field.name.len() == name.len() && first(field) == name.as_bytes().first();
            may_match && self.name(field) == name.as_bytes()
        };
        let field = self.fields.iter().find(is_named)?;
        Some(self.part(field.value.clone())).filter(|value| !value.is_empty())
    }

    /// Returns the fields with trimmed values and without blank ones, as requests are signed and sent.
    pub(super) fn trimmed(&self) -> Fields {
        let mut trimmed = Fields::default();
        self.pairs().for_each(|(name, value)| trimmed.set(name, value));
        trimmed
    }
}

impl PartialEq for Message<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.pairs().eq(other.pairs())
    }
}

impl Eq for Message<'_> {}

impl Fields {
    /// Parses a request body of the gateway, to sign it.
    pub(super) fn of_request(codec: Codec, body: &[u8]) -> Option<Self> {
        match std::str::from_utf8(body).ok()? {
            "" => Some(Self::default()),
            text if codec == Codec::Json => serde_json::from_str(text).ok(),
            _ => form::read(body).map(Self::from),
        }
    }

    /// Serializes the message.
    pub(super) fn write(&self, codec: Codec) -> Option<Vec<u8>> {
        match codec {
            Codec::Json => serde_json::to_vec(self).ok(),
            Codec::Form => Some(form::write(self.pairs()).into_bytes()),
        }
    }

    /// Sets a field to the trimmed value. A blank value removes the field.
    pub(super) fn set(&mut self, name: &str, value: impl AsRef<str>) {
        let index = self.fields.binary_search_by(|field| self.name(field).cmp(name.as_bytes()));
        let (value, fields, text) = (value.as_ref().trim(), self.fields.to_mut(), self.text.to_mut());
        if let Ok(index) = index {
            fields.remove(index);
        }
        if !value.is_empty() {
            let (Ok(index) | Err(index)) = index;
            fields.insert(index, append_field(text, name, value));
        }
    }

    /// Returns all fields.
    pub(super) fn into_map(self) -> form::Fields {
        self.pairs().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }
}

/// Appends a field to a text.
fn append_field(text: &mut String, name: &str, value: &str) -> Member {
    text.push_str(name);
    let end = text.len();
    text.push('=');
    text.push_str(value);
    Member { name: end - name.len()..end, value: end + 1..text.len() }
}

/// The fields of a form are already sorted and unique.
impl From<form::Fields> for Fields {
    fn from(fields: form::Fields) -> Self {
        let mut text = String::new();
        let fields: Vec<Member> = fields.iter().map(|(name, value)| append_field(&mut text, name, value)).collect();
        Self { text: text.into(), fields: fields.into() }
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && memchr2(b'&', b'=', name.as_bytes()).is_none()
}

/// Returns the end of a value, which is the first `&` outside brackets, and whether a bracket is open there.
fn value_end(text: &[u8]) -> (usize, bool) {
    let rest = |from: usize| text.get(from..).unwrap_or_default();
    let mut offset = 0;
    while let Some(next) = memchr3(b'&', b'{', b'[', rest(offset)) {
        offset += next;
        let closing = match rest(offset).first() {
            Some(b'{') => b'}',
            Some(b'[') => b']',
            _ => return (offset, false),
        };
        match memchr(closing, rest(offset)) {
            Some(end) => offset += end + 1,
            None => return (text.len(), true),
        }
    }
    (text.len(), false)
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.pairs())
    }
}

/// Accepts strings only: a number or an object would not be signed.
impl<'de> Deserialize<'de> for Message<'_> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor;
        impl<'de> Visitor<'de> for ObjectVisitor {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let (mut text, mut fields) = (String::new(), Vec::with_capacity(TYPICAL_FIELDS));
                while let Some((name, value)) = map.next_entry::<String, String>()? {
                    if !is_name(&name) {
                        return Err(A::Error::custom("invalid field name"));
                    }
                    fields.push(append_field(&mut text, &name, &value));
                }
                Fields::sorted(text.into(), fields).ok_or_else(|| A::Error::custom("duplicated field name"))
            }
        }
        deserializer.deserialize_map(ObjectVisitor)
    }
}

#[cfg(test)]
mod tests;
