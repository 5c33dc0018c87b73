//! Bearer token of the admin port.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use tollgate_plugins::secret::Secret;

/// Minimum length in bytes: 128 bits if each bit is random.
pub(super) const MIN_BYTES: usize = 16;

/// Bearer token of the admin port. It is never printed, and is compared in constant time.
#[derive(Clone)]
pub struct Token(Secret);

impl Token {
    pub(super) fn new(secret: Secret) -> Self {
        Self(secret)
    }

    /// Returns whether an `Authorization` header contains the token.
    pub fn is_shown(&self, header: Option<&[u8]>) -> bool {
        let Some((scheme, shown)) = header.and_then(|header| header.split_at_checked(SCHEME.len())) else {
            return false;
        };
        // The scheme is not secret and is case-insensitive.
        scheme.eq_ignore_ascii_case(SCHEME) && verify_slices_are_equal(shown.trim_ascii(), self.0.expose()).is_ok()
    }

    /// Returns the `Authorization` header with the token.
    pub fn header(&self) -> String {
        format!("Bearer {}", String::from_utf8_lossy(self.0.expose()))
    }
}

const SCHEME: &[u8] = b"Bearer ";

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        verify_slices_are_equal(self.0.expose(), other.0.expose()).is_ok()
    }
}

impl Eq for Token {}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_complete_token_is_accepted() {
        let token = Token::new(Secret::new("0123456789abcdef"));
        for (header, is_accepted) in [
            (Some("Bearer 0123456789abcdef"), true),
            (Some("bearer 0123456789abcdef "), true),
            (Some("Bearer 0123456789abcde"), false),
            (Some("Bearer 0123456789abcdeff"), false),
            (Some("Bearer "), false),
            (Some("Bearer"), false),
            (Some("Basic 0123456789abcdef"), false),
            (Some("0123456789abcdef"), false),
            (Some(""), false),
            (None, false),
        ] {
            assert_eq!(token.is_shown(header.map(str::as_bytes)), is_accepted, "{header:?}");
        }
        assert!(token.is_shown(Some(token.header().as_bytes())));
        assert_eq!(format!("{token:?}"), "***");
    }
}
