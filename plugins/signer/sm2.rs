//! `sm2-sm3`: the Chinese standard's elliptic curve signature (GM/T 0003) with its hash SM3, as `r` and `s` of 32 bytes.
//!
//! A signature covers a user id too, on which both sides agree beforehand. Here it is the key's id, as UnionPay wants it
//! (the certificate's serial number in decimal digits).

use std::sync::Arc;

use sm2::dsa::signature::{Signer as _, Verifier as _};
use sm2::dsa::{Signature, SigningKey, VerifyingKey};
use sm2::pkcs8::DecodePrivateKey;
use sm2::pkcs8::DecodePublicKey;
use sm2::{PublicKey, SecretKey};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::pem::private_part;
use super::{KeyError, Signer, Verifier};
use crate::error::Error;

/// The user id where nobody agreed on another.
pub(crate) const DEFAULT_USER_ID: &str = "1234567812345678";

const PRIVATE_FORMATS: &str =
    "expected an SM2 private key: PKCS#8 PEM (`BEGIN PRIVATE KEY`) or SEC1 PEM (`BEGIN EC PRIVATE KEY`), not encrypted";
const PUBLIC_FORMATS: &str = "expected an SM2 public key: PEM (`BEGIN PUBLIC KEY`) or an X.509 certificate";

/// Reads a private key file; the id is the user id too.
pub(crate) fn signer(id: &str, file: &[u8]) -> Result<Arc<dyn Signer>, KeyError> {
    let refused = || KeyError(PRIVATE_FORMATS.to_owned());
    let text = std::str::from_utf8(private_part(file)).map_err(|_| refused())?;
    let key = match text.contains("BEGIN EC PRIVATE KEY") {
        true => SecretKey::from_sec1_pem(text).map_err(|_| refused())?,
        false => SecretKey::from_pkcs8_pem(text).map_err(|_| refused())?,
    };
    let key = SigningKey::new(id, &key).map_err(|_| refused())?;
    Ok(Arc::new(Sm2Signer { id: id.to_owned(), key }))
}

/// Reads a public key or certificate file; for signatures with the default user id.
pub(crate) fn verifier(file: &[u8]) -> Result<Arc<dyn Verifier>, KeyError> {
    let refused = || KeyError(PUBLIC_FORMATS.to_owned());
    let point = match x509_parser::pem::parse_x509_pem(file) {
        Ok((_, block)) if block.label == "CERTIFICATE" => {
            let (_, certificate) = X509Certificate::from_der(&block.contents).map_err(|_| refused())?;
            certificate.public_key().subject_public_key.data.to_vec()
        }
        _ => {
            let text = std::str::from_utf8(file).map_err(|_| refused())?;
            PublicKey::from_public_key_pem(text.trim()).map_err(|_| refused())?.to_sec1_bytes().to_vec()
        }
    };
    verifier_for(DEFAULT_USER_ID, &point)
}

/// A verifier of signatures with this user id, by a point of the curve as SEC1 writes it.
pub(crate) fn verifier_for(user_id: &str, point: &[u8]) -> Result<Arc<dyn Verifier>, KeyError> {
    let key = VerifyingKey::from_sec1_bytes(user_id, point).map_err(|_| KeyError(PUBLIC_FORMATS.to_owned()))?;
    Ok(Arc::new(Sm2Verifier(key)))
}

struct Sm2Signer {
    id: String,
    key: SigningKey,
}

impl Signer for Sm2Signer {
    fn key_id(&self) -> &str {
        &self.id
    }

    /// The nonce comes from key and message (RFC 6979), so that bad randomness cannot give the key away.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let signature = self.key.try_sign(message);
        let signature = signature.map_err(|_| Error::NotSent("the SM2 signature could not be made".to_owned()))?;
        Ok(signature.to_bytes().to_vec())
    }

    fn is_slow(&self) -> bool {
        false
    }
}

struct Sm2Verifier(VerifyingKey);

impl Verifier for Sm2Verifier {
    fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        Signature::from_slice(signature).is_ok_and(|signature| self.0.verify(message, &signature).is_ok())
    }
}

#[cfg(test)]
mod tests;
