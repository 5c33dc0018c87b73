//! A merchant's API key: signs and sends requests to a gateway.

use std::borrow::Cow;
use std::net::SocketAddr;

use jiff::Timestamp;
use rand::RngExt;
use rand::distr::Alphanumeric;
use sha2::{Digest, Sha256};
use tollgate_merchant::{Credentials, Headers, merchant_secret, plain};

use crate::http_client::{HttpResponse, send};

/// An API key of a merchant.
#[derive(Clone, Debug)]
pub struct MerchantKey {
    /// Id of the key, as in the merchant's file.
    pub id: Cow<'static, str>,
    /// Secret of the key.
    pub secret: Cow<'static, str>,
}

impl MerchantKey {
    /// Returns a key with a known secret.
    pub const fn fixed(id: &'static str, secret: &'static str) -> Self {
        Self { id: Cow::Borrowed(id), secret: Cow::Borrowed(secret) }
    }

    /// Returns a key with a new secret.
    pub fn generate(id: &'static str) -> Self {
        Self { id: Cow::Borrowed(id), secret: Cow::Owned(merchant_secret()) }
    }

    /// Signs a request now, with a new nonce. Returns the headers.
    pub fn sign(&self, method: &str, target: &str, body: &[u8]) -> Headers {
        let nonce = new_nonce();
        plain(&self.credentials(unix_now(), &nonce), method, target, body)
    }

    /// Returns the inputs of a signature at another time or with a known nonce.
    pub fn credentials<'a>(&'a self, created: u64, nonce: &'a str) -> Credentials<'a> {
        Credentials { key_id: &self.id, secret: self.secret.as_bytes(), created, nonce }
    }

    /// Signs and sends a request with these additional headers.
    pub async fn send(
        &self,
        to: SocketAddr,
        method: &str,
        target: &str,
        more_headers: &[(&'static str, &str)],
        body: &[u8],
    ) -> Result<HttpResponse, String> {
        let mut headers = self.sign(method, target, body);
        headers.extend(more_headers.iter().map(|(name, value)| (*name, (*value).to_owned())));
        send(method, &format!("http://{to}{target}"), &headers, body).await
    }
}

/// Returns this machine's time in Unix seconds.
pub fn unix_now() -> u64 {
    u64::try_from(Timestamp::now().as_second()).unwrap_or(0)
}

/// Returns a new nonce of 32 letters and digits.
pub fn new_nonce() -> String {
    rand::rng().sample_iter(Alphanumeric).take(32).map(char::from).collect()
}

/// Returns the number under which a provider knows an order (merchant, order) or a refund (merchant, order, refund).
///
/// It is written here a second time, from the documentation: the first 32 hexadecimal digits of SHA-256 over the parts, each
/// followed by a zero byte.
pub fn provider_number(parts: &[&str]) -> String {
    let text: String = parts.iter().flat_map(|part| [part, "\0"]).collect();
    hex::encode(&Sha256::digest(text)[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected value was computed with `printf 'shop\0order-1\0' | sha256sum`.
    #[test]
    fn provider_number_equals_sha256sum_and_separates_its_parts() {
        assert_eq!(provider_number(&["shop", "order-1"]), "78632b96ea24626beb0cb6b581204b4d");
        assert_ne!(provider_number(&["ab", "c"]), provider_number(&["a", "bc"]));
    }
}
