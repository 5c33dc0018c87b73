//! The demo's environment: a temporary directory with a configuration, a sandbox, and a gateway process.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tollgate_merchant::webhook_secret;
use tollgate_sandbox::keygen::sandbox_channel;
use tollgate_sandbox::{Options, Sandbox};

use super::shop::Shop;
use crate::Printer;
use crate::http_client::send_json;
use crate::merchant::provider_number;
use crate::process::{GatewayProcess, LOCAL_TIMEOUT, unused_address};
use crate::shop_page::{self, ShopPage};

/// Sandbox, gateway and merchant of a running demo.
pub(super) struct DemoEnvironment {
    pub(super) sandbox: Sandbox,
    pub(super) gateway: GatewayProcess,
    pub(super) shop: Shop,
    page: ShopPage,
    directory: PathBuf,
}

impl DemoEnvironment {
    /// Writes keys and configuration, starts the sandbox and the gateway, and waits until the gateway is ready.
    pub(super) async fn start() -> Result<Self, String> {
        let directory = std::env::temp_dir().join(format!("tollgate-demo-{}", std::process::id()));
        let conf = directory.join("conf");
        let cannot = |error: std::io::Error| format!("cannot prepare {}: {error}", directory.display());
        for folder in ["merchants", "channels"] {
            std::fs::create_dir_all(conf.join(folder)).map_err(cannot)?;
        }
        let program = std::env::current_exe().map_err(cannot)?;
        let (gateway, provider) = (GatewayProcess::new(&program, &directory)?, unused_address()?);
        sandbox_channel(&conf.join("channels"), "wechat", &provider.to_string()).map_err(cannot)?;
        let shop = Shop::open(gateway.address).await?;
        for (file, text) in config_files(&shop, &gateway) {
            std::fs::write(conf.join(file), text).map_err(cannot)?;
        }
        let mut options = Options::new(vec![conf.join("channels")]);
        options.listen = provider;
        options.notify_schedule = vec![Duration::from_secs(1); 30];
        let sandbox = Sandbox::start(options).await.map_err(|error| error.to_string())?;
        gateway.start().await?;
        let behind_page = shop_page::Shop {
            merchant: "demo".to_owned(),
            key: shop.key.clone(),
            gateway: gateway.address,
            sandbox: sandbox.control_address(),
        };
        let page = ShopPage::open(behind_page, "page").await.map_err(|error| error.to_string())?;
        Ok(Self { sandbox, gateway, shop, page, directory })
    }

    /// Returns the sandbox's record of an order.
    pub(super) async fn sandbox_order(&self, order: &str) -> Result<Value, String> {
        self.control("GET", &format!("/orders/{}", self.number(order)), Value::Null).await
    }

    /// Pays an order, as the payer would.
    pub(super) async fn pay(&self, order: &str) -> Result<(), String> {
        self.control("POST", &format!("/orders/{}/pay", self.number(order)), json!({})).await.map(drop)
    }

    /// Adds a scripted fault to the sandbox.
    pub(super) async fn add_fault(&self, fault: Value) -> Result<(), String> {
        self.control("POST", "/faults", fault).await.map(drop)
    }

    /// Makes the sandbox send a notification with a wrong signature. Returns the status of the gateway's response.
    pub(super) async fn send_forged_notification(&self, order: &str) -> Result<u64, String> {
        let path = format!("/orders/{}", self.number(order));
        self.control("POST", &format!("{path}/pay"), json!({"notify": false})).await?;
        self.control("POST", &format!("{path}/notify"), json!({"tamper": "signature"})).await?;
        let deadline = Instant::now() + LOCAL_TIMEOUT;
        loop {
            let seen = self.control("GET", &path, Value::Null).await?;
            if let Some(status) = seen["notifications"][0]["attempts"][0]["status"].as_u64() {
                return Ok(status);
            }
            if Instant::now() > deadline {
                return Err("the gateway did not respond to the forged notification".to_owned());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Prints commands to try while the demo is left running.
    pub(super) fn print_hints(&self, print: Printer) {
        let (conf, gateway) = (self.directory.join("conf"), self.gateway.address);
        print(format_args!("   The shop's page shows a QR code and turns to paid by itself: {}", self.page.url()));
        print(format_args!("   The demo keeps running until Ctrl-C. In another terminal:"));
        print(format_args!("     export SHOP_SECRET={}", self.shop.key.secret));
        print(format_args!("     URL=http://{gateway}/v1/payments/tea-1"));
        print(format_args!(
            "     tollgate sign --key {} --secret env:SHOP_SECRET GET $URL | curl -sH @- $URL",
            self.shop.key.id
        ));
        print(format_args!(
            "     tollgate explain --conf {} tea-2            timeline of the second payment",
            conf.display()
        ));
        print(format_args!("     curl http://{}/metrics", self.gateway.admin));
        print(format_args!(
            "     curl http://{}/orders            orders at the sandbox",
            self.sandbox.control_address()
        ));
        print(format_args!("     edit {}: the gateway reloads it", conf.join("channels/wechat.toml").display()));
        print(format_args!("     tail -f {}", self.gateway.log_file().display()));
    }

    /// Kills the gateway and removes the directory.
    pub(super) fn shut_down(self) {
        self.gateway.kill();
        let _ = std::fs::remove_dir_all(&self.directory);
    }

    fn number(&self, order: &str) -> String {
        provider_number(&["demo", order])
    }

    async fn control(&self, method: &str, path: &str, body: Value) -> Result<Value, String> {
        let url = format!("http://{}{path}", self.sandbox.control_address());
        match send_json(method, &url, &body).await? {
            (200, body) => Ok(body),
            (status, body) => Err(format!("the sandbox answered {status} to {method} {path}: {body}")),
        }
    }
}

fn config_files(shop: &Shop, gateway: &GatewayProcess) -> [(&'static str, String); 3] {
    let GatewayProcess { address, admin, .. } = gateway;
    let tollgate = format!(
        "public_url = \"http://{address}\"\n\n[server]\nlisten = \"{address}\"\n\n[admin]\nlisten = \"{admin}\"\n\n\
         [ledger]\npath = \"../data\"\n\n[delivery]\nallowed_networks = [\"127.0.0.0/8\"]       # the demo's shop is on this machine\n"
    );
    let merchant = format!(
        "keys = [{{ id = \"{}\", secret = \"plain:{}\" }}]\nwebhook = {{ url = \"{}\", secrets = [\"plain:{}\"] }}\n",
        shop.key.id,
        shop.key.secret,
        shop.url(),
        webhook_secret()
    );
    let routes = "[[route]]\nto = [{ channel = \"wechat\" }]\n".to_owned();
    [("tollgate.toml", tollgate), ("merchants/demo.toml", merchant), ("routes.toml", routes)]
}
