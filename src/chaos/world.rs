//! Where it happens: a directory with a real configuration, the sandbox, the gateway as a process, a merchant's receiver.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tollgate_plugins::payment::provider_number;

use super::receiver::Receiver;
use crate::clock::stamp;
use crate::keygen::{self, SandboxProvider};
use crate::sandbox::{Options, Sandbox};
use crate::sign::{Credentials, plain};
use crate::stage::{Gateway, call, free};

const KEY: &str = "chaos-1";
const MERCHANT: &str = "chaos";

/// A way to pay, and what it needs to know of the payer.
pub(super) struct Way {
    pub(super) method: &'static str,
    pub(super) payer: &'static str,
}

/// The providers, each with its channel's name, and the ways to pay that are an exchange with it.
const CHANNELS: &[(&str, SandboxProvider, &[Way])] = &[
    (
        "wechat",
        SandboxProvider::WechatV3,
        &[
            Way { method: "wechat.native", payer: "{}" },
            Way { method: "wechat.jsapi", payer: r#"{"openid": "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o"}"# },
            Way { method: "wechat.h5", payer: r#"{"client_ip": "203.0.113.9"}"# },
        ],
    ),
    (
        "alipay",
        SandboxProvider::Alipay,
        &[
            Way { method: "alipay.qr", payer: "{}" },
            Way { method: "alipay.jsapi", payer: r#"{"buyer_id": "2088102116773037"}"# },
        ],
    ),
    ("wechat-v2", SandboxProvider::WechatV2, &[Way { method: "wechat.app", payer: "{}" }]),
    (
        "unionpay",
        SandboxProvider::Unionpay,
        &[Way { method: "unionpay.qr", payer: "{}" }, Way { method: "unionpay.app", payer: "{}" }],
    ),
];

pub(super) struct World {
    pub(super) sandbox: Sandbox,
    pub(super) gateway: Gateway,
    pub(super) receiver: Receiver,
    pub(super) directory: PathBuf,
    secret: String,
}

impl World {
    pub(super) async fn set(seed: u64) -> Result<Self, String> {
        let directory = std::env::temp_dir().join(format!("tollgate-chaos-{}", std::process::id()));
        let conf = directory.join("conf");
        let cannot = |error: std::io::Error| format!("cannot prepare {}: {error}", directory.display());
        for folder in ["merchants", "channels"] {
            std::fs::create_dir_all(conf.join(folder)).map_err(cannot)?;
        }
        let (gateway, provider) = (Gateway::new(&directory)?, free()?);
        let receiver = Receiver::open(seed).await?;
        let mut routes = String::new();
        for (channel, provider_kind, ways) in CHANNELS {
            let folder = conf.join("channels");
            let made = keygen::sandbox_channel_of(*provider_kind, &folder, channel, &provider.to_string());
            let file = made.map_err(cannot)?.channel;
            let text = std::fs::read_to_string(&file).map_err(cannot)?;
            std::fs::write(&file, hardened(&text)).map_err(cannot)?;
            for Way { method, .. } in *ways {
                routes +=
                    &format!("[[route]]\nmatch = {{ method = \"{method}\" }}\nto = [{{ channel = \"{channel}\" }}]\n");
            }
        }
        let secret = keygen::merchant_secret();
        for (file, text) in [
            ("tollgate.toml", process(&gateway)),
            ("merchants/chaos.toml", merchant(&secret, &receiver.url())),
            ("routes.toml", routes),
        ] {
            std::fs::write(conf.join(file), text).map_err(cannot)?;
        }
        let mut options = Options::new(vec![conf.join("channels")]);
        options.listen = provider;
        options.notify_schedule = vec![Duration::from_millis(500); 600];
        let sandbox = Sandbox::start(options).await.map_err(|error| error.to_string())?;
        gateway.start().await?;
        Ok(Self { sandbox, gateway, receiver, directory, secret })
    }

    /// Every way to pay.
    pub(super) fn ways() -> Vec<&'static Way> {
        CHANNELS.iter().flat_map(|(_, _, ways)| ways.iter()).collect()
    }

    /// The channels' files.
    pub(super) fn channel_files(&self) -> Vec<PathBuf> {
        CHANNELS.iter().map(|(name, ..)| self.directory.join(format!("conf/channels/{name}.toml"))).collect()
    }

    /// A signed request of the merchant.
    pub(super) async fn ask(
        &self,
        method: &str,
        target: &str,
        key: Option<&str>,
        body: &Value,
    ) -> Result<(u16, Value), String> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let stamp = stamp();
        let secret = self.secret.as_bytes();
        let with = Credentials { key_id: KEY, secret, created: stamp.unix_time, nonce: &stamp.nonce };
        let mut headers = plain(&with, method, target, body.as_bytes());
        headers.extend(key.map(|key| ("idempotency-key", key.to_owned())));
        call(self.gateway.address, method, target, &headers, body).await
    }

    /// What the sandbox knows of an order; `None` when nothing of it ever arrived.
    pub(super) async fn seen(&self, order: &str) -> Result<Option<Value>, String> {
        let path = format!("/orders/{}", number(order));
        match self.control("GET", &path, Value::Null).await? {
            (200, seen) => Ok(Some(seen)),
            (404, _) => Ok(None),
            (status, seen) => Err(format!("the sandbox answered {status} to {path}: {seen}")),
        }
    }

    /// The sandbox's control API; gives status and JSON.
    pub(super) async fn control(&self, method: &str, path: &str, body: Value) -> Result<(u16, Value), String> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        call(self.sandbox.control_address(), method, path, &[], body).await
    }

    /// Scripts a fault.
    pub(super) async fn fault(&self, fault: Value) -> Result<(), String> {
        match self.control("POST", "/faults", fault).await? {
            (200, _) => Ok(()),
            (_, refused) => Err(format!("the sandbox refused a fault: {refused}")),
        }
    }

    /// Ends everything, and removes the directory.
    pub(super) fn clear(self) {
        self.gateway.kill();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// The provider's number of an order.
pub(super) fn number(order: &str) -> String {
    provider_number(&[MERCHANT, order])
}

/// The provider's number of a refund.
pub(super) fn refund_number(order: &str, refund: &str) -> String {
    provider_number(&[MERCHANT, order, refund])
}

/// With limits that a machine cannot reach, and a breaker that tries again soon: what is tested is money, not patience.
fn hardened(channel: &str) -> String {
    channel.replace("rate = 600", "rate = 100000").replace("sleep_window = \"5s\"", "sleep_window = \"200ms\"")
}

fn process(gateway: &Gateway) -> String {
    let Gateway { address, admin, .. } = gateway;
    format!(
        "public_url = \"http://{address}\"\n[server]\nlisten = \"{address}\"\n[admin]\nlisten = \"{admin}\"\n\
         [ledger]\npath = \"../data\"\n[delivery]\nallow = [\"127.0.0.0/8\"]\n[telemetry]\nlog = \"warn\"\n"
    )
}

fn merchant(secret: &str, url: &str) -> String {
    let webhook = keygen::webhook_secret();
    format!(
        "keys = [{{ id = \"{KEY}\", secret = \"plain:{secret}\" }}]\nwebhook = {{ url = \"{url}\", secrets = [\"plain:{webhook}\"] }}\n"
    )
}

/// An order of the merchant.
pub(super) fn order_of(order: &str, amount: u64, way: &Way) -> Value {
    json!({
        "order_id": order, "amount": {"value": amount, "currency": "CNY"}, "description": "混沌 chaos",
        "method": way.method, "payer": serde_json::from_str::<Value>(way.payer).unwrap_or_default(),
        "return_url": "https://shop.example.com/thanks",
    })
}
