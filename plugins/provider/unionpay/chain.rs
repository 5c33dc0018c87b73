//! Verification of the certificate in each message (`signPubKeyCert`).
//!
//! The certificate is accepted if it is valid now, was signed by a configured middle certificate that a configured root
//! signed, and its name is UnionPay's.
//!
//! UnionPay switches to a new middle certificate without notice, so the old and the new one must both be accepted. For
//! this, `middle_cert` and `root_cert` may each contain several certificates.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::Arc;

use aws_lc_rs::signature::{
    RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
};
use parking_lot::Mutex;
use x509_parser::der_parser::asn1_rs::{Integer, Sequence};
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::super::BadSignature;
use crate::signer::{Verifier, rsa, sm2};

const SHA1_WITH_RSA: &str = "1.2.840.113549.1.1.5";
const SHA256_WITH_RSA: &str = "1.2.840.113549.1.1.11";
const SM3_WITH_SM2: &str = "1.2.156.10197.1.501";

/// Accepted certificate owners, by the third part of the common name (`041@…@OWNER@…`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owners {
    Production,
    /// Accepts the owner of the test environment too.
    Test,
}

impl Owners {
    fn include(self, owner: &str) -> bool {
        owner == "中国银联股份有限公司" || (self == Self::Test && owner == "00040000:SIGN")
    }
}

/// Key type of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Rsa,
    Sm2,
}

/// Configured certificates, in DER.
pub(super) struct Chain {
    middles: Vec<Vec<u8>>,
    roots: Vec<Vec<u8>>,
    owners: Owners,
    /// Validity of each path from a middle certificate to a root.
    authorities: Validity,
    /// Certificates accepted last. Nearly every message contains one of them.
    cache: Mutex<VecDeque<CachedLeaf>>,
}

/// Maximum number of cached certificates: an old and a new one, under each of two middle certificates.
const MAX_CACHED: usize = 4;

/// Accepted certificate.
#[derive(Clone)]
pub(super) struct Leaf {
    /// Serial number in decimal digits.
    pub(super) serial: String,
    pub(super) verifier: Arc<dyn Verifier>,
}

/// Checked certificate in the cache. Only its validity period is checked again.
struct CachedLeaf {
    text: String,
    kind: Kind,
    valid: Validity,
    leaf: Leaf,
}

/// Unix seconds in which all certificates of a path are valid, for each path to a root.
type Validity = Vec<RangeInclusive<i64>>;

impl Chain {
    /// Reads both files completely. A certificate in them that is unusable is an error.
    pub(super) fn new(middle: &[u8], root: &[u8], owners: Owners) -> Result<Self, String> {
        let (middles, roots) = (ders_of("middle_cert", middle)?, ders_of("root_cert", root)?);
        let mut chain = Self { middles, roots, owners, authorities: Vec::new(), cache: Mutex::default() };
        let mut authorities = Vec::new();
        for (number, der) in (1..).zip(&chain.middles) {
            let description = description("middle_cert", number, chain.middles.len());
            let middle = certificate(der).ok_or_else(|| format!("{description} cannot be parsed"))?;
            let name = middle.subject();
            let before = authorities.len();
            authorities.extend(chain.roots_of(&middle).map(|root| common_validity([&middle, &root])));
            if authorities.len() == before {
                return Err(format!("{description} ({name}) was not signed by `keys.root_cert`"));
            }
            if !is_authority(&middle) {
                return Err(format!("{description} ({name}) may not sign certificates"));
            }
        }
        chain.authorities = authorities;
        Ok(chain)
    }

    /// Returns whether a path from a middle certificate to a root is valid at this time (unix seconds). Without one,
    /// every message is rejected.
    pub(super) fn can_verify(&self, now: u64) -> bool {
        is_within(&self.authorities, now)
    }

    /// Returns the certificate of a message if it is accepted at this time (unix seconds).
    pub(super) fn leaf(&self, text: &str, kind: Kind, now: u64) -> Result<Leaf, BadSignature> {
        let is_valid = |valid: &Validity| match is_within(valid, now) {
            true => Ok(()),
            false => Err(BadSignature::Wrong("its certificate or an issuer is expired or not yet valid")),
        };
        let is_same = |cache: &&CachedLeaf| cache.text == text && cache.kind == kind;
        if let Some(cache) = self.cache.lock().iter().find(is_same) {
            return is_valid(&cache.valid).map(|()| cache.leaf.clone());
        }
        let (leaf, valid) = self.verify(text, kind)?;
        is_valid(&valid)?;
        let mut cache = self.cache.lock();
        cache.truncate(MAX_CACHED - 1);
        cache.push_front(CachedLeaf { text: text.to_owned(), kind, valid, leaf: leaf.clone() });
        Ok(leaf)
    }

