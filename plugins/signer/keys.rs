//! Private and public keys of any algorithm, with a comparison of public keys.

use std::fmt;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1_SIGNING, EcdsaKeyPair,
    Ed25519KeyPair, KeyPair,
};
use rsa::pkcs1::der::Encode;
use rsa::pkcs1::{ALGORITHM_OID as RSA, RsaPrivateKeyRef, RsaPublicKeyRef};
use rsa::pkcs8::spki::AlgorithmIdentifierRef;
use rsa::pkcs8::{ObjectIdentifier, PrivateKeyInfoRef, SubjectPublicKeyInfoRef};
use sm2::SecretKey;
use sm2::pkcs8::DecodePrivateKey;
use x509_parser::der_parser::asn1_rs::Any;
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

use super::pem::write_pem;

const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const SM2: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.156.10197.1.301");

/// Algorithm of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyAlgorithm {
    /// RSA.
    Rsa,
    /// SM2.
    Sm2,
    /// Another elliptic curve, with its name.
    Curve(&'static str),
    /// Any other algorithm.
    Other,
}

impl fmt::Display for KeyAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rsa => f.write_str("RSA"),
            Self::Sm2 => f.write_str("SM2"),
            Self::Curve(name) => write!(f, "elliptic curve ({name})"),
            Self::Other => f.write_str("another algorithm"),
        }
    }
}

fn algorithm(oid: ObjectIdentifier, curve: Option<ObjectIdentifier>) -> KeyAlgorithm {
    let curve = curve.map(|curve| curve.to_string());
    match (oid.to_string().as_str(), curve.as_deref()) {
        _ if oid == RSA => KeyAlgorithm::Rsa,
        ("1.2.840.10045.2.1", Some("1.2.156.10197.1.301")) => KeyAlgorithm::Sm2,
        ("1.2.840.10045.2.1", Some("1.2.840.10045.3.1.7")) => KeyAlgorithm::Curve("P-256"),
        ("1.2.840.10045.2.1", Some("1.3.132.0.34")) => KeyAlgorithm::Curve("P-384"),
        ("1.2.840.10045.2.1", Some("1.3.132.0.35")) => KeyAlgorithm::Curve("P-521"),
        ("1.2.840.10045.2.1", _) => KeyAlgorithm::Curve("unnamed"),
        ("1.3.101.112", _) => KeyAlgorithm::Curve("Ed25519"),
        _ => KeyAlgorithm::Other,
    }
}

/// Private key.
pub struct PrivateKey {
    der: Zeroizing<Vec<u8>>,
    label: &'static str,
    algorithm: KeyAlgorithm,
    public: Option<PublicKey>,
}

impl PrivateKey {
    /// Parses PKCS#8, PKCS#1 or SEC1.
    pub(super) fn read(der: Zeroizing<Vec<u8>>) -> Option<Self> {
        let (label, algorithm) = if let Ok(info) = PrivateKeyInfoRef::try_from(der.as_slice()) {
            let curve = info.algorithm.parameters_oid().ok();
            ("PRIVATE KEY", algorithm(info.algorithm.oid, curve))
        } else if RsaPrivateKeyRef::try_from(der.as_slice()).is_ok() {
            ("RSA PRIVATE KEY", KeyAlgorithm::Rsa)
        } else {
            ("EC PRIVATE KEY", algorithm(EC, sec1_curve(&der)))
        };
        let mut key = Self { der, label, algorithm, public: None };
        key.public = match algorithm {
            KeyAlgorithm::Rsa => {
                let private = RsaPrivateKeyRef::try_from(key.rsa_pkcs1()?).ok()?;
                Some(PublicKey { algorithm, bytes: private.public_key().to_der().ok()? })
            }
            KeyAlgorithm::Sm2 => {
                let bytes = key.sm2()?.public_key().to_sec1_bytes().to_vec();
                Some(PublicKey { algorithm, bytes })
            }
            KeyAlgorithm::Curve(curve) => curve_point(curve, &key.der).map(|bytes| PublicKey { algorithm, bytes }),
            KeyAlgorithm::Other => None,
        };
        Some(key)
    }

    /// Returns the algorithm.
    pub fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// Returns the key in its original encoding: PKCS#8, PKCS#1 or SEC1.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Returns the public key, for RSA, SM2, P-256, P-384, P-521 and Ed25519.
    pub fn public_key(&self) -> Option<PublicKey> {
        self.public.clone()
    }

    /// Returns an RSA key in PKCS#1; `None` for other algorithms.
    pub(crate) fn rsa_pkcs1(&self) -> Option<&[u8]> {
        match (self.algorithm, self.label) {
            (KeyAlgorithm::Rsa, "PRIVATE KEY") => {
                Some(PrivateKeyInfoRef::try_from(self.der.as_slice()).ok()?.private_key.as_bytes())
            }
            (KeyAlgorithm::Rsa, _) => Some(&self.der),
            _ => None,
        }
    }

