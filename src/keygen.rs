//! `tollgate keygen`: makes secrets, key pairs, and a channel whose provider is the sandbox.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{KeyPair as _, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rand::Rng;
use rand::distr::Alphanumeric;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_RSA_SHA256, SerialNumber,
};
use serde::Deserialize;

use crate::config::file::is_name;

/// A secret with which a merchant signs its requests: 32 random bytes in base64url.
pub fn merchant_secret() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
}

/// A secret that signs webhooks, as Standard Webhooks writes it: `whsec_` and 32 random bytes in base64.
pub fn webhook_secret() -> String {
    format!("whsec_{}", STANDARD.encode(rand::random::<[u8; 32]>()))
}

/// An RSA key pair of 2048 bits, which is what WeChat Pay asks for.
pub struct RsaKeyPairPem {
    /// PKCS#8 PEM.
    pub private_key: String,
    /// SPKI PEM.
    pub public_key: String,
}

/// Makes an RSA key pair of 2048 bits.
pub fn rsa_key_pair() -> io::Result<RsaKeyPairPem> {
    let failed = |_| io::Error::other("the RSA key pair could not be made");
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).map_err(failed)?;
    let private = pair.as_der().map_err(failed)?;
    let public = AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(pair.public_key()).map_err(failed)?;
    Ok(RsaKeyPairPem {
        private_key: pem("PRIVATE KEY", private.as_ref()),
        public_key: pem("PUBLIC KEY", public.as_ref()),
    })
}

/// What [`sandbox_channel`] made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxFiles {
    /// `DIR/NAME.toml`: the channel.
    pub channel: PathBuf,
    /// `DIR/NAME`: its keys, and the account as the sandbox needs it; to be given to `Sandbox::start`.
    pub account: PathBuf,
    /// The invented merchant number.
    pub mchid: String,
    /// The invented app id.
    pub appid: String,
}

