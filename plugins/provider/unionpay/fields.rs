//! Messages: names with values, and the three ways in which they are written.
//!
//! Requests and notifications are forms. Answers look like forms too, but nothing in them is percent-encoded, and a value
//! may hold `&` and `=` between brackets: `reqReserved={a=1&b=2}`. With `codec = "json"` each is a JSON object of texts.

use std::borrow::Cow;
use std::fmt;

use memchr::{memchr, memchr2, memchr3};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde::{Serialize, Serializer};

use super::super::{Source, form};

/// How bodies are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    Form,
    Json,
}

/// A message; what was read borrows the text that it was read from. Its order is that of the names' bytes, capitals before
/// small letters, in which it is signed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Message<'a>(Vec<Field<'a>>);

/// A name with its value.
type Field<'a> = (Cow<'a, str>, Cow<'a, str>);

/// A message that we write.
pub(super) type Fields = Message<'static>;

/// The field that holds the signature, and is never a part of what is signed.
pub(super) const SIGNATURE: &str = "signature";

/// Room for the fields of a usual message.
const USUAL: usize = 32;

impl<'a> Message<'a> {
    /// Reads what came; nothing when it is in no form that UnionPay writes, names something twice, or is signed by a text
    /// that can be read in two ways.
    pub(super) fn read(codec: Codec, source: Source, body: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(body).ok()?;
        let message: Option<Self> = match (codec, source) {
            (Codec::Form, Source::Answer) => return Self::of_answer(text),
            (Codec::Json, Source::Answer) => serde_json::from_str(text).ok(),
            // Notifications are forms by their definition; an account that talks JSON may be told in JSON.
            (Codec::Json, Source::Notification) if text.starts_with('{') => serde_json::from_str(text).ok(),
            (_, Source::Notification) => form::read(body).map(Fields::from),
        };
        message.filter(Self::is_unambiguous)
    }

    /// The bracket that opens first in a value ends at the first one that closes it; between the two `&` is text. One that
    /// stays open ends with the answer, so it must be in the last field of the signed text too.
    fn of_answer(text: &'a str) -> Option<Self> {
        let mut fields = Vec::with_capacity(USUAL);
        let mut rest = text;
        loop {
            let (name, after) = rest.split_at_checked(name_end(rest)?)?;
            let after = after.get(1..)?;
            let (end, is_open) = value_end(after);
            fields.push((name.into(), after.get(..end)?.into()));
            let Some(next) = after.get(end + 1..) else {
                let message = Self::sorted(fields)?;
                let is_last = message.signed().last().is_some_and(|(last, _)| last == name);
                return (!is_open || is_last).then_some(message);
            };
            rest = next;
        }
    }

    /// Nothing when a name is there twice: of two values nobody could say which counts.
    fn sorted(mut fields: Vec<Field<'a>>) -> Option<Self> {
        let is_sorted = |fields: &[Field<'_>]| fields.is_sorted_by(|(one, _), (next, _)| one < next);
        if is_sorted(&fields) {
            return Some(Self(fields));
        }
        fields.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        is_sorted(&fields).then_some(Self(fields))
    }

    /// The text that is signed: every field but the signature and the empty ones.
    pub(super) fn signed_text(&self) -> String {
        let length = self.signed().map(|(name, value)| name.len() + value.len() + 2).sum();
        let mut text = String::with_capacity(length);
        for (name, value) in self.signed() {
            if !text.is_empty() {
                text.push('&');
            }
            text.push_str(name);
            text.push('=');
            text.push_str(value);
        }
        text
    }

    fn signed(&self) -> impl Iterator<Item = &Field<'a>> {
        self.0.iter().filter(|(name, value)| *name != SIGNATURE && !value.is_empty())
    }

    /// Whether the signed text can be read in this one way only. `a=1&b=2` is the text of two fields and also of one
    /// whose value is `1&b=2`, and a form could hold either; so a value with `&` in it must have brackets around that,
    /// and a bracket that stays open must not reach into the next field. A name with such characters is none.
    fn is_unambiguous(&self) -> bool {
        let mut open = false;
        self.signed().all(|(name, value)| {
            let was_open = std::mem::replace(&mut open, false);
            let (end, is_open) = value_end(value);
            open = is_open;
            !was_open && end == value.len() && is_name(name)
        })
    }

