//! `rsa-sha1`: RSASSA-PKCS1-v1_5 with SHA-1, for accounts that were never migrated to SHA-256.
//!
//! `aws-lc-rs` verifies such signatures but does not create them. The crate `rsa` signs, with blinding against timing attacks, and
//! not on a thread that serves requests.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use aws_lc_rs::signature::RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY;
use getrandom::SysRng;
use rsa::pkcs1::DecodeRsaPrivateKey;
use rsa::{Pkcs1v15Sign, PrivateKey};

use super::super::{KeyError, Signer, Verifier};
use super::{damaged_private, private, verifier_with};
use crate::error::Error;

/// Prefix of the digest in a signature: `DigestInfo` of SHA-1 (RFC 8017, section 9.2).
const SHA1_INFO: [u8; 15] = [0x30, 0x21, 0x30, 0x09, 0x06, 0x05, 0x2b, 0x0e, 0x03, 0x02, 0x1a, 0x05, 0x00, 0x04, 0x14];

/// Minimum length of a key in bits. Old accounts still have such short keys; `rsa-sha256` rejects them.
const MIN_BITS: usize = 1024;

/// Reads a private key file.
pub(crate) fn signer(id: &str, file: &[u8]) -> Result<Arc<dyn Signer>, KeyError> {
    let key = PrivateKey::from_pkcs1_der(&private(file, MIN_BITS)?.pkcs1).map_err(|_| damaged_private())?;
    key.validate().map_err(|_| damaged_private())?;
    Ok(Arc::new(Sha1Signer { id: id.to_owned(), key }))
}

/// Reads a public key or certificate file.
pub(crate) fn verifier(file: &[u8]) -> Result<Arc<dyn Verifier>, KeyError> {
    verifier_with(&RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY, file, MIN_BITS)
}

struct Sha1Signer {
    id: String,
    key: PrivateKey,
}

impl Signer for Sha1Signer {
    fn key_id(&self) -> &str {
        &self.id
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let scheme = Pkcs1v15Sign { hash_len: Some(20), prefix: SHA1_INFO.into() };
        let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, message);
        self.key
            .sign_with_rng(&mut SysRng, scheme, hash.as_ref())
            .map_err(|_| Error::NotSent("the RSA signature could not be made".to_owned()))
    }

    fn is_slow(&self) -> bool {
        true
    }
}
