//! A text in JSON that is taken as it stands in the answer, without a copy, where nothing in it is escaped.

use std::borrow::Cow;
use std::ops::Deref;

use memchr::memchr;
use serde::Deserialize;
use serde_json::value::RawValue;

/// For a field, with `#[serde(borrow)]`.
#[derive(Debug, Default, Deserialize)]
#[serde(transparent)]
pub(super) struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> Text<'a> {
    /// A value that was left as it is written, should it be a text.
    pub(super) fn of(raw: &'a RawValue) -> Option<Self> {
        let written = raw.get();
        match written.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
            Some(plain) if memchr(b'\\', plain.as_bytes()).is_none() => Some(Self(Cow::Borrowed(plain))),
            _ => serde_json::from_str(written).ok(),
        }
    }

    /// Its place in the answer; nothing where it is written otherwise than it reads.
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
