//! The certificate that comes in each message: `signPubKeyCert`. It is believed when it is in its time, was signed by a
//! configured middle certificate, which was signed by a configured root, and belongs to UnionPay by its name.
//!
//! UnionPay changes to a new middle certificate at a time of its own, so the old and the new one are believed side by side:
//! `middle_cert` and `root_cert` may each hold several certificates.

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

/// The configured certificates, in DER.
pub(super) struct Chain {
    middles: Vec<Vec<u8>>,
    roots: Vec<Vec<u8>>,
    owners: Owners,
    /// For each middle certificate with a root above it, when both are valid.
    authorities: Validity,
    /// The certificates that were believed last: messages nearly always bring one of them.
    known: Mutex<VecDeque<Known>>,
}

/// Certificates in messages that are remembered: an old and a new one, under each of two middle certificates.
const MAX_KNOWN: usize = 4;

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
    valid: Validity,
    leaf: Leaf,
}

/// For each way up to a root, the unix seconds within which all certificates of it are valid.
type Validity = Vec<RangeInclusive<i64>>;

impl Chain {
    /// Reads both files whole: a certificate in them that could not be used is an error.
    pub(super) fn new(middle: &[u8], root: &[u8], owners: Owners) -> Result<Self, String> {
        let (middles, roots) = (ders_of("middle_cert", middle)?, ders_of("root_cert", root)?);
        let mut chain = Self { middles, roots, owners, authorities: Vec::new(), known: Mutex::default() };
        let mut authorities = Vec::new();
        for (number, der) in (1..).zip(&chain.middles) {
            let place = place("middle_cert", number, chain.middles.len());
            let middle = certificate(der).ok_or_else(|| format!("{place} cannot be read"))?;
            let name = middle.subject();
            let before = authorities.len();
            authorities.extend(chain.roots_of(&middle).map(|root| together([&middle, &root])));
            if authorities.len() == before {
                return Err(format!("{place} ({name}) was not signed by `keys.root_cert`"));
            }
            if !is_authority(&middle) {
                return Err(format!("{place} ({name}) may not sign certificates"));
            }
        }
        chain.authorities = authorities;
        Ok(chain)
    }

    /// Whether a middle certificate and a root above it are valid at this time (unix seconds). Without, no message is believed.
    pub(super) fn can_verify(&self, now: u64) -> bool {
        is_within(&self.authorities, now)
    }

    /// The certificate in a message, when it is to be believed now.
    pub(super) fn leaf(&self, text: &str, kind: Kind, now: u64) -> Result<Leaf, BadSignature> {
        let is_valid = |valid: &Validity| match is_within(valid, now) {
            true => Ok(()),
            false => Err(BadSignature::Wrong("its certificate, or one above it, is not valid at this time")),
        };
        let is_it = |known: &&Known| known.text == text && known.kind == kind;
        if let Some(known) = self.known.lock().iter().find(is_it) {
            return is_valid(&known.valid).map(|()| known.leaf.clone());
        }
        let (leaf, valid) = self.checked(text, kind)?;
        is_valid(&valid)?;
        let mut known = self.known.lock();
        known.truncate(MAX_KNOWN - 1);
        known.push_front(Known { text: text.to_owned(), kind, valid, leaf: leaf.clone() });
        Ok(leaf)
    }

    /// A certificate by everything but the time, and when it is valid.
    fn checked(&self, text: &str, kind: Kind) -> Result<(Leaf, Validity), BadSignature> {
        let unreadable = BadSignature::Wrong("its certificate cannot be read");
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
        let verifier = verifier.map_err(|_| BadSignature::Wrong("its certificate has a key that is not taken"))?;
        let ways = middles.iter().flat_map(|middle| self.roots_of(middle).map(move |root| (middle, root)));
        let valid = ways.map(|(middle, root)| together([&leaf, middle, &root])).collect();
        Ok((Leaf { serial, verifier }, valid))
    }

    /// The configured roots that signed this middle certificate.
    fn roots_of<'a>(&'a self, middle: &X509Certificate<'_>) -> impl Iterator<Item = X509Certificate<'a>> {
        readable(&self.roots).filter(move |root| is_signed_by(middle, root))
    }
}

fn readable(ders: &[Vec<u8>]) -> impl Iterator<Item = X509Certificate<'_>> {
    ders.iter().filter_map(|der| certificate(der))
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
    ders_of("", file).map(drop)
}

/// The certificates in a file or text, all of them: PEM, or DER as certificates are also handed out. Byte order marks and text
/// between PEM blocks are no part of it.
fn ders_of(name: &str, file: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let unreadable =
        || "this is no X.509 certificate: give UnionPay's own, as PEM (`BEGIN CERTIFICATE`) or DER, with \"file:PATH\"";
    let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
    if file.starts_with(&[0x30]) {
        return certificate(file).map(|_| vec![file.to_vec()]).ok_or_else(|| unreadable().to_owned());
    }
    let blocks = Pem::iter_from_buffer(file).collect::<Result<Vec<_>, _>>();
    let blocks = blocks.ok().filter(|blocks| !blocks.is_empty()).ok_or_else(|| unreadable().to_owned())?;
    let count = blocks.len();
    let one = |(number, block): (usize, Pem)| {
        let is_certificate = block.label == "CERTIFICATE" && certificate(&block.contents).is_some();
        let why =
            || if count == 1 { unreadable().to_owned() } else { format!("{} is none", place(name, number, count)) };
        if is_certificate { Ok(block.contents) } else { Err(why()) }
    };
    (1..).zip(blocks).map(one).collect()
}

/// Names a certificate of a file in an error.
fn place(name: &str, number: usize, count: usize) -> String {
    let file = if name.is_empty() { "the file".to_owned() } else { format!("`keys.{name}`") };
    if count == 1 { file } else { format!("certificate {number} of {count} in {file}") }
}

fn certificate(der: &[u8]) -> Option<X509Certificate<'_>> {
    X509Certificate::from_der(der).ok().filter(|(rest, _)| rest.is_empty()).map(|(_, certificate)| certificate)
}

fn is_authority(certificate: &X509Certificate<'_>) -> bool {
    certificate.basic_constraints().ok().flatten().is_some_and(|constraints| constraints.value.ca)
}

/// Returns whether one way up is valid at this time (unix seconds).
fn is_within(valid: &Validity, now: u64) -> bool {
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    valid.iter().any(|valid| valid.contains(&now))
}

/// When all of them are valid.
fn together<const N: usize>(certificates: [&X509Certificate<'_>; N]) -> RangeInclusive<i64> {
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
