//! Certificates with their keys, and certificates of authorities, as they are used once they are read and checked.

use tollgate_plugins::secret::Secret;
use tollgate_plugins::signer::certificate::Certificate;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Certificate chain with its private key.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Certificates as DER, leaf first.
    pub certificates: Vec<Vec<u8>>,
    /// Private key as DER (PKCS#8, PKCS#1 or SEC1).
    pub key: Secret,
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.certificates == other.certificates && self.key.expose() == other.key.expose()
    }
}

impl Eq for Identity {}

/// Certificate chain with the private key of its leaf.
pub(crate) struct Pair {
    pub(crate) identity: Identity,
    /// Certificates, leaf first.
    pub(crate) certificates: Vec<Certificate>,
    pub(crate) is_for_servers: bool,
    pub(crate) is_for_clients: bool,
}

impl Pair {
    /// Returns whether the extended key usage permits TLS clients.
    pub(crate) fn is_for_clients(&self) -> bool {
        self.is_for_clients
    }

    /// Returns whether the extended key usage permits TLS servers.
    pub(crate) fn is_for_servers(&self) -> bool {
        self.is_for_servers
    }

    /// Returns the leaf and its issuers.
    pub(crate) fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }
}

/// Returns name and expiry of each certificate of a chain: `mtls` for the leaf, `mtls 2` for its issuer.
pub(crate) fn ends(name: &str, certificates: &[Certificate]) -> Vec<(String, i64)> {
    let name_of = |index: usize| if index == 0 { name.to_owned() } else { format!("{name} {}", index + 1) };
    certificates.iter().enumerate().map(|(index, one)| (name_of(index), one.not_after)).collect()
}

/// Expiry of one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateEnd {
    /// Channel that uses the certificate; empty for a listener's certificate.
    pub channel: String,
    /// Name of the certificate within the file, for example `mtls`.
    pub certificate: String,
    /// Expiry in Unix seconds.
    pub not_after: i64,
}

/// Certificate of an authority.
pub(crate) struct Authority {
    pub(crate) der: Vec<u8>,
    pub(crate) certificate: Certificate,
}

impl Authority {
    /// Returns whether the certificate may sign others. Version 1 has no extension that says so.
    pub(crate) fn may_sign(&self) -> bool {
        self.certificate.is_authority || is_of_version_1(&self.der)
    }

    /// Returns whether the certificate is a trust anchor. A self-signed certificate is its own authority.
    pub(crate) fn is_anchor(&self) -> bool {
        self.may_sign() || self.certificate.is_self_issued()
    }
}

/// Returns the trust anchors as DER. A peer's own certificate beside its issuer's is left out: TLS would trust whatever its key
/// signs.
pub(crate) fn anchors(found: &[Authority]) -> Vec<Vec<u8>> {
    found.iter().filter(|authority| authority.is_anchor()).map(|authority| authority.der.clone()).collect()
}

/// Returns whether the certificate is X.509 version 1, as `openssl x509 -req` writes it without extensions.
pub(crate) fn is_of_version_1(der: &[u8]) -> bool {
    X509Certificate::from_der(der)
        .is_ok_and(|(_, certificate)| certificate.version() == x509_parser::x509::X509Version::V1)
}
