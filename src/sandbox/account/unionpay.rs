//! A merchant of UnionPay, as UnionPay knows it.

use std::io;
use std::path::PathBuf;

use serde::Deserialize;

use super::{Source, TlsFiles, TlsTable};
use crate::sandbox::keys::{Certificate, SigningKey, sm2};

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

/// The certificates of both sides.
pub(in crate::sandbox) struct Certificates {
    /// The number of the merchant's, `certId`.
    pub(in crate::sandbox) number: String,
    pub(in crate::sandbox) pair: Pair,
    /// UnionPay's certificate, as each message carries it: with the line ends of the platform's machines.
    pub(in crate::sandbox) shown: String,
}

/// Whose signatures are believed, and what signs answers and notifications.
pub(in crate::sandbox) enum Pair {
    /// `signMethod` 01.
    Rsa { merchant: Certificate, unionpay: SigningKey },
    /// `signMethod` 21.
    Sm2 { merchant: sm2::PublicKey, unionpay: sm2::SigningKey },
}

impl Certificates {
    /// The merchant's key says by which method both sides sign.
    fn read(source: &Source, merchant: &MerchantTable, unionpay: &UnionpayTable) -> io::Result<Self> {
        let merchant = Certificate::read(&source.path(&merchant.certificate))?;
        let own = Certificate::read(&source.path(&unionpay.certificate))?;
        let key = source.path(&unionpay.private_key);
        let number = merchant.number.clone();
        let pair = match sm2::PublicKey::of(&merchant) {
            Some(merchant) => Pair::Sm2 { merchant, unionpay: sm2::SigningKey::read(&own.number, &key)? },
            None => Pair::Rsa { merchant, unionpay: SigningKey::read("unionpay", &key)? },
        };
        let shown = String::from_utf8(own.pem);
        let shown = shown.map_err(|_| source.refused("UnionPay's certificate is no PEM".to_owned()))?;
        Ok(Self { number, pair, shown: shown.lines().map(|line| format!("{line}\r\n")).collect() })
    }
}

impl Account {
    pub(super) fn read(source: &Source) -> io::Result<Self> {
        let file: File = source.parse()?;
        let keys = match (file.secure_key, file.merchant, file.unionpay) {
            (Some(key), None, None) => Keys::Secret(key),
            (None, Some(merchant), Some(unionpay)) => {
                Keys::Certificates(Box::new(Certificates::read(source, &merchant, &unionpay)?))
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
