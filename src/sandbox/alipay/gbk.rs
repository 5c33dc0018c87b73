//! Text in GBK, which Alipay uses in some responses and notifications regardless of the requested charset.

/// The character 誠 in GBK. Its second byte equals a backslash.
const NON_ASCII_CHARACTER: &[u8] = b"\xd5\x5c";

/// Encodes every non-ASCII character as the same GBK character. This is enough to detect code that changes the
/// received bytes.
pub(super) fn encoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut buffer = [0; 4];
    for character in text.chars() {
        bytes.extend_from_slice(if character.is_ascii() {
            character.encode_utf8(&mut buffer).as_bytes()
        } else {
            NON_ASCII_CHARACTER
        });
    }
    bytes
}
