//! `tollgate keygen sandbox`: generates keys of both sides, the account at the sandbox, and the channel that uses it.

pub(crate) mod account_kind;
pub(crate) mod alipay;
mod authority;
pub(crate) mod unionpay;
pub(crate) mod v3_scheme;
pub(crate) mod wechat_v2;

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use clap::ValueEnum;
use clap::builder::PossibleValue;

use self::account_kind::{AccountKind, NewAccount};
pub use self::account_kind::{RsaKeyPairPem, rsa_key_pair};
use super::registry::PROVIDERS;

/// Provider and signing method of a sandbox account: one kind of one row of the table of providers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SandboxProvider(&'static str);

impl SandboxProvider {
    /// WeChat Pay, API v3.
    pub const WECHAT_V3: Self = Self("wechat-v3");
    /// WeChat Pay, APIv2.
    pub const WECHAT_V2: Self = Self("wechat-v2");
    /// Alipay, with public keys.
    pub const ALIPAY: Self = Self("alipay");
    /// Alipay, with certificates.
    pub const ALIPAY_CERTIFICATES: Self = Self("alipay-certificates");
    /// Alipay, with certificates, by its v3 protocol.
    pub const ALIPAY_V3: Self = Self("alipay-v3");
    /// UnionPay, with certificates.
    pub const UNIONPAY: Self = Self("unionpay");
    /// UnionPay, with a shared key and SHA-256.
    pub const UNIONPAY_SHA256: Self = Self("unionpay-sha256");
    /// UnionPay, with a shared key and SM3.
    pub const UNIONPAY_SM3: Self = Self("unionpay-sm3");
    /// UnionPay, with SM2 certificates.
    pub const UNIONPAY_SM2: Self = Self("unionpay-sm2");

    /// Returns the provider of this name on the command line.
    pub fn named(name: &str) -> Option<Self> {
        Self::value_variants().iter().find(|provider| provider.0 == name).copied()
    }

    fn kind(self) -> Option<&'static AccountKind> {
        kinds().find(|kind| kind.name == self.0)
    }
}

impl Default for SandboxProvider {
    fn default() -> Self {
        Self::WECHAT_V3
    }
}

impl ValueEnum for SandboxProvider {
    fn value_variants<'a>() -> &'a [Self] {
        static ALL: LazyLock<Vec<SandboxProvider>> =
            LazyLock::new(|| kinds().map(|kind| SandboxProvider(kind.name)).collect());
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        self.kind().map(|kind| PossibleValue::new(kind.name).help(kind.help))
    }
}

/// Returns every kind of account of every provider.
fn kinds() -> impl Iterator<Item = &'static AccountKind> {
    PROVIDERS.into_iter().flat_map(|provider| provider.account_kinds())
}

/// Files and ids that [`sandbox_channel`] generated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxFiles {
    /// Channel file, `DIR/NAME.toml`.
    pub channel: PathBuf,
    /// Folder `DIR/NAME` with the channel's keys and the sandbox account, for `Sandbox::start`.
    pub account: PathBuf,
    /// Generated merchant number: WeChat's mchid, Alipay's seller_id, UnionPay's merId.
    pub mchid: String,
    /// Generated app id; for UnionPay the merId.
    pub appid: String,
}

/// Generates a channel to a WeChat Pay v3 sandbox, as [`sandbox_channel_of`] does.
pub fn sandbox_channel(dir: &Path, name: &str, sandbox_address: &str) -> io::Result<SandboxFiles> {
    sandbox_channel_of(SandboxProvider::WECHAT_V3, dir, name, sandbox_address)
}

/// Generates a channel whose provider is a sandbox at `sandbox_address` (`host:port`). The channel file is
/// `DIR/NAME.toml`. `DIR/NAME/` contains the keys and certificates of both sides, and the account in `sandbox.toml`.
///
/// Accounts in one directory with the same address share the sandbox's certificate authority and server certificate,
/// because a listener on a bare address can present only one certificate. Existing files are never overwritten.
pub fn sandbox_channel_of(
    provider: SandboxProvider,
    dir: &Path,
    name: &str,
    sandbox_address: &str,
) -> io::Result<SandboxFiles> {
    let host = host_of(name, sandbox_address)?;
    let account = dir.join(name);
    let channel = dir.join(format!("{name}.toml"));
    for path in [&account, &channel] {
        if path.exists() {
            let message = format!("{} already exists: choose another name, or remove it first", path.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
        }
    }
    let new_account = NewAccount { dir, name, host, address: sandbox_address };
    let unknown = || io::Error::new(io::ErrorKind::InvalidInput, format!("`{}` has no simulator", provider.0));
    let generated = (provider.kind().ok_or_else(unknown)?.make)(&new_account)?;
    fs::create_dir_all(&account)?;
    for (file, text) in &generated.files {
        write_new(&account.join(file), text)?;
    }
    write_new(&channel, &generated.channel)?;
    Ok(SandboxFiles { channel, account, mchid: generated.mchid, appid: generated.appid })
}

fn host_of<'a>(name: &str, address: &'a str) -> io::Result<&'a str> {
    let invalid = |message: String| io::Error::new(io::ErrorKind::InvalidInput, message);
    if !is_name(name) {
        let advice = "use small letters, digits and hyphens, at most 63, as in wechat-main";
        return Err(invalid(format!("`{name}` is not a channel name: {advice}")));
    }
    let split = address.rsplit_once(':').filter(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    let (host, _) = split.ok_or_else(|| {
        invalid(format!("`{address}` is not a sandbox address: write host and port, as in `127.0.0.1:8443`"))
    })?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if host.parse::<IpAddr>().is_err() && !host.chars().all(fits) {
        return Err(invalid(format!("`{host}` is not a host name")));
    }
    Ok(host)
}

