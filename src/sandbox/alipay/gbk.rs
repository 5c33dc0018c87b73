//! Text in GBK, in which Alipay writes some answers and notifications whatever charset was asked for.

/// 誠. Its second byte looks like a backslash.
const LETTER: &[u8] = b"\xd5\x5c";

/// Writes every letter outside ASCII as the same letter in GBK: enough to find who does not take bytes as they came.
pub(super) fn encoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut buffer = [0; 4];
    for letter in text.chars() {
        bytes.extend_from_slice(if letter.is_ascii() { letter.encode_utf8(&mut buffer).as_bytes() } else { LETTER });
    }
    bytes
}
