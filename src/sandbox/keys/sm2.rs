//! The sandbox's own SM2 code. Signatures have 64 bytes and cover a user id that both sides know.

use std::io;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use sm2::SecretKey;
use sm2::dsa::signature::{Signer, Verifier};
use sm2::dsa::{Signature, VerifyingKey};
use sm2::pkcs8::{DecodePrivateKey, DecodePublicKey};

use super::{Certificate, about};

/// Private key of the provider.
pub(crate) struct SigningKey(sm2::dsa::SigningKey);

impl SigningKey {
    /// Reads a PKCS#8 PEM file.
    pub(crate) fn read(user_id: &str, path: &Path) -> io::Result<Self> {
        let der = PrivatePkcs8KeyDer::from_pem_file(path).map_err(|error| about(path, error))?;
        let key = SecretKey::from_pkcs8_der(der.secret_pkcs8_der()).map_err(|error| about(path, error))?;
        Ok(Self(sm2::dsa::SigningKey::new(user_id, &key).map_err(|error| about(path, error))?))
    }

    /// Returns the signature in base64.
    pub(crate) fn sign(&self, text: &[u8]) -> Option<String> {
        Some(STANDARD.encode(self.0.try_sign(text).ok()?.to_bytes()))
    }
}

/// Public key of a merchant.
pub(crate) struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Returns the key of a certificate, or `None` if it is not an SM2 key. The user id is the certificate's serial
    /// number.
    pub(crate) fn of(certificate: &Certificate) -> Option<Self> {
        let key = sm2::PublicKey::from_public_key_der(&certificate.public_key).ok()?;
        VerifyingKey::new(&certificate.number, key).ok().map(Self)
    }

    /// Returns whether the signature of the text is valid.
    pub(crate) fn verifies(&self, text: &[u8], signature: &[u8]) -> bool {
        Signature::from_slice(signature).is_ok_and(|signature| self.0.verify(text, &signature).is_ok())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    // The values come from UnionPay's SDK, which makes this test independent of the sandbox's own code.
    #[test]
    fn sm2_signature_of_unionpays_sdk_is_verified_with_its_user_id() {
        let point = "04185c07a63d5aad45d16b6fff590ad70e0e9a8d69d59a18cb57741144a1b07b13f9a3bc0c8b56cf6a919b84ed5687a2c11f\
                     d46ebbf98f3f06543f5cd7ac581123";
        let signature = "a97012e707ed448efe8a4d65746c52777f43e495fe0206fc628968596240a113060b11cc9e58c38e73fe92682517376a\
                         08f5ae1312e63b8d252fc6453e2e8955";
        let signature = hex::decode(signature).unwrap();
        let key = |user_id| PublicKey(VerifyingKey::from_sec1_bytes(user_id, &hex::decode(point).unwrap()).unwrap());
        assert!(key("12345").verifies(b"abc", &signature));
        assert!(!key("12345").verifies(b"abd", &signature));
        assert!(!key("12346").verifies(b"abc", &signature), "the user id is covered");
        assert!(!key("12345").verifies(b"abc", &signature[1..]));
    }
}
