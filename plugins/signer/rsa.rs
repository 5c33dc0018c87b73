//! `rsa-sha256`: RSASSA-PKCS1-v1_5 with SHA-256, keys of 2048 to 4096 bits.
//!
//! A key file is parsed once, when it is loaded: text → DER → PKCS#1, by [`super::key_file`]. `aws-lc-rs` then signs and
//! verifies, because it is several times faster than the crate `rsa` and its private key operations take constant time.

pub(crate) mod sha1;

use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::{ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaParameters};
use rsa::pkcs1::RsaPrivateKeyRef;
use zeroize::Zeroizing;

use super::key_file::{KeyFile, Password};
use super::keys::{self, KeyAlgorithm};
use super::{KeyError, Signer, Verifier};
use crate::error::Error;

const MIN_BITS: usize = 2048;
const MAX_BITS: usize = 4096;

/// Reads a private key file.
pub(crate) fn signer(id: &str, file: &[u8]) -> Result<Arc<dyn Signer>, KeyError> {
    let Private { pkcs1, bits } = private(file, MIN_BITS)?;
    let pair = KeyPair::from_der(&pkcs1).map_err(|_| damaged_private())?;
    Ok(Arc::new(RsaSigner { id: id.to_owned(), pair, slow: bits > MIN_BITS }))
}

/// Private key of an accepted size.
struct Private {
    pkcs1: Zeroizing<Vec<u8>>,
    bits: usize,
}

fn private(file: &[u8], min_bits: usize) -> Result<Private, KeyError> {
    let file = KeyFile::read(file, Password::Unsupported)?;
    let key = file.private_key()?;
    let pkcs1 = key.rsa_pkcs1().ok_or_else(|| other_algorithm("private", key.algorithm()))?;
    let parsed = RsaPrivateKeyRef::try_from(pkcs1).map_err(|_| damaged_private())?;
    let bits = checked_bits(keys::rsa_bits(parsed.modulus.as_bytes()), min_bits)?;
    Ok(Private { pkcs1: Zeroizing::new(pkcs1.to_vec()), bits })
}

/// Reads a public key or certificate file.
pub(crate) fn verifier(file: &[u8]) -> Result<Arc<dyn Verifier>, KeyError> {
    verifier_with(&RSA_PKCS1_2048_8192_SHA256, file, MIN_BITS)
}

fn verifier_with(hash: &'static RsaParameters, file: &[u8], min_bits: usize) -> Result<Arc<dyn Verifier>, KeyError> {
    let file = KeyFile::read(file, Password::Unsupported)?;
    let key = file.public_key()?;
    let (Some(pkcs1), Some(bits)) = (key.rsa_pkcs1(), key.rsa_bits()) else {
        return Err(other_algorithm("public", key.algorithm()));
    };
    checked_bits(bits, min_bits)?;
    let key = ParsedPublicKey::new(hash, pkcs1)
        .map_err(|_| KeyError("the RSA public key is damaged: its numbers are invalid".to_owned()))?;
    Ok(Arc::new(RsaVerifier(key)))
}

struct RsaSigner {
    id: String,
    pair: KeyPair,
    slow: bool,
}

impl Signer for RsaSigner {
    fn key_id(&self) -> &str {
        &self.id
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature)
            .map_err(|_| Error::NotSent("the RSA signature could not be made".to_owned()))?;
        Ok(signature)
    }

    fn is_slow(&self) -> bool {
        self.slow
    }
}

struct RsaVerifier(ParsedPublicKey);

impl Verifier for RsaVerifier {
    fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        self.0.verify_sig(message, signature).is_ok()
    }
}

fn checked_bits(bits: usize, min_bits: usize) -> Result<usize, KeyError> {
    match bits {
        bits if (min_bits..=MAX_BITS).contains(&bits) => Ok(bits),
        bits => Err(KeyError(format!("the RSA key has {bits} bits; from {min_bits} to {MAX_BITS} are taken"))),
    }
}

fn damaged_private() -> KeyError {
    KeyError("the RSA private key is damaged: its numbers do not match".to_owned())
}

fn other_algorithm(which: &str, found: KeyAlgorithm) -> KeyError {
    KeyError(format!("an RSA {which} key is required, but this key is of another algorithm: {found}"))
}

#[cfg(test)]
mod tests;
