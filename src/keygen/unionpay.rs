//! A channel to a sandbox that stands in for UnionPay, with certificates or with one key for both sides.

mod rsa;
mod sm2;

use std::io;

use rand::Rng;

use super::authority::server;
use super::{FILTERS, Made, Place, digits, merchant_secret};

/// How both sides sign, in UnionPay's numbers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum SignMethod {
    /// 01: RSA, with a certificate in each message of UnionPay's.
    Certificates,
    /// 11: SHA-256 with one key for both sides.
    Sha256,
    /// 12: SM3 with one key for both sides.
    Sm3,
    /// 21: as 01, with SM2 and SM3.
    Sm2,
}

/// Makes keys and certificates of both sides.
pub(super) fn make(place: &Place<'_>, method: SignMethod) -> io::Result<Made> {
    let mut files = Vec::new();
    server(place, &mut files)?;
    let merchant = format!("777290{}", digits(9));
    let (account, channel) = match method {
        SignMethod::Certificates => {
            let number = certificates::<rsa::RsaAuthority>(&merchant, &mut files)?;
            (ACCOUNT_KEYS.to_owned(), channel_keys(place.name, "rsa-sha256", number))
        }
        SignMethod::Sm2 => {
            let number = certificates::<sm2::Sm2Authority>(&merchant, &mut files)?;
            (ACCOUNT_KEYS.to_owned(), channel_keys(place.name, "sm2-sm3", number))
        }
        SignMethod::Sha256 | SignMethod::Sm3 => {
            let key = merchant_secret();
            let line = format!("secure_key = \"plain:{key}\"  # only a sandbox's may stand here in plain");
            (format!("secure_key = \"{key}\"                 # for signMethod 11 and 12\n"), line)
        }
    };
    files.push(("sandbox.toml", account_toml(place.address, &merchant, &account)));
    let channel = channel_toml(place, &merchant, method, &channel);
    Ok(Made { files, channel, mchid: merchant.clone(), appid: merchant })
}

/// A root, a middle authority, and under it both sides' certificates. Gives the serial number of the merchant's.
fn certificates<A: Authority>(merchant: &str, files: &mut Vec<(&'static str, String)>) -> io::Result<u64> {
    let root = A::root("Tollgate sandbox CS CA")?;
    let middle = root.middle("Tollgate sandbox OCA1")?;
    // The third part of the name says whose it is; this is the one of UnionPay's test environment.
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

/// One of the authorities above UnionPay's certificates; the listener has another.
trait Authority: Sized {
    /// One that signed itself.
    fn root(name: &str) -> io::Result<Self>;

    /// One under this, with no further authorities under it.
    fn middle(&self, name: &str) -> io::Result<Self>;

    /// A certificate that signs messages, with a new key.
    fn signing(&self, subject: &str, number: u64) -> io::Result<Signing>;

    /// Its own certificate.
    fn pem(self) -> String;
}

/// What signs messages, in PEM.
struct Signing {
    certificate: String,
    /// PKCS#8.
    private_key: String,
}

/// A common name as the original's certificates have it.
fn subject(owner: &str, counter: &str) -> String {
    format!("041@Z{}@{owner}@{counter}", jiff::Timestamp::now().strftime("%Y-%m-%d"))
}

/// Five bytes, as among the original's; the first is below 128, so that the number is positive.
fn serial() -> u64 {
    rand::rng().random_range(0x10_0000_0000..0x7f_ffff_ffff)
}

const ACCOUNT_KEYS: &str = r#"
[merchant]                                    # whose signatures are believed
certificate = "acp_sign_cert.pem"

[unionpay]                                    # signs answers and notifications, which carry the certificate
certificate = "unionpay_cert.pem"
private_key = "unionpay_key.pem"
"#;

fn account_toml(address: &str, merchant: &str, keys: &str) -> String {
    format!(
        r#"# What the sandbox knows of this account. The other side of it is the channel file, one folder up.
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
root_cert = "file:{name}/acp_root.pem"         # of UnionPay's certificates, which come in its messages
middle_cert = "file:{name}/acp_middle.pem""#
    )
}

fn channel_toml(place: &Place<'_>, merchant: &str, method: SignMethod, keys: &str) -> String {
    let Place { name, address, .. } = place;
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
{sign_method}environment = "test"                          # whose certificates the sandbox's are named like
gateway = "https://{address}"                 # where browsers are led
term_id = "00000001"

[keys]
{keys}
{FILTERS}"#
    )
}
