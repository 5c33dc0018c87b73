//! Names of merchants, channels and sinks.

/// Returns whether `text` is a valid name of a file in `channels/` or `merchants/`, or of a sink.
pub fn is_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=63).contains(&text.len())
        && text.bytes().next().is_some_and(fits)
        && text.bytes().all(|byte| fits(byte) || byte == b'-')
}
