//! SM2 certificates, for `signMethod` 21. They are built field by field, because `rcgen` does not support SM2.

use std::io;
use std::str::FromStr;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use rand::Rng;
use sm2::dsa::SigningKey;
use sm2::dsa::signature::Signer as _;
use sm2::elliptic_curve::rand_core::OsRng;
use sm2::pkcs8::{EncodePrivateKey, LineEnding};
use sm2::{PublicKey, SecretKey};
use x509_cert::der::asn1::{BitString, ObjectIdentifier, Uint, UtcTime};
use x509_cert::der::{self, Encode, EncodePem};
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, KeyUsages};
use x509_cert::ext::{AsExtension, Extensions};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::time::{Time, Validity};
use x509_cert::{Certificate, TbsCertificate, Version};

use super::super::authority::{LIFETIME_YEARS, generation_error};
use super::{Authority, SigningIdentity};

/// Object identifier of SM2 signatures with SM3.
const ALGORITHM: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.156.10197.1.501");
/// Default SM2 user id, which certificate signatures cover.
const USER_ID: &str = "1234567812345678";

/// Certificate authority that signs with SM2.
pub(super) struct Sm2Authority {
    name: Name,
    key: SecretKey,
    pem: String,
}

impl Authority for Sm2Authority {
    fn root(name: &str) -> io::Result<Self> {
        let key = SecretKey::random(&mut OsRng);
        let name = authority_name(name)?;
        let pem = issue(&Subject::authority(&name, None), &key.public_key(), &name, &key)?;
        Ok(Self { name, key, pem })
    }

    fn middle(&self, name: &str) -> io::Result<Self> {
        let key = SecretKey::random(&mut OsRng);
        let name = authority_name(name)?;
        let pem = issue(&Subject::authority(&name, Some(0)), &key.public_key(), &self.name, &self.key)?;
        Ok(Self { name, key, pem })
    }

    fn signing(&self, subject: &str, number: u64) -> io::Result<SigningIdentity> {
        let key = SecretKey::random(&mut OsRng);
        let name = Name::from_str(&format!("CN={subject}")).map_err(generation_error)?;
        let subject =
            Subject { name: &name, number, authority: None, usage: KeyUsage(KeyUsages::DigitalSignature.into()) };
        let certificate = issue(&subject, &key.public_key(), &self.name, &self.key)?;
        let private_key = key.to_pkcs8_pem(LineEnding::LF).map_err(generation_error)?.to_string();
        Ok(SigningIdentity { certificate, private_key })
    }

    fn pem(self) -> String {
        self.pem
    }
}

/// Subject, serial number and usage of a certificate.
struct Subject<'a> {
    name: &'a Name,
    number: u64,
    /// Present in authority certificates.
    authority: Option<BasicConstraints>,
    usage: KeyUsage,
}

impl<'a> Subject<'a> {
    /// Returns the subject of an authority with this path length; `None` is unlimited.
    fn authority(name: &'a Name, path_length: Option<u8>) -> Self {
        Self {
            name,
            number: rand::rng().random_range(1..=u64::MAX >> 1),
            authority: Some(BasicConstraints { ca: true, path_len_constraint: path_length }),
            usage: KeyUsage(KeyUsages::KeyCertSign | KeyUsages::CRLSign),
        }
    }

    fn extensions(&self) -> der::Result<Extensions> {
        let authority = self.authority.as_ref().map(|authority| authority.to_extension(self.name, &[]));
        authority.into_iter().chain([self.usage.to_extension(self.name, &[])]).collect()
    }
}

fn authority_name(name: &str) -> io::Result<Name> {
    Name::from_str(&format!("CN={name},OU=Certification Authority,O=Tollgate sandbox,C=CN")).map_err(generation_error)
}

/// Issues a certificate. Returns it in PEM.
fn issue(subject: &Subject<'_>, public_key: &PublicKey, issuer: &Name, key: &SecretKey) -> io::Result<String> {
    let signer = SigningKey::new(USER_ID, key).map_err(generation_error)?;
    let signed = content(subject, public_key, issuer)?;
    let text = signed.to_der().map_err(generation_error)?;
    let signature = signer.try_sign(&text).map_err(generation_error)?;
    let signature = signature_der(&signature.r_bytes(), &signature.s_bytes()).map_err(generation_error)?;
    let certificate = Certificate {
        signature_algorithm: signed.signature.clone(),
        tbs_certificate: signed,
        signature: BitString::from_bytes(&signature).map_err(generation_error)?,
    };
    certificate.to_pem(LineEnding::LF).map_err(generation_error)
}

fn content(subject: &Subject<'_>, public_key: &PublicKey, issuer: &Name) -> io::Result<TbsCertificate> {
    Ok(TbsCertificate {
        version: Version::V3,
        serial_number: SerialNumber::from(subject.number),
        signature: AlgorithmIdentifierOwned { oid: ALGORITHM, parameters: None },
        issuer: issuer.clone(),
        validity: validity()?,
        subject: subject.name.clone(),
        subject_public_key_info: SubjectPublicKeyInfoOwned::from_key(*public_key).map_err(generation_error)?,
        issuer_unique_id: None,
        subject_unique_id: None,
        extensions: Some(subject.extensions().map_err(generation_error)?),
    })
}

/// Returns a validity that begins yesterday, as for the sandbox's other certificates.
fn validity() -> io::Result<Validity> {
    let today = Timestamp::now().to_zoned(TimeZone::UTC);
    let time = |at: jiff::Zoned| {
        let seconds = u64::try_from(at.timestamp().as_second()).map_err(generation_error)?;
        Ok::<_, io::Error>(Time::UtcTime(
            UtcTime::from_unix_duration(Duration::from_secs(seconds)).map_err(generation_error)?,
        ))
    };
    Ok(Validity {
        not_before: time(today.saturating_sub(1.day()))?,
        not_after: time(today.saturating_add(LIFETIME_YEARS.years()))?,
    })
}

/// Encodes a signature as DER, as certificates require.
fn signature_der(r: &[u8], s: &[u8]) -> der::Result<Vec<u8>> {
    vec![Uint::new(r)?, Uint::new(s)?].to_der()
}
