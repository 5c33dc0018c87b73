//! The environment of a run: configuration directories, the sandbox, gateway processes, proxies, the webhook receiver
//! and the broker.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;
use tollgate_merchant::webhook_secret;
use tollgate_sandbox::keygen::sandbox_channel_of;
use tollgate_sandbox::{Options, Sandbox};

use super::backing_services::BackingServices;
use super::broker::{self, Broker};
use super::pay_methods::{CHANNELS, routes};
use super::receiver::Receiver;
use super::sink_record::SinkRecord;
use super::tcp_proxy::TcpProxy;
use crate::files::copy_directory;
use crate::http_client::{json_bytes, send, send_json};
use crate::merchant::{MerchantKey, provider_number};
use crate::process::{GatewayProcess, unused_address};

const KEY_ID: &str = "chaos-1";
const MERCHANT: &str = "chaos";

/// Name of the sink that the merchant's webhook is.
const WEBHOOK: &str = "webhook";

/// Maximum time that a client waits for one response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Everything that runs, and the directory that contains configurations, ledgers and logs.
pub(super) struct ChaosEnvironment {
    pub(super) sandbox: Sandbox,
    pub(super) gateways: Vec<GatewayProcess>,
    pub(super) receiver: Receiver,
    pub(super) broker: Option<Broker>,
    pub(super) directory: PathBuf,
    key: MerchantKey,
    /// Proxy between the gateways and the sandbox.
    provider_proxy: TcpProxy,
    services: Option<BackingServices>,
    /// Number of existing [`FaultPause`] guards.
    active_pauses: Arc<AtomicUsize>,
}

/// Guard that pauses the network faults until it is dropped.
pub(super) struct FaultPause(Arc<AtomicUsize>);

impl Drop for FaultPause {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl ChaosEnvironment {
    /// Starts `count` gateways. They share `services`; without services, the single gateway has an embedded ledger.
    /// With a broker, the merchant has a sink there beside its webhook.
    pub(super) async fn start(
        seed: u64,
        count: usize,
        services: Option<BackingServices>,
        broker: Option<Broker>,
    ) -> Result<Self, String> {
        let directory = std::env::temp_dir().join(format!("tollgate-chaos-{}", std::process::id()));
        let cannot = |error: std::io::Error| format!("cannot prepare {}: {error}", directory.display());
        let directories: Vec<PathBuf> = (1..=count).map(|number| directory.join(format!("gateway-{number}"))).collect();
        let program = std::env::current_exe().map_err(cannot)?;
        let mut gateways = Vec::new();
        for directory in &directories {
            gateways.push(GatewayProcess::new(&program, directory)?);
        }
        let address = unused_address()?;
        let provider_proxy = TcpProxy::open(vec![address.to_string()]).await?;
        let receiver = Receiver::open(seed).await?;
        let key = MerchantKey::generate(KEY_ID);
        let Some((first, others)) = directories.split_first() else {
            return Err("a run needs at least one gateway".to_owned());
        };
        let conf = first.join("conf");
        let sink = broker.as_ref().map_or("", |broker| &broker.sink);
        let merchant = merchant_config(&key.secret, &receiver.url(), sink);
        write_shared_config(&conf, provider_proxy.address(), &merchant).map_err(cannot)?;
        others.iter().try_for_each(|other| copy_directory(&conf, &other.join("conf"))).map_err(cannot)?;
        // The providers send notifications to one address. The proxy forwards each to any gateway.
        let entry_proxy = TcpProxy::open(gateways.iter().map(|gateway| gateway.address.to_string()).collect()).await?;
        let sections = services.as_ref().map_or("[ledger]\npath = \"../data\"\n", |services| &services.sections);
        for (gateway, directory) in gateways.iter().zip(&directories) {
            let text = process_config(gateway, &format!("http://{}", entry_proxy.address()), sections);
            std::fs::write(directory.join("conf/tollgate.toml"), text).map_err(cannot)?;
        }
        let mut options = Options::new(vec![conf.join("channels")]);
        options.listen = address;
        options.notify_schedule = vec![Duration::from_millis(500); 600];
        let sandbox = Sandbox::start(options).await.map_err(|error| error.to_string())?;
        for gateway in &gateways {
            gateway.start().await?;
        }
        Ok(Self {
            sandbox,
            gateways,
            receiver,
            broker,
            directory,
            key,
            provider_proxy,
            services,
            active_pauses: Arc::default(),
        })
    }

