//! A small world for each test: a directory, a sandbox, a gateway process, a merchant's receiver, a signing client.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tollgate::keygen::{self, SandboxProvider};
use tollgate::sandbox::{Options, Sandbox};
use tollgate::sign::{Credentials, plain};
use tollgate_plugins::payment::provider_number;

use crate::receiver::Receiver;
use crate::stores::Stores;

/// Long enough for a busy machine; a condition that never comes ends the test with what was seen last.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct World {
    pub dir: TempDir,
    pub sandbox: Sandbox,
    pub gateway: Gateway,
    pub receiver: Receiver,
    _stores: Stores,
}

/// What a test may want otherwise.
pub struct Wishes {
    pub channels: Vec<&'static str>,
    pub provider: SandboxProvider,
    pub schedule: Duration,
    /// Edits a channel's TOML before the gateway starts.
    pub edit: fn(&Path, SocketAddr),
    pub server: &'static str,
    /// What `[ledger]` says, where it is not to be what the run is over.
    pub ledger: Option<String>,
}

impl Default for Wishes {
    fn default() -> Self {
        Self {
            channels: vec!["main"],
            provider: SandboxProvider::WechatV3,
            schedule: Duration::from_millis(100),
            edit: |_, _| {},
            server: "",
            ledger: None,
        }
    }
}

/// The sandbox knows at once what it has; the tests need not wait for what real providers take.
const SETTLE_WINDOW: &str = "settle_window = \"2s\"";

impl World {
    pub async fn new() -> Self {
        Self::with(Wishes::default()).await
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
        let world = Self::with(Wishes { provider, edit, ..Wishes::default() }).await;
        let said = world.probed().await;
        assert_eq!(said.contains(", h2, "), is_h2, "{said}");
        world
    }

