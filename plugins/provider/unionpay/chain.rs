//! The certificate that comes in each message: `signPubKeyCert`. It is believed when it is in its time, was signed by the
//! configured middle certificate, which was signed by the configured root, and belongs to UnionPay by its name.

use std::ops::RangeInclusive;
use std::sync::Arc;

use aws_lc_rs::signature::{
    RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
};
use parking_lot::Mutex;
use x509_parser::der_parser::asn1_rs::{Integer, Sequence};
use x509_parser::pem::{Pem, parse_x509_pem};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::super::BadSignature;
use crate::signer::{Verifier, rsa, sm2};

const SHA1_WITH_RSA: &str = "1.2.840.113549.1.1.5";
const SHA256_WITH_RSA: &str = "1.2.840.113549.1.1.11";
const SM3_WITH_SM2: &str = "1.2.156.10197.1.501";

/// Whose certificates are believed, by the third part of their common name (`041@…@OWNER@…`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owners {
    Production,
    /// The test environment's too.
    Test,
}

impl Owners {
    fn include(self, owner: &str) -> bool {
        owner == "中国银联股份有限公司" || (self == Self::Test && owner == "00040000:SIGN")
    }
}

/// What a certificate's key is used with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Rsa,
    Sm2,
}

/// The configured certificates.
pub(super) struct Chain {
    middle: Vec<u8>,
    root: Vec<u8>,
    owners: Owners,
    /// The certificate that was believed last: messages nearly always bring the same one.
    last: Mutex<Option<Known>>,
}

/// A certificate that is believed.
#[derive(Clone)]
pub(super) struct Leaf {
    /// Its serial number in decimal digits.
    pub(super) serial: String,
    pub(super) verifier: Arc<dyn Verifier>,
}

/// One that was checked; what is left to check is the time.
struct Known {
    text: String,
    kind: Kind,
    /// Unix seconds within which it and those above it are valid.
    valid: RangeInclusive<i64>,
    leaf: Leaf,
}

impl Chain {
    pub(super) fn new(middle: &[u8], root: &[u8], owners: Owners) -> Result<Self, &'static str> {
        let chain = Self {
            middle: der_of(middle).ok_or("`keys.middle_cert` is no X.509 certificate")?,
            root: der_of(root).ok_or("`keys.root_cert` is no X.509 certificate")?,
            owners,
            last: Mutex::default(),
        };
        let unreadable = "a certificate in `[keys]` cannot be read";
        let (middle, root) =
            (certificate(&chain.middle).ok_or(unreadable)?, certificate(&chain.root).ok_or(unreadable)?);
        if !is_signed_by(&middle, &root) {
            return Err("`keys.middle_cert` was not signed by `keys.root_cert`");
        }
        if !is_authority(&middle) {
            return Err("`keys.middle_cert` may not sign certificates");
        }
        Ok(chain)
    }

    /// The certificate in a message, when it is to be believed now.
    pub(super) fn leaf(&self, text: &str, kind: Kind, now: u64) -> Result<Leaf, BadSignature> {
        let is_valid = |valid: &RangeInclusive<i64>| match i64::try_from(now).is_ok_and(|now| valid.contains(&now)) {
            true => Ok(()),
            false => Err(BadSignature::Wrong("its certificate, or one above it, is not valid at this time")),
        };
        if let Some(known) = &*self.last.lock()
            && known.text == text
            && known.kind == kind
        {
            return is_valid(&known.valid).map(|()| known.leaf.clone());
        }
        let (leaf, valid) = self.checked(text, kind)?;
        is_valid(&valid)?;
        *self.last.lock() = Some(Known { text: text.to_owned(), kind, valid, leaf: leaf.clone() });
        Ok(leaf)
    }

    /// A certificate by everything but the time, and when it is valid.
    fn checked(&self, text: &str, kind: Kind) -> Result<(Leaf, RangeInclusive<i64>), BadSignature> {
        let der = der_of(text.as_bytes()).ok_or(BadSignature::Wrong("its certificate cannot be read"))?;
        let leaf = certificate(&der).ok_or(BadSignature::Wrong("its certificate cannot be read"))?;
        let (middle, root) = certificate(&self.middle)
            .zip(certificate(&self.root))
            .ok_or(BadSignature::Wrong("the configured certificates cannot be read"))?;
        if !is_signed_by(&leaf, &middle) {
            return Err(BadSignature::Wrong("its certificate was not signed by the configured `middle_cert`"));
        }
        if !owner(&leaf).is_some_and(|owner| self.owners.include(owner)) {
            return Err(BadSignature::Wrong("its certificate does not belong to UnionPay"));
        }
        let serial = leaf.tbs_certificate.serial.to_string();
        let verifier = match kind {
            Kind::Rsa => rsa::verifier(&der),
            Kind::Sm2 => sm2::verifier_for(&serial, &leaf.public_key().subject_public_key.data),
        };
        let verifier = verifier.map_err(|_| BadSignature::Wrong("its certificate has a key that is not taken"))?;
        Ok((Leaf { serial, verifier }, together([&leaf, &middle, &root])))
    }
}