    /// A value; nothing when it is missing or empty, which means the same.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(other, _)| *other == name)?;
        Some(&**value).filter(|value| !value.is_empty())
    }

    /// The fields without the space around values and without the blank ones, as requests are signed and sent.
    pub(super) fn trimmed(&self) -> Fields {
        let mut trimmed = Fields::default();
        self.0.iter().for_each(|(name, value)| trimmed.set(name, value));
        trimmed
    }
}

impl Fields {
    /// Reads a body of ours, to sign it.
    pub(super) fn of_request(codec: Codec, body: &[u8]) -> Option<Self> {
        match std::str::from_utf8(body).ok()? {
            "" => Some(Self::default()),
            text if codec == Codec::Json => serde_json::from_str(text).ok(),
            _ => form::read(body).map(Self::from),
        }
    }

    /// As it goes out.
    pub(super) fn write(&self, codec: Codec) -> Option<Vec<u8>> {
        match codec {
            Codec::Json => serde_json::to_vec(self).ok(),
            Codec::Form => Some(form::write(self.pairs()).into_bytes()),
        }
    }

    fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Sets a value of ours, without the space around it; blank ones are left out.
    pub(super) fn set(&mut self, name: &str, value: impl AsRef<str>) {
        let (place, value) = (self.0.binary_search_by(|(other, _)| (**other).cmp(name)), value.as_ref().trim());
        if let Ok(place) = place {
            self.0.remove(place);
        }
        if !value.is_empty() {
            let (Ok(place) | Err(place)) = place;
            self.0.insert(place, (name.to_owned().into(), value.to_owned().into()));
        }
    }

    /// All of them.
    pub(super) fn into_map(self) -> form::Fields {
        self.0.into_iter().map(|(name, value)| (name.into_owned(), value.into_owned())).collect()
    }
}

/// A form's fields are sorted and each there once.
impl From<form::Fields> for Fields {
    fn from(fields: form::Fields) -> Self {
        Self(fields.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && memchr2(b'&', b'=', name.as_bytes()).is_none()
}

/// Where a name ends: at the first `=`, with no `&` before it. Names are short, so they are looked through byte by byte.
fn name_end(text: &str) -> Option<usize> {
    let end = text.bytes().position(|byte| matches!(byte, b'=' | b'&')).filter(|end| *end > 0)?;
    (text.as_bytes().get(end) == Some(&b'=')).then_some(end)
}

/// Where a value ends: at the first `&` outside brackets. And whether a bracket is open there.
fn value_end(text: &str) -> (usize, bool) {
    let rest = |from: usize| text.as_bytes().get(from..).unwrap_or_default();
    let mut at = 0;
    while let Some(next) = find_mark(rest(at)) {
        at += next;
        let closing = match rest(at).first() {
            Some(b'{') => b'}',
            Some(b'[') => b']',
            _ => return (at, false),
        };
        match memchr(closing, rest(at)) {
            Some(end) => at += end + 1,
            None => return (text.len(), true),
        }
    }
    (text.len(), false)
}

/// The first `&` or opening bracket. Most values are so short that the search for it costs more to begin than to do.
fn find_mark(text: &[u8]) -> Option<usize> {
    const SHORT: usize = 24;
    let (start, rest) = text.split_at_checked(SHORT).unwrap_or((text, &[]));
    let near = start.iter().position(|byte| matches!(byte, b'&' | b'{' | b'['));
    near.or_else(|| memchr3(b'&', b'{', b'[', rest).map(|far| start.len() + far))
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.pairs())
    }
}

/// Only texts: a number or an object would not be signed.
impl<'de> Deserialize<'de> for Message<'_> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::with_capacity(USUAL);
                while let Some((name, value)) = map.next_entry::<String, String>()? {
                    if !is_name(&name) {
                        return Err(A::Error::custom("a name is none"));
                    }
                    fields.push((name.into(), value.into()));
                }
                Fields::sorted(fields).ok_or_else(|| A::Error::custom("a name is there twice"))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests;
