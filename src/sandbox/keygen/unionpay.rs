//! Generates sandbox channels of UnionPay, with certificates or with one shared key.

mod rsa;
mod sm2;

use std::io;

use rand::RngExt;

use super::account_kind::{FILTERS, GeneratedAccount, NewAccount, digits};
use super::authority::server;

/// UnionPay's `signMethod`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum SignMethod {
    /// 01: RSA; each message from UnionPay contains its certificate.
    Certificates,
    /// 11: SHA-256 with a shared key.
    Sha256,
    /// 12: SM3 with a shared key.
    Sm3,
    /// 21: as 01, with SM2 and SM3.
    Sm2,
}

/// Generates the keys and certificates of both sides.
pub(crate) fn make(new_account: &NewAccount<'_>, method: SignMethod) -> io::Result<GeneratedAccount> {
    let mut files = Vec::new();
    server(new_account, &mut files)?;
    let merchant = format!("777290{}", digits(9));
    let (account, channel) = match method {
        SignMethod::Certificates => {
            let number = certificates::<rsa::RsaAuthority>(&merchant, &mut files)?;
            (ACCOUNT_KEYS.to_owned(), channel_keys(new_account.name, "rsa-sha256", number))
        }
        SignMethod::Sm2 => {
            let number = certificates::<sm2::Sm2Authority>(&merchant, &mut files)?;
            (ACCOUNT_KEYS.to_owned(), channel_keys(new_account.name, "sm2-sm3", number))
        }
        SignMethod::Sha256 | SignMethod::Sm3 => {
            let key = hex::encode(rand::random::<[u8; 32]>());
            let line = format!("secure_key = \"plain:{key}\"  # plain secrets are allowed only for a sandbox");
            (format!("secure_key = \"{key}\"                 # for signMethod 11 and 12\n"), line)
        }
    };
    files.push(("sandbox.toml", account_toml(new_account.address, &merchant, &account)));
    let channel = channel_toml(new_account, &merchant, method, &channel);
    Ok(GeneratedAccount { files, channel, mchid: merchant.clone(), appid: merchant })
}

/// Generates a root, an intermediate authority, and the certificates of both sides. Returns the serial number of the
/// merchant's certificate.
fn certificates<A: Authority>(merchant: &str, files: &mut Vec<(&'static str, String)>) -> io::Result<u64> {
    let root = A::root("Tollgate sandbox CS CA")?;
    let middle = root.middle("Tollgate sandbox OCA1")?;
    // The third part of the name identifies the owner; this is the owner in UnionPay's test environment.
    let unionpay = middle.signing(&subject("00040000:SIGN", "00000001"), serial())?;
    let number = serial();
    let own = middle.signing(&subject(&format!("{merchant}:SIGN"), "00000006"), number)?;
    files.push(("acp_root.pem", root.pem()));
    files.push(("acp_middle.pem", middle.pem()));
    files.push(("acp_sign_cert.pem", own.certificate));
    files.push(("acp_sign_key.pem", own.private_key));
    files.push(("unionpay_cert.pem", unionpay.certificate));
    files.push(("unionpay_key.pem", unionpay.private_key));
    Ok(number)
}

/// Certificate authority of UnionPay's certificates. The listener's certificate has another authority.
trait Authority: Sized {
    /// Returns a self-signed root.
    fn root(name: &str) -> io::Result<Self>;

    /// Returns an intermediate authority with path length 0.
    fn middle(&self, name: &str) -> io::Result<Self>;

    /// Returns a message-signing certificate with a new key.
    fn signing(&self, subject: &str, number: u64) -> io::Result<SigningIdentity>;

    /// Returns the authority's certificate in PEM.
    fn pem(self) -> String;
}

/// Message-signing certificate and key, in PEM.
struct SigningIdentity {
    certificate: String,
    /// Private key in PKCS#8.
    private_key: String,
}

/// Returns a common name in the format of UnionPay's certificates.
fn subject(owner: &str, counter: &str) -> String {
    format!("041@Z{}@{owner}@{counter}", jiff::Timestamp::now().strftime("%Y-%m-%d"))
}

/// Returns a serial number of five bytes, as UnionPay's. The first byte is below 128, so that the number is positive.
fn serial() -> u64 {
    rand::rng().random_range(0x10_0000_0000..0x7f_ffff_ffff)
}

const ACCOUNT_KEYS: &str = r#"
[merchant]                                    # its signatures are accepted
certificate = "acp_sign_cert.pem"

[unionpay]                                    # signs responses and notifications, which contain the certificate
certificate = "unionpay_cert.pem"
private_key = "unionpay_key.pem"
"#;

fn account_toml(address: &str, merchant: &str, keys: &str) -> String {
    format!(
        r#"# Account at the sandbox. The gateway's side is the channel file in the parent folder.
provider = "unionpay"
address = "{address}"
merId = "{merchant}"
{keys}
[tls]
ca = "ca.pem"
certificate = "server.pem"
private_key = "server_key.pem"
"#
    )
}

fn channel_keys(name: &str, algorithm: &str, number: u64) -> String {
    format!(
        r#"sign = {{ algorithm = "{algorithm}", id = "{number}", file = "{name}/acp_sign_key.pem" }}  # id: the certificate's number
root_cert = "file:{name}/acp_root.pem"         # root of UnionPay's certificates, which its messages contain
middle_cert = "file:{name}/acp_middle.pem""#
    )
}

fn channel_toml(new_account: &NewAccount<'_>, merchant: &str, method: SignMethod, keys: &str) -> String {
    let NewAccount { name, address, .. } = new_account;
    let sign_method = match method {
        SignMethod::Certificates => "",
        SignMethod::Sha256 => "sign_method = \"11\"\n",
        SignMethod::Sm3 => "sign_method = \"12\"\n",
        SignMethod::Sm2 => "sign_method = \"21\"\n",
    };
    format!(
        r#"# A channel to the sandbox (`tollgate sandbox` with the folder `{name}`). No real money can move here.
provider = "unionpay"
hosts = ["https://{address}"]
ca = "{name}/ca.pem"                          # the sandbox's own authority; real channels use the public roots
timeouts = {{ connect = "1s", read = "2s", write = "2s", total = "5s" }}
pool = {{ idle = 128, idle_timeout = "60s" }}

[account]
merId = "{merchant}"
{sign_method}environment = "test"                          # names in the sandbox's certificates
gateway = "https://{address}"                 # where browsers are sent
term_id = "00000001"

[keys]
{keys}
{FILTERS}"#
    )
}
