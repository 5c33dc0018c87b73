//! A channel to a sandbox that stands in for UnionPay, with certificates or with one key for both sides.

use std::io;

use rand::Rng;
use rcgen::{BasicConstraints, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_RSA_SHA256, SerialNumber};

use super::authority::{bad, issuer_parameters, parameters, server};
use super::{FILTERS, Made, Place, digits, merchant_secret, rsa_key_pair};

/// How both sides sign, in UnionPay's numbers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum SignMethod {
    /// 01: RSA, with a certificate in each message of UnionPay's.
    Certificates,
    /// 11: SHA-256 with one key for both sides.
    Sha256,
    /// 12: SM3 with one key for both sides.
    Sm3,
}

/// Makes keys and certificates of both sides.
pub(super) fn make(place: &Place<'_>, method: SignMethod) -> io::Result<Made> {
    let mut files = Vec::new();
    server(place, &mut files)?;
    let merchant = format!("777290{}", digits(9));
    let (account, channel) = match method {
        SignMethod::Certificates => {
            let number = certificates(&merchant, &mut files)?;
            (ACCOUNT_KEYS.to_owned(), channel_keys(place.name, number))
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
fn certificates(merchant: &str, files: &mut Vec<(&'static str, String)>) -> io::Result<u64> {
    let root = Authority::root("Tollgate sandbox CS CA")?;
    let middle = root.middle("Tollgate sandbox OCA1")?;
    // The third part of the name says whose it is; this is the one of UnionPay's test environment.
    let (unionpay, unionpay_key, _) = middle.signing("00040000:SIGN", "00000001")?;
    let (own, own_key, number) = middle.signing(&format!("{merchant}:SIGN"), "00000006")?;
    files.push(("acp_root.pem", root.pem));
    files.push(("acp_middle.pem", middle.pem));
    files.push(("acp_sign_cert.pem", own));
    files.push(("acp_sign_key.pem", own_key));
    files.push(("unionpay_cert.pem", unionpay));
    files.push(("unionpay_key.pem", unionpay_key));
    Ok(number)
}

/// One of the authorities above UnionPay's certificates; the listener has another.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn root(name: &str) -> io::Result<Self> {
        let key = rsa_key()?.0;
        let root = issuer_parameters(name)?;
        let pem = root.self_signed(&key).map_err(bad)?.pem();
        Ok(Self { issuer: Issuer::new(root, key), pem })
    }

    fn middle(&self, name: &str) -> io::Result<Self> {
        let key = rsa_key()?.0;
        let mut middle = issuer_parameters(name)?;
        middle.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        middle.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = middle.signed_by(&key, &self.issuer).map_err(bad)?.pem();
        Ok(Self { issuer: Issuer::new(middle, key), pem })
    }

    /// A certificate that signs messages, its key, and its serial number.
    fn signing(&self, owner: &str, counter: &str) -> io::Result<(String, String, u64)> {
        let (key, private) = rsa_key()?;
        let today = jiff::Timestamp::now().strftime("%Y-%m-%d");
        let mut certificate = parameters(&format!("041@Z{today}@{owner}@{counter}"), Vec::new())?;
        // Five bytes, as among the original's; the first is below 128, so that the number is positive.
        let number: u64 = rand::rng().random_range(0x10_0000_0000..0x7f_ffff_ffff);
        certificate.serial_number = Some(SerialNumber::from(number));
        certificate.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        Ok((certificate.signed_by(&key, &self.issuer).map_err(bad)?.pem(), private, number))
    }
}

fn rsa_key() -> io::Result<(KeyPair, String)> {
    let private = rsa_key_pair()?.private_key;
    Ok((KeyPair::from_pkcs8_pem_and_sign_algo(&private, &PKCS_RSA_SHA256).map_err(bad)?, private))
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

fn channel_keys(name: &str, number: u64) -> String {
    format!(
        r#"sign = {{ algorithm = "rsa-sha256", id = "{number}", file = "{name}/acp_sign_key.pem" }}  # id: the certificate's number
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
