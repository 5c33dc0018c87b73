//! A small world for each test: a directory, a sandbox, a gateway process, a merchant's receiver, a signing client.

mod gateway;
mod merchant;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit};
use tollgate::keygen::{self, SandboxProvider};
use tollgate::sandbox::{Options, Sandbox};
use tollgate_plugins::payment::provider_number;

pub use self::gateway::{Gateway, force};
pub use self::merchant::{
    Answer, Merchant, OTHER, SHOP, WEBHOOK_SECRET, ask, ask_later, order_of, send, signed, try_ask, write_merchant,
    write_merchants,
};
use crate::receiver::Receiver;
use crate::stores::Stores;

/// Long enough for a busy machine; a condition that never comes ends the test with what was seen last.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The product's time-outs of a channel, which a busy machine cannot always keep.
const PRODUCT_TIMEOUTS: &str = "timeouts = { connect = \"1s\", read = \"2s\", write = \"2s\", total = \"5s\" }";
/// Those of the tests' channels: a test that is not about a time-out must not meet one.
pub const TIMEOUTS: &str = "timeouts = { connect = \"60s\", read = \"60s\", write = \"60s\", total = \"100s\" }";

/// Waits for a turn to make keys or to start a process: all worlds at once would only wait for each other.
async fn turn() -> SemaphorePermit<'static> {
    static TURNS: LazyLock<Semaphore> = LazyLock::new(|| {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Semaphore::new(cores.clamp(2, 8))
    });
    TURNS.acquire().await.unwrap()
}

pub struct World {
    pub dir: TempDir,
    pub sandbox: Sandbox,
    pub gateway: Gateway,
    pub receiver: Receiver,
    _stores: Stores,
}

/// What a test may want otherwise.
pub struct WorldOptions {
    pub channels: Vec<&'static str>,
    pub provider: SandboxProvider,
    pub schedule: Duration,
    /// Edits a channel's TOML before the gateway starts.
    pub edit: fn(&Path, SocketAddr),
    pub server: &'static str,
    /// Refunds end when a test says so, not at once.
    pub refunds_wait: bool,
    /// What `[ledger]` says, where it is not to be what the run is over.
    pub ledger: Option<String>,
}

impl Default for WorldOptions {
    fn default() -> Self {
        Self {
            channels: vec!["main"],
            provider: SandboxProvider::WechatV3,
            schedule: Duration::from_millis(100),
            edit: |_, _| {},
            server: "",
            refunds_wait: false,
            ledger: None,
        }
    }
}

/// The sandbox knows at once what it has; the tests need not wait for what real providers take.
const SETTLE_WINDOW: &str = "not_found_grace = \"2s\"";

impl World {
    pub async fn new() -> Self {
        Self::with(WorldOptions::default()).await
    }

    /// With one channel, of this provider.
    pub async fn of(provider: &'static str) -> Self {
        let provider = match provider {
            "wechat-v3" => SandboxProvider::WechatV3,
            "wechat-v2" => SandboxProvider::WechatV2,
            "alipay" => SandboxProvider::Alipay,
            "alipay-v3" => SandboxProvider::AlipayV3,
            "unionpay" => SandboxProvider::Unionpay,
            "unionpay-sha256" => SandboxProvider::UnionpaySha256,
            "unionpay-sm3" => SandboxProvider::UnionpaySm3,
            "unionpay-sm2" => SandboxProvider::UnionpaySm2,
            other => panic!("the sandbox does not stand in for {other} yet"),
        };
        // One of them over HTTP/2, so that everything that is run over every provider is run over it too.
        let is_h2 = matches!(provider, SandboxProvider::AlipayV3);
        let edit: fn(&Path, SocketAddr) = if is_h2 { |conf, _| over_http2(conf, "main") } else { |_, _| {} };
        let world = Self::with(WorldOptions { provider, edit, ..WorldOptions::default() }).await;
        let said = world.probed().await;
        assert_eq!(said.contains(", h2, "), is_h2, "{said}");
        world
    }