/// Returns whether `text` is a name that the gateway accepts for a channel.
fn is_name(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.len() <= 63 && text.starts_with(fits) && text.chars().all(|c| fits(c) || c == '-')
}

/// Creates a file with mode 0600, because most of these files contain keys.
fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn sandbox_channel_is_generated_consistently_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let generated = sandbox_channel(dir.path(), "wechat-main", "127.0.0.1:8443").unwrap();
        let text = fs::read_to_string(&generated.channel).unwrap();
        let channel: toml::Table = toml::from_str(&text).unwrap();
        assert_eq!(channel["hosts"][0].as_str(), Some("https://127.0.0.1:8443"));
        let certificate = fs::read(dir.path().join(channel["mtls"]["cert"].as_str().unwrap())).unwrap();
        let certificate = x509_parser::pem::parse_x509_pem(&certificate).unwrap().1;
        let certificate = certificate.parse_x509().unwrap();
        assert_eq!(
            hex::encode(certificate.raw_serial()).to_uppercase(),
            channel["keys"]["sign"]["id"].as_str().unwrap()
        );
        assert_eq!(certificate.raw_serial().len(), 20);
        for file in ["pub_key.pem", "platform_key.pem", "platform_cert.pem", "sandbox.toml", "server_key.pem"] {
            assert!(generated.account.join(file).exists(), "{file}");
        }

        let before = fs::read(&generated.channel).unwrap();
        let again = sandbox_channel(dir.path(), "wechat-main", "127.0.0.1:8443").unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert!(again.to_string().contains("remove it first"), "{again}");
        assert_eq!(fs::read(&generated.channel).unwrap(), before);

        let read = |name: &str, file: &str| fs::read(dir.path().join(name).join(file)).unwrap();
        sandbox_channel(dir.path(), "wechat-east", "127.0.0.1:8443").unwrap();
        sandbox_channel(dir.path(), "elsewhere", "127.0.0.1:8444").unwrap();
        assert_eq!(read("wechat-main", "server.pem"), read("wechat-east", "server.pem"));
        assert_ne!(read("wechat-main", "ca.pem"), read("elsewhere", "ca.pem"));
        assert_ne!(read("wechat-main", "platform_key.pem"), read("wechat-east", "platform_key.pem"));
    }

    #[test]
    fn channels_of_all_providers_reference_existing_files_and_share_the_authority() {
        let dir = tempfile::tempdir().unwrap();
        for provider in SandboxProvider::value_variants() {
            let name = provider.to_possible_value().unwrap().get_name().to_owned();
            let generated = sandbox_channel_of(*provider, dir.path(), &name, "127.0.0.1:8443").unwrap();
            let channel: toml::Table = toml::from_str(&fs::read_to_string(&generated.channel).unwrap()).unwrap();
            assert!(name.starts_with(channel["provider"].as_str().unwrap()), "{name}");
            let mut files = Vec::new();
            files_in(&toml::Value::Table(channel), &mut files);
            assert!(!files.is_empty() && files.iter().all(|file| dir.path().join(file).exists()), "{name} {files:?}");
            let authority = |name: &str| fs::read(dir.path().join(name).join("ca.pem")).unwrap();
            assert_eq!(authority(&name), authority("wechat-v3"));
        }
    }

    /// Collects the file names in a channel file.
    fn files_in(value: &toml::Value, found: &mut Vec<String>) {
        match value {
            toml::Value::String(text) if text.ends_with(".pem") => found.push(text.replace("file:", "")),
            toml::Value::Array(items) => items.iter().for_each(|item| files_in(item, found)),
            toml::Value::Table(table) => table.values().for_each(|item| files_in(item, found)),
            _ => {}
        }
    }

    #[test]
    fn invalid_names_and_addresses_are_rejected() {
        let dir = tempfile::tempdir().unwrap();
        for (name, address) in
            [("../x", "127.0.0.1:1"), ("Main", "127.0.0.1:1"), ("", "127.0.0.1:1"), ("x", "127.0.0.1"), ("x", "a\"b:1")]
        {
            let refused = sandbox_channel(dir.path(), name, address).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{name} {address}");
        }
    }
}
