//! URL-encoded form parameters, and the text over which they are signed.

use std::collections::BTreeMap;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

/// Form parameters by name.
#[derive(Clone, Default)]
pub(super) struct Form(BTreeMap<String, String>);

/// Error of a malformed form.
#[derive(Debug)]
pub(super) enum FormError {
    /// Invalid percent encoding or invalid UTF-8.
    Encoding,
    /// This name has two different values.
    Duplicate(String),
}

/// Characters that are percent-encoded: all except letters, digits and `-_.*`; a space becomes `+`.
const CODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'*').remove(b' ');

impl Form {
    /// Adds the parameters of an encoded query or body. Returns an error if a name has two different values.
    pub(super) fn with(mut self, encoded: &[u8]) -> Result<Self, FormError> {
        for pair in encoded.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
            let mut halves = pair.splitn(2, |byte| *byte == b'=');
            let mut next = || decoded(halves.next().unwrap_or_default());
            let (Some(name), Some(value)) = (next(), next()) else {
                return Err(FormError::Encoding);
            };
            if self.0.get(&name).is_some_and(|known| *known != value) {
                return Err(FormError::Duplicate(name));
            }
            self.0.insert(name, value);
        }
        Ok(self)
    }

    /// Returns the value if it is not empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub(super) fn set(&mut self, name: &str, value: impl Into<String>) {
        self.0.insert(name.to_owned(), value.into());
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Returns names and values, names in byte order.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns the signed text: `name=value` pairs in byte order, not encoded, without empty values and without these
    /// names.
    pub(super) fn signed_text(&self, without: &[&str]) -> String {
        let parts = self.0.iter().filter(|(name, value)| !value.is_empty() && !without.contains(&name.as_str()));
        parts.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
    }

    /// Encodes the form in UTF-8.
    pub(super) fn encoded(&self) -> String {
        self.encoded_with(|text| text.as_bytes().to_vec())
    }

    /// Encodes the form in another charset.
    pub(super) fn encoded_with(&self, charset: impl Fn(&str) -> Vec<u8>) -> String {
        let coded = |text: &str| percent_encode(&charset(text), CODED).to_string().replace(' ', "+");
        let parts = self.0.iter().map(|(name, value)| format!("{}={}", coded(name), coded(value)));
        parts.collect::<Vec<_>>().join("&")
    }
}

fn decoded(piece: &[u8]) -> Option<String> {
    let mut bytes = Vec::with_capacity(piece.len());
    let mut rest = piece.iter().copied();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => digit(rest.next()?)? << 4 | digit(rest.next()?)?,
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn form_is_decoded_strictly_and_duplicates_with_other_values_are_rejected() {
        let form = Form::default().with(b"b=%2B+1%3d&a=%E6%B5%8B&c=&b=%2B%201=").unwrap();
        assert_eq!(form.signed_text(&[]), "a=测&b=+ 1=");
        assert_eq!(form.encoded(), "a=%E6%B5%8B&b=%2B+1%3D&c=");
        for wrong in [b"a=%".as_slice(), b"a=%zz", b"a=%+1", b"a=%ff", b"a=1&a=2"] {
            assert!(Form::default().with(wrong).is_err());
        }
    }
}
