//! `application/x-www-form-urlencoded`, as forms, links and notifications of several providers use it, and the text that they
//! sign.

use std::collections::BTreeMap;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, utf8_percent_encode};

/// All but the characters that RFC 3986 never needs escaped. A space becomes `%20`, which every reader takes.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A form's fields; sorted by the bytes of their names, which is the order in which providers sign them.
pub(super) type Fields = BTreeMap<String, String>;

/// Writes `name=value&…` with values escaped.
pub(super) fn write(fields: impl IntoIterator<Item = (impl AsRef<str>, impl AsRef<str>)>) -> String {
    let pair = |(name, value): (_, _)| format!("{}={}", escape(name), escape(value));
    let pairs: Vec<String> = fields.into_iter().map(pair).collect();
    pairs.join("&")
}

/// Reads a form. `None` when it is no UTF-8, an escape is broken, a field has no `=`, or a name comes twice: of two values nobody can say which
/// one was meant, and which one was signed.
pub(super) fn read(form: &[u8]) -> Option<Fields> {
    let mut fields = Fields::new();
    read_into(form, &mut fields)?;
    Some(fields)
}

/// As [`read`], adding to what was read before.
pub(super) fn read_into(form: &[u8], fields: &mut Fields) -> Option<()> {
    let form = std::str::from_utf8(form).ok()?;
    for pair in form.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=')?;
        if fields.insert(unescape(name)?, unescape(value)?).is_some() {
            return None;
        }
    }
    Some(())
}

/// Reads a form whose values may be in any charset. `None` as for [`read`], but values need not be UTF-8.
pub(super) fn read_raw(form: &[u8]) -> Option<BTreeMap<String, Vec<u8>>> {
    let mut fields = BTreeMap::new();
    for pair in form.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        let name = String::from_utf8(unescape_raw(pair.get(..at)?)?).ok()?;
        if fields.insert(name, unescape_raw(pair.get(at + 1..)?)?).is_some() {
            return None;
        }
    }
    Some(fields)
}

/// Returns the text that is signed, like [`text`], over values in any charset.
pub(super) fn raw_text(fields: &BTreeMap<String, Vec<u8>>, without: &[&str]) -> Vec<u8> {
    let signed = fields.iter().filter(|(name, value)| !value.is_empty() && !without.contains(&name.as_str()));
    let pairs: Vec<Vec<u8>> = signed.map(|(name, value)| [name.as_bytes(), b"=", value].concat()).collect();
    pairs.join(&b'&')
}

/// The text that providers sign: `name=value&…` with raw values, without these fields and those that are empty.
pub(super) fn text(fields: &Fields, without: &[&str]) -> String {
    let signed = fields.iter().filter(|(name, value)| !value.is_empty() && !without.contains(&name.as_str()));
    let pairs: Vec<String> = signed.map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join("&")
}

/// Whether one of these fields may be hidden in another. Signed texts escape nothing: `a` with the value `1&b=2` reads there
/// like `a=1&b=2`, so whoever alters a message on its way could take `b` out of it.
pub(super) fn hides(fields: &Fields, names: &[&str]) -> bool {
    let is_one = |part: &str| part.split_once('=').is_some_and(|(name, _)| names.contains(&name));
    fields.iter().any(|(name, value)| name.contains(['&', '=']) || value.split('&').skip(1).any(is_one))
}

pub(super) fn escape(text: impl AsRef<str>) -> String {
    utf8_percent_encode(text.as_ref(), ESCAPED).to_string()
}

fn unescape(text: &str) -> Option<String> {
    String::from_utf8(unescape_raw(text.as_bytes())?).ok()
}

fn unescape_raw(bytes: &[u8]) -> Option<Vec<u8>> {
    let is_whole = |at: usize| matches!(bytes.get(at + 1..at + 3), Some(hex) if hex.iter().all(u8::is_ascii_hexdigit));
    if bytes.iter().enumerate().any(|(at, byte)| *byte == b'%' && !is_whole(at)) {
        return None;
    }
    let spaced: Vec<u8> = bytes.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    Some(percent_decode(&spaced).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_broken_or_doubled_is_no_form() {
        assert_eq!(
            read(b"a=1+2%2B&b=").unwrap(),
            Fields::from([("a".into(), "1 2+".into()), ("b".into(), String::new())])
        );
        for bad in [&b"a=%2"[..], b"a=%zz", b"a=%ff", b"\xff=1", b"a=1&a=2", b"a"] {
            assert!(read(bad).is_none(), "{}", bad.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(fields in proptest::collection::btree_map(".{1,8}", ".{0,12}", 0..6)) {
            prop_assert_eq!(read(write(&fields).as_bytes()), Some(fields));
        }
    }
}
