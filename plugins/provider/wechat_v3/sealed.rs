//! What WeChat Pay encrypts with the merchant's APIv3 key.

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

/// Encrypted bytes as they stand in notifications and in the list of certificates.
#[derive(Deserialize)]
pub(super) struct Sealed {
    algorithm: String,
    nonce: String,
    /// May be empty or missing, which is the same.
    #[serde(default)]
    associated_data: Option<String>,
    ciphertext: String,
}

impl Sealed {
    /// The plain bytes, which only who has the key can have written; or what is wrong.
    pub(super) fn open(&self, key: &Aes256Gcm) -> Result<Vec<u8>, &'static str> {
        if self.algorithm != "AEAD_AES_256_GCM" {
            return Err("it is encrypted with an unknown algorithm");
        }
        let nonce = Nonce::try_from(self.nonce.as_bytes()).map_err(|_| "its nonce has not 12 bytes")?;
        let ciphertext = STANDARD.decode(&self.ciphertext).map_err(|_| "its ciphertext is no base64")?;
        let aad = self.associated_data.as_deref().unwrap_or_default().as_bytes();
        key.decrypt(&nonce, Payload { msg: &ciphertext, aad }).map_err(|_| "it is not encrypted with our APIv3 key")
    }
}
