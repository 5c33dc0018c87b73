//! Parameters of forms, read once; and the text that is signed.

use std::collections::BTreeMap;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

/// Parameters by name.
#[derive(Clone, Default)]
pub(super) struct Form(BTreeMap<String, String>);

/// Why a form is none.
#[derive(Debug)]
pub(super) enum Mistake {
    /// Broken percent encoding, or bytes that are no UTF-8.
    Encoding,
    /// This name has two values.
    Twice(String),
}

/// What a form leaves as it is, beside letters and digits; a space becomes `+`.
const CODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'*').remove(b' ');

impl Form {
    /// Adds the parameters of an encoded query or body. Twice the same is once; two values of one name are a mistake.
    pub(super) fn with(mut self, encoded: &[u8]) -> Result<Self, Mistake> {
        for pair in encoded.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
            let mut halves = pair.splitn(2, |byte| *byte == b'=');
            let mut next = || decoded(halves.next().unwrap_or_default());
            let (Some(name), Some(value)) = (next(), next()) else {
                return Err(Mistake::Encoding);
            };
            if self.0.get(&name).is_some_and(|known| *known != value) {
                return Err(Mistake::Twice(name));
            }
            self.0.insert(name, value);
        }
        Ok(self)
    }

    /// The value, when there is one that is not empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub(super) fn set(&mut self, name: &str, value: impl Into<String>) {
        self.0.insert(name.to_owned(), value.into());
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Names in byte order, with their values.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// What is signed: names in order, values as they are, empty ones and these left out.
    pub(super) fn signed_text(&self, without: &[&str]) -> String {
        let parts = self.0.iter().filter(|(name, value)| !value.is_empty() && !without.contains(&name.as_str()));
        parts.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
    }

    /// As the body of a form.
    pub(super) fn encoded(&self) -> String {
        self.encoded_with(|text| text.as_bytes().to_vec())
    }

    /// The same in another charset.
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
    fn forms_are_decoded_once_and_strictly() {
        let form = Form::default().with(b"b=%2B+1%3d&a=%E6%B5%8B&c=&b=%2B%201=").unwrap();
        assert_eq!(form.signed_text(&[]), "a=测&b=+ 1=");
        assert_eq!(form.encoded(), "a=%E6%B5%8B&b=%2B+1%3D&c=");
        for wrong in [b"a=%".as_slice(), b"a=%zz", b"a=%+1", b"a=%ff", b"a=1&a=2"] {
            assert!(Form::default().with(wrong).is_err());
        }
    }
}
