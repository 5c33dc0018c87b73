//! Bench environment: keys, configuration, a sandbox in this process, gateways as processes whose CPU time is measured.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;
use tollgate_gateway::snapshot;
use tollgate_harness::merchant::MerchantKey;
use tollgate_harness::process::{GatewayProcess, unused_address};
use tollgate_plugins::payment::{Currency, Money, Operation, Order, Pay, Payer};
use tollgate_plugins::provider::{Encoded, Signing};
use tollgate_sandbox::{Options, Sandbox, keygen};

use crate::drive::{self, Prepared};

pub const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Timeouts of a generated channel.
const TIMEOUTS: &str = "timeouts = { connect = \"1s\", read = \"2s\", write = \"2s\", total = \"5s\" }";
const LONG_TIMEOUTS: &str = "timeouts = { connect = \"60s\", read = \"300s\", write = \"60s\", total = \"300s\" }";

pub struct Stage {
    pub account: PathBuf,
    /// Address of the first gateway.
    pub gateway: SocketAddr,
    /// Addresses of all gateways.
    pub gateways: Vec<SocketAddr>,
    pub bare: SocketAddr,
    pub provider: SocketAddr,
    /// Admin address of the first gateway.
    pub admin: SocketAddr,
    /// Admin addresses of all gateways.
    pub admins: Vec<SocketAddr>,
    pub conf: PathBuf,
    /// Configuration directories of all gateways.
    confs: Vec<PathBuf>,
    sandbox: Sandbox,
    _directory: tempfile::TempDir,
}

/// Child process that is killed when dropped.
pub struct Process(pub Child);

impl Process {
    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Stage {
    /// Prepares one gateway with an embedded ledger.
    pub async fn start() -> Self {
        Self::with(1, "[ledger]\npath = \"../data\"\n", &["main"]).await
    }

    /// Prepares gateways with this ledger and cache. The first channel is the default; the others have long timeouts.
    pub async fn with(gateways: usize, stores: &str, channels: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let conf = directory.path().join("conf");
        std::fs::create_dir_all(conf.join("merchants")).unwrap();
        std::fs::create_dir_all(conf.join("channels")).unwrap();
        let [bare, provider] = [(); 2].map(|()| free_address());
        let mut routes = String::new();
        for name in channels {
            let file = keygen::sandbox_channel(&conf.join("channels"), name, &provider.to_string()).unwrap().channel;
            let mut channel = std::fs::read_to_string(&file).unwrap().replace("rate = 600", "rate = 1000000");
            if *name != channels[0] {
                assert!(channel.contains(TIMEOUTS), "{channel}");
                channel = format!("http2 = true\n{}", channel.replace(TIMEOUTS, LONG_TIMEOUTS));
            }
            std::fs::write(file, channel).unwrap();
            routes += &format!("[[route]]\nto = [{{ channel = \"{name}\" }}]\n");
        }
        std::fs::write(conf.join("routes.toml"), routes).unwrap();
        let merchant = format!("keys = [{{ id = \"shop-1\", secret = \"plain:{SECRET}\" }}]\n");
        std::fs::write(conf.join("merchants/shop.toml"), merchant).unwrap();
        let (mut addresses, mut admins, mut confs) = (Vec::new(), Vec::new(), vec![conf.clone()]);
        confs.extend((1..gateways).map(|number| directory.path().join(format!("conf-{number}"))));
        for own in &confs {
            let [listen, admin] = [(); 2].map(|()| free_address());
            if *own != conf {
                let copied = Command::new("cp").arg("-r").args([&conf, own]).status().unwrap();
                assert!(copied.success());
            }
            let tollgate = format!(
                "public_url = \"http://{listen}\"\n[server]\nlisten = \"{listen}\"\n[admin]\nlisten = \"{admin}\"\n\
                 [telemetry]\nlog = \"warn\"\n{stores}"
            );
            std::fs::write(own.join("tollgate.toml"), tollgate).unwrap();
            addresses.push(listen);
            admins.push(admin);
        }
        let mut options = Options::new(vec![conf.join("channels")]);
        options.listen = provider;
        let sandbox = Sandbox::start(options).await.unwrap();
        Self {
            account: conf.join("channels").join(channels[0]),
            gateway: addresses[0],
            gateways: addresses,
            bare,
            provider,
            admin: admins[0],
            admins,
            conf,
            confs,
            sandbox,
            _directory: directory,
        }
    }

    pub async fn start_gateway(&self) -> GatewayProcess {
        self.start_gateways().await.swap_remove(0)
    }

    pub async fn start_gateways(&self) -> Vec<GatewayProcess> {
        let program = Path::new(env!("CARGO_BIN_EXE_tollgate"));
        let mut processes = Vec::new();
        for ((conf, listen), admin) in self.confs.iter().zip(&self.gateways).zip(&self.admins) {
            let process = GatewayProcess::at(program, conf.clone(), conf.with_extension("log"), *listen, *admin);
            process.start().await.unwrap();
            processes.push(process);
        }
        processes
    }

    pub fn snapshot(&self) -> snapshot::Snapshot {
        snapshot::load(&self.conf, None).unwrap_or_else(|errors| panic!("{errors:?}"))
    }

    /// Returns signed payment requests of a merchant.
    pub fn merchant_requests(&self, from: usize, count: usize) -> Vec<Prepared> {
        (from..from + count).map(|number| create(&format!("o-{number}"), None)).collect()
    }

    /// Calls the sandbox's control interface.
    pub async fn control(&self, method: Method, path: &str, body: Value) -> Value {
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let prepared = Prepared { method, target: path.to_owned(), headers: Vec::new(), body };
        serde_json::from_str(&drive::one(self.sandbox.control_address(), prepared).await).unwrap()
    }

    /// Returns how often the provider created each order, by its order number.
    pub async fn executions_by_order(&self) -> BTreeMap<String, u64> {
        let orders = self.control(Method::GET, "/orders", Value::Null).await;
        let made = |order: &Value| (order["number"].as_str().unwrap().to_owned(), order["created"].as_u64().unwrap());
        orders.as_array().unwrap().iter().map(made).collect()
    }

    /// Returns signed provider requests, as the gateway would send them, for the bare proxy to forward.
    pub fn provider_requests(&self, from: usize, count: usize) -> Vec<Prepared> {
        let snapshot = self.snapshot();
        let channel = &snapshot.channels["main"];
        let method = tollgate_plugins::payment::Method::parse("wechat.native").unwrap();
        let one = |number: usize| {
            let amount = Money { value: 888, currency: Currency::CNY };
            let (number, created_at) = (format!("bare{number:028}"), jiff::Timestamp::now());
            let order = Order { number, method, amount, created_at, expires_at: None, provider_id: None };
            let pay = Pay {
                order,
                description: "tea".into(),
                payer: Payer::default(),
                return_url: None,
                notify_url: format!("http://{}/notify/main", self.gateway),
            };
            let stamp = tollgate_gateway::clock::stamp();
            let with = Signing { signer: &*channel.signer, keys: &channel.configured_keys, stamp: &stamp };
            let Ok(Encoded::Send(mut request)) = channel.provider.encode(&Operation::Pay(pay), with) else {
                panic!("encode")
            };
            channel.provider.sign(&mut request, with).unwrap();
            let header = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
                (name.as_str().to_owned(), value.to_str().unwrap().to_owned())
            };
            Prepared {
                method: request.method().clone(),
                target: request.uri().path().to_owned(),
                headers: request.headers().iter().map(header).collect(),
                body: request.into_body(),
            }
        };
        (from..from + count).map(one).collect()
    }
}

