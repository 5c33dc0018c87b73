//! How Alipay names certificates: MD5 over the issuer and the serial number, in its own notation.

use md5::{Digest, Md5};
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};

/// `1.2.840.113549.1.1`: every signature algorithm with RSA begins so.
const RSA: &str = "1.2.840.113549.1.1.";

/// The number of the first certificate of a file; `None` when there is none.
pub(super) fn number(file: &[u8]) -> Option<String> {
    Pem::iter_from_buffer(file).flatten().find_map(|pem| number_of(&X509Certificate::from_der(&pem.contents).ok()?.1))
}

/// The numbers of all RSA roots of a bundle, joined. Blocks that cannot be read (one of Alipay's own roots has an
/// algorithm that strict readers refuse) and those of other algorithms are left out, as Alipay does.
pub(super) fn root_number(file: &[u8]) -> Option<String> {
    let numbers: Vec<String> = Pem::iter_from_buffer(file)
        .flatten()
        .filter_map(|pem| {
            let (_, certificate) = X509Certificate::from_der(&pem.contents).ok()?;
            let is_rsa = certificate.signature_algorithm.algorithm.to_id_string().starts_with(RSA);
            is_rsa.then(|| number_of(&certificate)).flatten()
        })
        .collect();
    (!numbers.is_empty()).then(|| numbers.join("_"))
}

fn number_of(certificate: &X509Certificate<'_>) -> Option<String> {
    let mut parts = Vec::new();
    for attribute in certificate.issuer().iter_attributes() {
        let name = match attribute.attr_type().to_id_string().as_str() {
            "2.5.4.3" => "CN",
            "2.5.4.6" => "C",
            "2.5.4.7" => "L",
            "2.5.4.8" => "ST",
            "2.5.4.10" => "O",
            "2.5.4.11" => "OU",
            _ => return None,
        };
        parts.push(format!("{name}={}", attribute.as_str().ok()?));
    }
    parts.reverse();
    let text = format!("{}{}", parts.join(","), certificate.serial);
    Some(hex::encode(Md5::digest(text.as_bytes())))
}
