//! Generates sandbox channels of WeChat Pay APIv2.

use std::io;

use rand::RngExt;
use rand::distr::Alphanumeric;

use super::account_kind::{FILTERS, GeneratedAccount, NewAccount, digits};
use super::authority::{identity, server};

/// Generates the shared API key and the merchant's client certificate.
pub(crate) fn make(new_account: &NewAccount<'_>) -> io::Result<GeneratedAccount> {
    let mut files = Vec::new();
    let authority = server(new_account, &mut files)?;
    let mchid = format!("1900{}", digits(6));
    let appid = format!("wx{}", hex::encode(rand::random::<[u8; 8]>()));
    let api: String = rand::rng().sample_iter(Alphanumeric).take(32).map(char::from).collect();
    identity(&mchid, &authority, &mut files)?;
    files.push(("sandbox.toml", account_toml(new_account.address, &mchid, &appid, &api)));
    let channel = channel_toml(new_account, &mchid, &appid, &api);
    Ok(GeneratedAccount { files, channel, mchid, appid })
}

fn account_toml(address: &str, mchid: &str, appid: &str, api: &str) -> String {
    format!(
        r#"# Account at the sandbox. The gateway's side is the channel file in the parent folder.
provider = "wechat-v2"
address = "{address}"
mchid = "{mchid}"                           # also: sub_mchid, sub_appid (of a service provider)
appid = "{appid}"
api = "{api}"

[merchant]                                    # required for refunds and reversals
certificate = "apiclient_cert.pem"

[tls]                                         # ca: also of the client certificates
ca = "ca.pem"
certificate = "server.pem"
private_key = "server_key.pem"
"#
    )
}

fn channel_toml(new_account: &NewAccount<'_>, mchid: &str, appid: &str, api: &str) -> String {
    let NewAccount { name, address, .. } = new_account;
    format!(
        r#"# A channel to the sandbox (`tollgate sandbox` with the folder `{name}`). No real money can move here.
provider = "wechat-v2"
hosts = ["https://{address}"]
ca = "{name}/ca.pem"                          # the sandbox's own authority; real channels use the public roots
timeouts = {{ connect = "1s", read = "2s", write = "2s", total = "5s" }}
pool = {{ idle = 128, idle_timeout = "60s" }}

[account]
mchid = "{mchid}"
appid = "{appid}"

[keys]
api = "plain:{api}"     # plain secrets are allowed only for a sandbox

[mtls]                                        # required for refunds, reversals and fund-flow bills
cert = "{name}/apiclient_cert.pem"
key = "{name}/apiclient_key.pem"
{FILTERS}"#
    )
}
