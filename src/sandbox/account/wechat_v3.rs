//! A merchant of WeChat Pay v3, as WeChat knows it.

use std::io;
use std::path::PathBuf;

use serde::Deserialize;

use super::{Source, TlsFiles, TlsTable};
use crate::sandbox::keys::{Certificate, SigningKey};

/// A merchant as the platform knows it.
pub(in crate::sandbox) struct Account {
    pub(in crate::sandbox) mchid: String,
    pub(in crate::sandbox) appid: String,
    /// For whom it acts, when it is a service provider.
    pub(in crate::sandbox) merchant_of: Option<Merchant>,
    pub(in crate::sandbox) api_v3: [u8; 32],
    /// Whose signatures are believed.
    pub(in crate::sandbox) merchant: Certificate,
    pub(in crate::sandbox) public_key: Option<SigningKey>,
    pub(in crate::sandbox) platform: Option<Platform>,
    pub(super) tls: TlsFiles,
}

/// The merchant for whom a service provider acts.
pub(in crate::sandbox) struct Merchant {
    pub(in crate::sandbox) mchid: String,
    pub(in crate::sandbox) appid: Option<String>,
}

/// A platform certificate and its private key.
pub(in crate::sandbox) struct Platform {
    pub(in crate::sandbox) certificate: Certificate,
    pub(in crate::sandbox) key: SigningKey,
}

impl Account {
    /// The key that a request asks for with `Wechatpay-Serial`; without one, the key of the older way.
    pub(in crate::sandbox) fn key(&self, wanted: Option<&str>) -> Option<&SigningKey> {
        let mut keys = self.platform.iter().map(|platform| &platform.key).chain(&self.public_key);
        match wanted {
            None => keys.next(),
            Some(id) => keys.find(|key| key.id.eq_ignore_ascii_case(id)),
        }
    }

    pub(super) fn read(source: &Source) -> io::Result<Self> {
        let file: File = source.parse()?;
        let api_v3 = file.api_v3.as_bytes().try_into();
        let api_v3 = api_v3.map_err(|_| source.refused("`api_v3` must be exactly 32 ASCII characters".to_owned()))?;
        let merchant = Certificate::read(&source.path(file.merchant.certificate))?;
        if merchant.serial != file.merchant.serial {
            let message = format!("`merchant.serial` is not the certificate's, which is {}", merchant.serial);
            return Err(source.refused(message));
        }
        let public_key = file.public_key.map(|key| SigningKey::read(&key.id, &source.path(key.private_key)));
        let platform = file.platform_certificate.map(|platform| {
            let certificate = Certificate::read(&source.path(platform.certificate))?;
            let key = SigningKey::read(&certificate.serial, &source.path(platform.private_key))?;
            Ok::<_, io::Error>(Platform { certificate, key })
        });
        if file.sub_appid.is_some() && file.sub_mchid.is_none() {
            return Err(source.refused("`sub_appid` needs `sub_mchid`: the merchant for whom it acts".to_owned()));
        }
        let account = Self {
            mchid: file.mchid,
            appid: file.appid,
            merchant_of: file.sub_mchid.map(|mchid| Merchant { mchid, appid: file.sub_appid }),
            api_v3,
            merchant,
            public_key: public_key.transpose()?,
            platform: platform.transpose()?,
            tls: file.tls.files(source),
        };
        if account.key(None).is_none() {
            let message = "give `[public_key]` or `[platform_certificate]`: something must sign";
            return Err(source.refused(message.to_owned()));
        }
        Ok(account)
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