    /// Returns an SM2 key; `None` for other algorithms.
    pub(crate) fn sm2(&self) -> Option<SecretKey> {
        match (self.algorithm, self.label) {
            (KeyAlgorithm::Sm2, "PRIVATE KEY") => SecretKey::from_pkcs8_der(&self.der).ok(),
            (KeyAlgorithm::Sm2, _) => SecretKey::from_sec1_der(&self.der).ok(),
            _ => None,
        }
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.der == other.der || (self.public.is_some() && self.public == other.public)
    }

    pub(super) fn to_pem(&self) -> Zeroizing<String> {
        write_pem(self.label, &self.der)
    }
}

/// Computes the public point of a private key in PKCS#8 or SEC1.
fn curve_point(curve: &str, der: &[u8]) -> Option<Vec<u8>> {
    let algorithm = match curve {
        "P-256" => &ECDSA_P256_SHA256_ASN1_SIGNING,
        "P-384" => &ECDSA_P384_SHA384_ASN1_SIGNING,
        "P-521" => &ECDSA_P521_SHA512_ASN1_SIGNING,
        "Ed25519" => {
            let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).ok()?;
            return Some(pair.public_key().as_ref().to_vec());
        }
        _ => return None,
    };
    Some(EcdsaKeyPair::from_private_key_der(algorithm, der).ok()?.public_key().as_ref().to_vec())
}

/// Returns the curve of a SEC1 key: the parameters `[0]` after version and key.
fn sec1_curve(der: &[u8]) -> Option<ObjectIdentifier> {
    let (_, outer) = Any::from_der(der).ok()?;
    let (rest, _) = Any::from_der(outer.data).ok()?;
    let (rest, _) = Any::from_der(rest).ok()?;
    let (_, parameters) = Any::from_der(rest).ok()?;
    (parameters.tag().0 == 0).then(|| ObjectIdentifier::try_from(parameters.data.get(2..)?).ok()).flatten()
}

/// Public key. Two are equal if they belong to the same private key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    algorithm: KeyAlgorithm,
    /// PKCS#1 encoding of an RSA key, or the point of a curve key.
    bytes: Vec<u8>,
}

impl PublicKey {
    /// Parses SPKI or PKCS#1.
    pub(crate) fn read(der: &[u8]) -> Option<Self> {
        let (algorithm, bytes) = match SubjectPublicKeyInfoRef::try_from(der) {
            Ok(info) => (
                algorithm(info.algorithm.oid, info.algorithm.parameters_oid().ok()),
                info.subject_public_key.as_bytes()?.to_vec(),
            ),
            Err(_) => (KeyAlgorithm::Rsa, der.to_vec()),
        };
        if algorithm == KeyAlgorithm::Rsa {
            RsaPublicKeyRef::try_from(bytes.as_slice()).ok()?;
        }
        Some(Self { algorithm, bytes })
    }

    /// Returns the algorithm.
    pub fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// Returns the length of an RSA key in bits; `None` for other algorithms.
    pub fn rsa_bits(&self) -> Option<usize> {
        let key = RsaPublicKeyRef::try_from(self.rsa_pkcs1()?).ok()?;
        Some(rsa_bits(key.modulus.as_bytes()))
    }

    /// Returns an RSA key in PKCS#1; `None` for other algorithms.
    pub(crate) fn rsa_pkcs1(&self) -> Option<&[u8]> {
        (self.algorithm == KeyAlgorithm::Rsa).then_some(&self.bytes)
    }

    /// Returns the point of an SM2 key; `None` for other algorithms.
    pub(crate) fn sm2_point(&self) -> Option<&[u8]> {
        (self.algorithm == KeyAlgorithm::Sm2).then_some(&self.bytes)
    }

    /// Encodes an RSA or SM2 key as SPKI. Keys of other algorithms appear only in certificates.
    pub(super) fn to_spki(&self) -> Vec<u8> {
        let (oid, parameters) = match self.algorithm {
            KeyAlgorithm::Rsa => (RSA, Some(rsa::pkcs8::der::asn1::AnyRef::NULL)),
            _ => (EC, Some((&SM2).into())),
        };
        let Ok(bits) = rsa::pkcs8::der::asn1::BitStringRef::from_bytes(&self.bytes) else { return Vec::new() };
        let info =
            SubjectPublicKeyInfoRef { algorithm: AlgorithmIdentifierRef { oid, parameters }, subject_public_key: bits };
        info.to_der().unwrap_or_default()
    }
}

/// Returns the length of an RSA modulus in bits. `modulus` has no leading zero bytes: DER forbids them, and the parser removes
/// the sign byte.
pub(crate) fn rsa_bits(modulus: &[u8]) -> usize {
    let spare = modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
    modulus.len() * 8 - spare
}
