//! Refusal of requests that a browser sends for a page of somebody else: any page that an operator opens could otherwise use
//! the admin port of that machine.
//!
//! Programs are not concerned: none of these headers is sent by curl, Prometheus or the commands of `tollgate`.

use std::net::IpAddr;

use http::header::{CONTENT_TYPE, HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method};

/// What a caller has shown of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// Nothing was asked for.
    Nothing,
    /// A certificate, which a browser shows for any page.
    Certificate,
    /// A token, which only who knows it can send.
    Token,
}

/// Says why a request is refused; `authority` stands in for `Host` in HTTP/2. `names` are the names, besides addresses and
/// `localhost`, under which the port is asked.
pub(super) fn refusal(
    method: &Method,
    headers: &HeaderMap,
    authority: Option<&str>,
    names: &[String],
    shown: Shown,
) -> Option<&'static str> {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    if shown == Shown::Token && reads {
        return None;
    }
    let host = match one(headers, HOST.as_str()) {
        Ok(host) => host.or(authority),
        Err(()) => return Some("the header `Host` is not readable"),
    };
    if shown == Shown::Nothing && host.is_some_and(|host| !is_own(host, names)) {
        return Some(
            "this name is not one of the admin port: ask it by its address or `localhost`, or add the name to `admin.hosts`",
        );
    }
    match one(headers, ORIGIN.as_str()) {
        Ok(None) => {}
        Ok(Some(origin)) if host.is_some_and(|host| is_origin_of(origin, host)) => {}
        Ok(Some(_)) | Err(()) => return Some("a page of another origin may not use the admin port"),
    }
    if !matches!(one(headers, "sec-fetch-site"), Ok(None | Some("same-origin" | "none"))) {
        return Some("a page of another site may not use the admin port");
    }
    if !reads && shown != Shown::Token && is_form(headers) {
        return Some("a form may not use the admin port: send the request without a body and without `content-type`");
    }
    None
}

/// Whether a page of a stranger cannot have this host in its address.
fn is_own(host: &str, names: &[String]) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
    let is_address = name.parse::<IpAddr>().is_ok();
    !authority.as_str().contains('@')
        && (is_address
            || name.eq_ignore_ascii_case("localhost")
            || names.iter().any(|known| known.eq_ignore_ascii_case(name)))
}

fn is_origin_of(origin: &str, host: &str) -> bool {
    let (scheme, at) = origin.split_once("://").unwrap_or_default();
    let default = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return false,
    };
    let [at, host] = [at, host].map(|text| text.strip_suffix(default).unwrap_or(text));
    at.eq_ignore_ascii_case(host)
}

/// Whether a page can have sent it without asking: these are the only types that a form or a simple request has.
fn is_form(headers: &HeaderMap) -> bool {
    let simple = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"];
    headers.get_all(CONTENT_TYPE).iter().any(|value| {
        let kind = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
        simple.iter().any(|simple| kind.eq_ignore_ascii_case(simple))
    })
}

/// The only value of a header; an error when there are several, or it is no text.
fn one<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, ()> {
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

    fn is_refused(method: &Method, lines: &[(&str, &str)], shown: Shown) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        refusal(method, &headers, None, &["ops.example.com".to_owned()], shown).is_some()
    }

    #[test]
    fn names_of_strangers_are_refused_and_addresses_are_not() {
        for (host, refused) in [
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
            let of = |shown| is_refused(&Method::GET, &[("host", host)], shown);
            assert_eq!(of(Shown::Nothing), refused, "{host}");
            assert!(!of(Shown::Token), "{host}");
        }
        let twice = [("host", "127.0.0.1"), ("host", "evil.example")];
        assert!(is_refused(&Method::GET, &twice, Shown::Nothing));
        assert!(!is_refused(&Method::GET, &[], Shown::Nothing), "HTTP/1.0");
    }

    #[test]
    fn pages_of_other_origins_are_refused_whatever_they_send() {
        let host = ("host", "127.0.0.1:9090");
        for (line, refused) in [
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
            for (method, shown) in [
                (Method::GET, Shown::Nothing),
                (Method::POST, Shown::Nothing),
                (Method::POST, Shown::Certificate),
                (Method::POST, Shown::Token),
            ] {
                assert_eq!(is_refused(&method, &[host, line], shown), refused, "{line:?} {method} {shown:?}");
            }
            assert!(!is_refused(&Method::GET, &[host, line], Shown::Token), "it is no page that knows the token");
        }
        assert!(!is_refused(&Method::POST, &[("host", "a"), ("origin", "https://a:443")], Shown::Token));
    }

    #[test]
    fn forms_are_refused_where_no_token_is_sent() {
        for (kind, refused) in [
            ("text/plain", true),
            ("Text/Plain; charset=utf-8", true),
            ("application/x-www-form-urlencoded", true),
            ("multipart/form-data; boundary=x", true),
            ("application/json", false),
        ] {
            let of = |shown| is_refused(&Method::POST, &[("content-type", kind)], shown);
            assert_eq!(
                (of(Shown::Nothing), of(Shown::Certificate), of(Shown::Token)),
                (refused, refused, false),
                "{kind}"
            );
        }
    }
}
