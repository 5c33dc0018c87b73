//! Decryption of content that the provider encrypted with the merchant's APIv3 key.

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

/// Encrypted content, as in notifications and in the list of certificates.
#[derive(Deserialize)]
pub(in super::super) struct Sealed {
    algorithm: String,
    nonce: String,
    /// Empty and missing are equivalent.
    #[serde(default)]
    associated_data: Option<String>,
    ciphertext: String,
}

impl Sealed {
    /// Returns the plain bytes, which only an owner of the key can have encrypted. Returns a description of the error
    /// otherwise.
    pub(in super::super) fn open(&self, key: &Aes256Gcm) -> Result<Vec<u8>, &'static str> {
        if self.algorithm != "AEAD_AES_256_GCM" {
            return Err("unknown encryption algorithm");
        }
        let nonce = Nonce::try_from(self.nonce.as_bytes()).map_err(|_| "the nonce does not have 12 bytes")?;
        let ciphertext = STANDARD.decode(&self.ciphertext).map_err(|_| "the ciphertext is not base64")?;
        let aad = self.associated_data.as_deref().unwrap_or_default().as_bytes();
        key.decrypt(&nonce, Payload { msg: &ciphertext, aad }).map_err(|_| "not encrypted with our APIv3 key")
    }
}
