#![allow(clippy::unwrap_used)]

use std::path::Path;

use http::{HeaderName, HeaderValue};
use tollgate_merchant::{Credentials, Headers, plain, rfc9421};
use tollgate_plugins::secret::Secret;

use super::*;

const NOW: u64 = 1_700_000_000;
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const BODY: &[u8] = br#"{"order_id":"o-1"}"#;
const TARGET: &str = "/v1/payments?x=1";

type Sign = fn(&Credentials<'_>, &str, &str, &[u8]) -> Headers;
const SCHEMES: [Sign; 2] = [plain, rfc9421];

fn snapshot() -> Snapshot {
    let keys = vec![("shop-1".to_owned(), Secret::new(SECRET)), ("shop-2".to_owned(), Secret::new("another secret"))];
    let config = tollgate_config::testing::with_merchant("shop", keys);
    crate::snapshot::link(Path::new(""), config, None).unwrap_or_else(|diagnostics| panic!("{diagnostics:?}"))
}

fn map(headers: &Headers) -> HeaderMap {
    let pair =
        |(name, value): &(&'static str, String)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    headers.iter().map(pair).collect()
}

fn check(
    access: &Access,
    headers: &HeaderMap,
    method: &str,
    target: &str,
    body: &[u8],
    now: u64,
) -> Result<(), Denied> {
    let head = Head { method, scheme: "https", authority: "pay.example.com", path_and_query: target, headers };
    let snapshot = snapshot();
    let signed = access.authenticate(&snapshot, &head, body, now)?;
    assert_eq!(signed.merchant.name, "shop");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(access.admit(&snapshot, &signed, now, || Ok(())))
}

fn with(nonce: &str) -> Credentials<'_> {
    Credentials { key_id: "shop-1", secret: SECRET, created: NOW, nonce }
}

#[test]
fn valid_signature_is_accepted_once() {
    for sign in SCHEMES {
        let access = Access::new(None);
        let headers = map(&sign(&with("n-1"), "POST", TARGET, BODY));
        assert_eq!(check(&access, &headers, "POST", TARGET, BODY, NOW + 299), Ok(()));
        assert_eq!(check(&access, &headers, "POST", TARGET, BODY, NOW + 299), Err(Denied::NonceSeen));
        let without_body = map(&sign(&with("n-2"), "GET", "/v1/payments/o-1", b""));
        assert_eq!(check(&access, &without_body, "GET", "/v1/payments/o-1", b"", NOW), Ok(()));
    }
}

#[test]
fn every_key_of_a_merchant_is_accepted_during_rotation() {
    let access = Access::new(None);
    let second = Credentials { key_id: "shop-2", secret: b"another secret", created: NOW, nonce: "n" };
    assert_eq!(check(&access, &map(&plain(&second, "GET", "/", b"")), "GET", "/", b"", NOW), Ok(()));
}

#[test]
fn altered_request_is_rejected_and_its_nonce_stays_unused() {
    for sign in SCHEMES {
        let access = Access::new(None);
        let headers = map(&sign(&with("n"), "POST", TARGET, BODY));
        let denied = |method, target, body| check(&access, &headers, method, target, body, NOW).unwrap_err();
        denied("PUT", TARGET, BODY);
        denied("POST", "/v1/payments?x=2", BODY);
        denied("POST", "/v1/payments", BODY);
        denied("POST", "/v1/payment?x=1", BODY);
        denied("POST", TARGET, br#"{"order_id":"o-2"}"#);
        denied("POST", TARGET, b"");
        let mut other_nonce = headers.clone();
        for name in ["x-tollgate-nonce", "x-tollgate-timestamp", "signature-input"] {
            if let Some(value) = headers.get(name) {
                let text = value.to_str().unwrap().replace("\"n\"", "\"m\"").replace("1700000000", "1700000001");
                other_nonce.insert(name, HeaderValue::from_str(if text == "n" { "m" } else { &text }).unwrap());
            }
        }
        assert_eq!(check(&access, &other_nonce, "POST", TARGET, BODY, NOW), Err(Denied::WrongSignature));
        assert_eq!(check(&access, &headers, "POST", TARGET, BODY, NOW), Ok(()), "the nonce is still unused");
    }
}

#[test]
fn expired_unknown_key_and_unsigned_requests_are_rejected() {
    for sign in SCHEMES {
        let access = Access::new(None);
        let headers = map(&sign(&with("n"), "GET", "/", b""));
        for now in [NOW - 301, NOW + 301] {
            assert_eq!(check(&access, &headers, "GET", "/", b"", now), Err(Denied::OutsideWindow));
        }
        let unknown = map(&sign(&Credentials { key_id: "nobody", ..with("n") }, "GET", "/", b""));
        assert_eq!(check(&access, &unknown, "GET", "/", b"", NOW), Err(Denied::UnknownKey));
        let wrong = map(&sign(&Credentials { secret: b"wrong", ..with("n") }, "GET", "/", b""));
        assert_eq!(check(&access, &wrong, "GET", "/", b"", NOW), Err(Denied::WrongSignature));
        for name in headers.keys() {
            let mut less = headers.clone();
            less.remove(name);
            assert!(check(&access, &less, "GET", "/", b"", NOW).is_err(), "without {name}");
        }
    }
    assert_eq!(check(&Access::new(None), &HeaderMap::new(), "GET", "/", b"", NOW), Err(Denied::Unsigned));
}

/// The signature base is written out here, so that signing and verification cannot have the same error.
#[test]
fn rfc9421_signature_over_target_uri_and_header_is_accepted() {
    let input =
        r#"("@method" "@target-uri" "content-digest" "idempotency-key");created=1700000000;keyid="shop-1";nonce="n""#;
    // printf '{"order_id":"o-1"}' | openssl dgst -sha256 -binary | base64
    let digest = {
        use base64::Engine;
        use sha2::Digest;
        format!("sha-256=:{}:", base64::prelude::BASE64_STANDARD.encode(sha2::Sha256::digest(BODY)))
    };
    let base = format!(
        "\"@method\": POST\n\"@target-uri\": https://pay.example.com/v1/payments?x=1\n\"content-digest\": {digest}\n\"idempotency-key\": k-1\n\"@signature-params\": {input}"
    );
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), base.as_bytes());
    let signature = {
        use base64::Engine;
        base64::prelude::BASE64_STANDARD.encode(tag)
    };
    let headers = vec![
        ("content-digest", digest),
        ("idempotency-key", " k-1 ".trim().to_owned()),
        ("signature-input", format!("tollgate={input}")),
        ("signature", format!("tollgate=:{signature}:")),
    ];
    assert_eq!(check(&Access::new(None), &map(&headers), "POST", TARGET, BODY, NOW), Ok(()));
    let mut proxied = headers.clone();
    proxied[2].1 = format!("proxy=(\"@method\");keyid=\"edge\";created=1, {}", headers[2].1);
    proxied[3].1 = format!("proxy=:AAAA:, {}", headers[3].1);
    assert_eq!(
        check(&Access::new(None), &map(&proxied), "POST", TARGET, BODY, NOW),
        Ok(()),
        "a proxy's own comes first"
    );
    let mut other = map(&headers);
    other.insert("idempotency-key", HeaderValue::from_static("k-2"));
    assert_eq!(check(&Access::new(None), &other, "POST", TARGET, BODY, NOW), Err(Denied::WrongSignature));
}