/// Makes a channel whose provider is a sandbox at `sandbox_address` (`host:port`): `DIR/NAME.toml`, and in `DIR/NAME/`
/// the keys and certificates of both sides with `sandbox.toml`, which tells the sandbox of the account.
///
/// Accounts made in one directory for one address share the sandbox's authority and server certificate, because a
/// listener on a bare address can show only one. Nothing is ever overwritten.
pub fn sandbox_channel(dir: &Path, name: &str, sandbox_address: &str) -> io::Result<SandboxFiles> {
    let host = host_of(name, sandbox_address)?;
    let account = dir.join(name);
    let channel = dir.join(format!("{name}.toml"));
    for path in [&account, &channel] {
        if path.exists() {
            let message = format!("{} is there already: choose another name, or remove it first", path.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
        }
    }
    let made = Made::new(dir, host, sandbox_address)?;
    fs::create_dir_all(&account)?;
    for (file, text) in &made.files {
        write_new(&account.join(file), text)?;
    }
    write_new(&channel, &made.channel_toml(name, sandbox_address))?;
    Ok(SandboxFiles { channel, account, mchid: made.mchid, appid: made.appid })
}

/// The subject of every sandbox authority: constant, so that one can be used again from its key alone.
const AUTHORITY: &str = "Tollgate sandbox authority (worth nothing elsewhere)";
/// How long certificates live, as at WeChat Pay.
const YEARS: i16 = 5;

struct Made {
    files: Vec<(&'static str, String)>,
    mchid: String,
    appid: String,
    serial: String,
    public_key_id: String,
    api_v3: String,
}

impl Made {
    fn new(dir: &Path, host: &str, address: &str) -> io::Result<Self> {
        let mchid = format!("1900{}", digits(6));
        let mut made = Self {
            files: Vec::new(),
            appid: format!("wx{}", hex::encode(rand::random::<[u8; 8]>())),
            serial: String::new(),
            public_key_id: format!("PUB_KEY_ID_01{mchid}{}", digits(20)),
            api_v3: rand::rng().sample_iter(Alphanumeric).take(32).map(char::from).collect(),
            mchid,
        };
        let authority = made.server(dir, host, address)?;
        made.identity(&authority)?;
        let platform = rsa_key_pair()?;
        made.files.push(("pub_key.pem", platform.public_key));
        made.files.push(("platform_key.pem", platform.private_key));
        made.platform_certificate(&authority)?;
        let account = made.account_toml(address);
        made.files.push(("sandbox.toml", account));
        Ok(made)
    }

    /// The authority and the server's certificate: those of a neighbour with the same address, or new ones.
    fn server(&mut self, dir: &Path, host: &str, address: &str) -> io::Result<Issuer<'static, KeyPair>> {
        const FILES: [&str; 4] = ["ca.pem", "ca_key.pem", "server.pem", "server_key.pem"];
        if let Some(neighbour) = neighbour(dir, address) {
            for file in FILES {
                self.files.push((file, fs::read_to_string(neighbour.join(file))?));
            }
            let key = KeyPair::from_pem(&self.files[1].1).map_err(bad)?;
            return Ok(Issuer::new(authority_parameters()?, key));
        }
        let authority_key = KeyPair::generate().map_err(bad)?;
        let authority = authority_parameters()?.self_signed(&authority_key).map_err(bad)?;
        self.files.push((FILES[0], authority.pem()));
        self.files.push((FILES[1], authority_key.serialize_pem()));
        let issuer = Issuer::new(authority_parameters()?, authority_key);

        let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(String::from).into();
        if !names.iter().any(|name| name == host) {
            names.push(host.to_owned());
        }
        let mut server = parameters("Tollgate sandbox", names)?;
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().map_err(bad)?;
        let certificate = server.signed_by(&key, &issuer).map_err(bad)?;
        self.files.push((FILES[2], certificate.pem()));
        self.files.push((FILES[3], key.serialize_pem()));
        Ok(issuer)
    }

    fn identity(&mut self, authority: &Issuer<'static, KeyPair>) -> io::Result<()> {
        let pair = rsa_key_pair()?;
        let key = KeyPair::from_pkcs8_pem_and_sign_algo(&pair.private_key, &PKCS_RSA_SHA256).map_err(bad)?;
        let mut merchant = parameters(&self.mchid, Vec::new())?;
        let serial = serial();
        merchant.serial_number = Some(SerialNumber::from_slice(&serial));
        merchant.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        merchant.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = merchant.signed_by(&key, authority).map_err(bad)?;
        self.serial = hex::encode(serial).to_uppercase();
        self.files.push(("apiclient_key.pem", pair.private_key));
        self.files.push(("apiclient_cert.pem", certificate.pem()));
        Ok(())
    }

    /// With a key of its own, so that who takes one of the platform's keys for the other is found out.
    fn platform_certificate(&mut self, authority: &Issuer<'static, KeyPair>) -> io::Result<()> {
        let pair = rsa_key_pair()?;
        let key = KeyPair::from_pkcs8_pem_and_sign_algo(&pair.private_key, &PKCS_RSA_SHA256).map_err(bad)?;
        let mut platform = parameters("Tollgate sandbox platform", Vec::new())?;
        platform.serial_number = Some(SerialNumber::from_slice(&serial()));
        let certificate = platform.signed_by(&key, authority).map_err(bad)?;
        self.files.push(("platform_cert.pem", certificate.pem()));
        self.files.push(("platform_cert_key.pem", pair.private_key));
        Ok(())
    }

    fn account_toml(&self, address: &str) -> String {
        let Self { mchid, appid, api_v3, serial, public_key_id, .. } = self;
        format!(
            r#"# What the sandbox knows of this account. The other side of it is the channel file, one folder up.
provider = "wechat-v3"
address = "{address}"
mchid = "{mchid}"
appid = "{appid}"
api_v3 = "{api_v3}"

[merchant]                                    # whose signatures are believed
serial = "{serial}"
certificate = "apiclient_cert.pem"

[public_key]                                  # signs answers and notifications; leave out for an older merchant
id = "{public_key_id}"
private_key = "platform_key.pem"

[platform_certificate]                        # the older way; leave out for a merchant that never had one
certificate = "platform_cert.pem"
private_key = "platform_cert_key.pem"

[tls]                                         # ca: also of the client certificates
ca = "ca.pem"
certificate = "server.pem"
private_key = "server_key.pem"
"#
        )
    }

    fn channel_toml(&self, name: &str, address: &str) -> String {
        let Self { mchid, appid, api_v3, serial, public_key_id, .. } = self;
        format!(
            r#"# A channel to the sandbox (`tollgate sandbox --account {name}`). No real money can move here.
provider = "wechat-v3"
hosts = ["https://{address}"]
ca = "{name}/ca.pem"                          # the sandbox's own authority; real channels use the public roots
timeouts = {{ connect = "1s", read = "2s", write = "2s", total = "5s" }}
pool = {{ idle = 128, idle_timeout = "60s" }}

[account]
mchid = "{mchid}"
appid = "{appid}"

[keys]
sign = {{ algorithm = "rsa-sha256", id = "{serial}", file = "{name}/apiclient_key.pem" }}
verify = [{{ id = "{public_key_id}", file = "{name}/pub_key.pem" }}]
api_v3 = "plain:{api_v3}"  # only a sandbox's may stand here in plain

[mtls]                                        # identity shown to the provider
cert = "{name}/apiclient_cert.pem"
key = "{name}/apiclient_key.pem"

[[filter]]                                    # outermost first
use = "limit"
rate = 600

[[filter]]
use = "retry"                                 # only what was provably not sent, and queries
max = 2
base = "100ms"

[[filter]]
use = "breaker"
request_volume_threshold = 20
error_threshold_percentage = 50
rolling_window = "10s"
sleep_window = "5s"
"#
        )
    }
}

fn host_of<'a>(name: &str, address: &'a str) -> io::Result<&'a str> {
    let refused = |message: String| io::Error::new(io::ErrorKind::InvalidInput, message);
    if !is_name(name) {
        let advice = "use small letters, digits and hyphens, at most 63, as in wechat-main";
        return Err(refused(format!("`{name}` is no channel name: {advice}")));
    }
    let split = address.rsplit_once(':').filter(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    let (host, _) = split.ok_or_else(|| {
        refused(format!("`{address}` is no address of a sandbox: give host and port, as in `127.0.0.1:8443`"))
    })?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if host.parse::<IpAddr>().is_err() && !host.chars().all(fits) {
        return Err(refused(format!("`{host}` is no name of a host")));
    }
    Ok(host)
}

