//! Parameters: how they are read, written and put into the text that is signed.

use std::collections::BTreeMap;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, utf8_percent_encode};

/// Sorted by their names' bytes, which is the order in which they are signed.
pub(super) type Params = BTreeMap<String, String>;

const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Reads a form or a query once, adding to what was read before. `None` for bad UTF-8 and for a name that comes twice: of
/// two values nobody could say which one is meant.
pub(super) fn read(bytes: &[u8], params: &mut Params) -> Option<()> {
    for pair in bytes.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (decoded(&pair[..at])?, decoded(&pair[at + 1..])?);
        if params.insert(name, value).is_some() {
            return None;
        }
    }
    Some(())
}

fn decoded(part: &[u8]) -> Option<String> {
    let spaced: Vec<u8> = part.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    percent_decode(&spaced).decode_utf8().ok().map(|text| text.into_owned())
}

/// As a form's body, a link's query or an order string; every reader of forms understands `%20`, which apps want.
pub(super) fn write(params: &Params) -> String {
    let escape = |text| utf8_percent_encode(text, ESCAPED);
    let pairs: Vec<_> = params.iter().map(|(name, value)| format!("{}={}", escape(name), escape(value))).collect();
    pairs.join("&")
}

/// The text that is signed: all but these and what is empty, as it reads before it is escaped.
pub(super) fn text(params: &Params, without: &[&str]) -> String {
    let signed = params.iter().filter(|(name, value)| !value.is_empty() && !without.contains(&name.as_str()));
    let pairs: Vec<_> = signed.map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join("&")
}
