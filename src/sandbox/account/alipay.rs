//! An Alipay account of the sandbox.

use std::io;
use std::path::PathBuf;

use serde::Deserialize;

use super::{AccountFile, TlsFiles, TlsTable};
use crate::fault::FaultKind;
use crate::keys::{PublicKey, SigningKey};

/// An application registered at Alipay.
pub(crate) struct Account {
    pub(crate) app_id: String,
    /// The application's merchant.
    pub(crate) seller_id: String,
    /// Authorization token of a merchant for whom the application acts.
    pub(crate) app_auth_token: Option<String>,
    /// Key that verifies the application's signatures.
    pub(crate) application: PublicKey,
    /// Key that signs responses and notifications.
    pub(crate) alipay: SigningKey,
    /// Certificate serial numbers; present in certificate mode.
    pub(crate) certificates: Option<Certificates>,
    /// Alipay's next key and certificate, in certificate mode.
    pub(crate) next: Option<NextKey>,
    pub(crate) tls: TlsFiles,
}

/// Alipay's next key and certificate.
pub(crate) struct NextKey {
    pub(crate) key: SigningKey,
    pub(crate) alipay_cert_sn: String,
    /// The certificate and its issuer's, PEM.
    pub(crate) certificate: Vec<u8>,
}

/// Serial numbers that identify the keys of requests and responses in certificate mode.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Certificates {
    /// Serial number of the application's certificate.
    pub(crate) app_cert_sn: String,
    /// Serial numbers of the RSA root certificates, joined by `_`.
    pub(crate) alipay_root_cert_sn: String,
    /// Serial number of Alipay's certificate.
    pub(crate) alipay_cert_sn: String,
}

impl Account {
    /// Returns the signing key of a response and its serial number: the next key under the fault `next_key`.
    pub(crate) fn signer(&self, fault: Option<FaultKind>) -> (&SigningKey, Option<&str>) {
        match &self.next {
            Some(next) if fault == Some(FaultKind::NextKey) => (&next.key, Some(&next.alipay_cert_sn)),
            _ => (&self.alipay, self.certificates.as_ref().map(|numbers| numbers.alipay_cert_sn.as_str())),
        }
    }

    pub(crate) fn read(account_file: &AccountFile) -> io::Result<Self> {
        let file: File = account_file.parse()?;
        let next = file.next.map(|next| {
            Ok::<_, io::Error>(NextKey {
                key: SigningKey::read("alipay", &account_file.path(next.private_key))?,
                alipay_cert_sn: next.alipay_cert_sn,
                certificate: std::fs::read(account_file.path(next.certificate))?,
            })
        });
        Ok(Self {
            next: next.transpose()?,
            app_id: file.app_id,
            seller_id: file.seller_id,
            app_auth_token: file.app_auth_token,
            application: PublicKey::read(&account_file.path(file.application.public_key))?,
            alipay: SigningKey::read("alipay", &account_file.path(file.alipay.private_key))?,
            certificates: file.certificates,
            tls: file.tls.files(account_file),
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "provider")]
    _provider: String,
    /// Used only by `tollgate keygen`, to find accounts with the same address.
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
