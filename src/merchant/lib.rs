//! A merchant's side of the API: secrets and request signatures.
//!
//! - [`merchant_secret`], [`webhook_secret`]: new secrets for a merchant's file;
//! - [`plain`], [`rfc9421`]: headers that sign a request, in the two schemes.
//!
//! The crate imports no part of the gateway. Both schemes are written here a second time, from their documentation, so that a
//! mistake in the gateway's verification is not repeated in its signer. Time and nonce are arguments.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};

/// Returns a new secret for a merchant's request signatures: 32 random bytes in base64url.
pub fn merchant_secret() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
}

/// Returns a new webhook secret in the format of Standard Webhooks: `whsec_` and 32 random bytes in base64.
pub fn webhook_secret() -> String {
    format!("whsec_{}", STANDARD.encode(rand::random::<[u8; 32]>()))
}

/// The inputs of a signature besides the request.
pub struct Credentials<'a> {
    /// Id of the key.
    pub key_id: &'a str,
    /// Secret of the key.
    pub secret: &'a [u8],
    /// Time of the signature in Unix seconds.
    pub created: u64,
    /// Nonce, used once.
    pub nonce: &'a str,
}

/// Header names and values.
pub type Headers = Vec<(&'static str, String)>;

/// Signs with the x-tollgate-* scheme.
pub fn plain(credentials: &Credentials<'_>, method: &str, path_and_query: &str, body: &[u8]) -> Headers {
    let hmac_tag = hmac_tag(credentials.secret, plain_text(credentials, method, path_and_query, body).as_bytes());
    vec![
        ("x-tollgate-key", credentials.key_id.to_owned()),
        ("x-tollgate-timestamp", credentials.created.to_string()),
        ("x-tollgate-nonce", credentials.nonce.to_owned()),
        ("x-tollgate-signature", hex::encode(hmac_tag.as_ref())),
    ]
}

/// Signs with RFC 9421 over `@method`, `@path`, `@query` and, if there is a body, `content-digest`.
pub fn rfc9421(credentials: &Credentials<'_>, method: &str, path_and_query: &str, body: &[u8]) -> Headers {
    let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
    let mut base = format!("\"@method\": {method}\n\"@path\": {path}\n\"@query\": ?{query}\n");
    let mut covered = r#""@method" "@path" "@query""#.to_owned();
    let mut headers = Headers::new();
    if !body.is_empty() {
        let digest = format!("sha-256=:{}:", STANDARD.encode(Sha256::digest(body)));
        base.push_str(&format!("\"content-digest\": {digest}\n"));
        covered.push_str(r#" "content-digest""#);
        headers.push(("content-digest", digest));
    }
    let parameters = format!(
        "({covered});created={};nonce=\"{}\";keyid=\"{}\";alg=\"hmac-sha256\"",
        credentials.created, credentials.nonce, credentials.key_id
    );
    base.push_str(&format!("\"@signature-params\": {parameters}"));
    headers.push(("signature-input", format!("sig1={parameters}")));
    headers.push(("signature", format!("sig1=:{}:", STANDARD.encode(hmac_tag(credentials.secret, base.as_bytes())))));
    headers
}

/// Returns the text that the x-tollgate-* scheme signs.
fn plain_text(credentials: &Credentials<'_>, method: &str, path_and_query: &str, body: &[u8]) -> String {
    let Credentials { created, nonce, .. } = credentials;
    format!("{method}\n{path_and_query}\n{created}\n{nonce}\n{}", hex::encode(Sha256::digest(body)))
}

fn hmac_tag(secret: &[u8], message: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn secrets_have_the_documented_format_and_are_unique() {
        assert_eq!(URL_SAFE_NO_PAD.decode(merchant_secret()).unwrap().len(), 32);
        let webhook = webhook_secret();
        assert_eq!(STANDARD.decode(webhook.strip_prefix("whsec_").unwrap()).unwrap().len(), 32);
        assert_ne!(merchant_secret(), merchant_secret());
    }

    /// The expected value was computed with sha256sum and `openssl dgst -sha256 -hmac`.
    #[test]
    fn plain_signature_equals_openssl() {
        let credentials =
            Credentials { key_id: "shop-1", secret: b"0123456789abcdef", created: 1_700_000_000, nonce: "n-1" };
        let headers = plain(&credentials, "POST", "/v1/payments?x=1", b"{}");
        assert_eq!(headers[3].1, "917807017e07f3b121d1f803aa04870cd3729dbd49280a22a7e3ede6d90bf1ec");
    }
}
