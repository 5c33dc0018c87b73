//! An account at a provider of the v3 scheme.

use std::io;
use std::path::PathBuf;

use serde::Deserialize;

use super::{AccountFile, TlsFiles, TlsTable};
use crate::keys::{Certificate, SigningKey};
use crate::v3_scheme::scheme::V3Scheme;

/// A merchant registered at the provider.
pub(crate) struct Account {
    pub(crate) scheme: &'static V3Scheme,
    pub(crate) mchid: String,
    pub(crate) appid: String,
    /// Merchant for whom a service provider acts.
    pub(crate) merchant_of: Option<Merchant>,
    pub(crate) api_v3: [u8; 32],
    /// Certificate that verifies the merchant's signatures.
    pub(crate) merchant: Certificate,
    pub(crate) public_key: Option<SigningKey>,
    pub(crate) platform: Option<Platform>,
    pub(crate) tls: TlsFiles,
}

/// Merchant for whom a service provider acts.
pub(crate) struct Merchant {
    pub(crate) mchid: String,
    pub(crate) appid: Option<String>,
}

/// Platform certificate and its private key.
pub(crate) struct Platform {
    pub(crate) certificate: Certificate,
    pub(crate) key: SigningKey,
}

impl Account {
    /// Returns the key that a request selects by the header `serial`. Without the header it is the platform
    /// certificate's key, or the public key of an account without a platform certificate.
    pub(crate) fn key(&self, wanted: Option<&str>) -> Option<&SigningKey> {
        let mut keys = self.platform.iter().map(|platform| &platform.key).chain(&self.public_key);
        match wanted {
            None => keys.next(),
            Some(id) => keys.find(|key| key.id.eq_ignore_ascii_case(id)),
        }
    }

    pub(crate) fn read(scheme: &'static V3Scheme, account_file: &AccountFile) -> io::Result<Self> {
        let file: File = account_file.parse()?;
        let api_v3 = file.api_v3.as_bytes().try_into();
        let api_v3 =
            api_v3.map_err(|_| account_file.error("`api_v3` must be exactly 32 ASCII characters".to_owned()))?;
        let merchant = Certificate::read(&account_file.path(file.merchant.certificate))?;
        if merchant.serial != file.merchant.serial {
            let message = format!("`merchant.serial` is not the certificate's, which is {}", merchant.serial);
            return Err(account_file.error(message));
        }
        let public_key = file.public_key.map(|key| SigningKey::read(&key.id, &account_file.path(key.private_key)));
        let platform = file.platform_certificate.map(|platform| {
            let certificate = Certificate::read(&account_file.path(platform.certificate))?;
            let key = SigningKey::read(&certificate.serial, &account_file.path(platform.private_key))?;
            Ok::<_, io::Error>(Platform { certificate, key })
        });
        if file.sub_appid.is_some() && file.sub_mchid.is_none() {
            return Err(account_file.error("`sub_appid` needs `sub_mchid`: the merchant for whom it acts".to_owned()));
        }
        let account = Self {
            scheme,
            mchid: file.mchid,
            appid: file.appid,
            merchant_of: file.sub_mchid.map(|mchid| Merchant { mchid, appid: file.sub_appid }),
            api_v3,
            merchant,
            public_key: public_key.transpose()?,
            platform: platform.transpose()?,
            tls: file.tls.files(account_file),
        };
        if account.key(None).is_none() {
            let message = "give `[public_key]` or `[platform_certificate]`: something must sign";
            return Err(account_file.error(message.to_owned()));
        }
        Ok(account)
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
    mchid: String,
    appid: String,
    sub_mchid: Option<String>,
    sub_appid: Option<String>,
    api_v3: String,
    merchant: MerchantFile,
    public_key: Option<PublicKeyFile>,
    platform_certificate: Option<PlatformFile>,
    tls: TlsTable,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MerchantFile {
    serial: String,
    certificate: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PublicKeyFile {
    id: String,
    private_key: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlatformFile {
    certificate: PathBuf,
    private_key: PathBuf,
}
