//! JSON string that is borrowed from the message unless it contains escapes.

use std::borrow::Cow;
use std::ops::Deref;

use memchr::memchr;
use serde::Deserialize;
use serde_json::value::RawValue;

/// String field for serde, with `#[serde(borrow)]`.
#[derive(Debug, Default, Deserialize)]
#[serde(transparent)]
pub(super) struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> Text<'a> {
    /// Parses a raw JSON value; `None` if the value is not a string.
    pub(super) fn of(raw: &'a RawValue) -> Option<Self> {
        let written = raw.get();
        match written.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
            Some(plain) if memchr(b'\\', plain.as_bytes()).is_none() => Some(Self(Cow::Borrowed(plain))),
            _ => serde_json::from_str(written).ok(),
        }
    }

    /// Returns the string as a part of the message; `None` if the string contained escapes and was copied.
    pub(super) fn as_written(&self) -> Option<&'a str> {
        match self.0 {
            Cow::Borrowed(text) => Some(text),
            Cow::Owned(_) => None,
        }
    }
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}
