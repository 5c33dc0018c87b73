//! `sm2-sm3`: the Chinese standard's elliptic curve signature (GM/T 0003) with its hash SM3, as `r` and `s` of 32 bytes.
//!
//! A signature covers a user id too, on which both sides agree beforehand. Here it is the key's id, as UnionPay wants it
//! (the certificate's serial number in decimal digits).

use std::sync::Arc;

use sm2::dsa::signature::{Signer as _, Verifier as _};
use sm2::dsa::{Signature, SigningKey, VerifyingKey};

use super::key_file::{KeyAlgorithm, KeyFile, Password};
use super::{KeyError, Signer, Verifier};
use crate::error::Error;

/// The user id where nobody agreed on another.
pub(crate) const DEFAULT_USER_ID: &str = "1234567812345678";

/// Reads a private key file; the id is the user id too.
pub(crate) fn signer(id: &str, file: &[u8]) -> Result<Arc<dyn Signer>, KeyError> {
    let file = KeyFile::read(file, Password::NoPlace)?;
    let key = file.private_key()?;
    let secret = key.sm2().ok_or_else(|| other_algorithm("private", key.algorithm()))?;
    let key = SigningKey::new(id, &secret).map_err(|_| KeyError("this `id` is too long for SM2".to_owned()))?;
    Ok(Arc::new(Sm2Signer { id: id.to_owned(), key }))
}

/// Reads a public key or certificate file; for signatures with the default user id.
pub(crate) fn verifier(file: &[u8]) -> Result<Arc<dyn Verifier>, KeyError> {
    let file = KeyFile::read(file, Password::NoPlace)?;
    let key = file.public_key()?;
    let point = key.sm2_point().ok_or_else(|| other_algorithm("public", key.algorithm()))?;
    verifier_for(DEFAULT_USER_ID, point)
}

fn other_algorithm(which: &str, found: KeyAlgorithm) -> KeyError {
    KeyError(format!("an SM2 {which} key belongs here, and this key is of another algorithm: {found}"))
}

/// A verifier of signatures with this user id, by a point of the curve as SEC1 writes it.
pub(crate) fn verifier_for(user_id: &str, point: &[u8]) -> Result<Arc<dyn Verifier>, KeyError> {
    let key = VerifyingKey::from_sec1_bytes(user_id, point)
        .map_err(|_| KeyError("the SM2 public key is damaged: it is no point of the curve".to_owned()))?;
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
