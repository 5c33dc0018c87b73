//! Test world: a directory, a sandbox, a gateway process, a webhook receiver, a signing client.

mod gateway;
mod merchant;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit};
use tollgate_harness::files::copy_directory;
use tollgate_harness::merchant::provider_number;
use tollgate_sandbox::keygen::{self, SandboxProvider};
use tollgate_sandbox::{Options, Sandbox};

pub use self::gateway::{Gateway, force_breaker};
pub use self::merchant::{
    Answer, Merchant, OTHER, SHOP, WEBHOOK_SECRET, payment_body, send, signed_headers, signed_request,
    signed_request_async, try_signed_request, without_token, write_merchant, write_merchants,
};
use crate::receiver::Receiver;
use crate::stores::Stores;
pub use crate::wait::{TEST_TIMEOUT, free_address, until};

/// Default timeouts of a generated channel, too short for a busy machine.
const PRODUCT_TIMEOUTS: &str = "timeouts = { connect = \"1s\", read = \"2s\", write = \"2s\", total = \"5s\" }";
/// Timeouts of the tests' channels, so long that only tests about timeouts meet one.
pub const LONG_TIMEOUTS: &str = "timeouts = { connect = \"60s\", read = \"60s\", write = \"60s\", total = \"100s\" }";

/// Limits how many worlds generate keys or start processes at the same time.
async fn startup_permit() -> SemaphorePermit<'static> {
    static STARTUPS: LazyLock<Semaphore> = LazyLock::new(|| {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Semaphore::new(cores.clamp(2, 8))
    });
    STARTUPS.acquire().await.unwrap()
}

pub struct World {
    pub dir: TempDir,
    pub sandbox: Sandbox,
    pub gateway: Gateway,
    pub receiver: Receiver,
    _stores: Stores,
}

/// Options of a test world.
pub struct WorldOptions {
    pub channels: Vec<&'static str>,
    pub provider: SandboxProvider,
    pub schedule: Duration,
    /// Edits a channel's TOML before the gateway starts.
    pub edit: fn(&Path, SocketAddr),
    pub server: &'static str,
    /// Refunds stay pending until the test finishes them.
    pub refunds_wait: bool,
    /// Lines of `[ledger]`; default: the ledger of this test run.
    pub ledger: Option<String>,
}

impl Default for WorldOptions {
    fn default() -> Self {
        Self {
            channels: vec!["main"],
            provider: SandboxProvider::WECHAT_V3,
            schedule: Duration::from_millis(100),
            edit: |_, _| {},
            server: "",
            refunds_wait: false,
            ledger: None,
        }
    }
}

/// Short grace period, because the sandbox answers queries consistently at once.
const NOT_FOUND_GRACE: &str = "not_found_grace = \"2s\"";

impl World {
    pub async fn new() -> Self {
        Self::with(WorldOptions::default()).await
    }

    /// Starts a world with one channel of this provider.
    pub async fn for_provider(provider: &'static str) -> Self {
        let name = provider;
        let provider = SandboxProvider::named(name).unwrap_or_else(|| panic!("the sandbox does not support {name}"));
        // One provider uses HTTP/2, so that every provider test also runs over HTTP/2.
        let is_h2 = matches!(provider, SandboxProvider::ALIPAY_V3);
        let edit: fn(&Path, SocketAddr) = if is_h2 { |conf, _| enable_http2(conf, "main") } else { |_, _| {} };
        let world = Self::with(WorldOptions { provider, edit, ..WorldOptions::default() }).await;
        let said = world.until_probed().await;
        assert_eq!(said.contains(", h2, "), is_h2, "{said}");
        world
    }

