//! Detection of a DER element's kind from its structure. PEM labels are not used, because they are often wrong.

use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::der_parser::asn1_rs::{Any, Tag};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;

/// Kind of a DER element in a key file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Certificate,
    /// SPKI or PKCS#1.
    PublicKey,
    /// PKCS#8, PKCS#1 or SEC1.
    PrivateKey,
    /// Encrypted PKCS#8.
    EncryptedKey,
    /// PKCS#12.
    Pfx,
    RevocationList,
    Request,
    Pkcs7,
    /// Curve name or similar, which tools write before a key.
    Parameters,
    Unknown,
}

/// Returns the kind of an element.
pub(super) fn of(der: &[u8]) -> Kind {
    let Some(tags) = tags(der) else {
        let is_curve = Any::from_der(der).is_ok_and(|(rest, any)| rest.is_empty() && any.tag() == Tag::Oid);
        return if is_curve { Kind::Parameters } else { Kind::Unknown };
    };
    let whole = |rest: &[u8]| rest.is_empty();
    match tags.as_slice() {
        [Tag::Sequence, Tag::Sequence, Tag::BitString] => match () {
            // A `TRUSTED CERTIFICATE` may be followed by data that only OpenSSL reads.
            () if X509Certificate::from_der(der).is_ok() => Kind::Certificate,
            () if CertificateRevocationList::from_der(der).is_ok_and(|(rest, _)| whole(rest)) => Kind::RevocationList,
            () if X509CertificationRequest::from_der(der).is_ok_and(|(rest, _)| whole(rest)) => Kind::Request,
            () => Kind::Unknown,
        },
        [Tag::Integer, Tag::Sequence, Tag::OctetString, ..] => Kind::PrivateKey,
        [Tag::Integer, Tag::Sequence, ..] => Kind::Pfx,
        [Tag::Integer, Tag::OctetString, ..] => Kind::PrivateKey,
        [Tag::Integer, Tag::Integer] => Kind::PublicKey,
        [first @ .., _] if first.len() >= 8 && tags.iter().take(9).all(|tag| *tag == Tag::Integer) => Kind::PrivateKey,
        [Tag::Sequence, Tag::BitString] => Kind::PublicKey,
        [Tag::Sequence, Tag::OctetString] => Kind::EncryptedKey,
        [Tag::Oid, Tag(0)] => Kind::Pkcs7,
        _ => Kind::Unknown,
    }
}

/// Returns the tags of the first 16 members of a SEQUENCE; `None` if the element is another one.
fn tags(der: &[u8]) -> Option<Vec<Tag>> {
    let (_, outer) = Any::from_der(der).ok()?;
    if outer.tag() != Tag::Sequence {
        return None;
    }
    let (mut rest, mut tags) = (outer.data, Vec::new());
    while !rest.is_empty() && tags.len() < 16 {
        let (behind, member) = Any::from_der(rest).ok()?;
        tags.push(member.tag());
        rest = behind;
    }
    Some(tags)
}
