//! A merchant's application at Alipay, as Alipay knows it.

use std::io;
use std::path::PathBuf;

use serde::Deserialize;

use super::{Source, TlsFiles, TlsTable};
use crate::sandbox::fault::Kind;
use crate::sandbox::keys::{PublicKey, SigningKey};

/// An application as the platform knows it.
pub(in crate::sandbox) struct Account {
    pub(in crate::sandbox) app_id: String,
    /// The merchant behind it.
    pub(in crate::sandbox) seller_id: String,
    /// The merchant's consent, when the application acts for another than its owner.
    pub(in crate::sandbox) app_auth_token: Option<String>,
    /// Whose signatures are believed.
    pub(in crate::sandbox) application: PublicKey,
    /// Signs answers and notifications.
    pub(in crate::sandbox) alipay: SigningKey,
    /// Present in certificate mode.
    pub(in crate::sandbox) certificates: Option<Certificates>,
    /// The key and certificate that come after them, in certificate mode.
    pub(in crate::sandbox) next: Option<Next>,
    pub(super) tls: TlsFiles,
}

/// Alipay's next key.
pub(in crate::sandbox) struct Next {
    pub(in crate::sandbox) key: SigningKey,
    pub(in crate::sandbox) alipay_cert_sn: String,
    /// The certificate and the one above it, PEM.
    pub(in crate::sandbox) certificate: Vec<u8>,
}

/// The serial numbers of certificate mode, by which requests and answers name their keys.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::sandbox) struct Certificates {
    /// Of the application's certificate.
    pub(in crate::sandbox) app_cert_sn: String,
    /// Of the RSA certificates among the roots, joined by `_`.
    pub(in crate::sandbox) alipay_root_cert_sn: String,
    /// Of the certificate with Alipay's own key.
    pub(in crate::sandbox) alipay_cert_sn: String,
}

impl Account {
    /// The key that signs an answer, and the number that it is named by: the next one where the fault says so.
    pub(in crate::sandbox) fn signer(&self, fault: Option<Kind>) -> (&SigningKey, Option<&str>) {
        match &self.next {
            Some(next) if fault == Some(Kind::NextKey) => (&next.key, Some(&next.alipay_cert_sn)),
            _ => (&self.alipay, self.certificates.as_ref().map(|numbers| numbers.alipay_cert_sn.as_str())),
        }
    }

    pub(super) fn read(source: &Source) -> io::Result<Self> {
        let file: File = source.parse()?;
        let next = file.next.map(|next| {
            Ok::<_, io::Error>(Next {
                key: SigningKey::read("alipay", &source.path(next.private_key))?,
                alipay_cert_sn: next.alipay_cert_sn,
                certificate: std::fs::read(source.path(next.certificate))?,
            })
        });
        Ok(Self {
            next: next.transpose()?,
            app_id: file.app_id,
            seller_id: file.seller_id,
            app_auth_token: file.app_auth_token,
            application: PublicKey::read(&source.path(file.application.public_key))?,
            alipay: SigningKey::read("alipay", &source.path(file.alipay.private_key))?,
            certificates: file.certificates,
            tls: file.tls.files(source),
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "provider")]
    _provider: String,
    /// Only for `tollgate keygen`, which looks for neighbours.
    #[serde(rename = "address")]
    _address: String,
    app_id: String,
    seller_id: String,
    app_auth_token: Option<String>,
    application: ApplicationTable,
    alipay: AlipayTable,
    certificates: Option<Certificates>,
    next: Option<NextTable>,
    tls: TlsTable,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ApplicationTable {
    public_key: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NextTable {
    private_key: PathBuf,
    certificate: PathBuf,
    alipay_cert_sn: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AlipayTable {
    private_key: PathBuf,
}
