//! A merchant's application at Alipay, as Alipay knows it.

use std::io;
use std::path::PathBuf;

use serde::Deserialize;

use super::{Source, TlsFiles, TlsTable};
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
    pub(super) tls: TlsFiles,
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
    pub(super) fn read(source: &Source) -> io::Result<Self> {
        let file: File = source.parse()?;
        Ok(Self {
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
    tls: TlsTable,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ApplicationTable {
    public_key: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AlipayTable {
    private_key: PathBuf,
}
