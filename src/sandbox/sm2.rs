//! The sandbox's own use of SM2, in UnionPay's way: the user id is the certificate's number.

use std::io;
use std::path::Path;

use sm2::dsa::signature::{Signer, Verifier};
use sm2::dsa::{Signature, VerifyingKey};
use sm2::pkcs8::{DecodePrivateKey, DecodePublicKey};
use sm2::{PublicKey, SecretKey};

/// A private key of the platform.
pub(super) struct SigningKey(sm2::dsa::SigningKey);

impl SigningKey {
    /// Reads PKCS#8 PEM; `number` is that of the key's certificate.
    pub(super) fn read(number: &str, path: &Path) -> io::Result<Self> {
        let about = |error: String| io::Error::other(format!("{}: {error}", path.display()));
        let key =
            SecretKey::from_pkcs8_pem(&std::fs::read_to_string(path)?).map_err(|error| about(error.to_string()))?;
        sm2::dsa::SigningKey::new(number, &key).map(Self).map_err(|error| about(error.to_string()))
    }

    /// `r` and `s` of 32 bytes each.
    pub(super) fn sign(&self, text: &[u8]) -> Option<Vec<u8>> {
        let signature: Signature = self.0.try_sign(text).ok()?;
        Some(signature.to_bytes().to_vec())
    }
}

/// Whether the owner of the certificate with this number and public key (SPKI) signed the text.
pub(super) fn verifies(number: &str, public_key: &[u8], text: &[u8], signature: &[u8]) -> bool {
    let key = PublicKey::from_public_key_der(public_key).ok();
    let key = key.and_then(|key| VerifyingKey::new(number, key).ok());
    let signature = Signature::from_slice(signature).ok();
    key.zip(signature).is_some_and(|(key, signature)| key.verify(text, &signature).is_ok())
}

/// Whether a public key (SPKI) is one of this curve.
pub(super) fn is_one(public_key: &[u8]) -> bool {
    PublicKey::from_public_key_der(public_key).is_ok()
}