    pub async fn with(wishes: WorldOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let conf = dir.path().join("conf");
        let sandbox_address = free_address();
        std::fs::create_dir_all(conf.join("merchants")).unwrap();
        std::fs::create_dir_all(conf.join("channels")).unwrap();
        let turn = turn().await;
        for name in &wishes.channels {
            keygen::sandbox_channel_of(wishes.provider, &conf.join("channels"), name, &sandbox_address.to_string())
                .unwrap();
        }
        for name in &wishes.channels {
            let file = conf.join("channels").join(format!("{name}.toml"));
            let text = std::fs::read_to_string(&file).unwrap();
            assert!(text.contains(PRODUCT_TIMEOUTS), "{text}");
            let text = text.replace(PRODUCT_TIMEOUTS, TIMEOUTS);
            std::fs::write(&file, format!("{SETTLE_WINDOW}\n{text}")).unwrap();
        }
        drop(turn);
        (wishes.edit)(&conf, sandbox_address);
        let receiver = Receiver::start().await;
        write_merchants(&conf, &receiver.url());
        // The first takes all; the others may be asked for by name.
        let routes = wishes.channels.iter().map(|name| format!("[[route]]\nto = [{{ channel = \"{name}\" }}]\n"));
        std::fs::write(conf.join("routes.toml"), routes.collect::<String>()).unwrap();
        let (listen, admin) = (free_address(), free_address());
        let server = wishes.server;
        let stores = match wishes.ledger {
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
        let mut options = Options::new(vec![conf.join("channels")]);
        options.listen = sandbox_address;
        options.notify_schedule = vec![wishes.schedule; 200];
        options.refund_auto = !wishes.refunds_wait;
        let sandbox = Sandbox::start(options).await.unwrap();
        let gateway = Gateway::new(conf, listen, admin);
        let mut world = Self { dir, sandbox, gateway, receiver, _stores: stores };
        world.start().await;
        world
    }

    pub async fn start(&mut self) {
        self.gateway.start(&self.dir.path().join("gateway.log")).await;
    }

    /// The same where it is not to become ready.
    pub async fn start_alive(&mut self) {
        let url = format!("http://{}/healthz", self.gateway.admin);
        let log = self.dir.path().join("gateway.log");
        let is_alive = || async { send("GET", &url, &[], b"").await.is_ok_and(|answer| answer.status == 200) };
        self.gateway.start_until(&log, is_alive).await;
    }

    /// The same where the admin port speaks TLS.
    pub async fn start_tls(&mut self) {
        let (listen, admin) = (self.gateway.listen, self.gateway.admin);
        let log = self.dir.path().join("gateway.log");
        let is_there =
            move || async move { TcpStream::connect(listen).await.and(TcpStream::connect(admin).await).is_ok() };
        self.gateway.start_until(&log, is_there).await;
    }

    /// Another gateway with the same configuration, on addresses of its own.
    pub async fn join(&self, name: &str) -> Gateway {
        self.join_with_clock(name, 0).await
    }

    /// The same with a clock that is so many seconds ahead.
    pub async fn join_with_clock(&self, name: &str, ahead: i64) -> Gateway {
        let conf = self.dir.path().join(name);
        copy(self.conf(), &conf);
        let (listen, admin) = (free_address(), free_address());
        let text = std::fs::read_to_string(conf.join("tollgate.toml")).unwrap();
        let text = text
            .replace(&format!("\nlisten = \"{}\"", self.gateway.listen), &format!("\nlisten = \"{listen}\""))
            .replace(&self.gateway.admin.to_string(), &admin.to_string());
        std::fs::write(conf.join("tollgate.toml"), text).unwrap();
        let mut gateway = Gateway::new(conf, listen, admin);
        gateway.ahead = ahead;
        gateway.start(&self.dir.path().join(format!("{name}.log"))).await;
        gateway
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("gateway.log")).unwrap_or_default()
    }

    pub fn conf(&self) -> &Path {
        &self.gateway.conf
    }

    /// A request of the merchant `shop`.
    pub async fn ask(&self, method: &str, target: &str, key: Option<&str>, body: &Value) -> Answer {
        ask(self.gateway.listen, &SHOP, method, target, key, body).await
    }

    pub async fn create(&self, order: &str, key: &str) -> Answer {
        self.ask("POST", "/v1/payments", Some(key), &order_of(order)).await
    }

    /// Repeats it until it is said to run no more: a claim in a shared ledger is held for a dead process's for a while.
    pub async fn until_decided(&self, order: &str, key: &str) -> Answer {
        until(&format!("{order} is decided"), || async {
            let answer = self.create(order, key).await;
            (answer.status != 409).then(|| answer.clone()).ok_or_else(|| format!("{:?}", answer.body))
        })
        .await
    }

    pub async fn payment(&self, order: &str) -> Value {
        self.ask("GET", &format!("/v1/payments/{order}"), None, &Value::Null).await.json()
    }

