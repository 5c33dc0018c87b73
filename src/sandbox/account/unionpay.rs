//! A merchant of UnionPay, as UnionPay knows it.

use std::io;
use std::path::PathBuf;

use serde::Deserialize;

use super::{Source, TlsFiles, TlsTable};
use crate::sandbox::keys::{Certificate, SigningKey};
use crate::sandbox::sm2;

/// A merchant as the platform knows it.
pub(in crate::sandbox) struct Account {
    pub(in crate::sandbox) mer_id: String,
    pub(in crate::sandbox) keys: Keys,
    pub(super) tls: TlsFiles,
}

/// How both sides sign.
pub(in crate::sandbox) enum Keys {
    /// `signMethod` 01 and 21.
    Certificates(Box<Certificates>),
    /// `signMethod` 11 and 12: one key for both sides.
    Secret(String),
}

/// The certificates of `signMethod` 01 or 21.
pub(in crate::sandbox) struct Certificates {
    /// Whose signatures are believed.
    pub(in crate::sandbox) merchant: Certificate,
    /// Signs answers and notifications.
    pub(in crate::sandbox) unionpay: OwnKey,
    /// The certificate of that key, as each message carries it: with the line ends of the platform's machines.
    pub(in crate::sandbox) shown: String,
}

/// The key of UnionPay's certificate; the merchant's is of the same kind.
pub(in crate::sandbox) enum OwnKey {
    /// `signMethod` 01.
    Rsa(SigningKey),
    /// `signMethod` 21.
    Sm2(sm2::SigningKey),
}

impl Account {
    pub(super) fn read(source: &Source) -> io::Result<Self> {
        let file: File = source.parse()?;
        let keys = match (file.secure_key, file.merchant, file.unionpay) {
            (Some(key), None, None) => Keys::Secret(key),
            (None, Some(merchant), Some(unionpay)) => {
                let own = Certificate::read(&source.path(unionpay.certificate))?;
                let merchant = Certificate::read(&source.path(merchant.certificate))?;
                if sm2::is_one(&own.public_key) != sm2::is_one(&merchant.public_key) {
                    return Err(source.refused("both certificates must be of one kind, RSA or SM2".to_owned()));
                }
                let key = source.path(unionpay.private_key);
                let key = match sm2::is_one(&own.public_key) {
                    true => OwnKey::Sm2(sm2::SigningKey::read(&own.number, &key)?),
                    false => OwnKey::Rsa(SigningKey::read("unionpay", &key)?),
                };
                let shown = String::from_utf8(own.pem);
                let shown = shown.map_err(|_| source.refused("UnionPay's certificate is no PEM".to_owned()))?;
                Keys::Certificates(Box::new(Certificates {
                    merchant,
                    unionpay: key,
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
