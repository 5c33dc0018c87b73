//! The accounts that the sandbox serves, each read from a folder that `tollgate keygen` made.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::keys::{Certificate, SigningKey};

/// A merchant as the platform knows it.
pub(super) struct Account {
    pub(super) mchid: String,
    pub(super) appid: String,
    pub(super) api_v3: [u8; 32],
    /// Whose signatures are believed.
    pub(super) merchant: Certificate,
    pub(super) public_key: Option<SigningKey>,
    pub(super) platform: Option<Platform>,
    pub(super) tls: TlsFiles,
}

/// A platform certificate and its private key.
pub(super) struct Platform {
    pub(super) certificate: Certificate,
    pub(super) key: SigningKey,
}

/// What the listener needs; equal for all accounts of one sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TlsFiles {
    pub(super) ca: PathBuf,
    pub(super) certificate: PathBuf,
    pub(super) private_key: PathBuf,
}

/// Accounts by their mchid.
pub(super) type Accounts = HashMap<String, Arc<Account>>;

impl Account {
    /// The key that a request asks for with `Wechatpay-Serial`; without one, the key of the older way.
    pub(super) fn key(&self, wanted: Option<&str>) -> Option<&SigningKey> {
        let mut keys = self.platform.iter().map(|platform| &platform.key).chain(&self.public_key);
        match wanted {
            None => keys.next(),
            Some(id) => keys.find(|key| key.id.eq_ignore_ascii_case(id)),
        }
    }

    fn read(directory: &Path) -> io::Result<Self> {
        let path = directory.join("sandbox.toml");
        let refused = |message: String| io::Error::other(format!("{}: {message}", path.display()));
        let text = std::fs::read_to_string(&path).map_err(|error| refused(error.to_string()))?;
        let file: File = toml::from_str(&text).map_err(|error| refused(error.to_string()))?;
        if file.provider != "wechat-v3" {
            return Err(refused(format!(
                "`{}` is no provider that the sandbox speaks; write `wechat-v3`",
                file.provider
            )));
        }
        let api_v3 = file.api_v3.as_bytes().try_into();
        let api_v3 = api_v3.map_err(|_| refused("`api_v3` must be exactly 32 ASCII characters".to_owned()))?;
        let merchant = Certificate::read(&directory.join(file.merchant.certificate))?;
        if merchant.serial != file.merchant.serial {
            return Err(refused(format!("`merchant.serial` is not the certificate's, which is {}", merchant.serial)));
        }
        let public_key = file.public_key.map(|key| SigningKey::read(&key.id, &directory.join(key.private_key)));
        let platform = file.platform_certificate.map(|platform| {
            let certificate = Certificate::read(&directory.join(platform.certificate))?;
            let key = SigningKey::read(&certificate.serial, &directory.join(platform.private_key))?;
            Ok::<_, io::Error>(Platform { certificate, key })
        });
        let account = Self {
            mchid: file.mchid,
            appid: file.appid,
            api_v3,
            merchant,
            public_key: public_key.transpose()?,
            platform: platform.transpose()?,
            tls: TlsFiles {
                ca: directory.join(file.tls.ca),
                certificate: directory.join(file.tls.certificate),
                private_key: directory.join(file.tls.private_key),
            },
        };
        if account.key(None).is_none() {
            return Err(refused("give `[public_key]` or `[platform_certificate]`: something must sign".to_owned()));
        }
        Ok(account)
    }
}

/// Reads every account; a directory without `sandbox.toml` stands for those inside it that have one.
pub(super) fn read_all(directories: &[PathBuf]) -> io::Result<(Accounts, TlsFiles)> {
    let mut accounts = Accounts::new();
    let mut tls: Option<TlsFiles> = None;
    for directory in folders(directories)? {
        let account = Account::read(&directory)?;
        let first = tls.get_or_insert_with(|| account.tls.clone());
        let same = |a: &Path, b: &Path| Ok::<_, io::Error>(std::fs::read(a)? == std::fs::read(b)?);
        if !same(&first.ca, &account.tls.ca)? || !same(&first.certificate, &account.tls.certificate)? {
            return Err(io::Error::other(format!(
                "{} has another authority than the accounts before it, and a listener can show only one: make them with \
                 `tollgate keygen` in one directory for one address, or start a sandbox for each",
                directory.display()
            )));
        }
        if let Some(double) = accounts.insert(account.mchid.clone(), Arc::new(account)) {
            return Err(io::Error::other(format!("the mchid {} is in two directories", double.mchid)));
        }
    }
    let tls = tls.ok_or_else(|| {
        io::Error::other("no account to serve: make one with `tollgate keygen`, which writes a `sandbox.toml`")
    })?;
    Ok((accounts, tls))
}

fn folders(directories: &[PathBuf]) -> io::Result<Vec<PathBuf>> {
    let is_account = |path: &Path| path.join("sandbox.toml").exists();
    let mut found = Vec::new();
    for directory in directories {
        if is_account(directory) {
            found.push(directory.clone());
            continue;
        }
        let entries = std::fs::read_dir(directory)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", directory.display())))?;
        let mut inside: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        inside.retain(|path| is_account(path));
        inside.sort();
        found.extend(inside);
    }
    Ok(found)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    provider: String,
    /// Only for `tollgate keygen`, which looks for neighbours.
    #[serde(rename = "address")]
    _address: String,
    mchid: String,
    appid: String,
    api_v3: String,
    merchant: MerchantFile,
    public_key: Option<PublicKeyFile>,
    platform_certificate: Option<PlatformFile>,
    tls: TlsFile,
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TlsFile {
    ca: PathBuf,
    certificate: PathBuf,
    private_key: PathBuf,
}
