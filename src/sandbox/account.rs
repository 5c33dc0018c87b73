//! Accounts that the sandbox serves: what every account provides, and its file `sandbox.toml`.

pub(super) mod alipay;
pub(super) mod unionpay;
pub(super) mod v3_scheme;
pub(super) mod wechat_v2;

use std::any::Any;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::notification::{ComposedNotification, SendOptions, Subject};
use super::state::{RefundStatus, SandboxState};

/// A merchant's account at its provider.
pub(crate) trait Account: Any + Send + Sync {
    /// Returns what the parts of the sandbox that know no provider need.
    fn profile(&self) -> Profile<'_>;
    /// Composes a notification of the subject's current state, or returns why there is none.
    fn compose(
        self: Arc<Self>,
        state: &SandboxState,
        subject: &Subject,
        options: &SendOptions,
    ) -> Result<ComposedNotification, String>;
}

/// Properties of an account.
pub(crate) struct Profile<'a> {
    /// The provider's id of the merchant.
    pub(crate) name: &'a str,
    /// Name of the provider, as in `sandbox.toml`.
    pub(crate) provider: &'static str,
    /// TLS files of the account's folder.
    pub(crate) tls: &'a TlsFiles,
    /// True if the provider requires a client certificate of this merchant for every connection.
    pub(crate) requires_client_certificate: bool,
    /// Default payer of the control API.
    pub(crate) default_payer: &'static str,
    /// Final statuses of refunds that the provider's console can make; empty if no console is simulated.
    pub(crate) console_refund_statuses: &'static [RefundStatus],
}

/// Returns the account of this name if it is of this type.
pub(crate) fn typed<A: Account>(accounts: &Accounts, name: &str) -> Option<Arc<A>> {
    let account: Arc<dyn Any + Send + Sync> = accounts.get(name)?.clone();
    account.downcast().ok()
}

/// TLS files of the listener; equal for all accounts of one sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TlsFiles {
    pub(super) ca: PathBuf,
    pub(super) certificate: PathBuf,
    pub(super) private_key: PathBuf,
}

/// Accounts by name.
pub(super) type Accounts = HashMap<String, Arc<dyn Account>>;

/// Content and folder of a `sandbox.toml`.
pub(crate) struct AccountFile {
    directory: PathBuf,
    text: String,
}

impl AccountFile {
    pub(crate) fn read(directory: &Path) -> io::Result<Self> {
        let account_file = Self { directory: directory.to_owned(), text: String::new() };
        let text = std::fs::read_to_string(account_file.path("sandbox.toml"));
        Ok(Self { text: text.map_err(|error| account_file.error(error.to_string()))?, ..account_file })
    }

    pub(crate) fn parse<T: DeserializeOwned>(&self) -> io::Result<T> {
        toml::from_str(&self.text).map_err(|error| self.error(error.to_string()))
    }

    pub(crate) fn error(&self, message: String) -> io::Error {
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
