//! Accounts that the sandbox serves, each read from a folder that `tollgate keygen` generated.

pub(super) mod alipay;
pub(super) mod unionpay;
pub(super) mod wechat_v2;
pub(super) mod wechat_v3;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A merchant's account at its provider.
#[derive(Clone)]
pub(super) enum Account {
    WechatV3(Arc<wechat_v3::Account>),
    WechatV2(Arc<wechat_v2::Account>),
    Alipay(Arc<alipay::Account>),
    Unionpay(Arc<unionpay::Account>),
}

/// TLS files of the listener; equal for all accounts of one sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TlsFiles {
    pub(super) ca: PathBuf,
    pub(super) certificate: PathBuf,
    pub(super) private_key: PathBuf,
}

/// Accounts by name.
pub(super) type Accounts = HashMap<String, Account>;

impl Account {
    /// The provider's id of the merchant.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::WechatV3(account) => &account.mchid,
            Self::WechatV2(account) => &account.mchid,
            Self::Alipay(account) => &account.app_id,
            Self::Unionpay(account) => &account.mer_id,
        }
    }

    /// Provider name, as in `sandbox.toml`.
    pub(super) fn provider(&self) -> &'static str {
        match self {
            Self::WechatV3(_) => "wechat-v3",
            Self::WechatV2(_) => "wechat-v2",
            Self::Alipay(_) => "alipay",
            Self::Unionpay(_) => "unionpay",
        }
    }

    /// Whether the provider requires a client certificate of this merchant for every connection.
    pub(super) fn requires_client_certificate(&self) -> bool {
        matches!(self, Self::WechatV3(_))
    }

    /// Default payer of the control API.
    pub(super) fn default_payer(&self) -> &'static str {
        match self {
            Self::WechatV3(_) | Self::WechatV2(_) => "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o",
            Self::Alipay(_) => "2088102116773037",
            Self::Unionpay(_) => "621626*********0018",
        }
    }

    fn tls(&self) -> &TlsFiles {
        match self {
            Self::WechatV3(account) => &account.tls,
            Self::WechatV2(account) => &account.tls,
            Self::Alipay(account) => &account.tls,
            Self::Unionpay(account) => &account.tls,
        }
    }

    fn read(directory: &Path) -> io::Result<Self> {
        #[derive(Deserialize)]
        struct Head {
            provider: String,
        }
        let account_file = AccountFile::read(directory)?;
        match account_file.parse::<Head>()?.provider.as_str() {
            "wechat-v3" => Ok(Self::WechatV3(Arc::new(wechat_v3::Account::read(&account_file)?))),
            "wechat-v2" => Ok(Self::WechatV2(Arc::new(wechat_v2::Account::read(&account_file)?))),
            "alipay" => Ok(Self::Alipay(Arc::new(alipay::Account::read(&account_file)?))),
            "unionpay" => Ok(Self::Unionpay(Arc::new(unionpay::Account::read(&account_file)?))),
            other => {
                let advice = "write `wechat-v3`, `wechat-v2`, `alipay` or `unionpay`";
                Err(account_file.error(format!("`{other}` is not a provider of the sandbox; {advice}")))
            }
        }
    }
}

/// Content and folder of a `sandbox.toml`.
struct AccountFile {
    directory: PathBuf,
    text: String,
}

impl AccountFile {
    fn read(directory: &Path) -> io::Result<Self> {
        let account_file = Self { directory: directory.to_owned(), text: String::new() };
        let text = std::fs::read_to_string(account_file.path("sandbox.toml"));
        Ok(Self { text: text.map_err(|error| account_file.error(error.to_string()))?, ..account_file })
    }

    fn parse<T: DeserializeOwned>(&self) -> io::Result<T> {
        toml::from_str(&self.text).map_err(|error| self.error(error.to_string()))
    }

    fn error(&self, message: String) -> io::Error {
        io::Error::other(format!("{}: {message}", self.path("sandbox.toml").display()))
    }

    /// Resolves a path relative to the account's folder.
    fn path(&self, file: impl AsRef<Path>) -> PathBuf {
        self.directory.join(file)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TlsTable {
    ca: PathBuf,
    certificate: PathBuf,
    private_key: PathBuf,
}

impl TlsTable {
    fn files(self, account_file: &AccountFile) -> TlsFiles {
        TlsFiles {
            ca: account_file.path(self.ca),
            certificate: account_file.path(self.certificate),
            private_key: account_file.path(self.private_key),
        }
    }
}

/// Reads every account. A directory without `sandbox.toml` stands for the account folders inside it.
pub(super) fn read_all(directories: &[PathBuf]) -> io::Result<(Accounts, TlsFiles)> {
    let mut accounts = Accounts::new();
    let mut tls: Option<TlsFiles> = None;
    for directory in folders(directories)? {
        let account = Account::read(&directory)?;
        let files = account.tls();
        let first = tls.get_or_insert_with(|| files.clone());
        let same = |a: &Path, b: &Path| Ok::<_, io::Error>(std::fs::read(a)? == std::fs::read(b)?);
        if !same(&first.ca, &files.ca)? || !same(&first.certificate, &files.certificate)? {
            return Err(io::Error::other(format!(
                "{} has another certificate authority than the accounts before it, but a listener can present only one certificate: generate the accounts with \
                 `tollgate keygen` in one directory for one address, or start a sandbox for each",
                directory.display()
            )));
        }
        if let Some(duplicate) = accounts.insert(account.name().to_owned(), account) {
            return Err(io::Error::other(format!("the account {} is in two directories", duplicate.name())));
        }
    }
    let tls = tls.ok_or_else(|| {
        io::Error::other("no account to serve: generate one with `tollgate keygen`, which writes a `sandbox.toml`")
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
