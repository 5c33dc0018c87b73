//! Messages: names with values, and the three ways in which they are written.
//!
//! Requests and notifications are forms. Answers look like forms too, but nothing in them is percent-encoded, and a value
//! may hold `&` and `=` between brackets: `reqReserved={a=1&b=2}`. With `codec = "json"` each is a JSON object of texts.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use memchr::{memchr, memchr2, memchr3};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde::{Serialize, Serializer};

use super::super::{Member, Source, Verified, form};

/// How bodies are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    Form,
    Json,
}

/// A message: a text with `name=value` in it for each field, and where they are. What was read borrows the text that it was
/// read from. The order of the fields is that of the names' bytes, capitals before small letters, in which they are signed.
#[derive(Clone, Debug, Default)]
pub(super) struct Message<'a> {
    text: Cow<'a, str>,
    fields: Cow<'a, [Member]>,
}

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

    /// The same once more, from what its check has read.
    pub(super) fn verified(codec: Codec, source: Source, message: &'a Verified) -> Option<Self> {
        match message.members() {
            [] => Self::read(codec, source, message.bytes()),
            members => Some(Self { text: std::str::from_utf8(message.bytes()).ok()?.into(), fields: members.into() }),
        }
    }

    /// Where the fields are in the text that it was read from; nothing where it is another text.
    pub(super) fn into_members(self) -> Vec<Member> {
        match self.text {
            Cow::Borrowed(_) => self.fields.into_owned(),
            Cow::Owned(_) => Vec::new(),
        }
    }

    /// The bracket that opens first in a value ends at the first one that closes it; between the two `&` is text. One that
    /// stays open ends with the answer, so it must be in the last field of the signed text too.
    fn of_answer(text: &'a str) -> Option<Self> {
        let mut fields = Vec::with_capacity(USUAL);
        let mut start = 0;
        loop {
            let rest = text.as_bytes().get(start..)?;
            // Names are too short for a search of many bytes at once.
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

    /// Nothing when a name is there twice: of two values nobody could say which counts.
    fn sorted(text: Cow<'a, str>, mut fields: Vec<Member>) -> Option<Self> {
        let name = |field: &Member| text.as_bytes().get(field.name.clone());
        let is_sorted = |fields: &[Member]| fields.is_sorted_by(|one, next| name(one) < name(next));
        if !is_sorted(&fields) {
            fields.sort_unstable_by(|one, other| name(one).cmp(&name(other)));
            is_sorted(&fields).then_some(())?;
        }
        Some(Self { text, fields: fields.into() })
    }

    /// The text that is signed: every field but the signature and the empty ones.
    pub(super) fn signed_text(&self) -> String {
        self.signed_parts().collect()
    }

    /// The same in parts, as long as they can be: neighbours that stand in their order already are taken together.
    pub(super) fn signed_parts(&self) -> impl Iterator<Item = &str> {
        let mut fields = self.signed().map(|field| field.name.start..field.value.end).peekable();
        let runs = std::iter::from_fn(move || {
            let mut run = fields.next()?;
            while let Some(next) = fields.next_if(|next| self.is_next(&run, next)) {
                run.end = next.end;
            }
            Some(run)
        });
        runs.enumerate().flat_map(|(before, run)| [if before == 0 { "" } else { "&" }, self.part(run)])
    }

    /// Whether nothing but `&` is between the two.
    fn is_next(&self, field: &Range<usize>, next: &Range<usize>) -> bool {
        next.start.checked_sub(1) == Some(field.end) && self.text.as_bytes().get(field.end) == Some(&b'&')
    }

    fn signed(&self) -> impl Iterator<Item = &Member> {
        self.fields.iter().filter(|field| !field.value.is_empty() && self.name(field) != SIGNATURE.as_bytes())
    }

    fn name(&self, field: &Member) -> &[u8] {
        self.text.as_bytes().get(field.name.clone()).unwrap_or_default()
    }

    fn part(&self, place: Range<usize>) -> &str {
        self.text.get(place).unwrap_or_default()
    }

    fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|field| (self.part(field.name.clone()), self.part(field.value.clone())))
    }

    /// Whether the signed text can be read in this one way only. `a=1&b=2` is the text of two fields and also of one
    /// whose value is `1&b=2`, and a form could hold either; so a value with `&` in it must have brackets around that,
    /// and a bracket that stays open must not reach into the next field. A name with such characters is none.
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

    /// A value; nothing when it is missing or empty, which means the same. (One after the other: of so few, the processor
    /// foresees the way through them all better than that of a search by halves.)
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let first = |field: &Member| self.text.as_bytes().get(field.name.start);
        let is_it = |field: &&Member| {
            let may_be = field.name.len() == name.len() && first(field) == name.as_bytes().first();
            may_be && self.name(field) == name.as_bytes()
        };
        let field = self.fields.iter().find(is_it)?;
        Some(self.part(field.value.clone())).filter(|value| !value.is_empty())
    }

    /// The fields without the space around values and without the blank ones, as requests are signed and sent.
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

    /// Sets a value of ours, without the space around it; blank ones are left out.
    pub(super) fn set(&mut self, name: &str, value: impl AsRef<str>) {
        let place = self.fields.binary_search_by(|field| self.name(field).cmp(name.as_bytes()));
        let (value, fields, text) = (value.as_ref().trim(), self.fields.to_mut(), self.text.to_mut());
        if let Ok(place) = place {
            fields.remove(place);
        }
        if !value.is_empty() {
            let (Ok(place) | Err(place)) = place;
            fields.insert(place, written(text, name, value));
        }
    }

    /// All of them.
    pub(super) fn into_map(self) -> form::Fields {
        self.pairs().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }
}

/// Adds a field to a text.
fn written(text: &mut String, name: &str, value: &str) -> Member {
    text.push_str(name);
    let end = text.len();
    text.push('=');
    text.push_str(value);
    Member { name: end - name.len()..end, value: end + 1..text.len() }
}

/// A form's fields are sorted and each there once.
impl From<form::Fields> for Fields {
    fn from(fields: form::Fields) -> Self {
        let mut text = String::new();
        let fields: Vec<Member> = fields.iter().map(|(name, value)| written(&mut text, name, value)).collect();
        Self { text: text.into(), fields: fields.into() }
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && memchr2(b'&', b'=', name.as_bytes()).is_none()
}

/// Where a value ends: at the first `&` outside brackets. And whether a bracket is open there.
fn value_end(text: &[u8]) -> (usize, bool) {
    let rest = |from: usize| text.get(from..).unwrap_or_default();
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
                let (mut text, mut fields) = (String::new(), Vec::with_capacity(USUAL));
                while let Some((name, value)) = map.next_entry::<String, String>()? {
                    if !is_name(&name) {
                        return Err(A::Error::custom("a name is none"));
                    }
                    fields.push(written(&mut text, &name, &value));
                }
                Fields::sorted(text.into(), fields).ok_or_else(|| A::Error::custom("a name is there twice"))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests;
