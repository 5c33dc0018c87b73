//! Which certificates in messages are UnionPay's: dates, chain to the configured root, and the name's third part.

use aws_lc_rs::signature::{
    RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA256, RsaParameters, UnparsedPublicKey,
};
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Who signs in production.
const UNIONPAY: &str = "中国银联股份有限公司";
/// Who signs in the test environment.
const TEST: &str = "00040000:SIGN";

/// Whom to trust.
pub(super) struct Trust {
    /// DER.
    root: Vec<u8>,
    /// DER.
    middle: Vec<u8>,
    /// Whether the test environment's certificates are taken too.
    test: bool,
}

impl Trust {
    /// Reads both files; the middle certificate must be the root's.
    pub(super) fn read(root: &[u8], middle: &[u8], test: bool) -> Result<Self, &'static str> {
        let root = der(root).ok_or("`root_cert` is no X.509 certificate")?;
        let middle = der(middle).ok_or("`middle_cert` is no X.509 certificate")?;
        let is_signed = match (parse(&root), parse(&middle)) {
            (Some(root), Some(middle)) => is_signed_by(&middle, &root),
            _ => false,
        };
        if is_signed { Ok(Self { root, middle, test }) } else { Err("`middle_cert` was not signed by `root_cert`") }
    }

    /// Checks the certificate of a message; gives its decimal serial number.
    pub(super) fn check(&self, file: &[u8], now: u64) -> Result<String, &'static str> {
        let der = der(file).ok_or("its certificate cannot be read")?;
        let leaf = parse(&der).ok_or("its certificate cannot be read")?;
        let middle = parse(&self.middle).ok_or("the middle certificate cannot be read")?;
        let root = parse(&self.root).ok_or("the root certificate cannot be read")?;
        if ![&leaf, &middle, &root].iter().all(|certificate| is_valid(certificate, now)) {
            return Err("its certificate, or one above it, is not valid now");
        }
        if !is_signed_by(&leaf, &middle) {
            return Err("its certificate does not lead to the configured root");
        }
        let name = leaf.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        match name.and_then(|name| name.split('@').nth(2)) {
            Some(UNIONPAY) => Ok(leaf.serial.to_string()),
            Some(TEST) if self.test => Ok(leaf.serial.to_string()),
            _ => Err("its certificate was issued to somebody else than UnionPay"),
        }
    }
}

/// The decimal serial number of the first certificate of a file, which is how UnionPay names a key.
pub(super) fn number(file: &[u8]) -> Option<String> {
    der(file).and_then(|der| Some(parse(&der)?.serial.to_string()))
}

fn der(file: &[u8]) -> Option<Vec<u8>> {
    Pem::iter_from_buffer(file).flatten().find(|pem| pem.label == "CERTIFICATE").map(|pem| pem.contents)
}

fn parse(der: &[u8]) -> Option<X509Certificate<'_>> {
    X509Certificate::from_der(der).ok().map(|(_, certificate)| certificate)
}

fn is_valid(certificate: &X509Certificate<'_>, now: u64) -> bool {
    let validity = certificate.validity();
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    (validity.not_before.timestamp()..=validity.not_after.timestamp()).contains(&now)
}

fn is_signed_by(certificate: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> bool {
    let parameters: &'static RsaParameters = match certificate.signature_algorithm.algorithm.to_id_string().as_str() {
        "1.2.840.113549.1.1.11" => &RSA_PKCS1_2048_8192_SHA256,
        // The roots of the test environment are as old as that.
        "1.2.840.113549.1.1.5" => &RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
        _ => return false,
    };
    certificate.issuer().as_raw() == issuer.subject().as_raw()
        && UnparsedPublicKey::new(parameters, issuer.public_key().raw)
            .verify(certificate.tbs_certificate.as_ref(), &certificate.signature_value.data)
            .is_ok()
}
