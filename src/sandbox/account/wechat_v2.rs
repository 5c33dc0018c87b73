//! A WeChat Pay APIv2 account of the sandbox.

use std::io;
use std::path::PathBuf;

use serde::Deserialize;

use super::{AccountFile, TlsFiles, TlsTable};
use crate::keys::Certificate;

/// A merchant registered at WeChat Pay.
pub(crate) struct Account {
    pub(crate) mchid: String,
    pub(crate) appid: String,
    /// Merchant for whom a service provider acts.
    pub(crate) sub_mchid: Option<String>,
    pub(crate) sub_appid: Option<String>,
    /// API key: signs messages in both directions and encrypts refund notifications.
    pub(crate) api: String,
    /// Serial number of the client certificate that refunds and reversals require.
    pub(crate) serial: String,
    pub(crate) tls: TlsFiles,
}

impl Account {
    pub(crate) fn read(account_file: &AccountFile) -> io::Result<Self> {
        let file: File = account_file.parse()?;
        if file.api.len() != 32 || !file.api.is_ascii() {
            return Err(account_file.error("`api` must be exactly 32 ASCII characters".to_owned()));
        }
        if file.sub_appid.is_some() && file.sub_mchid.is_none() {
            return Err(account_file.error("`sub_appid` needs `sub_mchid`: the merchant for whom it acts".to_owned()));
        }
        Ok(Self {
            mchid: file.mchid,
            appid: file.appid,
            sub_mchid: file.sub_mchid,
            sub_appid: file.sub_appid,
            api: file.api,
            serial: Certificate::read(&account_file.path(file.merchant.certificate))?.serial,
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
    mchid: String,
    appid: String,
    sub_mchid: Option<String>,
    sub_appid: Option<String>,
    api: String,
    merchant: MerchantTable,
    tls: TlsTable,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MerchantTable {
    certificate: PathBuf,
}
