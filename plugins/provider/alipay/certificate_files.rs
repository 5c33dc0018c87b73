//! Certificate files of an Alipay channel: serial numbers, CA certificates and checks.
//!
//! Alipay's serial number of a certificate is MD5 over the issuer's name and the serial number in decimal.

use md5::{Digest, Md5};
use sha2::Sha256;
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::signer::rsa;

/// OID arc of all RSA signature algorithms. Alipay's bundle also contains roots of other algorithms, which are ignored.
const RSA_OID_ARC: &str = "1.2.840.113549.1.1.";

/// Returns `app_cert_sn` (for Alipay's own file: `alipay_cert_sn`), the serial number of the file's first certificate.
pub(super) fn app_serial(file: &[u8]) -> Option<String> {
    serials(file).into_iter().next().map(|(serial, _)| serial)
}

/// Returns `alipay_root_cert_sn`: the serial numbers of the bundle's RSA certificates in the file's order.
pub(super) fn root_serials(file: &[u8]) -> Option<String> {
    let serials: Vec<_> = serials(file).into_iter().filter(|(_, is_rsa)| *is_rsa).map(|(serial, _)| serial).collect();
    (!serials.is_empty()).then(|| serials.join("_"))
}

/// Returns the id of a key file. A certificate has its serial number. Alipay never names bare keys, so a public key
/// gets its fingerprint and the account's own key gets `app`.
pub(super) fn key_id(file: &[u8]) -> Option<String> {
    app_serial(file).or_else(|| {
        let is_public = rsa::verifier(file).is_ok();
        Some(if is_public { hex::encode(&Sha256::digest(file)[..8]) } else { "app".to_owned() })
    })
}

pub(super) fn check_app(file: &[u8]) -> Result<(), String> {
    app_serial(file).map(drop).ok_or_else(|| {
        "the app certificate must be a PEM file: download appCertPublicKey_….crt from open.alipay.com".to_owned()
    })
}

pub(super) fn check_root(file: &[u8]) -> Result<(), String> {
    root_serials(file).map(drop).ok_or_else(|| {
        "the root certificates must be a PEM file with RSA certificates: download alipayRootCert.crt from open.alipay.com"
            .to_owned()
    })
}

/// Returns the serial number of each readable certificate, and whether it is signed with RSA. Unreadable certificates
/// are skipped: the bundle contains algorithms that few parsers support.
fn serials(file: &[u8]) -> Vec<(String, bool)> {
    let blocks = Pem::iter_from_buffer(file).map_while(Result::ok);
    blocks.filter_map(|block| serial(&block.contents)).collect()
}

/// Returns the serial number of a certificate, and whether it is signed with RSA.
pub(super) fn serial(der: &[u8]) -> Option<(String, bool)> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let mut parts = Vec::new();
    for attribute in certificate.issuer().iter_attributes() {
        let name = oid2abbrev(attribute.attr_type(), oid_registry());
        let name = name.map_or_else(|_| attribute.attr_type().to_id_string(), str::to_owned);
        parts.push(format!("{name}={}", attribute.as_str().ok()?));
    }
    // Alipay writes the issuer's name from its last part to its first.
    parts.reverse();
    let text = parts.join(",") + &certificate.tbs_certificate.serial.to_string();
    let is_rsa = certificate.signature_algorithm.algorithm.to_id_string().starts_with(RSA_OID_ARC);
    Some((hex::encode(Md5::digest(text)), is_rsa))
}

/// Returns the bundle's CA certificates as DER.
pub(super) fn roots(file: &[u8]) -> Vec<Vec<u8>> {
    let blocks = Pem::iter_from_buffer(file).map_while(Result::ok).map(|block| block.contents);
    blocks.filter(|der| certificate(der).is_some_and(|certificate| is_authority(&certificate))).collect()
}

/// Parses a certificate that takes up the whole of `der`.
pub(super) fn certificate(der: &[u8]) -> Option<X509Certificate<'_>> {
    X509Certificate::from_der(der).ok().filter(|(rest, _)| rest.is_empty()).map(|(_, certificate)| certificate)
}

/// Returns whether the certificate may sign others.
pub(super) fn is_authority(certificate: &X509Certificate<'_>) -> bool {
    certificate.basic_constraints().ok().flatten().is_some_and(|constraints| constraints.value.ca)
}
