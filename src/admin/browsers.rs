//! Rejects requests that a browser sends on behalf of another site. Otherwise any page that an operator opens could
//! use the admin port of that machine.
//!
//! Programs are not affected: curl, Prometheus and the commands of `tollgate` send none of these headers.

use std::net::IpAddr;

use http::header::{CONTENT_TYPE, HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method};

/// Proof of a caller's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallerProof {
    /// No proof was required.
    Nothing,
    /// A client certificate, which a browser presents for any page.
    Certificate,
    /// A token, which only an authorized program can send.
    Token,
}

/// Returns the reason for a rejection. `authority` replaces `Host` in HTTP/2. `names` are the permitted host names
/// besides addresses and `localhost`.
pub(super) fn rejection(
    method: &Method,
    headers: &HeaderMap,
    authority: Option<&str>,
    names: &[String],
    proof: CallerProof,
) -> Option<&'static str> {
    let is_read = matches!(*method, Method::GET | Method::HEAD);
    if proof == CallerProof::Token && is_read {
        return None;
    }
    let host = match single_value(headers, HOST.as_str()) {
        Ok(host) => host.or(authority),
        Err(()) => return Some("the `Host` header is malformed or repeated"),
    };
    if proof == CallerProof::Nothing && host.is_some_and(|host| !is_own_host(host, names)) {
        return Some(
            "unknown host name: use the admin port's address or `localhost`, or add the name to `admin.hosts`",
        );
    }
    match single_value(headers, ORIGIN.as_str()) {
        Ok(None) => {}
        Ok(Some(origin)) if host.is_some_and(|host| is_origin_of(origin, host)) => {}
        Ok(Some(_)) | Err(()) => return Some("pages of another origin may not use the admin port"),
    }
    if !matches!(single_value(headers, "sec-fetch-site"), Ok(None | Some("same-origin" | "none"))) {
        return Some("pages of another site may not use the admin port");
    }
    if !is_read && proof != CallerProof::Token && is_form(headers) {
        return Some("forms may not use the admin port: send the request without a body and without `content-type`");
    }
    None
}

/// Returns whether a foreign page cannot have this host name.
fn is_own_host(host: &str, names: &[String]) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
    let is_address = name.parse::<IpAddr>().is_ok();
    !authority.as_str().contains('@')
        && (is_address
            || name.eq_ignore_ascii_case("localhost")
            || names.iter().any(|permitted| permitted.eq_ignore_ascii_case(name)))
}

fn is_origin_of(origin: &str, host: &str) -> bool {
    let (scheme, origin_host) = origin.split_once("://").unwrap_or_default();
    let default = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return false,
    };
    let [origin_host, host] = [origin_host, host].map(|text| text.strip_suffix(default).unwrap_or(text));
    origin_host.eq_ignore_ascii_case(host)
}

/// Returns whether a page can send this request without a CORS check: forms and simple requests have only these
/// types.
fn is_form(headers: &HeaderMap) -> bool {
    let form_types = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"];
    headers.get_all(CONTENT_TYPE).iter().any(|value| {
        let kind = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
        form_types.iter().any(|form_type| kind.eq_ignore_ascii_case(form_type))
    })
}

/// Returns the single value of a header; an error if there are several or it is not text.
fn single_value<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, ()> {
    let mut values = headers.get_all(name).iter().map(HeaderValue::to_str);
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(Ok(value)), None) => Ok(Some(value)),
        _ => Err(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn is_rejected(method: &Method, lines: &[(&str, &str)], proof: CallerProof) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        rejection(method, &headers, None, &["ops.example.com".to_owned()], proof).is_some()
    }

    #[test]
    fn foreign_host_names_are_rejected_and_addresses_accepted() {
        for (host, rejected) in [
            ("127.0.0.1:9090", false),
            ("[::1]:9090", false),
            ("192.0.2.7", false),
            ("localhost:9090", false),
            ("LocalHost.", false),
            ("ops.example.com:9090", false),
            ("evil.example", true),
            ("localhost.evil.example", true),
            ("127.0.0.1.evil.example", true),
            ("127.0.0.1@evil.example", true),
            ("ops.example.com.evil.example", true),
            ("2130706433.example", true),
            ("", true),
        ] {
            let rejected_with = |proof| is_rejected(&Method::GET, &[("host", host)], proof);
            assert_eq!(rejected_with(CallerProof::Nothing), rejected, "{host}");
            assert!(!rejected_with(CallerProof::Token), "{host}");
        }
        let two_hosts = [("host", "127.0.0.1"), ("host", "evil.example")];
        assert!(is_rejected(&Method::GET, &two_hosts, CallerProof::Nothing));
        assert!(!is_rejected(&Method::GET, &[], CallerProof::Nothing), "HTTP/1.0");
    }

    #[test]
    fn pages_of_other_origins_are_rejected() {
        let host = ("host", "127.0.0.1:9090");
        for (line, rejected) in [
            (("origin", "http://127.0.0.1:9090"), false),
            (("origin", "http://127.0.0.1:3000"), true),
            (("origin", "http://localhost:9090"), true),
            (("origin", "https://evil.example"), true),
            (("origin", "null"), true),
            (("origin", ""), true),
            (("sec-fetch-site", "same-origin"), false),
            (("sec-fetch-site", "none"), false),
            (("sec-fetch-site", "same-site"), true),
            (("sec-fetch-site", "cross-site"), true),
        ] {
            for (method, proof) in [
                (Method::GET, CallerProof::Nothing),
                (Method::POST, CallerProof::Nothing),
                (Method::POST, CallerProof::Certificate),
                (Method::POST, CallerProof::Token),
            ] {
                assert_eq!(is_rejected(&method, &[host, line], proof), rejected, "{line:?} {method} {proof:?}");
            }
            assert!(!is_rejected(&Method::GET, &[host, line], CallerProof::Token), "a page cannot know the token");
        }
        assert!(!is_rejected(&Method::POST, &[("host", "a"), ("origin", "https://a:443")], CallerProof::Token));
    }

    #[test]
    fn forms_without_token_are_rejected() {
        for (kind, rejected) in [
            ("text/plain", true),
            ("Text/Plain; charset=utf-8", true),
            ("application/x-www-form-urlencoded", true),
            ("multipart/form-data; boundary=x", true),
            ("application/json", false),
        ] {
            let rejected_with = |proof| is_rejected(&Method::POST, &[("content-type", kind)], proof);
            assert_eq!(
                (
                    rejected_with(CallerProof::Nothing),
                    rejected_with(CallerProof::Certificate),
                    rejected_with(CallerProof::Token)
                ),
                (rejected, rejected, false),
                "{kind}"
            );
        }
    }
}