/// Returns a signed payment request, on this channel if one is given.
pub fn create(order: &str, channel: Option<&str>) -> Prepared {
    let channel = channel.map_or(String::new(), |name| format!(r#","channel":"{name}""#));
    let body = format!(
        r#"{{"order_id":"{order}","amount":{{"value":888,"currency":"CNY"}},"description":"tea","method":"wechat.native"{channel}}}"#
    );
    let mut prepared = signed_request(Method::POST, "/v1/payments", body.as_bytes());
    prepared.headers.push(("idempotency-key".to_owned(), format!("k-{order}")));
    prepared
}

/// Returns a signed request of the merchant.
pub fn signed_request(method: Method, target: &str, body: &[u8]) -> Prepared {
    let headers = MerchantKey::fixed("shop-1", SECRET).sign(method.as_str(), target, body);
    let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Prepared { method, target: target.to_owned(), headers, body: body.to_vec().into() }
}

pub async fn until_open(address: SocketAddr) {
    for _ in 0..500 {
        if tokio::net::TcpStream::connect(address).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("nothing listens on {address}");
}

/// User and system time of a process, from `/proc`.
pub fn cpu_time(process: u32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // The kernel reports hundredths of a second on every Linux that runs this.
    Duration::from_millis(ticks * 10)
}

/// Returns a metric of a gateway by its name and labels, without the prefix `tollgate_`; `None` if it was not counted yet.
pub async fn read_metric(admin: SocketAddr, name: &str) -> Option<u64> {
    let asked =
        Prepared { method: Method::GET, target: "/metrics".to_owned(), headers: Vec::new(), body: Bytes::new() };
    let metrics = drive::one(admin, asked).await;
    let find = |line: &str| line.strip_prefix("tollgate_")?.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
    metrics.lines().find_map(find)
}

/// Raises the number of files that this process and its children may open to the maximum. Returns it.
pub fn raise_open_files() -> u64 {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    maximum.unwrap_or(u64::MAX)
}

pub fn free_address() -> SocketAddr {
    unused_address().unwrap()
}
