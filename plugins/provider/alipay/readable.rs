//! Text in another charset than UTF-8. Alipay signs some answers and notifications in GBK, whatever charset was
//! requested.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::super::form::{self, Fields};

/// Replaces each byte of a character that is not ASCII.
const MASK: char = '?';

/// Converts bytes to text of the same length.
///
/// In bytes that are not UTF-8 every character outside ASCII is masked. All values that matter are ASCII, and the
/// second byte of a GBK character may look like `\`, `{` or `|`.
pub(super) fn readable(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(masked(bytes)),
    }
}

/// Converts the fields of a form to text. Fields in another charset are masked.
pub(super) fn readable_fields(raw: &BTreeMap<String, Vec<u8>>) -> Fields {
    raw.iter().map(|(name, value)| (name.clone(), readable(value).into_owned())).collect()
}

/// Parses a form in any charset; `None` if it is malformed or a name is duplicated.
pub(super) fn form(body: &[u8]) -> Option<Fields> {
    form::read_raw(body).map(|raw| readable_fields(&raw))
}

fn masked(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        let length = length(rest);
        if length == 0 {
            text.push(char::from(*first));
            rest = after;
        } else {
            text.extend(std::iter::repeat_n(MASK, length));
            rest = rest.get(length..).unwrap_or_default();
        }
    }
    text
}

/// Returns the length of the first character in GB 18030, which includes GBK; zero for ASCII.
fn length(bytes: &[u8]) -> usize {
    match bytes {
        [0x81..=0xfe, 0x30..=0x39, 0x81..=0xfe, 0x30..=0x39, ..] => 4,
        [0x81..=0xfe, 0x40..=0x7e | 0x80..=0xfe, ..] => 2,
        [0x80..=0xff, ..] => 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn gbk_character_whose_second_byte_looks_like_syntax_is_masked() {
        // In GBK, 誠 is D5 5C, 億 is 83 7C, 瓄 is AD 7B: their second bytes are `\\`, `|` and `{`.
        assert_eq!(readable(b"\"\xd5\x5c\x83\x7c\xad\x7b\":1"), "\"??????\":1");
        assert_eq!(readable(b"\x81\x30\x81\x30}"), "????}");
        assert_eq!(readable("测试".as_bytes()), "测试");
    }

    proptest! {
        #[test]
        fn masked_text_keeps_its_length_and_is_ascii(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let text = readable(&bytes);
            prop_assert_eq!(text.len(), bytes.len());
            prop_assert!(std::str::from_utf8(&bytes).is_ok() || text.is_ascii());
        }
    }
}