    pub async fn with(options: WorldOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let conf = dir.path().join("conf");
        let sandbox_address = free_address();
        std::fs::create_dir_all(conf.join("merchants")).unwrap();
        std::fs::create_dir_all(conf.join("channels")).unwrap();
        let permit = startup_permit().await;
        for name in &options.channels {
            keygen::sandbox_channel_of(options.provider, &conf.join("channels"), name, &sandbox_address.to_string())
                .unwrap();
        }
        for name in &options.channels {
            let file = conf.join("channels").join(format!("{name}.toml"));
            let text = std::fs::read_to_string(&file).unwrap();
            assert!(text.contains(PRODUCT_TIMEOUTS), "{text}");
            let text = text.replace(PRODUCT_TIMEOUTS, LONG_TIMEOUTS);
            std::fs::write(&file, format!("{NOT_FOUND_GRACE}\n{text}")).unwrap();
        }
        drop(permit);
        (options.edit)(&conf, sandbox_address);
        let receiver = Receiver::start().await;
        write_merchants(&conf, &receiver.url());
        // The first channel is the default; the others are selected by name.
        let routes = options.channels.iter().map(|name| format!("[[route]]\nto = [{{ channel = \"{name}\" }}]\n"));
        std::fs::write(conf.join("routes.toml"), routes.collect::<String>()).unwrap();
        let (listen, admin) = (free_address(), free_address());
        let server = options.server;
        let stores = match options.ledger {
            Some(ledger) => Stores::with_ledger(ledger),
            None => Stores::of_this_run().await,
        };
        let Stores { ledger, cache, .. } = &stores;
        std::fs::write(
            conf.join("tollgate.toml"),
            format!(
                "public_url = \"http://{listen}\"\n[server]\nlisten = \"{listen}\"\n{server}\n[admin]\nlisten = \"{admin}\"\n\
                 [ledger]\n{ledger}\n{cache}[delivery]\nallowed_networks = [\"127.0.0.0/8\"]\n"
            ),
        )
        .unwrap();
        let mut sandbox_options = Options::new(vec![conf.join("channels")]);
        sandbox_options.listen = sandbox_address;
        sandbox_options.notify_schedule = vec![options.schedule; 200];
        sandbox_options.refund_auto = !options.refunds_wait;
        let sandbox = Sandbox::start(sandbox_options).await.unwrap();
        let gateway = Gateway::new(conf, listen, admin);
        let mut world = Self { dir, sandbox, gateway, receiver, _stores: stores };
        world.start().await;
        world
    }

    pub async fn start(&mut self) {
        self.gateway.start(&self.dir.path().join("gateway.log")).await;
    }

    /// Starts a gateway that is not expected to become ready.
    pub async fn start_without_readiness(&mut self) {
        let url = format!("http://{}/healthz", self.gateway.admin);
        let log = self.dir.path().join("gateway.log");
        let is_alive = || async { send("GET", &url, &[], b"").await.is_ok_and(|answer| answer.status == 200) };
        self.gateway.start_until(&log, is_alive).await;
    }

    /// Starts a gateway whose admin port uses TLS.
    pub async fn start_tls(&mut self) {
        let (listen, admin) = (self.gateway.listen, self.gateway.admin);
        let log = self.dir.path().join("gateway.log");
        let is_there =
            move || async move { TcpStream::connect(listen).await.and(TcpStream::connect(admin).await).is_ok() };
        self.gateway.start_until(&log, is_there).await;
    }

    /// Starts another gateway with the same configuration on its own addresses.
    pub async fn start_another(&self, name: &str) -> Gateway {
        self.start_another_with_clock(name, 0).await
    }

