//! A UnionPay account of the sandbox.

use std::io;
use std::path::PathBuf;

use serde::Deserialize;

use super::{AccountFile, TlsFiles, TlsTable};
use crate::keys::{Certificate, SigningKey, sm2};

/// A merchant registered at UnionPay.
pub(crate) struct Account {
    pub(crate) mer_id: String,
    pub(crate) keys: Keys,
    pub(crate) tls: TlsFiles,
}

/// Keys of both sides.
pub(crate) enum Keys {
    /// Certificates, for `signMethod` 01 and 21.
    Certificates(Box<Certificates>),
    /// Shared key, for `signMethod` 11 and 12.
    Secret(String),
}

/// Certificates of both sides.
pub(crate) struct Certificates {
    /// Serial number of the merchant's certificate, `certId`.
    pub(crate) number: String,
    pub(crate) pair: Pair,
    /// UnionPay's certificate as each message contains it, with CRLF line ends.
    pub(crate) shown: String,
}

/// Key that verifies the merchant's signatures, and key that signs responses and notifications.
pub(crate) enum Pair {
    /// RSA, `signMethod` 01.
    Rsa { merchant: Certificate, unionpay: SigningKey },
    /// SM2, `signMethod` 21.
    Sm2 { merchant: sm2::PublicKey, unionpay: sm2::SigningKey },
}

impl Certificates {
    /// Reads the certificates. The type of the merchant's key determines the method of both sides.
    fn read(account_file: &AccountFile, merchant: &MerchantTable, unionpay: &UnionpayTable) -> io::Result<Self> {
        let merchant = Certificate::read(&account_file.path(&merchant.certificate))?;
        let own = Certificate::read(&account_file.path(&unionpay.certificate))?;
        let key = account_file.path(&unionpay.private_key);
        let number = merchant.number.clone();
        let pair = match sm2::PublicKey::of(&merchant) {
            Some(merchant) => Pair::Sm2 { merchant, unionpay: sm2::SigningKey::read(&own.number, &key)? },
            None => Pair::Rsa { merchant, unionpay: SigningKey::read("unionpay", &key)? },
        };
        let shown = String::from_utf8(own.pem);
        let shown = shown.map_err(|_| account_file.error("UnionPay's certificate is not PEM".to_owned()))?;
        Ok(Self { number, pair, shown: shown.lines().map(|line| format!("{line}\r\n")).collect() })
    }
}

impl Account {
    pub(crate) fn read(account_file: &AccountFile) -> io::Result<Self> {
        let file: File = account_file.parse()?;
        let keys = match (file.secure_key, file.merchant, file.unionpay) {
            (Some(key), None, None) => Keys::Secret(key),
            (None, Some(merchant), Some(unionpay)) => {
                Keys::Certificates(Box::new(Certificates::read(account_file, &merchant, &unionpay)?))
            }
            _ => {
                let advice = "give `secure_key` alone, or the tables `merchant` and `unionpay`".to_owned();
                return Err(account_file.error(advice));
            }
        };
        Ok(Self { mer_id: file.mer_id, keys, tls: file.tls.files(account_file) })
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
