//! `sm2-sm3`: SM2 elliptic curve signature (GM/T 0003) with the hash SM3, encoded as `r` and `s` of 32 bytes each.
//!
//! An SM2 signature also covers a user id that both sides agree on. Here it is the key's id, as UnionPay requires (the
//! certificate's serial number in decimal).

use std::sync::Arc;

use sm2::dsa::signature::{Signer as _, Verifier as _};
use sm2::dsa::{Signature, SigningKey, VerifyingKey};

use super::key_file::{KeyFile, Password};
use super::keys::KeyAlgorithm;
use super::{KeyError, Signer, Verifier};
use crate::error::Error;

/// Default user id of SM2 signatures.
pub(crate) const DEFAULT_USER_ID: &str = "1234567812345678";

/// Reads a private key file. `id` is also the user id.
pub(crate) fn signer(id: &str, file: &[u8]) -> Result<Arc<dyn Signer>, KeyError> {
    let file = KeyFile::read(file, Password::NoPlace)?;
    let key = file.private_key()?;
    let secret = key.sm2().ok_or_else(|| other_algorithm("private", key.algorithm()))?;
    let key = SigningKey::new(id, &secret).map_err(|_| KeyError("this `id` is too long for SM2".to_owned()))?;
    Ok(Arc::new(Sm2Signer { id: id.to_owned(), key }))
}

/// Reads a public key or certificate file, for signatures with the default user id.
pub(crate) fn verifier(file: &[u8]) -> Result<Arc<dyn Verifier>, KeyError> {
    let file = KeyFile::read(file, Password::NoPlace)?;
    let key = file.public_key()?;
    let point = key.sm2_point().ok_or_else(|| other_algorithm("public", key.algorithm()))?;
    verifier_for(DEFAULT_USER_ID, point)
}

fn other_algorithm(which: &str, found: KeyAlgorithm) -> KeyError {
    KeyError(format!("an SM2 {which} key is required, but this key is of another algorithm: {found}"))
}

/// Creates a verifier for signatures with this user id, from a curve point in SEC1 encoding.
pub(crate) fn verifier_for(user_id: &str, point: &[u8]) -> Result<Arc<dyn Verifier>, KeyError> {
    let key = VerifyingKey::from_sec1_bytes(user_id, point)
        .map_err(|_| KeyError("the SM2 public key is damaged: it is not a point of the curve".to_owned()))?;
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

    /// The nonce is derived from key and message (RFC 6979), so that bad randomness cannot reveal the key.
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