    /// Returns the proxies with the name of the service behind each.
    pub(super) fn proxies(&self) -> Vec<(&'static str, &TcpProxy)> {
        let services = self.services.iter();
        let services = services.flat_map(|services| [("PostgreSQL", &services.postgres), ("Redis", &services.redis)]);
        let broker = self.broker.iter().map(|broker| ("RabbitMQ", &broker.proxy));
        std::iter::once(("providers", &self.provider_proxy)).chain(services).chain(broker).collect()
    }

    /// Calls `read` with the events that each sink received, and the name of the sink.
    pub(super) fn with_sinks<T>(&self, read: impl FnOnce(&[(&'static str, &SinkRecord)]) -> T) -> T {
        self.receiver.with_record(|webhook| match &self.broker {
            Some(broker) => read(&[(WEBHOOK, webhook), (broker::SINK, &broker.record.lock())]),
            None => read(&[(WEBHOOK, webhook)]),
        })
    }

    /// Stops the network faults until the guard is dropped.
    pub(super) fn pause_network_faults(&self) -> FaultPause {
        self.active_pauses.fetch_add(1, Ordering::SeqCst);
        self.proxies().into_iter().for_each(|(_, proxy)| proxy.clear_pending_cuts());
        FaultPause(Arc::clone(&self.active_pauses))
    }

    pub(super) fn are_network_faults_paused(&self) -> bool {
        self.active_pauses.load(Ordering::SeqCst) > 0
    }

    /// Returns the channel files of one gateway.
    pub(super) fn channel_files(&self, gateway: usize) -> Vec<PathBuf> {
        let folder = self.directory.join(format!("gateway-{}/conf/channels", gateway + 1));
        CHANNELS.iter().map(|(name, ..)| folder.join(format!("{name}.toml"))).collect()
    }

    /// Sends a signed request to gateway number `index` modulo the number of gateways.
    pub(super) async fn send(
        &self,
        index: usize,
        method: &str,
        target: &str,
        key: Option<&str>,
        body: &Value,
    ) -> Result<(u16, Value), String> {
        self.send_with(index, method, target, &[("idempotency-key", key)], body).await
    }

    /// Sends a request like [`send`](Self::send), with these headers. A header without a value is left out.
    pub(super) async fn send_with(
        &self,
        index: usize,
        method: &str,
        target: &str,
        more_headers: &[(&'static str, Option<&str>)],
        body: &Value,
    ) -> Result<(u16, Value), String> {
        let headers: Vec<_> = more_headers.iter().filter_map(|(name, value)| Some((*name, (*value)?))).collect();
        let gateway = &self.gateways[index % self.gateways.len()];
        let body = json_bytes(body);
        let request = self.key.send(gateway.address, method, target, &headers, &body);
        let response = tokio::time::timeout(RESPONSE_TIMEOUT, request).await;
        let response = response.map(|response| response.map(|response| (response.status, response.json())));
        response.unwrap_or_else(|_| Err(format!("no response within {RESPONSE_TIMEOUT:?}")))
    }

    /// Asks every gateway to try the waiting events of every sink now. A gateway that cannot is left alone.
    pub(super) async fn retry_sinks(&self) {
        let sinks = self.with_sinks(|sinks| sinks.iter().map(|(sink, _)| *sink).collect::<Vec<_>>());
        for gateway in &self.gateways {
            for sink in &sinks {
                let url = format!("http://{}/merchants/{MERCHANT}/sinks/{sink}/retry", gateway.admin);
                let _ = tokio::time::timeout(RESPONSE_TIMEOUT, send("POST", &url, &[], b"")).await;
            }
        }
    }

    /// Returns the sandbox's record of an order, or `None` if no request about the order reached the sandbox.
    pub(super) async fn sandbox_order(&self, order: &str) -> Result<Option<Value>, String> {
        let path = format!("/orders/{}", provider_order_number(order));
        match self.control("GET", &path, Value::Null).await? {
            (200, record) => Ok(Some(record)),
            (404, _) => Ok(None),
            (status, record) => Err(format!("the sandbox responded with {status} to {path}: {record}")),
        }
    }

    /// Calls the sandbox's control API. Returns the status and the JSON body.
    pub(super) async fn control(&self, method: &str, path: &str, body: Value) -> Result<(u16, Value), String> {
        send_json(method, &format!("http://{}{path}", self.sandbox.control_address()), &body).await
    }

    /// Adds a scripted fault to the sandbox.
    pub(super) async fn add_fault(&self, fault: Value) -> Result<(), String> {
        match self.control("POST", "/faults", fault).await? {
            (200, _) => Ok(()),
            (_, error) => Err(format!("the sandbox rejected a scripted fault: {error}")),
        }
    }

    /// Kills the gateways, removes the directory, drops the database and ends the broker.
    pub(super) async fn shut_down(self) -> Result<(), String> {
        self.gateways.iter().for_each(GatewayProcess::kill);
        let _ = std::fs::remove_dir_all(&self.directory);
        if let Some(broker) = self.broker {
            broker.shut_down().await?;
        }
        match self.services {
            Some(services) => services.drop_database().await,
            None => Ok(()),
        }
    }
}

/// Returns the order number that the gateway uses at the provider.
pub(super) fn provider_order_number(order: &str) -> String {
    provider_number(&[MERCHANT, order])
}

/// Returns the refund number that the gateway uses at the provider.
pub(super) fn provider_refund_number(order: &str, refund: &str) -> String {
    provider_number(&[MERCHANT, order, refund])
}

/// Returns the channel file with a rate limit out of reach, a short breaker window and a short not-found grace. A run
/// tests money, not waiting times.
fn with_chaos_settings(channel: &str) -> String {
    let channel = channel.replace("rate = 600", "rate = 100000");
    let channel = channel.replace("sleep_window = \"5s\"", "sleep_window = \"200ms\"");
    // WeChat Pay APIv3 scans codes only for accounts with `codepay`.
    let codepay = "codepay = true\nstore_id = \"0001\"";
    let is_v3 = channel.contains("provider = \"wechat-v3\"");
    let channel = if is_v3 { channel.replace("[account]\n", &format!("[account]\n{codepay}\n")) } else { channel };
    format!("not_found_grace = \"10s\"\n{channel}")
}

/// Writes the configuration that all gateways share: channels, routes and the merchant.
fn write_shared_config(conf: &Path, provider: SocketAddr, merchant: &str) -> io::Result<()> {
    let folder = conf.join("channels");
    std::fs::create_dir_all(conf.join("merchants"))?;
    std::fs::create_dir_all(&folder)?;
    for (channel, kind) in CHANNELS {
        let file = sandbox_channel_of(*kind, &folder, channel, &provider.to_string())?.channel;
        let text = std::fs::read_to_string(&file)?;
        std::fs::write(&file, with_chaos_settings(&text))?;
    }
    std::fs::write(conf.join("routes.toml"), routes())?;
    std::fs::write(conf.join("merchants/chaos.toml"), merchant)
}

fn process_config(gateway: &GatewayProcess, public: &str, services: &str) -> String {
    let GatewayProcess { address, admin, .. } = gateway;
    format!(
        "public_url = \"{public}\"\n[server]\nlisten = \"{address}\"\n[admin]\nlisten = \"{admin}\"\n{services}\
         [delivery]\nallowed_networks = [\"127.0.0.0/8\"]\n[telemetry]\nlog = \"warn\"\n"
    )
}

/// Returns the merchant's file, with this `[[sink]]` section.
fn merchant_config(secret: &str, url: &str, sink: &str) -> String {
    let webhook = webhook_secret();
    format!(
        "keys = [{{ id = \"{KEY_ID}\", secret = \"plain:{secret}\" }}]\nwebhook = {{ url = \"{url}\", secrets = [\"plain:{webhook}\"] }}\n{sink}"
    )
}
