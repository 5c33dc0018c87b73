//! RSA certificates, for `signMethod` 01.

use std::io;

use rcgen::{BasicConstraints, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_RSA_SHA256, SerialNumber};

use super::super::account_kind::rsa_key_pair;
use super::super::authority::{generation_error, issuer_parameters, parameters};
use super::{Authority, SigningIdentity};

/// Certificate authority that signs with RSA and SHA-256.
pub(super) struct RsaAuthority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority for RsaAuthority {
    fn root(name: &str) -> io::Result<Self> {
        let key = rsa_key()?.0;
        let root = issuer_parameters(name)?;
        let pem = root.self_signed(&key).map_err(generation_error)?.pem();
        Ok(Self { issuer: Issuer::new(root, key), pem })
    }

    fn middle(&self, name: &str) -> io::Result<Self> {
        let key = rsa_key()?.0;
        let mut middle = issuer_parameters(name)?;
        middle.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        middle.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = middle.signed_by(&key, &self.issuer).map_err(generation_error)?.pem();
        Ok(Self { issuer: Issuer::new(middle, key), pem })
    }

    fn signing(&self, subject: &str, number: u64) -> io::Result<SigningIdentity> {
        let (key, private_key) = rsa_key()?;
        let mut certificate = parameters(subject, Vec::new())?;
        certificate.serial_number = Some(SerialNumber::from(number));
        certificate.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let certificate = certificate.signed_by(&key, &self.issuer).map_err(generation_error)?.pem();
        Ok(SigningIdentity { certificate, private_key })
    }

    fn pem(self) -> String {
        self.pem
    }
}

fn rsa_key() -> io::Result<(KeyPair, String)> {
    let private = rsa_key_pair()?.private_key;
    Ok((KeyPair::from_pkcs8_pem_and_sign_algo(&private, &PKCS_RSA_SHA256).map_err(generation_error)?, private))
}
