//! Kinds of sandbox accounts, and the parts that their generators share.

use std::fmt;
use std::io;
use std::path::Path;

use rand::RngExt;
use rcgen::{KeyPair, PKCS_RSA_SHA256, RsaKeySize};

/// One kind of account that `tollgate keygen sandbox --provider NAME` generates.
pub(crate) struct AccountKind {
    /// Name on the command line. It begins with the name of the provider.
    pub(crate) name: &'static str,
    /// Provider and signing method, for the help text.
    pub(crate) help: &'static str,
    /// Generates the account.
    pub(crate) make: fn(&NewAccount<'_>) -> io::Result<GeneratedAccount>,
}

impl fmt::Debug for AccountKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Directory and name of a new account, and the address of its sandbox.
pub(crate) struct NewAccount<'a> {
    pub(crate) dir: &'a Path,
    pub(crate) name: &'a str,
    pub(crate) host: &'a str,
    pub(crate) address: &'a str,
}

/// Generated account that is not yet written to disk.
pub(crate) struct GeneratedAccount {
    /// Files of the account's folder: name and content.
    pub(crate) files: Vec<(&'static str, String)>,
    /// Content of the channel file.
    pub(crate) channel: String,
    pub(crate) mchid: String,
    pub(crate) appid: String,
}

/// RSA key pair of 2048 bits, the size that WeChat Pay requires.
pub struct RsaKeyPairPem {
    /// Private key in PKCS#8 PEM.
    pub private_key: String,
    /// Public key in SPKI PEM.
    pub public_key: String,
}

/// Generates an RSA key pair of 2048 bits.
pub fn rsa_key_pair() -> io::Result<RsaKeyPairPem> {
    let pair = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)
        .map_err(|error| io::Error::other(format!("cannot generate an RSA key pair: {error}")))?;
    Ok(RsaKeyPairPem { private_key: pair.serialize_pem(), public_key: pair.public_key_pem() })
}

/// Filters of every sandbox channel.
pub(crate) const FILTERS: &str = r#"
[[filter]]                                    # outermost first
use = "limit"
rate = 600

[[filter]]
use = "retry"                                 # only requests that were not sent, and queries
max = 2
base = "100ms"

[[filter]]
use = "breaker"
request_volume_threshold = 20
error_threshold_percentage = 50
rolling_window = "10s"
sleep_window = "5s"
"#;

/// Returns random digits.
pub(crate) fn digits(count: usize) -> String {
    (0..count).map(|_| char::from(b'0' + rand::rng().random_range(0..10u8))).collect()
}
