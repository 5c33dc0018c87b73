//! `tollgate keygen`: generates secrets, key pairs, and accounts at the sandbox.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::Path;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{KeyPair as _, RsaKeyPair};
use clap::Subcommand;
use tollgate_merchant::{merchant_secret, webhook_secret};
use tollgate_plugins::signer::key_file::write_pem;

use crate::output::say;

/// The kinds of keys.
#[derive(Subcommand)]
pub(super) enum Keygen {
    /// Generate a secret for a merchant's `keys`
    Merchant,
    /// Generate a secret for a merchant's `webhook.secrets`
    Webhook,
    /// Generate an RSA key pair: NAME_key.pem and NAME_pub.pem
    Rsa {
        /// Base name of the files
        name: String,
    },
    #[cfg(feature = "tools")]
    /// Generate keys for both sides of a sandbox account, and the channel file that uses them
    Sandbox {
        /// Name of the channel
        name: String,
        /// Provider that the sandbox simulates
        #[arg(long, value_enum, default_value_t)]
        provider: tollgate_sandbox::keygen::SandboxProvider,
        /// Address on which the sandbox will listen
        #[arg(long, default_value = "127.0.0.1:8443")]
        address: String,
    },
}

/// Generates the key, and prints it or the names of its files.
#[cfg_attr(not(feature = "tools"), expect(unused_variables, reason = "only a sandbox account is written to `conf`"))]
pub(super) fn run(conf: &Path, what: Keygen) -> Result<(), String> {
    match what {
        Keygen::Merchant => say!("{}", merchant_secret()),
        Keygen::Webhook => say!("{}", webhook_secret()),
        Keygen::Rsa { name } => {
            let (private_key, public_key) = rsa_key_pair().map_err(|error| error.to_string())?;
            for (suffix, text) in [("key", &private_key), ("pub", &public_key)] {
                let path = format!("{name}_{suffix}.pem");
                write_new(Path::new(&path), text).map_err(|error| format!("{path}: {error}"))?;
                say!("{path}");
            }
        }
        #[cfg(feature = "tools")]
        Keygen::Sandbox { name, provider, address } => {
            let made = tollgate_sandbox::keygen::sandbox_channel_of(provider, &conf.join("channels"), &name, &address)
                .map_err(|error| error.to_string())?;
            let account = made.account.display();
            say!("channel    {}", made.channel.display());
            say!("account    {account}");
            say!("start it   tollgate sandbox --listen {address} {account}");
        }
    }
    Ok(())
}

/// Generates an RSA key pair of 2048 bits, the size that WeChat Pay requires: private key in PKCS#8 PEM, public key in SPKI PEM.
fn rsa_key_pair() -> io::Result<(String, String)> {
    let failed = |_| io::Error::other("cannot generate an RSA key pair");
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).map_err(failed)?;
    let private = pair.as_der().map_err(failed)?;
    let public = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).map_err(failed)?;
    Ok((write_pem("PRIVATE KEY", private.as_ref()).to_string(), write_pem("PUBLIC KEY", public.as_ref()).to_string()))
}

/// Creates a file with mode 0600, because it contains a key.
fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)?.write_all(text.as_bytes())
}
