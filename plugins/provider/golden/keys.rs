//! Neutral keys: they belong to the tests and to no provider. A new provider's golden files are signed with them.

use std::path::Path;
use std::sync::Arc;

use crate::signer::{Key, Keyring, Signer, rsa};

/// Id of the merchant's key: a serial number, as certificates have.
pub(in super::super) const MERCHANT_KEY: &str = "1A2B3C";
/// Id of the provider's key.
pub(in super::super) const PROVIDER_KEY: &str = "4D5E6F";
/// Secret of 32 ASCII characters, for HMAC and AES-256.
pub(in super::super) const SECRET: &[u8] = b"0123456789abcdefghijklmnopqrstuv";

/// Returns the merchant's RSA key.
pub(in super::super) fn merchant_signer() -> Arc<dyn Signer> {
    rsa::signer(MERCHANT_KEY, &file("neutral_merchant.pem")).unwrap()
}

/// Returns the provider's RSA key, which signs answers and notifications.
pub(in super::super) fn provider_signer() -> Arc<dyn Signer> {
    rsa::signer(PROVIDER_KEY, &file("neutral_provider.pem")).unwrap()
}

/// Returns the public half of the provider's key.
pub(in super::super) fn keyring() -> Keyring {
    let verifier = rsa::verifier(&file("neutral_provider_public.pem")).unwrap();
    Keyring::new(vec![Key { id: PROVIDER_KEY.to_owned(), verifier, not_after: None }])
}

fn file(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/keys");
    std::fs::read(folder.join(name)).unwrap()
}
