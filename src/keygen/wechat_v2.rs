//! A channel to a sandbox that stands in for WeChat Pay's APIv2.

use std::io;

use rand::Rng;
use rand::distr::Alphanumeric;

use super::authority::{identity, server};
use super::{FILTERS, Made, Place, digits};

/// Makes the key that both sides have, and the merchant's client certificate.
pub(super) fn make(place: &Place<'_>) -> io::Result<Made> {
    let mut files = Vec::new();
    let authority = server(place, &mut files)?;
    let mchid = format!("1900{}", digits(6));
    let appid = format!("wx{}", hex::encode(rand::random::<[u8; 8]>()));
    let api: String = rand::rng().sample_iter(Alphanumeric).take(32).map(char::from).collect();
    identity(&mchid, &authority, &mut files)?;
    files.push(("sandbox.toml", account_toml(place.address, &mchid, &appid, &api)));
    let channel = channel_toml(place, &mchid, &appid, &api);
    Ok(Made { files, channel, mchid, appid })
}

fn account_toml(address: &str, mchid: &str, appid: &str, api: &str) -> String {
    format!(
        r#"# What the sandbox knows of this account. The other side of it is the channel file, one folder up.
provider = "wechat-v2"
address = "{address}"
mchid = "{mchid}"                           # also: sub_mchid, sub_appid (of a service provider)
appid = "{appid}"
api = "{api}"

[merchant]                                    # refunds and reversals must come with it
certificate = "apiclient_cert.pem"

[tls]                                         # ca: also of the client certificates
ca = "ca.pem"
certificate = "server.pem"
private_key = "server_key.pem"
"#
    )
}

fn channel_toml(place: &Place<'_>, mchid: &str, appid: &str, api: &str) -> String {
    let Place { name, address, .. } = place;
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
api = "plain:{api}"     # only a sandbox's may stand here in plain

[mtls]                                        # refunds, reversals and bills of funds need it
cert = "{name}/apiclient_cert.pem"
key = "{name}/apiclient_key.pem"
{FILTERS}"#
    )
}
