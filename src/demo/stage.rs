//! What the demo plays on: a directory with a real configuration, a sandbox, and the gateway as its own process.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tollgate_plugins::payment::provider_number;

use super::shop::Shop;
use crate::keygen;
use crate::output::say;
use crate::sandbox::{Options, Sandbox};
use crate::stage::{Gateway, PATIENCE, call, free};

/// Everything that runs.
pub(super) struct Stage {
    pub(super) sandbox: Sandbox,
    pub(super) gateway: Gateway,
    pub(super) shop: Shop,
    directory: PathBuf,
}

impl Stage {
    /// Makes keys and configuration, starts sandbox and gateway, and waits until the gateway is ready.
    pub(super) async fn start() -> Result<Self, String> {
        let directory = std::env::temp_dir().join(format!("tollgate-demo-{}", std::process::id()));
        let conf = directory.join("conf");
        let cannot = |error: std::io::Error| format!("cannot prepare {}: {error}", directory.display());
        for folder in ["merchants", "channels"] {
            std::fs::create_dir_all(conf.join(folder)).map_err(cannot)?;
        }
        let (gateway, provider) = (Gateway::new(&directory)?, free()?);
        keygen::sandbox_channel(&conf.join("channels"), "wechat", &provider.to_string()).map_err(cannot)?;
        let shop = Shop::open(gateway.address).await?;
        for (file, text) in files(&shop, &gateway) {
            std::fs::write(conf.join(file), text).map_err(cannot)?;
        }
        let mut options = Options::new(vec![conf.join("channels")]);
        options.listen = provider;
        options.notify_schedule = vec![Duration::from_secs(1); 30];
        let sandbox = Sandbox::start(options).await.map_err(|error| error.to_string())?;
        gateway.start().await?;
        Ok(Self { sandbox, gateway, shop, directory })
    }

    /// What the sandbox knows of an order.
    pub(super) async fn seen(&self, order: &str) -> Result<Value, String> {
        self.control("GET", &format!("/orders/{}", self.number(order)), Value::Null).await
    }

    /// Plays the payer.
    pub(super) async fn pay(&self, order: &str) -> Result<(), String> {
        self.control("POST", &format!("/orders/{}/pay", self.number(order)), json!({})).await.map(drop)
    }

    /// Scripts a fault.
    pub(super) async fn fault(&self, fault: Value) -> Result<(), String> {
        self.control("POST", "/faults", fault).await.map(drop)
    }

    /// Sends a notification with a wrong signature; gives the status with which the gateway answered it.
    pub(super) async fn forge(&self, order: &str) -> Result<u64, String> {
        let path = format!("/orders/{}", self.number(order));
        self.control("POST", &format!("{path}/pay"), json!({"notify": false})).await?;
        self.control("POST", &format!("{path}/notify"), json!({"tamper": "signature"})).await?;
        let until = Instant::now() + PATIENCE;
        loop {
            let seen = self.control("GET", &path, Value::Null).await?;
            if let Some(status) = seen["notifications"][0]["attempts"][0]["status"].as_u64() {
                return Ok(status);
            }
            if Instant::now() > until {
                return Err("the forged notification was not answered".to_owned());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What to try by hand while it is left running.
    pub(super) fn hints(&self) {
        let (conf, gateway) = (self.directory.join("conf"), self.gateway.address);
        say!("   It goes on until Ctrl-C. In another terminal:");
        say!("     export SHOP_SECRET={}", self.shop.secret);
        say!("     URL=http://{gateway}/v1/payments/tea-1");
        say!("     tollgate sign --key {} --secret env:SHOP_SECRET GET $URL | curl -sH @- $URL", self.shop.key_id);
        say!("     tollgate explain --conf {} tea-2            where is my money", conf.display());
        say!("     curl http://{}/metrics", self.gateway.admin);
        say!("     curl http://{}/orders            what the sandbox knows", self.sandbox.control_address());
        say!("     $EDITOR {}     and watch it reload", conf.join("channels/wechat.toml").display());
        say!("     tail -f {}", self.gateway.log().display());
    }

    /// Ends the gateway and removes the directory.
    pub(super) fn clear(self) {
        self.gateway.kill();
        let _ = std::fs::remove_dir_all(&self.directory);
    }

    fn number(&self, order: &str) -> String {
        provider_number(&["demo", order])
    }

    async fn control(&self, method: &str, path: &str, body: Value) -> Result<Value, String> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        match call(self.sandbox.control_address(), method, path, &[], body).await? {
            (200, body) => Ok(body),
            (status, body) => Err(format!("the sandbox answered {status} to {method} {path}: {body}")),
        }
    }
}

fn files(shop: &Shop, gateway: &Gateway) -> [(&'static str, String); 3] {
    let Gateway { address, admin, .. } = gateway;
    let tollgate = format!(
        "public_url = \"http://{address}\"\n\n[server]\nlisten = \"{address}\"\n\n[admin]\nlisten = \"{admin}\"\n\n\
         [ledger]\npath = \"../data\"\n\n[delivery]\nallowed_networks = [\"127.0.0.0/8\"]       # the demo's shop is on this machine\n"
    );
    let merchant = format!(
        "keys = [{{ id = \"{}\", secret = \"plain:{}\" }}]\nwebhook = {{ url = \"{}\", secrets = [\"plain:{}\"] }}\n",
        shop.key_id,
        shop.secret,
        shop.url(),
        keygen::webhook_secret()
    );
    let routes = "[[route]]\nto = [{ channel = \"wechat\" }]\n".to_owned();
    [("tollgate.toml", tollgate), ("merchants/demo.toml", merchant), ("routes.toml", routes)]
}
