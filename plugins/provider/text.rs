//! A text in JSON that is taken as it stands in the answer, without a copy, where nothing in it is escaped.

use std::borrow::Cow;
use std::ops::Deref;

use serde::Deserialize;

/// For a field, with `#[serde(borrow)]`.
#[derive(Debug, Default, Deserialize)]
#[serde(transparent)]
pub(super) struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> Text<'a> {
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
