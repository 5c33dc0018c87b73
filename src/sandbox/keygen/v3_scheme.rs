//! Generates sandbox channels of the v3 scheme.

use std::io;

use rand::RngExt;
use rand::distr::Alphanumeric;
use rcgen::{Issuer, KeyPair, PKCS_RSA_SHA256, SerialNumber};

use super::account_kind::{FILTERS, GeneratedAccount, NewAccount, digits, rsa_key_pair};
use super::authority::{generation_error, identity, parameters, serial, server};
use crate::v3_scheme::scheme::V3Scheme;

/// Generates the keys and certificates of both sides.
pub(crate) fn make(scheme: &V3Scheme, new_account: &NewAccount<'_>) -> io::Result<GeneratedAccount> {
    let mchid = format!("1900{}", digits(6));
    let mut merchant = Merchant {
        files: Vec::new(),
        appid: format!("wx{}", hex::encode(rand::random::<[u8; 8]>())),
        serial: String::new(),
        public_key_id: format!("{}{mchid}{}", scheme.public_key_prefix, digits(20)),
        api_v3: rand::rng().sample_iter(Alphanumeric).take(32).map(char::from).collect(),
        mchid,
    };
    let authority = server(new_account, &mut merchant.files)?;
    merchant.serial = identity(&merchant.mchid, &authority, &mut merchant.files)?;
    let platform = rsa_key_pair()?;
    merchant.files.push(("pub_key.pem", platform.public_key));
    merchant.files.push(("platform_key.pem", platform.private_key));
    merchant.platform_certificate(&authority)?;
    merchant.files.push(("sandbox.toml", merchant.account_toml(scheme, new_account.address)));
    let channel = merchant.channel_toml(scheme, new_account);
    Ok(GeneratedAccount { files: merchant.files, channel, mchid: merchant.mchid, appid: merchant.appid })
}

struct Merchant {
    files: Vec<(&'static str, String)>,
    mchid: String,
    appid: String,
    serial: String,
    public_key_id: String,
    api_v3: String,
}

impl Merchant {
    /// Adds a platform certificate with a key of its own. Code that confuses the platform's two keys then fails.
    fn platform_certificate(&mut self, authority: &Issuer<'static, KeyPair>) -> io::Result<()> {
        let pair = rsa_key_pair()?;
        let key =
            KeyPair::from_pkcs8_pem_and_sign_algo(&pair.private_key, &PKCS_RSA_SHA256).map_err(generation_error)?;
        let mut platform = parameters("Tollgate sandbox platform", Vec::new())?;
        platform.serial_number = Some(SerialNumber::from_slice(&serial()));
        let certificate = platform.signed_by(&key, authority).map_err(generation_error)?;
        self.files.push(("platform_cert.pem", certificate.pem()));
        self.files.push(("platform_cert_key.pem", pair.private_key));
        Ok(())
    }

    fn account_toml(&self, scheme: &V3Scheme, address: &str) -> String {
        let provider = scheme.name;
        let Self { mchid, appid, api_v3, serial, public_key_id, .. } = self;
        format!(
            r#"# Account at the sandbox. The gateway's side is the channel file in the parent folder.
provider = "{provider}"
address = "{address}"
mchid = "{mchid}"
appid = "{appid}"
api_v3 = "{api_v3}"

[merchant]                                    # its signatures are accepted
serial = "{serial}"
certificate = "apiclient_cert.pem"

[public_key]                                  # signs responses and notifications; remove for an older merchant
id = "{public_key_id}"
private_key = "platform_key.pem"

[platform_certificate]                        # the older method; remove for a merchant without one
certificate = "platform_cert.pem"
private_key = "platform_cert_key.pem"

[tls]                                         # ca: also of the client certificates
ca = "ca.pem"
certificate = "server.pem"
private_key = "server_key.pem"
"#
        )
    }

    fn channel_toml(&self, scheme: &V3Scheme, new_account: &NewAccount<'_>) -> String {
        let (provider, NewAccount { name, address, .. }) = (scheme.name, new_account);
        let Self { mchid, appid, api_v3, serial, public_key_id, .. } = self;
        format!(
            r#"# A channel to the sandbox (`tollgate sandbox` with the folder `{name}`). No real money can move here.
provider = "{provider}"
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
api_v3 = "plain:{api_v3}"  # plain secrets are allowed only for a sandbox

[mtls]                                        # client identity
cert = "{name}/apiclient_cert.pem"
key = "{name}/apiclient_key.pem"
{FILTERS}"#
        )
    }
}
