//! What the demo plays on: a directory with a real configuration, a sandbox, and the gateway as its own process.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tollgate_plugins::payment::provider_number;

use super::PATIENCE;
use super::shop::{Shop, call};
use crate::keygen;
use crate::sandbox::{Options, Sandbox};

/// Everything that runs.
pub(super) struct Stage {
    pub(super) sandbox: Sandbox,
    pub(super) gateway: SocketAddr,
    pub(super) shop: Shop,
    admin: SocketAddr,
    directory: PathBuf,
    process: Mutex<Child>,
}

impl Stage {
    /// Makes keys and configuration, starts sandbox and gateway, and waits until the gateway is ready.
    pub(super) async fn set() -> Result<Self, String> {
        let directory = std::env::temp_dir().join(format!("tollgate-demo-{}", std::process::id()));
        let conf = directory.join("conf");
        let cannot = |error: std::io::Error| format!("cannot prepare {}: {error}", directory.display());
        for folder in ["merchants", "channels"] {
            std::fs::create_dir_all(conf.join(folder)).map_err(cannot)?;
        }
        let (gateway, admin, provider) = (free()?, free()?, free()?);
        keygen::sandbox_channel(&conf.join("channels"), "wechat", &provider.to_string()).map_err(cannot)?;
        let shop = Shop::open(gateway).await?;
        for (file, text) in files(&shop, gateway, admin) {
            std::fs::write(conf.join(file), text).map_err(cannot)?;
        }
        let mut options = Options::new(vec![conf.join("channels")]);
        options.listen = provider;
        options.notify_schedule = vec![Duration::from_secs(1); 30];
        let sandbox = Sandbox::start(options).await.map_err(|error| error.to_string())?;
        let process = start(&directory, &conf)?;
        let stage = Self { sandbox, gateway, shop, admin, directory, process: Mutex::new(process) };
        stage.ready().await?;
        Ok(stage)
    }

    async fn ready(&self) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Ok((200, _)) = call(self.admin, "GET", "/readyz", &[], String::new()).await {
                return Ok(());
            }
            let ended = self.process.lock().try_wait().ok().flatten().is_some();
            if ended || Instant::now() > until {
                let log = std::fs::read_to_string(self.directory.join("gateway.log")).unwrap_or_default();
                return Err(format!("the gateway did not start:\n{log}"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
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
        let (conf, gateway) = (self.directory.join("conf"), self.gateway);
        println!("   It goes on until Ctrl-C. In another terminal:");
        println!("     export SHOP_SECRET={}", self.shop.secret);
        println!("     URL=http://{gateway}/v1/payments/tea-1");
        println!("     tollgate sign --key {} --secret env:SHOP_SECRET GET $URL | curl -sH @- $URL", self.shop.key_id);
        println!("     curl http://{}/metrics", self.admin);
        println!("     curl http://{}/orders            what the sandbox knows", self.sandbox.control_address());
        println!("     $EDITOR {}     and watch it reload", conf.join("channels/wechat.toml").display());
        println!("     tail -f {}", self.directory.join("gateway.log").display());
    }

    /// Ends the gateway and removes the directory.
    pub(super) fn clear(self) {
        let mut process = self.process.lock();
        let _ = process.kill();
        let _ = process.wait();
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

fn files(shop: &Shop, gateway: SocketAddr, admin: SocketAddr) -> [(&'static str, String); 3] {
    let tollgate = format!(
        "public_url = \"http://{gateway}\"\n\n[server]\nlisten = \"{gateway}\"\n\n[admin]\nlisten = \"{admin}\"\n\n\
         [ledger]\npath = \"../data\"\n\n[delivery]\nallow = [\"127.0.0.0/8\"]       # the demo's shop is on this machine\n"
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

fn start(directory: &Path, conf: &Path) -> Result<Child, String> {
    let cannot = |error: std::io::Error| format!("cannot start the gateway: {error}");
    let log = std::fs::File::create(directory.join("gateway.log")).map_err(cannot)?;
    let mut command = Command::new(std::env::current_exe().map_err(cannot)?);
    command.args(["run", "--conf"]).arg(conf).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.spawn().map_err(cannot)
}

fn free() -> Result<SocketAddr, String> {
    let socket = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    socket.local_addr().map_err(|error| error.to_string())
}