    /// Checks everything but the time, and returns the certificate with its validity.
    fn verify(&self, text: &str, kind: Kind) -> Result<(Leaf, Validity), BadSignature> {
        let unreadable = BadSignature::Wrong("its certificate cannot be parsed");
        let ders = ders_of("signPubKeyCert", text.as_bytes()).map_err(|_| unreadable.clone())?;
        let [der] = &ders[..] else { return Err(unreadable) };
        let leaf = certificate(der).ok_or(unreadable)?;
        let middles: Vec<_> = readable(&self.middles).filter(|middle| is_signed_by(&leaf, middle)).collect();
        if middles.is_empty() {
            return Err(BadSignature::Wrong("its certificate was not signed by a configured `middle_cert`"));
        }
        if !owner(&leaf).is_some_and(|owner| self.owners.include(owner)) {
            return Err(BadSignature::Wrong("its certificate does not belong to UnionPay"));
        }
        let serial = leaf.tbs_certificate.serial.to_string();
        let verifier = match kind {
            Kind::Rsa => rsa::verifier(der),
            Kind::Sm2 => sm2::verifier_for(&serial, &leaf.public_key().subject_public_key.data),
        };
        let verifier = verifier.map_err(|_| BadSignature::Wrong("its certificate has an unsupported key"))?;
        let paths = middles.iter().flat_map(|middle| self.roots_of(middle).map(move |root| (middle, root)));
        let valid = paths.map(|(middle, root)| common_validity([&leaf, middle, &root])).collect();
        Ok((Leaf { serial, verifier }, valid))
    }

    /// Returns the configured roots that signed this middle certificate.
    fn roots_of<'a>(&'a self, middle: &X509Certificate<'_>) -> impl Iterator<Item = X509Certificate<'a>> {
        readable(&self.roots).filter(move |root| is_signed_by(middle, root))
    }
}

fn readable(ders: &[Vec<u8>]) -> impl Iterator<Item = X509Certificate<'_>> {
    ders.iter().filter_map(|der| certificate(der))
}

/// Returns the decimal serial number of the certificate in a file that also contains its private key. CA certificates
/// may be present too. Returns `None` for several other certificates, because it would be unknown which one is the
/// account's.
pub(super) fn serial(file: &[u8]) -> Option<String> {
    let blocks: Vec<Pem> = Pem::iter_from_buffer(file).filter_map(Result::ok).collect();
    let certificates = blocks.iter().filter(|block| block.label == "CERTIFICATE");
    let mut own =
        certificates.filter_map(|block| certificate(&block.contents)).filter(|parse_block| !is_authority(parse_block));
    let (first, second) = (own.next()?, own.next());
    second.is_none().then(|| first.tbs_certificate.serial.to_string())
}

/// Returns an error if a certificate file is invalid.
pub(super) fn check(file: &[u8]) -> Result<(), String> {
    ders_of("", file).map(drop)
}

/// Returns all certificates in a file or text: PEM, or a single certificate as DER. Ignores a byte order mark and text
/// between PEM blocks.
fn ders_of(name: &str, file: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let unreadable =
        || "not an X.509 certificate: use UnionPay's own, as PEM (`BEGIN CERTIFICATE`) or DER, with \"file:PATH\"";
    let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
    if file.starts_with(&[0x30]) {
        return certificate(file).map(|_| vec![file.to_vec()]).ok_or_else(|| unreadable().to_owned());
    }
    let blocks = Pem::iter_from_buffer(file).collect::<Result<Vec<_>, _>>();
    let blocks = blocks.ok().filter(|blocks| !blocks.is_empty()).ok_or_else(|| unreadable().to_owned())?;
    let count = blocks.len();
    let parse_block = |(number, block): (usize, Pem)| {
        let is_certificate = block.label == "CERTIFICATE" && certificate(&block.contents).is_some();
        let why = || {
            if count == 1 {
                unreadable().to_owned()
            } else {
                format!("{} is not a certificate", description(name, number, count))
            }
        };
        if is_certificate { Ok(block.contents) } else { Err(why()) }
    };
    (1..).zip(blocks).map(parse_block).collect()
}