#[test]
fn signature_covering_too_few_components_is_rejected() {
    for components in [
        r#"("@method" "@path")"#,
        r#"("@path" "@query")"#,
        r#"("@method" "@target-uri")"#,
        r#"("@method" "@target-uri" "content-digest";req)"#,
        r#"("@method" "@target-uri" "@status" "content-digest")"#,
        r#"("@method" "@method" "@target-uri" "content-digest")"#,
    ] {
        let input = format!("s={components};created={NOW};keyid=\"shop-1\";nonce=\"n\"");
        use sha2::Digest;
        let digest = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, sha2::Sha256::digest(BODY));
        let headers = vec![
            ("signature-input", input),
            ("signature", "s=:AAAA:".to_owned()),
            ("content-digest", format!("sha-256=:{digest}:")),
        ];
        let denied = check(&Access::new(None), &map(&headers), "POST", TARGET, BODY, NOW);
        assert!(matches!(denied, Err(Denied::Malformed(_))), "{components}: {denied:?}");
    }
}

#[test]
fn message_is_accepted_by_its_own_source_merchant_and_age_alone() {
    use crate::access::message::{MessageOrigin, authenticate};
    let origin = MessageOrigin { merchant: "shop", source: "orders-in", max_age: std::time::Duration::from_hours(1) };
    let nonce = "queue:orders-in:1";
    for sign in SCHEMES {
        let of = |origin: MessageOrigin<'_>, nonce: &str, body: &[u8], now: u64| {
            let headers = map(&sign(&with(nonce), "POST", TARGET, BODY));
            let (scheme, authority) = ("https", "pay.example.com");
            let head = Head { method: "POST", scheme, authority, path_and_query: TARGET, headers: &headers };
            authenticate(&snapshot(), origin, &head, body, now).map(|merchant| merchant.name.clone())
        };
        for now in [NOW - 300, NOW, NOW + 3600] {
            assert_eq!(of(origin, nonce, BODY, now), Ok("shop".to_owned()), "{now}");
        }
        assert_eq!(of(origin, nonce, BODY, NOW + 3601), Err(Denied::TooOld));
        assert_eq!(of(origin, nonce, BODY, NOW - 301), Err(Denied::InFuture));
        for (now, expected) in [(NOW + 300, Ok("shop".to_owned())), (NOW + 301, Err(Denied::TooOld))] {
            assert_eq!(of(origin, "n", BODY, now), expected, "as over HTTP");
        }
        for other in ["queue:orders-in:", "queue:orders-in", "queue:orders:1", "queue:orders-in2:1", "queue:"] {
            assert_eq!(of(origin, other, BODY, NOW), Err(Denied::OtherDestination), "{other}");
        }
        assert_eq!(of(MessageOrigin { merchant: "other", ..origin }, nonce, BODY, NOW), Err(Denied::OtherMerchant));
        let forged = of(origin, nonce, b"{}", NOW + 9999);
        assert!(matches!(forged, Err(Denied::WrongSignature | Denied::WrongDigest)), "before its age: {forged:?}");
        let over_http =
            check(&Access::new(None), &map(&sign(&with(nonce), "POST", TARGET, BODY)), "POST", TARGET, BODY, NOW);
        assert_eq!(over_http, Err(Denied::OtherDestination));
    }
}