    /// Waits until the payment has this status.
    pub async fn until_status(&self, order: &str, status: &str) -> Value {
        until(&format!("{order} is {status}"), || async {
            let payment = self.payment(order).await;
            (payment["status"] == status).then_some(payment.clone()).ok_or(payment)
        })
        .await
    }

    pub fn number(order: &str) -> String {
        provider_number(&["shop", order])
    }

    /// What the sandbox knows of an order.
    pub async fn seen(&self, order: &str) -> Value {
        self.control("GET", &format!("/orders/{}", Self::number(order)), Value::Null).await
    }

    /// Checks that the provider made an order once, however often the identical create was sent again for a lost `action`.
    pub async fn was_made_once(&self, order: &str) {
        let seen = self.seen(order).await;
        let (arrived, executed) = (seen["arrivals"]["create"].as_u64(), seen["executions"]["create"].as_u64());
        assert!(executed == Some(1) && arrived.is_some_and(|times| (1..=4).contains(&times)), "{order}: {seen}");
    }

    pub async fn control(&self, method: &str, path: &str, body: Value) -> Value {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let url = format!("http://{}{path}", self.sandbox.control_address());
        send(method, &url, &[], body.as_bytes()).await.unwrap().json()
    }

    /// Waits until every channel's hosts were probed, so that no probe meets what is meant for payments.
    pub async fn probed(&self) -> String {
        let url = format!("http://{}/probes", self.gateway.admin);
        until("the hosts are probed", || async {
            // Where no gateway runs nobody probes.
            let Ok(answer) = send("GET", &url, &[], b"").await else { return Ok(String::new()) };
            let said = String::from_utf8(answer.body.to_vec()).unwrap();
            if said.contains("under way") { Err(said) } else { Ok(said) }
        })
        .await
    }

    pub async fn fault(&self, fault: Value) {
        self.probed().await;
        let answer = self.control("POST", "/faults", fault).await;
        assert!(answer.is_array(), "{answer}");
    }

    pub async fn pay(&self, order: &str) {
        let answer = self.control("POST", &format!("/orders/{}/pay", Self::number(order)), json!({})).await;
        assert_eq!(answer["state"], "SUCCESS", "{answer}");
    }

    /// Asks for a reload over the admin port.
    pub async fn reload(&self) -> Answer {
        self.admin("POST", "/reload", &[]).await
    }

    /// A request to the admin port.
    pub async fn admin(&self, method: &str, target: &str, headers: &[(&'static str, String)]) -> Answer {
        send(method, &format!("http://{}{target}", self.gateway.admin), headers, b"").await.unwrap()
    }

    /// Waits until a line is among the metrics.
    pub async fn until_metric(&self, line: &str) {
        until(line, || async {
            let metrics = self.metrics().await;
            metrics.contains(line).then_some(()).ok_or(metrics)
        })
        .await;
    }

    /// Everything that happened to an order, as support sees it.
    pub async fn explained(&self, order: &str) -> String {
        let answer = send("GET", &format!("http://{}/explain/{order}", self.gateway.admin), &[], b"").await.unwrap();
        String::from_utf8(answer.body.to_vec()).unwrap()
    }

    pub async fn metrics(&self) -> String {
        let answer = send("GET", &format!("http://{}/metrics", self.gateway.admin), &[], b"").await.unwrap();
        String::from_utf8(answer.body.to_vec()).unwrap()
    }
}

/// Lets a channel speak HTTP/2.
pub fn over_http2(conf: &Path, channel: &str) {
    let file = conf.join("channels").join(format!("{channel}.toml"));
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("http2 = true\n{text}")).unwrap();
}

pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Waits for a condition; says what was there instead when it does not come.
pub async fn until<T, F, S>(what: &str, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, S>>,
    S: std::fmt::Display,
{
    let end = Instant::now() + PATIENCE;
    loop {
        match look().await {
            Ok(found) => return found,
            Err(instead) => assert!(Instant::now() < end, "waited in vain for: {what}; last seen: {instead:#}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// An address for a listener that must come back on it after a kill, so it cannot be port 0. Each is on a loopback address
/// of its own: no connection of another test can be given its port meanwhile.
pub fn free_address() -> SocketAddr {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let number = GIVEN.fetch_add(1, Ordering::SeqCst) + (std::process::id() << 10);
    let [_, a, b, c] = number.to_be_bytes();
    std::net::TcpListener::bind((Ipv4Addr::new(127, a | 1, b, c), 0)).unwrap().local_addr().unwrap()
}