/// The decimal serial number of the certificate in a file that holds it with its private key. Certificates of authorities
/// may stand beside it; of two others nobody could say which one is meant.
pub(super) fn serial(file: &[u8]) -> Option<String> {
    let blocks: Vec<Pem> = Pem::iter_from_buffer(file).filter_map(Result::ok).collect();
    let certificates = blocks.iter().filter(|block| block.label == "CERTIFICATE");
    let mut own = certificates.filter_map(|block| certificate(&block.contents)).filter(|one| !is_authority(one));
    let (first, second) = (own.next()?, own.next());
    second.is_none().then(|| first.tbs_certificate.serial.to_string())
}

/// Says what is wrong with a certificate file.
pub(super) fn check(file: &[u8]) -> Result<(), String> {
    let problem =
        "this is no X.509 certificate: give UnionPay's own, as PEM (`BEGIN CERTIFICATE`) or DER, with \"file:PATH\"";
    der_of(file).and_then(|der| certificate(&der).map(drop)).ok_or_else(|| problem.to_owned())
}

/// Of a file or text in PEM or, as certificates are also handed out, plain DER.
fn der_of(file: &[u8]) -> Option<Vec<u8>> {
    if file.starts_with(&[0x30]) {
        return Some(file.to_vec());
    }
    let (_, block) = parse_x509_pem(file).ok()?;
    (block.label == "CERTIFICATE").then_some(block.contents)
}

fn certificate(der: &[u8]) -> Option<X509Certificate<'_>> {
    X509Certificate::from_der(der).ok().filter(|(rest, _)| rest.is_empty()).map(|(_, certificate)| certificate)
}

fn is_authority(certificate: &X509Certificate<'_>) -> bool {
    certificate.basic_constraints().ok().flatten().is_some_and(|constraints| constraints.value.ca)
}

/// When all of them are valid.
fn together(certificates: [&X509Certificate<'_>; 3]) -> RangeInclusive<i64> {
    let from = certificates.map(|certificate| certificate.validity().not_before.timestamp());
    let until = certificates.map(|certificate| certificate.validity().not_after.timestamp());
    from.into_iter().fold(i64::MIN, i64::max)..=until.into_iter().fold(i64::MAX, i64::min)
}

/// The third part of the common name, as in `041@8310000000083040@中国银联股份有限公司@00016495`. Old certificates write
/// it in an outdated kind of text, so its bytes are read.
fn owner<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a str> {
    let mut names = certificate.subject().iter_common_name();
    let (name, other) = (names.next()?, names.next());
    if other.is_some() {
        return None;
    }
    std::str::from_utf8(name.as_slice()).ok()?.split('@').nth(2)
}

/// UnionPay's authority (CFCA) still signs certificates with SHA-1. A collision would have to be prepared before the
/// authority signs, in a certificate whose serial number the authority chooses; so it is taken here, and only here.
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
    plain_signature(signature).is_some_and(|signature| verifier.verify(text, &signature))
}

/// `r` and `s` of 32 bytes each, from the two numbers that certificates write.
fn plain_signature(der: &[u8]) -> Option<[u8; 64]> {
    let (_, sequence) = Sequence::from_der(der).ok()?;
    let (rest, r) = Integer::from_der(&sequence.content).ok()?;
    let (_, s) = Integer::from_der(rest).ok()?;
    let mut plain = [0; 64];
    let (left, right) = plain.split_at_mut(32);
    for (number, place) in [(&r, left), (&s, right)] {
        let bytes = number.as_ref();
        let digits = bytes.strip_prefix(&[0]).unwrap_or(bytes);
        let start = place.len().checked_sub(digits.len())?;
        place.get_mut(start..)?.copy_from_slice(digits);
    }
    Some(plain)
}
