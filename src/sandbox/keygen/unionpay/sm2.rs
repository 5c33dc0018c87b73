//! SM2 certificates, for `signMethod` 21. `x509-cert` builds them, because `rcgen` does not support SM2.

use std::io;
use std::str::FromStr;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use rand::RngExt;
use sm2::dsa::SigningKey;
use sm2::dsa::signature::{Keypair, Signer as _};
use sm2::elliptic_curve::Generate as _;
use sm2::pkcs8::{EncodePrivateKey, LineEnding};
use sm2::{PublicKey, SecretKey};
use x509_cert::TbsCertificate;
use x509_cert::builder::profile::BuilderProfile;
use x509_cert::builder::{self, Builder as _, CertificateBuilder};
use x509_cert::der::asn1::{BitString, ObjectIdentifier, Uint, UtcTime};
use x509_cert::der::{self, Encode, EncodePem};
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, KeyUsages};
use x509_cert::ext::{Extension, ToExtension as _};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{
    self, AlgorithmIdentifierOwned, DynSignatureAlgorithmIdentifier, SubjectPublicKeyInfoOwned, SubjectPublicKeyInfoRef,
};
use x509_cert::time::{Time, Validity};

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
        let key = SecretKey::generate();
        let name = authority_name(name)?;
        let pem = issue(Profile::authority(&name, &name, None), &key.public_key(), &key)?;
        Ok(Self { name, key, pem })
    }

    fn middle(&self, name: &str) -> io::Result<Self> {
        let key = SecretKey::generate();
        let name = authority_name(name)?;
        let pem = issue(Profile::authority(&name, &self.name, Some(0)), &key.public_key(), &self.key)?;
        Ok(Self { name, key, pem })
    }

    fn signing(&self, subject: &str, number: u64) -> io::Result<SigningIdentity> {
        let key = SecretKey::generate();
        let name = Name::from_str(&format!("CN={subject}")).map_err(generation_error)?;
        let profile = Profile {
            subject: &name,
            issuer: &self.name,
            number,
            authority: None,
            usage: KeyUsage(KeyUsages::DigitalSignature.into()),
        };
        let certificate = issue(profile, &key.public_key(), &self.key)?;
        let private_key = key.to_pkcs8_pem(LineEnding::LF).map_err(generation_error)?.to_string();
        Ok(SigningIdentity { certificate, private_key })
    }

    fn pem(self) -> String {
        self.pem
    }
}

/// Subject, issuer, serial number and usage of a certificate.
struct Profile<'a> {
    subject: &'a Name,
    issuer: &'a Name,
    number: u64,
    /// Present in authority certificates.
    authority: Option<BasicConstraints>,
    usage: KeyUsage,
}

impl<'a> Profile<'a> {
    /// Returns the profile of an authority with this path length; `None` is unlimited.
    fn authority(subject: &'a Name, issuer: &'a Name, path_length: Option<u8>) -> Self {
        Self {
            subject,
            issuer,
            number: rand::rng().random_range(1..=u64::MAX >> 1),
            authority: Some(BasicConstraints { ca: true, path_len_constraint: path_length }),
            usage: KeyUsage(KeyUsages::KeyCertSign | KeyUsages::CRLSign),
        }
    }
}

impl BuilderProfile for Profile<'_> {
    fn get_issuer(&self, _: &Name) -> Name {
        self.issuer.clone()
    }

    fn get_subject(&self) -> Name {
        self.subject.clone()
    }

    fn build_extensions(
        &self,
        _: SubjectPublicKeyInfoRef<'_>,
        _: SubjectPublicKeyInfoRef<'_>,
        _: &TbsCertificate,
    ) -> builder::Result<Vec<Extension>> {
        let authority = self.authority.as_ref().map(|authority| authority.to_extension(self.subject, &[]));
        let extensions = authority.into_iter().chain([self.usage.to_extension(self.subject, &[])]);
        Ok(extensions.collect::<der::Result<_>>()?)
    }
}

/// Key of an authority, as the certificate builder requires it.
struct AuthorityKey<'a>(&'a SecretKey);

impl Keypair for AuthorityKey<'_> {
    type VerifyingKey = PublicKey;

    fn verifying_key(&self) -> PublicKey {
        self.0.public_key()
    }
}

impl DynSignatureAlgorithmIdentifier for AuthorityKey<'_> {
    fn signature_algorithm_identifier(&self) -> spki::Result<AlgorithmIdentifierOwned> {
        Ok(AlgorithmIdentifierOwned { oid: ALGORITHM, parameters: None })
    }
}

fn authority_name(name: &str) -> io::Result<Name> {
    Name::from_str(&format!("CN={name},OU=Certification Authority,O=Tollgate sandbox,C=CN")).map_err(generation_error)
}

/// Issues a certificate. Returns it in PEM.
fn issue(profile: Profile<'_>, public_key: &PublicKey, key: &SecretKey) -> io::Result<String> {
    let number = SerialNumber::from(profile.number);
    let subject_key = SubjectPublicKeyInfoOwned::from_key(public_key).map_err(generation_error)?;
    let authority_key = AuthorityKey(key);
    let mut builder = CertificateBuilder::new(profile, number, validity()?, subject_key).map_err(generation_error)?;
    let content = builder.finalize(&authority_key).map_err(generation_error)?;
    let signer = SigningKey::new(USER_ID, key).map_err(generation_error)?;
    let signature = signer.try_sign(&content).map_err(generation_error)?;
    let signature = signature_der(&signature.r_bytes(), &signature.s_bytes()).map_err(generation_error)?;
    let signature = BitString::from_bytes(&signature).map_err(generation_error)?;
    let certificate = builder.assemble(signature, &authority_key).map_err(generation_error)?;
    certificate.to_pem(LineEnding::LF).map_err(generation_error)
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
    let begin = time(today.saturating_sub(1.day()))?;
    Ok(Validity::new(begin, time(today.saturating_add(LIFETIME_YEARS.years()))?))
}

/// Encodes a signature as DER, as certificates require.
fn signature_der(r: &[u8], s: &[u8]) -> der::Result<Vec<u8>> {
    vec![Uint::new(r)?, Uint::new(s)?].to_der()
}
