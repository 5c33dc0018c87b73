//! `rsa-sha256`: RSASSA-PKCS1-v1_5 with SHA-256, keys of 2048 to 4096 bits.
//!
//! A file becomes a key once, when it is loaded: text → DER → PKCS#1, read by the crates `rsa` and `x509-parser`, which
//! know the many formats that payment companies hand out. From then on `aws-lc-rs` signs and verifies, because it is
//! several times faster and its private key operations take constant time.

pub(crate) mod sha1;

use std::fmt::Display;
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::{ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaParameters};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rsa::pkcs1::{ALGORITHM_OID, RsaPrivateKey, RsaPublicKey};
use rsa::pkcs8::{PrivateKeyInfo, SubjectPublicKeyInfoRef};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::pem::private_part;
use super::{KeyError, Signer, Verifier};
use crate::error::Error;

const MIN_BITS: usize = 2048;
const MAX_BITS: usize = 4096;

const PRIVATE_FORMATS: &str = "expected an RSA private key: PKCS#8 PEM (`BEGIN PRIVATE KEY`), PKCS#1 PEM (`BEGIN RSA PRIVATE KEY`), or the base64 of either";
const PUBLIC_FORMATS: &str = "expected an RSA public key: PEM (`BEGIN PUBLIC KEY` or `BEGIN RSA PUBLIC KEY`), an X.509 certificate \
     (`BEGIN CERTIFICATE`), or the base64 of one";

/// Reads a private key file.
pub(crate) fn signer(id: &str, file: &[u8]) -> Result<Arc<dyn Signer>, KeyError> {
    let Private { pkcs1, bits } = private(file)?;
    let pair = KeyPair::from_der(&pkcs1)
        .map_err(|_| KeyError("the RSA private key is damaged: its numbers do not belong together".to_owned()))?;
    Ok(Arc::new(RsaSigner { id: id.to_owned(), pair, slow: bits > MIN_BITS }))
}

/// A private key whose size was checked.
struct Private {
    pkcs1: Zeroizing<Vec<u8>>,
    bits: usize,
}

fn private(file: &[u8]) -> Result<Private, KeyError> {
    let Material { label, der } = material(private_part(file), PRIVATE_FORMATS)?;
    match label {
        Some("ENCRYPTED PRIVATE KEY") => {
            return Err(KeyError(
                "the key is encrypted with a passphrase: decrypt it first (`openssl pkey -in KEY -out PLAIN`)"
                    .to_owned(),
            ));
        }
        Some("CERTIFICATE") => return Err(refused(PRIVATE_FORMATS, "this is a certificate")),
        Some("PUBLIC KEY" | "RSA PUBLIC KEY") => return Err(refused(PRIVATE_FORMATS, "this is a public key")),
        _ => {}
    }
    let pkcs1 = private_pkcs1(&der)?;
    let key = RsaPrivateKey::try_from(pkcs1).map_err(|_| refused(PRIVATE_FORMATS, "this cannot be read as one"))?;
    let bits = checked_bits(key.modulus.as_bytes())?;
    Ok(Private { pkcs1: Zeroizing::new(pkcs1.to_vec()), bits })
}

/// Reads a public key or certificate file.
pub(crate) fn verifier(file: &[u8]) -> Result<Arc<dyn Verifier>, KeyError> {
    verifier_with(&RSA_PKCS1_2048_8192_SHA256, file)
}

fn verifier_with(hash: &'static RsaParameters, file: &[u8]) -> Result<Arc<dyn Verifier>, KeyError> {
    let Material { label, der } = material(file, PUBLIC_FORMATS)?;
    if label.is_some_and(|label| label.ends_with("PRIVATE KEY")) {
        return Err(refused(PUBLIC_FORMATS, "this is a private key, and only its owner may have it"));
    }
    let certificate = X509Certificate::from_der(&der).ok().map(|(_, certificate)| certificate);
    let spki = certificate.as_ref().map_or(der.as_slice(), |certificate| certificate.public_key().raw);
    let pkcs1 = public_pkcs1(spki)?;
    let key = RsaPublicKey::try_from(pkcs1).map_err(|_| refused(PUBLIC_FORMATS, "this cannot be read as one"))?;
    checked_bits(key.modulus.as_bytes())?;
    let key = ParsedPublicKey::new(hash, pkcs1)
        .map_err(|_| KeyError("the RSA public key is damaged: its numbers cannot be right".to_owned()))?;
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

/// What a key file holds, before anyone knows which kind of key it is.
struct Material<'a> {
    label: Option<&'a str>,
    der: Zeroizing<Vec<u8>>,
}

/// Takes the base64 off: of the first PEM block, of a whole file that is nothing else, or not at all for plain DER.
fn material<'a>(file: &'a [u8], expected: &str) -> Result<Material<'a>, KeyError> {
    if file.starts_with(&[0x30]) && file.get(1).is_some_and(|length| *length >= 0x80) {
        return Ok(Material { label: None, der: Zeroizing::new(file.to_vec()) });
    }
    let text = std::str::from_utf8(file).map_err(|_| refused(expected, "the file is neither text nor DER"))?;
    let (label, body) = match text.split_once("-----BEGIN ") {
        None => (None, text.trim_start_matches('\u{feff}')),
        Some((_, rest)) => {
            let (label, rest) = rest.split_once("-----").ok_or_else(|| refused(expected, "the PEM is cut off"))?;
            let (body, _) = rest.split_once("-----END ").ok_or_else(|| refused(expected, "the PEM has no END line"))?;
            (Some(label), body)
        }
    };
    if body.contains("ENCRYPTED") {
        return Err(KeyError(
            "the key is encrypted with a passphrase: decrypt it first (`openssl rsa -in KEY -out PLAIN`)".to_owned(),
        ));
    }
    let compact = Zeroizing::new(body.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect::<Vec<_>>());
    if compact.is_empty() {
        return Err(refused(expected, "there is nothing in it"));
    }
    let der = STANDARD.decode(&compact).map_err(|_| refused(expected, "the base64 in it is damaged"))?;
    Ok(Material { label, der: Zeroizing::new(der) })
}

fn private_pkcs1(der: &[u8]) -> Result<&[u8], KeyError> {
    match PrivateKeyInfo::try_from(der) {
        Err(_) => Ok(der),
        Ok(info) if info.algorithm.oid == ALGORITHM_OID => Ok(info.private_key),
        Ok(_) => Err(refused(PRIVATE_FORMATS, "this key is of another algorithm")),
    }
}

fn public_pkcs1(der: &[u8]) -> Result<&[u8], KeyError> {
    match SubjectPublicKeyInfoRef::try_from(der) {
        Err(_) => Ok(der),
        Ok(info) if info.algorithm.oid == ALGORITHM_OID => {
            info.subject_public_key.as_bytes().ok_or_else(|| refused(PUBLIC_FORMATS, "this cannot be read as one"))
        }
        Ok(_) => Err(refused(PUBLIC_FORMATS, "this key is of another algorithm")),
    }
}

/// `modulus` has no leading zero bytes: DER forbids them and its reader takes the sign byte off.
fn checked_bits(modulus: &[u8]) -> Result<usize, KeyError> {
    let spare = modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
    match modulus.len() * 8 - spare {
        bits @ MIN_BITS..=MAX_BITS => Ok(bits),
        bits => Err(KeyError(format!("the RSA key has {bits} bits; from {MIN_BITS} to {MAX_BITS} are taken"))),
    }
}

fn refused(expected: &str, found: impl Display) -> KeyError {
    KeyError(format!("{expected}; {found}"))
}

#[cfg(test)]
mod tests;
