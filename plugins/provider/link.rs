//! Validation of configured URLs that a payer's browser is redirected to.

use std::net::IpAddr;

use http::Uri;

/// Returns whether the URL is https, or plain http to this machine, and contains no character that could break out of
/// HTML.
pub(super) fn is_safe(url: &str) -> bool {
    let is_plain = url.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"<>\\".contains(&byte));
    let Some(uri) = is_plain.then(|| url.parse::<Uri>().ok()).flatten() else { return false };
    let host = uri.host().unwrap_or_default();
    let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
    let is_here = host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback());
    match uri.scheme_str() {
        Some("https") => !host.is_empty(),
        Some("http") => is_here,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_url_is_rejected_except_to_loopback() {
        for safe in [
            "https://a.example",
            "https://a.example/gateway.do",
            "http://127.0.0.1:80/x",
            "http://[::1]:1",
            "http://localhost",
        ] {
            assert!(is_safe(safe), "{safe}");
        }
        for unsafe_one in [
            "",
            "https://",
            "http://a.example",
            "http://127.0.0.1.example",
            "http://localhost.example:80",
            "http://127.0.0.1@a.example",
            "ftp://a.example",
            "//a.example",
            "https://a.example/<",
            "https://a.example/ b",
        ] {
            assert!(!is_safe(unsafe_one), "{unsafe_one}");
        }
    }
}
