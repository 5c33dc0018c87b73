//! X.509 certificates: fields, validity and chain verification.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1,
    RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY, RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY,
    RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA384, UnparsedPublicKey,
    VerificationAlgorithm,
};
use jiff::Timestamp;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::X509Name;

use super::keys::PublicKey;

/// Maximum length of a chain of certificates.
const MAX_CHAIN: usize = 8;

/// X.509 certificate.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// DER encoding.
    pub der: Vec<u8>,
    /// Last common name of the subject; empty if there is none.
    pub common_name: String,
    /// Last common name of the issuer, or the issuer's whole distinguished name if it has no common name.
    pub issuer_name: String,
    /// Last organization of the issuer; empty if there is none.
    pub issuer_organization: String,
    /// Serial number in upper-case hexadecimal.
    pub serial: String,
    /// Start of the validity, as Unix time in seconds.
    pub not_before: i64,
    /// End of the validity, as Unix time in seconds.
    pub not_after: i64,
    /// True if the basic constraints allow the certificate to sign others.
    pub is_authority: bool,
    /// Public key; `None` if it cannot be parsed.
    pub public_key: Option<PublicKey>,
    subject: Vec<u8>,
    issuer: Vec<u8>,
}

/// Result of the verification of a certificate chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chain {
    /// Each certificate is signed by the next, and the last is a root.
    Leads,
    /// A certificate has the name of the issuer, but did not sign: it belongs to another authority. Contains the name.
    Broken(String),
    /// No certificate has the name of the issuer. Contains the name.
    Unknown(String),
}

impl Certificate {
    /// Parses a certificate. Bytes after its end are ignored.
    pub fn read(der: &[u8]) -> Option<Self> {
        let (rest, certificate) = X509Certificate::from_der(der).ok()?;
        let validity = certificate.validity();
        let constraints = certificate.basic_constraints().ok().flatten();
        Some(Self {
            der: der.get(..der.len() - rest.len())?.to_vec(),
            common_name: last(certificate.subject().iter_common_name()),
            issuer_name: match last(certificate.issuer().iter_common_name()) {
                none if none.is_empty() => certificate.issuer().to_string(),
                name => name,
            },
            issuer_organization: organization(certificate.issuer()),
            serial: format!("{:X}", certificate.tbs_certificate.serial),
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
            is_authority: constraints.is_some_and(|constraints| constraints.value.ca),
            public_key: PublicKey::read(certificate.public_key().raw),
            subject: certificate.subject().as_raw().to_vec(),
            issuer: certificate.issuer().as_raw().to_vec(),
        })
    }

    /// Returns an error if the certificate has expired or is not yet valid at `now` (Unix seconds).
    pub fn in_force(&self, now: i64) -> Result<(), String> {
        if self.not_after < now {
            return Err(format!("this certificate ended on {}", day(self.not_after)));
        }
        if self.not_before > now {
            return Err(format!("this certificate begins only on {}: is the clock right?", day(self.not_before)));
        }
        Ok(())
    }

    /// Returns the last organization of the subject; empty if there is none.
    pub fn organization(&self) -> String {
        X509Certificate::from_der(&self.der).map_or_else(|_| String::new(), |(_, read)| organization(read.subject()))
    }

    /// Returns whether subject and issuer are equal.
    pub fn is_self_issued(&self) -> bool {
        self.subject == self.issuer
    }

    /// Returns whether the issuer's name is the subject of `other`, a different certificate.
    pub fn names_as_issuer(&self, other: &Self) -> bool {
        self.issuer == other.subject && self.der != other.der
    }

    /// Returns whether the key of `issuer` signed the certificate; `None` if the signature algorithm is not supported.
    pub fn is_signed_by(&self, issuer: &Self) -> Option<bool> {
        let (_, certificate) = X509Certificate::from_der(&self.der).ok()?;
        let (_, issuer) = X509Certificate::from_der(&issuer.der).ok()?;
        // Length of an uncompressed point. Each curve may be combined with each hash.
        const P256: usize = 65;
        const P384: usize = 97;
        let length = issuer.public_key().subject_public_key.data.len();
        let algorithm: &'static dyn VerificationAlgorithm =
            match certificate.signature_algorithm.algorithm.to_id_string().as_str() {
                "1.2.840.113549.1.1.5" => &RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY,
                "1.2.840.113549.1.1.11" => &RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY,
                "1.2.840.113549.1.1.12" => &RSA_PKCS1_2048_8192_SHA384,
                "1.2.840.113549.1.1.13" => &RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY,
                "1.2.840.10045.4.3.2" if length == P256 => &ECDSA_P256_SHA256_ASN1,
                "1.2.840.10045.4.3.2" if length == P384 => &ECDSA_P384_SHA256_ASN1,
                "1.2.840.10045.4.3.3" if length == P256 => &ECDSA_P256_SHA384_ASN1,
                "1.2.840.10045.4.3.3" if length == P384 => &ECDSA_P384_SHA384_ASN1,
                _ => return None,
            };
        let key = UnparsedPublicKey::new(algorithm, &*issuer.public_key().subject_public_key.data);
        Some(key.verify(certificate.tbs_certificate.as_ref(), &certificate.signature_value.data).is_ok())
    }

    /// Follows the issuers through the `known` certificates to one of the `roots`. A signature with an unsupported algorithm
    /// does not break the chain.
    pub fn chain(&self, known: &[&Self], roots: &[Self]) -> Chain {
        let mut current = self;
        for _ in 0..MAX_CHAIN {
            if roots.iter().any(|root| root.der == current.der) {
                return Chain::Leads;
            }
            let named = |candidate: &&Self| current.names_as_issuer(candidate);
            let signed = |candidate: &&Self| current.is_signed_by(candidate) != Some(false);
            if roots.iter().filter(named).any(|root| signed(&root)) {
                return Chain::Leads;
            }
            let mut between = known.iter().copied().filter(named);
            match between.find(signed) {
                Some(next) => current = next,
                None if roots.iter().chain(known.iter().copied()).any(|one| named(&one)) => {
                    return Chain::Broken(current.issuer_name.clone());
                }
                None => return Chain::Unknown(current.issuer_name.clone()),
            }
        }
        Chain::Unknown(current.issuer_name.clone())
    }
}

fn last<'a>(names: impl Iterator<Item = &'a x509_parser::x509::AttributeTypeAndValue<'a>>) -> String {
    names.last().map(|name| String::from_utf8_lossy(name.as_slice()).into_owned()).unwrap_or_default()
}

fn organization(name: &X509Name<'_>) -> String {
    last(name.iter_organization())
}

/// Formats Unix seconds as a date such as `2026-01-31`.
fn day(seconds: i64) -> String {
    Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |time| time.strftime("%Y-%m-%d").to_string())
}
