//! SM2 certificates. The usual maker of certificates knows neither this curve nor its signature, so they are put together from
//! their parts here.

use std::io;
use std::str::FromStr;
use std::time::Duration;

use rand::Rng;
use sm2::SecretKey;
use sm2::dsa::signature::Signer;
use sm2::dsa::{Signature, SigningKey};
use sm2::pkcs8::{EncodePrivateKey, LineEnding};
use x509_cert::der::asn1::{Any, BitString, GeneralizedTime, SequenceOf, UintRef};
use x509_cert::der::{Encode, EncodePem};
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, KeyUsages};
use x509_cert::ext::{AsExtension, Extension, Extensions};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{AlgorithmIdentifierOwned, ObjectIdentifier, SubjectPublicKeyInfoOwned};
use x509_cert::time::{Time, Validity};
use x509_cert::{Certificate, TbsCertificate, Version};

const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const SM2_CURVE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.156.10197.1.301");
const SM3_WITH_SM2: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.156.10197.1.501");
/// The user id in the signatures of certificates.
const USER_ID: &str = "1234567812345678";
const YEARS: u64 = 5;

/// Somebody with a certificate.
pub(super) struct Holder {
    /// The certificate.
    pub(super) certificate: String,
    /// PKCS#8.
    pub(super) key: String,
    name: Name,
    secret: SecretKey,
}

/// What a certificate may be used for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// To sign certificates.
    Authority,
    /// To sign messages.
    Messages,
}

/// Makes a certificate of this number, signed by the issuer, or by itself.
pub(super) fn certificate(name: &str, number: u64, usage: Use, issuer: Option<&Holder>) -> io::Result<Holder> {
    let name = Name::from_str(&format!("CN={name}")).map_err(bad)?;
    let mut seed = [0; 32];
    let secret = loop {
        rand::rng().fill(&mut seed);
        // Nearly every number of this length is a key.
        if let Ok(secret) = SecretKey::from_slice(&seed) {
            break secret;
        }
    };
    let (issuer_name, issuer_key) = issuer.map_or((&name, &secret), |issuer| (&issuer.name, &issuer.secret));
    let algorithm = AlgorithmIdentifierOwned { oid: SM3_WITH_SM2, parameters: None };
    let part = TbsCertificate {
        version: Version::V3,
        serial_number: SerialNumber::from(number),
        signature: algorithm.clone(),
        issuer: issuer_name.clone(),
        validity: validity()?,
        subject: name.clone(),
        subject_public_key_info: SubjectPublicKeyInfoOwned {
            algorithm: AlgorithmIdentifierOwned { oid: EC_PUBLIC_KEY, parameters: Some(Any::from(SM2_CURVE)) },
            subject_public_key: BitString::from_bytes(&secret.public_key().to_sec1_bytes()).map_err(bad)?,
        },
        issuer_unique_id: None,
        subject_unique_id: None,
        extensions: Some(extensions(&name, usage)?),
    };
    let signature = signature(issuer_key, &part.to_der().map_err(bad)?)?;
    let certificate = Certificate {
        tbs_certificate: part,
        signature_algorithm: algorithm,
        signature: BitString::from_bytes(&signature).map_err(bad)?,
    };
    Ok(Holder {
        certificate: certificate.to_pem(LineEnding::LF).map_err(bad)?,
        key: secret.to_pkcs8_pem(LineEnding::LF).map_err(bad)?.to_string(),
        name,
        secret,
    })
}

fn validity() -> io::Result<Validity> {
    let now = u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or_default();
    let day = 24 * 3600;
    let at = |seconds| GeneralizedTime::from_unix_duration(Duration::from_secs(seconds)).map(Time::GeneralTime);
    Ok(Validity { not_before: at(now - day).map_err(bad)?, not_after: at(now + YEARS * 365 * day).map_err(bad)? })
}

fn extensions(name: &Name, usage: Use) -> io::Result<Extensions> {
    let ca = usage == Use::Authority;
    let usages = if ca { KeyUsages::KeyCertSign | KeyUsages::CRLSign } else { KeyUsages::DigitalSignature.into() };
    let constraints: Extension =
        BasicConstraints { ca, path_len_constraint: None }.to_extension(name, &[]).map_err(bad)?;
    Ok(vec![constraints, KeyUsage(usages).to_extension(name, &[]).map_err(bad)?])
}

/// The two numbers of a signature, as certificates have them.
fn signature(key: &SecretKey, text: &[u8]) -> io::Result<Vec<u8>> {
    let key = SigningKey::new(USER_ID, key).map_err(bad)?;
    let signature: Signature = key.try_sign(text).map_err(bad)?;
    let bytes = signature.to_bytes();
    let (r, s) = bytes.split_at(32);
    let mut numbers = SequenceOf::<UintRef<'_>, 2>::new();
    for number in [r, s] {
        numbers.add(UintRef::new(number).map_err(bad)?).map_err(bad)?;
    }
    numbers.to_der().map_err(bad)
}

fn bad(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("an SM2 certificate could not be made: {error}"))
}
