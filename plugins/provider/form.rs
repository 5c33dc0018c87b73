//! `application/x-www-form-urlencoded` forms, and the text over a form's fields that several providers sign.

use std::collections::BTreeMap;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, utf8_percent_encode};

/// Characters to escape: all but RFC 3986's unreserved ones. A space becomes `%20`, which every parser accepts.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Fields of a form, sorted by the bytes of their names. Providers sign them in this order.
pub(super) type Fields = BTreeMap<String, String>;

/// Formats `name=value&…` with escaped names and values.
pub(super) fn write(fields: impl IntoIterator<Item = (impl AsRef<str>, impl AsRef<str>)>) -> String {
    let pair = |(name, value): (_, _)| format!("{}={}", escape(name), escape(value));
    let pairs: Vec<String> = fields.into_iter().map(pair).collect();
    pairs.join("&")
}

/// Parses a form. Returns `None` if it is not UTF-8, an escape is incomplete, a field has no `=`, or a name is
/// duplicated. With a duplicated name it would be unknown which value was signed.
pub(super) fn read(form: &[u8]) -> Option<Fields> {
    let mut fields = Fields::new();
    read_into(form, &mut fields)?;
    Some(fields)
}

/// Parses a form as [`read`] does, into existing fields.
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

/// Parses a form whose values may be in any charset. Returns `None` as [`read`] does, except that values need not be
/// UTF-8.
pub(super) fn read_raw(form: &[u8]) -> Option<BTreeMap<String, Vec<u8>>> {
    let mut fields = BTreeMap::new();
    for pair in form.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
        let separator = pair.iter().position(|byte| *byte == b'=')?;
        let name = String::from_utf8(unescape_raw(pair.get(..separator)?)?).ok()?;
        if fields.insert(name, unescape_raw(pair.get(separator + 1..)?)?).is_some() {
            return None;
        }
    }
    Some(fields)
}

/// Returns the text that is signed, as [`text`] does, over values in any charset.
pub(super) fn raw_text(fields: &BTreeMap<String, Vec<u8>>, without: &[&str]) -> Vec<u8> {
    let signed = fields.iter().filter(|(name, value)| !value.is_empty() && !without.contains(&name.as_str()));
    let pairs: Vec<Vec<u8>> = signed.map(|(name, value)| [name.as_bytes(), b"=", value].concat()).collect();
    pairs.join(&b'&')
}

/// Returns the text that providers sign: `name=value&…` with unescaped values. Empty fields and those in `without` are
/// left out.
pub(super) fn text(fields: &Fields, without: &[&str]) -> String {
    let signed = fields.iter().filter(|(name, value)| !value.is_empty() && !without.contains(&name.as_str()));
    let pairs: Vec<String> = signed.map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join("&")
}

/// Returns whether one of these fields could be hidden in the value of another one.
///
/// Signed texts escape nothing, so `a` with the value `1&b=2` signs like the two fields `a=1&b=2`. An attacker could
/// thereby remove `b` from a message.
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
    let is_whole = |separator: usize| matches!(bytes.get(separator + 1..separator + 3), Some(hex) if hex.iter().all(u8::is_ascii_hexdigit));
    if bytes.iter().enumerate().any(|(separator, byte)| *byte == b'%' && !is_whole(separator)) {
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
    fn malformed_or_duplicate_form_field_is_rejected() {
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
        fn written_form_is_parsed_back(fields in proptest::collection::btree_map(".{1,8}", ".{0,12}", 0..6)) {
            prop_assert_eq!(read(write(&fields).as_bytes()), Some(fields));
        }
    }
}