    pub async fn with(wishes: Wishes) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let conf = dir.path().join("conf");
        let sandbox_address = free_address();
        std::fs::create_dir_all(conf.join("merchants")).unwrap();
        std::fs::create_dir_all(conf.join("channels")).unwrap();
        for name in &wishes.channels {
            keygen::sandbox_channel_of(wishes.provider, &conf.join("channels"), name, &sandbox_address.to_string())
                .unwrap();
        }
        for name in &wishes.channels {
            let file = conf.join("channels").join(format!("{name}.toml"));
            let text = std::fs::read_to_string(&file).unwrap();
            std::fs::write(&file, format!("{SETTLE_WINDOW}\n{text}")).unwrap();
        }
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
                 [ledger]\n{ledger}\n{cache}[delivery]\nallow = [\"127.0.0.0/8\"]\n"
            ),
        )
        .unwrap();
        let mut options = Options::new(vec![conf.join("channels")]);
        options.listen = sandbox_address;
        options.notify_schedule = vec![wishes.schedule; 200];
        let sandbox = Sandbox::start(options).await.unwrap();
        let gateway = Gateway { conf, listen, admin, ahead: 0, process: None };
        let mut world = Self { dir, sandbox, gateway, receiver, _stores: stores };
        world.start().await;
        world
    }

    pub async fn start(&mut self) {
        self.gateway.start(&self.dir.path().join("gateway.log")).await;
    }

    /// The same where the admin port speaks TLS.
    pub async fn start_tls(&mut self) {
        let listen = self.gateway.listen;
        let log = self.dir.path().join("gateway.log");
        self.gateway.start_until(&log, || async move { TcpStream::connect(listen).await.is_ok() }).await;
    }

    /// Another gateway with the same configuration, on addresses of its own.
    pub async fn join(&self, name: &str) -> Gateway {
        let conf = self.dir.path().join(name);
        copy(self.conf(), &conf);
        let (listen, admin) = (free_address(), free_address());
        let text = std::fs::read_to_string(conf.join("tollgate.toml")).unwrap();
        let text = text
            .replace(&format!("\nlisten = \"{}\"", self.gateway.listen), &format!("\nlisten = \"{listen}\""))
            .replace(&self.gateway.admin.to_string(), &admin.to_string());
        std::fs::write(conf.join("tollgate.toml"), text).unwrap();
        let mut gateway = Gateway { conf, listen, admin, ahead: 0, process: None };
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

/// The gateway as a process.
pub struct Gateway {
    pub conf: PathBuf,
    pub listen: SocketAddr,
    pub admin: SocketAddr,
    /// How many seconds its clock is ahead from its next start on.
    pub ahead: i64,
    process: Option<Child>,
}

impl Gateway {
    /// Starts it and waits until it may take traffic.
    async fn start(&mut self, log: &Path) {
        let url = format!("http://{}/readyz", self.admin);
        self.start_until(log, || async { send("GET", &url, &[], b"").await.is_ok_and(|answer| answer.status == 200) })
            .await;
    }

    async fn start_until<F: Future<Output = bool>>(&mut self, log: &Path, is_ready: impl Fn() -> F) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
        if self.ahead != 0 {
            command.env("TOLLGATE_CHAOS_CLOCK_AHEAD", self.ahead.to_string());
        }
        let process = command
            .args(["run", "--conf"])
            .arg(&self.conf)
            .stdout(Stdio::null())
            .stderr(std::fs::File::options().create(true).append(true).open(log).unwrap())
            .spawn()
            .unwrap();
        let process = self.process.insert(process);
        let until = Instant::now() + PATIENCE;
        loop {
            if is_ready().await {
                return;
            }
            let waits = process.try_wait().unwrap().is_none() && Instant::now() < until;
            assert!(waits, "the gateway did not start: {}", std::fs::read_to_string(log).unwrap_or_default());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The memory that the process has now, in KiB.
    pub fn memory(&self) -> u64 {
        let id = self.process.as_ref().unwrap().id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// As a power cut would.
    pub fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    pub fn signal(&self, name: &str) {
        let id = self.process.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &id]).status().unwrap().success());
    }

    /// Waits for the process to end by itself.
    pub async fn ended(&mut self) -> i32 {
        let mut process = self.process.take().unwrap();
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = process.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(Instant::now() < until, "the gateway did not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Stops a channel's payments at a gateway for a while, or lets them go on.
pub async fn force(gateway: &Gateway, how: &str) {
    let url = format!("http://{}/breakers?channel=main&force={how}", gateway.admin);
    assert_eq!(send("POST", &url, &[], b"").await.unwrap().status, 200);
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
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

pub struct Merchant {
    pub key: &'static str,
    pub secret: &'static str,
}

pub const SHOP: Merchant = Merchant { key: "shop-1", secret: "0123456789abcdef0123456789abcdef" };
pub const OTHER: Merchant = Merchant { key: "other-1", secret: "fedcba9876543210fedcba9876543210" };
/// 32 bytes, base64.
pub const WEBHOOK_SECRET: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

pub fn write_merchants(conf: &Path, webhook: &str) {
    for (name, merchant) in [("shop", &SHOP), ("other", &OTHER)] {
        write_merchant(conf, name, merchant, webhook);
    }
}

pub fn write_merchant(conf: &Path, name: &str, merchant: &Merchant, webhook: &str) {
    let (key, secret) = (merchant.key, merchant.secret);
    let webhook = format!("webhook = {{ url = \"{webhook}\", secrets = [\"plain:{WEBHOOK_SECRET}\"] }}");
    let text = format!("keys = [{{ id = \"{key}\", secret = \"plain:{secret}\" }}]\n{webhook}\n");
    std::fs::write(conf.join(format!("merchants/{name}.toml")), text).unwrap();
}

pub fn order_of(order: &str) -> Value {
    json!({"order_id": order, "amount": {"value": 1000, "currency": "CNY"}, "description": "茶 tea", "method": "wechat.native"})
}

/// A signed request.
pub async fn ask(
    to: SocketAddr,
    merchant: &Merchant,
    method: &str,
    target: &str,
    key: Option<&str>,
    body: &Value,
) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    try_ask(to, merchant, method, target, key, body.as_bytes()).await.unwrap()
}

pub async fn try_ask(
    to: SocketAddr,
    merchant: &Merchant,
    method: &str,
    target: &str,
    key: Option<&str>,
    body: &[u8],
) -> Result<Answer, String> {
    let mut headers = signed(merchant, method, target, body);
    headers.extend(key.map(|key| ("idempotency-key", key.to_owned())));
    send(method, &format!("http://{to}{target}"), &headers, body).await
}

/// A signed POST of the merchant `shop` whose answer says only that it will be done.
pub async fn ask_later(to: SocketAddr, target: &str, key: &str, body: &Value) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let mut headers = signed(&SHOP, "POST", target, body.as_bytes());
    headers.extend([("idempotency-key", key.to_owned()), ("prefer", "respond-async".to_owned())]);
    send("POST", &format!("http://{to}{target}"), &headers, body.as_bytes()).await.unwrap()
}

pub fn signed(merchant: &Merchant, method: &str, target: &str, body: &[u8]) -> Vec<(&'static str, String)> {
    let stamp = tollgate::clock::stamp();
    let secret = merchant.secret.as_bytes();
    plain(
        &Credentials { key_id: merchant.key, secret, created: stamp.unix_time, nonce: &stamp.nonce },
        method,
        target,
        body,
    )
}

#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {} {:?}", self.status, self.body))
    }

    pub fn is_replayed(&self) -> bool {
        self.headers.get("idempotent-replayed").is_some_and(|value| value == "true")
    }
}

/// One request on a connection of its own.
pub async fn send(method: &str, url: &str, headers: &[(&'static str, String)], body: &[u8]) -> Result<Answer, String> {
    let uri: http::Uri = url.parse().map_err(|error| format!("{error}"))?;
    let authority = uri.authority().unwrap().to_string();
    let stream = TcpStream::connect(&authority).await.map_err(|error| format!("connect: {error}"))?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| format!("handshake: {error}"))?;
    tokio::spawn(connection);
    let target = uri.path_and_query().unwrap().as_str().to_owned();
    let mut request = Request::builder().method(method).uri(target).header("host", authority);
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let request = request.body(Full::new(Bytes::copy_from_slice(body))).unwrap();
    let answer = sender.send_request(request).await.map_err(|error| format!("send: {error}"))?;
    let (parts, body) = answer.into_parts();
    let body = body.collect().await.map_err(|error| format!("body: {error}"))?.to_bytes();
    Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body })
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
