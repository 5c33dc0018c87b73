//! Messages: names with values, and the three ways in which they are written.
//!
//! Requests and notifications are forms. Answers look like forms too, but nothing in them is percent-encoded, and a value
//! may hold `&` and `=` between brackets: `reqReserved={a=1&b=2}`. With `codec = "json"` each is a JSON object of texts.

use std::collections::btree_map::Entry;
use std::fmt;

use memchr::{memchr, memchr3};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde::{Serialize, Serializer};

use super::super::{Source, form};

/// How bodies are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    Form,
    Json,
}

/// A message. Its order is that of the names' bytes, capitals before small letters, in which it is signed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fields(form::Fields);

/// The field that holds the signature, and is never a part of what is signed.
pub(super) const SIGNATURE: &str = "signature";

impl Fields {
    /// Reads what came; nothing when it is in no form that UnionPay writes, or names something twice.
    pub(super) fn read(codec: Codec, source: Source, body: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(body).ok()?;
        match (codec, source) {
            (Codec::Form, Source::Answer) => Self::of_answer(text),
            (Codec::Json, Source::Answer) => serde_json::from_str(text).ok(),
            // Notifications are forms by their definition; an account that talks JSON may be told in JSON.
            (Codec::Json, Source::Notification) if text.starts_with('{') => serde_json::from_str(text).ok(),
            (_, Source::Notification) => form::read(body).map(Self),
        }
    }

    /// Reads a body of ours, to sign it.
    pub(super) fn of_request(codec: Codec, body: &[u8]) -> Option<Self> {
        match std::str::from_utf8(body).ok()? {
            "" => Some(Self::default()),
            text if codec == Codec::Json => serde_json::from_str(text).ok(),
            _ => form::read(body).map(Self),
        }
    }

    /// As it goes out.
    pub(super) fn write(&self, codec: Codec) -> Option<Vec<u8>> {
        if codec == Codec::Json {
            return serde_json::to_vec(self).ok();
        }
        Some(form::write(&self.0).into_bytes())
    }

    /// The bracket that opens first in a value ends at the first one that closes it; between the two `&` is text.
    fn of_answer(text: &str) -> Option<Self> {
        let mut fields = Self::default();
        let mut rest = text;
        loop {
            let (name, after) = rest.split_once('=')?;
            let (end, _) = value_end(after);
            fields.insert(name.to_owned(), after.get(..end)?.to_owned())?;
            let Some(next) = after.get(end + 1..) else { return Some(fields) };
            rest = next;
        }
    }

    /// Adds a field; nothing when it has no proper name or is there already: of two values nobody could say which counts.
    fn insert(&mut self, name: String, value: String) -> Option<()> {
        if name.is_empty() || name.contains(['&', '=']) {
            return None;
        }
        match self.0.entry(name) {
            Entry::Occupied(_) => None,
            Entry::Vacant(free) => {
                free.insert(value);
                Some(())
            }
        }
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

    fn signed(&self) -> impl Iterator<Item = (&String, &String)> {
        self.0.iter().filter(|(name, value)| *name != SIGNATURE && !value.is_empty())
    }

    /// Whether the signed text can be read in this one way only. `a=1&b=2` is the text of two fields and also of one
    /// whose value is `1&b=2`, and a form could hold either; so a value with `&` in it must have brackets around that,
    /// and a bracket that stays open must not reach into the next field. A name with such characters is none.
    pub(super) fn is_unambiguous(&self) -> bool {
        let mut open = false;
        self.signed().all(|(name, value)| {
            let was_open = std::mem::replace(&mut open, false);
            let (end, is_open) = value_end(value);
            open = is_open;
            !was_open && end == value.len() && !name.is_empty() && !name.contains(['&', '='])
        })
    }

    /// A value; nothing when it is missing or empty, which means the same.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Sets a value of ours, without the space around it; blank ones are left out.
    pub(super) fn set(&mut self, name: &str, value: impl AsRef<str>) {
        match value.as_ref().trim() {
            "" => drop(self.0.remove(name)),
            value => drop(self.0.insert(name.to_owned(), value.to_owned())),
        }
    }

    /// The same without the space around values and without the blank ones, as requests are signed and sent.
    pub(super) fn trimmed(&self) -> Self {
        let mut trimmed = Self::default();
        self.0.iter().for_each(|(name, value)| trimmed.set(name, value));
        trimmed
    }

    /// All of them.
    pub(super) fn into_map(self) -> form::Fields {
        self.0
    }
}

/// Where a value ends: at the first `&` outside brackets. And whether a bracket is open there.
fn value_end(text: &str) -> (usize, bool) {
    let rest = |from: usize| text.as_bytes().get(from..).unwrap_or_default();
    let mut at = 0;
    while let Some(next) = memchr3(b'&', b'{', b'[', rest(at)) {
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

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// Only texts: a number or an object would not be signed.
impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Fields::default();
                while let Some((name, value)) = map.next_entry::<String, String>()? {
                    fields.insert(name, value).ok_or_else(|| A::Error::custom("a name is there twice or is none"))?;
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests;
