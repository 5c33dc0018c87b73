//! A merchant of WeChat Pay's APIv2, as WeChat knows it.

use std::io;
use std::path::PathBuf;

use serde::Deserialize;

use super::{Source, TlsFiles, TlsTable};
use crate::sandbox::keys::Certificate;

/// A merchant as the platform knows it.
pub(in crate::sandbox) struct Account {
    pub(in crate::sandbox) mchid: String,
    pub(in crate::sandbox) appid: String,
    /// For whom it acts, when it is a service provider.
    pub(in crate::sandbox) sub_mchid: Option<String>,
    pub(in crate::sandbox) sub_appid: Option<String>,
    /// Signs in both directions, and hides what refunds are told of.
    pub(in crate::sandbox) api: String,
    /// The serial number of the client certificate that refunds and reversals must come with.
    pub(in crate::sandbox) serial: String,
    pub(super) tls: TlsFiles,
}

impl Account {
    pub(super) fn read(source: &Source) -> io::Result<Self> {
        let file: File = source.parse()?;
        if file.api.len() != 32 || !file.api.is_ascii() {
            return Err(source.refused("`api` must be exactly 32 ASCII characters".to_owned()));
        }
        if file.sub_appid.is_some() && file.sub_mchid.is_none() {
            return Err(source.refused("`sub_appid` needs `sub_mchid`: the merchant for whom it acts".to_owned()));
        }
        Ok(Self {
            mchid: file.mchid,
            appid: file.appid,
            sub_mchid: file.sub_mchid,
            sub_appid: file.sub_appid,
            api: file.api,
            serial: Certificate::read(&source.path(file.merchant.certificate))?.serial,
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