/// Returns how error messages refer to a certificate of a file.
fn description(name: &str, number: usize, count: usize) -> String {
    let file = if name.is_empty() { "the file".to_owned() } else { format!("`keys.{name}`") };
    if count == 1 { file } else { format!("certificate {number} of {count} in {file}") }
}

fn certificate(der: &[u8]) -> Option<X509Certificate<'_>> {
    X509Certificate::from_der(der).ok().filter(|(rest, _)| rest.is_empty()).map(|(_, certificate)| certificate)
}

fn is_authority(certificate: &X509Certificate<'_>) -> bool {
    certificate.basic_constraints().ok().flatten().is_some_and(|constraints| constraints.value.ca)
}

/// Returns whether a path is valid at this time (unix seconds).
fn is_within(valid: &Validity, now: u64) -> bool {
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    valid.iter().any(|valid| valid.contains(&now))
}

/// Returns the unix seconds in which all of the certificates are valid.
fn common_validity<const N: usize>(certificates: [&X509Certificate<'_>; N]) -> RangeInclusive<i64> {
    let from = certificates.map(|certificate| certificate.validity().not_before.timestamp());
    let until = certificates.map(|certificate| certificate.validity().not_after.timestamp());
    from.into_iter().fold(i64::MIN, i64::max)..=until.into_iter().fold(i64::MAX, i64::min)
}

/// Returns the third part of the common name, as in `041@8310000000083040@中国银联股份有限公司@00016495`. Old certificates use an
/// outdated string type, so the raw bytes are read.
fn owner<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a str> {
    let mut names = certificate.subject().iter_common_name();
    let (name, other) = (names.next()?, names.next());
    if other.is_some() {
        return None;
    }
    std::str::from_utf8(name.as_slice()).ok()?.split('@').nth(2)
}

/// Returns whether the issuer signed the certificate.
///
/// UnionPay's CA (CFCA) still signs certificates with SHA-1. A collision would have to be prepared before the CA signs,
/// in a certificate whose serial number the CA chooses. So SHA-1 is accepted here, and only here.
fn is_signed_by(certificate: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> bool {
    if certificate.issuer().as_raw() != issuer.subject().as_raw()
        || certificate.signature_algorithm != certificate.tbs_certificate.signature
    {
        return false;
    }
    let text = certificate.tbs_certificate.as_ref();
    let signature = &*certificate.signature_value.data;
    let key = &*issuer.public_key().subject_public_key.data;
    let rsa = |algorithm: &'static dyn VerificationAlgorithm| {
        UnparsedPublicKey::new(algorithm, key).verify(text, signature).is_ok()
    };
    match certificate.signature_algorithm.algorithm.to_id_string().as_str() {
        SHA256_WITH_RSA => rsa(&RSA_PKCS1_2048_8192_SHA256),
        SHA1_WITH_RSA => rsa(&RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY),
        SM3_WITH_SM2 => is_signed_with_sm2(text, signature, key),
        _ => false,
    }
}

fn is_signed_with_sm2(text: &[u8], signature: &[u8], point: &[u8]) -> bool {
    let Ok(verifier) = sm2::verifier_for(sm2::DEFAULT_USER_ID, point) else { return false };
    raw_signature(signature).is_some_and(|signature| verifier.verify(text, &signature))
}

/// Converts a DER signature to `r` and `s` of 32 bytes each.
fn raw_signature(der: &[u8]) -> Option<[u8; 64]> {
    let (_, sequence) = Sequence::from_der(der).ok()?;
    let (rest, r) = Integer::from_der(&sequence.content).ok()?;
    let (_, s) = Integer::from_der(rest).ok()?;
    let mut plain = [0; 64];
    let (left, right) = plain.split_at_mut(32);
    for (number, description) in [(&r, left), (&s, right)] {
        let bytes = number.as_ref();
        let digits = bytes.strip_prefix(&[0]).unwrap_or(bytes);
        let start = description.len().checked_sub(digits.len())?;
        description.get_mut(start..)?.copy_from_slice(digits);
    }
    Some(plain)
}
