//! What Alipay calls a certificate's serial number: MD5 over the issuer's name and the serial number in decimal.

use md5::{Digest, Md5};
use sha2::Sha256;
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::signer::rsa;

/// The arc of all signature algorithms with RSA; Alipay's bundle has roots of other algorithms too, which do not count.
const RSA: &str = "1.2.840.113549.1.1.";

/// `app_cert_sn`, and `alipay_cert_sn` of Alipay's own: that of the file's first certificate.
pub(super) fn app_number(file: &[u8]) -> Option<String> {
    numbers(file).into_iter().next().map(|(number, _)| number)
}

/// `alipay_root_cert_sn`: those of the bundle's RSA certificates, in the file's order.
pub(super) fn root_number(file: &[u8]) -> Option<String> {
    let numbers: Vec<_> = numbers(file).into_iter().filter(|(_, is_rsa)| *is_rsa).map(|(number, _)| number).collect();
    (!numbers.is_empty()).then(|| numbers.join("_"))
}

/// Certificates have their number. Bare keys have none, and Alipay never names them: a public one goes by its fingerprint,
/// and the account's own by this name.
pub(super) fn key_id(file: &[u8]) -> Option<String> {
    app_number(file).or_else(|| {
        let is_public = rsa::verifier(file).is_ok();
        Some(if is_public { hex::encode(&Sha256::digest(file)[..8]) } else { "app".to_owned() })
    })
}

pub(super) fn check_app(file: &[u8]) -> Result<(), String> {
    app_number(file).map(drop).ok_or_else(|| {
        "the app certificate must be a PEM file: download appCertPublicKey_….crt from open.alipay.com".to_owned()
    })
}

pub(super) fn check_root(file: &[u8]) -> Result<(), String> {
    root_number(file).map(drop).ok_or_else(|| {
        "the root certificates must be a PEM file with RSA certificates: download alipayRootCert.crt from open.alipay.com"
            .to_owned()
    })
}

/// The number of each certificate that can be read, and whether it is signed with RSA. One that cannot be read does not
/// spoil the others: the bundle has some of algorithms that few readers know.
fn numbers(file: &[u8]) -> Vec<(String, bool)> {
    let blocks = Pem::iter_from_buffer(file).map_while(Result::ok);
    blocks.filter_map(|block| number(&block.contents)).collect()
}

fn number(der: &[u8]) -> Option<(String, bool)> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let mut parts = Vec::new();
    for attribute in certificate.issuer().iter_attributes() {
        let name = oid2abbrev(attribute.attr_type(), oid_registry());
        let name = name.map_or_else(|_| attribute.attr_type().to_id_string(), str::to_owned);
        parts.push(format!("{name}={}", attribute.as_str().ok()?));
    }
    // The last part of the name comes first.
    parts.reverse();
    let text = parts.join(",") + &certificate.tbs_certificate.serial.to_string();
    let is_rsa = certificate.signature_algorithm.algorithm.to_id_string().starts_with(RSA);
    Some((hex::encode(Md5::digest(text)), is_rsa))
}