    /// Starts another gateway like [`Self::start_another`], with a clock that is `ahead` seconds ahead.
    pub async fn start_another_with_clock(&self, name: &str, ahead: i64) -> Gateway {
        let conf = self.dir.path().join(name);
        copy_dir(self.conf(), &conf);
        let (listen, admin) = (free_address(), free_address());
        let text = std::fs::read_to_string(conf.join("tollgate.toml")).unwrap();
        let text = text
            .replace(&format!("\nlisten = \"{}\"", self.gateway.listen), &format!("\nlisten = \"{listen}\""))
            .replace(&self.gateway.admin.to_string(), &admin.to_string());
        std::fs::write(conf.join("tollgate.toml"), text).unwrap();
        let mut gateway = Gateway::new(conf, listen, admin);
        gateway.clock_ahead = ahead;
        gateway.start(&self.dir.path().join(format!("{name}.log"))).await;
        gateway
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("gateway.log")).unwrap_or_default()
    }

    pub fn conf(&self) -> &Path {
        &self.gateway.conf
    }

    /// Runs `tollgate check --probe` on the gateway's configuration, which must find no error. Returns both outputs.
    pub async fn check_probe(&self) -> (String, String) {
        let checked = tokio::process::Command::new(env!("CARGO_BIN_EXE_tollgate"))
            .args(["check", "--probe", "--conf"])
            .arg(self.conf())
            .output()
            .await
            .unwrap();
        let [out, err] = [checked.stdout, checked.stderr].map(|text| String::from_utf8(text).unwrap());
        assert!(checked.status.success(), "what cannot be reached is a warning: {out}{err}");
        (out, err)
    }

    /// Sends a signed request of the merchant `shop`.
    pub async fn signed_request(&self, method: &str, target: &str, key: Option<&str>, body: &Value) -> Answer {
        signed_request(self.gateway.listen, &SHOP, method, target, key, body).await
    }

    pub async fn create(&self, order: &str, key: &str) -> Answer {
        self.signed_request("POST", "/v1/payments", Some(key), &payment_body(order)).await
    }

    /// Repeats the request until it is no longer in progress. In a shared ledger the claim of a dead process expires with its lease.
    pub async fn until_decided(&self, order: &str, key: &str) -> Answer {
        until(&format!("{order} is no longer in progress"), || async {
            let answer = self.create(order, key).await;
            (answer.status != 409).then(|| answer.clone()).ok_or_else(|| format!("{:?}", answer.body))
        })
        .await
    }

    pub async fn payment(&self, order: &str) -> Value {
        self.signed_request("GET", &format!("/v1/payments/{order}"), None, &Value::Null).await.json()
    }

    /// Waits until the gateway's log contains this text. A thread of its own writes the log, after the answer.
    pub async fn until_logged(&self, text: &str) {
        until(&format!("the log contains {text:?}"), || async {
            self.log().contains(text).then_some(()).ok_or_else(|| self.log())
        })
        .await
    }

    /// Waits until the payment has this status.
    pub async fn until_status(&self, order: &str, status: &str) -> Value {
        until(&format!("{order} is {status}"), || async {
            let payment = self.payment(order).await;
            (payment["status"] == status).then_some(payment.clone()).ok_or(payment)
        })
        .await
    }

    pub fn provider_order_no(order: &str) -> String {
        provider_number(&["shop", order])
    }

    /// Returns what the sandbox knows of an order.
    pub async fn provider_order(&self, order: &str) -> Value {
        self.sandbox_control("GET", &format!("/orders/{}", Self::provider_order_no(order)), Value::Null).await
    }

    /// Asserts that the provider created the order once. Identical creates that recover a lost `action` may follow.
    pub async fn assert_created_once(&self, order: &str) {
        let seen = self.provider_order(order).await;
        let (arrived, executed) = (seen["arrivals"]["create"].as_u64(), seen["executions"]["create"].as_u64());
        assert!(executed == Some(1) && arrived.is_some_and(|times| (1..=4).contains(&times)), "{order}: {seen}");
    }

    pub async fn sandbox_control(&self, method: &str, path: &str, body: Value) -> Value {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let url = format!("http://{}{path}", self.sandbox.control_address());
        send(method, &url, &[], body.as_bytes()).await.unwrap().json()
    }

    /// Waits until the hosts of every channel were probed, so that no probe consumes a fault meant for payments.
    pub async fn until_probed(&self) -> String {
        let url = format!("http://{}/probes", self.gateway.admin);
        until("every host is probed", || async {
            // Without a running gateway there are no probes.
            let Ok(answer) = send("GET", &url, &[], b"").await else { return Ok(String::new()) };
            let said = String::from_utf8(answer.body.to_vec()).unwrap();
            if said.contains("in progress") { Err(said) } else { Ok(said) }
        })
        .await
    }

    pub async fn inject_fault(&self, fault: Value) {
        self.until_probed().await;
        let answer = self.sandbox_control("POST", "/faults", fault).await;
        assert!(answer.is_array(), "{answer}");
    }

    pub async fn pay(&self, order: &str) {
        let answer =
            self.sandbox_control("POST", &format!("/orders/{}/pay", Self::provider_order_no(order)), json!({})).await;
        assert_eq!(answer["state"], "SUCCESS", "{answer}");
    }

    /// Requests a reload over the admin port.
    pub async fn reload(&self) -> Answer {
        self.admin_request("POST", "/reload", &[]).await
    }

    /// Sends a request to the admin port.
    pub async fn admin_request(&self, method: &str, target: &str, headers: &[(&'static str, String)]) -> Answer {
        send(method, &format!("http://{}{target}", self.gateway.admin), headers, b"").await.unwrap()
    }

    /// Waits until the metrics contain this text.
    pub async fn until_metric(&self, line: &str) {
        until(line, || async {
            let metrics = self.metrics().await;
            metrics.contains(line).then_some(()).ok_or(metrics)
        })
        .await;
    }

    /// Returns the full history of an order as JSON, as `tollgate explain` reads it.
    pub async fn explain_json(&self, order: &str) -> String {
        let answer = send("GET", &format!("http://{}/explain/{order}", self.gateway.admin), &[], b"").await.unwrap();
        String::from_utf8(answer.body.to_vec()).unwrap()
    }

    pub async fn metrics(&self) -> String {
        let answer = send("GET", &format!("http://{}/metrics", self.gateway.admin), &[], b"").await.unwrap();
        String::from_utf8(answer.body.to_vec()).unwrap()
    }
}

/// Enables HTTP/2 for a channel.
pub fn enable_http2(conf: &Path, channel: &str) {
    let file = conf.join("channels").join(format!("{channel}.toml"));
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("http2 = true\n{text}")).unwrap();
}

pub fn copy_dir(from: &Path, to: &Path) {
    copy_directory(from, to).unwrap();
}
