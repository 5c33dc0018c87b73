//! A merchant of UnionPay, as UnionPay knows it.

use std::io;
use std::path::PathBuf;

use serde::Deserialize;

use super::{Source, TlsFiles, TlsTable};
use crate::sandbox::keys::{Certificate, SigningKey};

/// A merchant as the platform knows it.
pub(in crate::sandbox) struct Account {
    pub(in crate::sandbox) mer_id: String,
    pub(in crate::sandbox) keys: Keys,
    pub(super) tls: TlsFiles,
}

/// How both sides sign.
pub(in crate::sandbox) enum Keys {
    /// `signMethod` 01.
    Certificates(Box<Certificates>),
    /// `signMethod` 11 and 12: one key for both sides.
    Secret(String),
}

/// The certificates of `signMethod` 01.
pub(in crate::sandbox) struct Certificates {
    /// Whose signatures are believed.
    pub(in crate::sandbox) merchant: Certificate,
    /// Signs answers and notifications.
    pub(in crate::sandbox) unionpay: SigningKey,
    /// The certificate of that key, as each message carries it: with the line ends of the platform's machines.
    pub(in crate::sandbox) shown: String,
}

impl Account {
    pub(super) fn read(source: &Source) -> io::Result<Self> {
        let file: File = source.parse()?;
        let keys = match (file.secure_key, file.merchant, file.unionpay) {
            (Some(key), None, None) => Keys::Secret(key),
            (None, Some(merchant), Some(unionpay)) => {
                let shown = String::from_utf8(Certificate::read(&source.path(unionpay.certificate))?.pem);
                let shown = shown.map_err(|_| source.refused("UnionPay's certificate is no PEM".to_owned()))?;
                Keys::Certificates(Box::new(Certificates {
                    merchant: Certificate::read(&source.path(merchant.certificate))?,
                    unionpay: SigningKey::read("unionpay", &source.path(unionpay.private_key))?,
                    shown: shown.lines().map(|line| format!("{line}\r\n")).collect(),
                }))
            }
            _ => {
                let advice = "give `secure_key` alone, or the tables `merchant` and `unionpay`".to_owned();
                return Err(source.refused(advice));
            }
        };
        Ok(Self { mer_id: file.mer_id, keys, tls: file.tls.files(source) })
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
    #[serde(rename = "merId")]
    mer_id: String,
    secure_key: Option<String>,
    merchant: Option<MerchantTable>,
    unionpay: Option<UnionpayTable>,
    tls: TlsTable,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MerchantTable {
    certificate: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UnionpayTable {
    certificate: PathBuf,
    private_key: PathBuf,
}