/// An account in the same directory that a sandbox on the same address would serve.
fn neighbour(dir: &Path, address: &str) -> Option<PathBuf> {
    #[derive(Deserialize)]
    struct File {
        address: String,
    }
    let mut accounts: Vec<_> = fs::read_dir(dir).ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    accounts.sort();
    accounts.into_iter().find(|account| {
        let text = fs::read_to_string(account.join("sandbox.toml"));
        let file = text.ok().and_then(|text| toml::from_str::<File>(&text).ok());
        file.is_some_and(|file| file.address == address) && account.join("ca_key.pem").exists()
    })
}

fn authority_parameters() -> io::Result<CertificateParams> {
    let mut authority = parameters(AUTHORITY, Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(authority)
}

fn parameters(name: &str, alternative_names: Vec<String>) -> io::Result<CertificateParams> {
    let mut parameters = CertificateParams::new(alternative_names).map_err(bad)?;
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.use_authority_key_identifier_extension = true;
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let day = |date: jiff::civil::Date| {
        rcgen::date_time_ymd(date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    parameters.not_before = day(today.saturating_sub(jiff::Span::new().days(1)));
    parameters.not_after = day(today.saturating_add(jiff::Span::new().years(YEARS)));
    Ok(parameters)
}

/// 20 bytes that make 40 hexadecimal digits without leading zeros and a positive number.
fn serial() -> [u8; 20] {
    let mut serial: [u8; 20] = rand::random();
    serial[0] = rand::rng().random_range(0x10..0x80);
    serial
}

fn digits(count: usize) -> String {
    (0..count).map(|_| char::from(b'0' + rand::rng().random_range(0..10u8))).collect()
}

fn pem(label: &str, der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in base64.as_bytes().chunks(64) {
        text.extend(line.iter().map(|byte| char::from(*byte)));
        text.push('\n');
    }
    let _ = writeln!(text, "-----END {label}-----");
    text
}

/// Readable by its owner alone: most of these files hold keys.
pub(crate) fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

fn bad(error: rcgen::Error) -> io::Error {
    io::Error::other(format!("a certificate could not be made: {error}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn secrets_have_their_form_and_never_come_twice() {
        assert_eq!(URL_SAFE_NO_PAD.decode(merchant_secret()).unwrap().len(), 32);
        let webhook = webhook_secret();
        assert_eq!(STANDARD.decode(webhook.strip_prefix("whsec_").unwrap()).unwrap().len(), 32);
        assert_ne!(merchant_secret(), merchant_secret());
    }

    #[test]
    fn a_channel_is_made_once_and_its_parts_belong_together() {
        let dir = tempfile::tempdir().unwrap();
        let made = sandbox_channel(dir.path(), "wechat-main", "127.0.0.1:8443").unwrap();
        let text = fs::read_to_string(&made.channel).unwrap();
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
            assert!(made.account.join(file).exists(), "{file}");
        }

        let before = fs::read(&made.channel).unwrap();
        let again = sandbox_channel(dir.path(), "wechat-main", "127.0.0.1:8443").unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert!(again.to_string().contains("remove it first"), "{again}");
        assert_eq!(fs::read(&made.channel).unwrap(), before);

        let read = |name: &str, file: &str| fs::read(dir.path().join(name).join(file)).unwrap();
        sandbox_channel(dir.path(), "wechat-east", "127.0.0.1:8443").unwrap();
        sandbox_channel(dir.path(), "elsewhere", "127.0.0.1:8444").unwrap();
        assert_eq!(read("wechat-main", "server.pem"), read("wechat-east", "server.pem"));
        assert_ne!(read("wechat-main", "ca.pem"), read("elsewhere", "ca.pem"));
        assert_ne!(read("wechat-main", "platform_key.pem"), read("wechat-east", "platform_key.pem"));
    }

    #[test]
    fn bad_names_and_addresses_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for (name, address) in
            [("../x", "127.0.0.1:1"), ("Main", "127.0.0.1:1"), ("", "127.0.0.1:1"), ("x", "127.0.0.1"), ("x", "a\"b:1")]
        {
            let refused = sandbox_channel(dir.path(), name, address).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{name} {address}");
        }
    }
}
